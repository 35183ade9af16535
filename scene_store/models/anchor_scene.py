"""What opening Scaffold-GS and Octree-GS have in common: finding files, putting them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scene_store.formats.cameras_json import cameras_near
from scene_store.formats.training import newest_iteration
from scene_store.models.anchor_chunks import AnchorChunks
from scene_store.models.anchor_file import AnchorFile, Measures, is_anchor_ply
from scene_store.models.anchor_networks import AnchorNetworks, read_networks
from scene_store.models.scene import NeuralScene
from scene_store.scene import SceneMeta
from splat.anchors import AnchorModel
from splat.errors import SceneFormatError


def anchor_ply(path: Path) -> Path | None:
    """The PLY that a path may mean: itself, or the newest in a training folder."""
    try:
        return newest_iteration(path) if path.is_dir() else path
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class AnchorReader:
    """A kind of anchors, as ``scene_store.models`` asks for one.

    Attributes:
        kind: Its name, for people.
        octree: Whether its anchors have levels.
        model_of: What fits anchors and networks together.
    """

    kind: str
    octree: bool
    model_of: Callable[[AnchorFile, Measures, AnchorNetworks], AnchorModel]

    def recognizes(self, path: Path) -> bool:
        """Whether a path is one of this kind: told by the header of the PLY alone."""
        ply = anchor_ply(path)
        return ply is not None and is_anchor_ply(ply, octree=self.octree)

    def open_model(self, path: Path, *, trust: bool = False) -> NeuralScene:
        """The scene of a training folder, its ``iteration_N`` or its PLY.

        Raises:
            SceneNotFoundError: If a file cannot be read.
            SceneFormatError: If one is missing or broken, or they do not fit each other.
        """
        return _opened(self, path, trust)


def _opened(reader: AnchorReader, path: Path, trust: bool) -> NeuralScene:
    ply = anchor_ply(path)
    if ply is None:
        raise SceneFormatError(path, "holds no point_cloud/iteration_*/point_cloud.ply")
    file = AnchorFile(ply)
    networks = read_networks(ply.parent, trust=trust)
    measures = file.measure()
    try:
        model = reader.model_of(file, measures, networks)
    except ValueError as error:
        raise SceneFormatError(networks.place, str(error)) from None
    cameras, camera_notes = cameras_near(ply)
    is_inside = ply.parent not in (path, path.parent)
    read_from = (f"read from {ply.relative_to(path)}",) if is_inside else ()
    meta = SceneMeta(
        path=path,
        format_name=reader.kind,
        count=file.count,
        sh_degree=0,
        up=(0.0, -1.0, 0.0),
        cameras=cameras,
        notes=(*read_from, *model.notes, *camera_notes),
        unit="anchors",
    )
    return NeuralScene(AnchorChunks(file, measures, model, meta))
