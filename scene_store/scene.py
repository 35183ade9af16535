"""A scene as its file describes it, before anything draws it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.text import counted

if TYPE_CHECKING:
    from scene_store.outline import Outline

Vector3 = tuple[float, float, float]
FIELD_UNIT = "parameters"  # of radiance fields


@dataclass(frozen=True, slots=True)
class SceneMeta:
    """What is known of a scene without reading its Gaussians.

    Attributes:
        path: What the user named: a path, or the address of a remote scene as text (a
            ``Path`` would mangle it), without secrets.
        format_name: ``"3DGS PLY"``, ``"SPZ v4"`` and so on, for people.
        count: Gaussians in the source (of the level of detail that was chosen); of neural scenes,
            what ``unit`` says.
        sh_degree: 0 to 3.
        up: The direction that the format's convention calls up, in the axes of the
            Gaussians as read; None where the format has none.
        up_assumed: Whether that is the convention's word alone, which some writers of the
            format do not keep.
        outline: Where the Gaussians are, where the source says it.
        unit: What is counted: Gaussians, anchors, parameters.
        lod_counts: Gaussians by level of detail, finest first; empty where the source
            has only one.
        cameras: Training cameras found beside the scene; or, if ``cameras_assumed``, places worth
            starting from.
        notes: What a user should know: ignored properties, dropped harmonics.
    """

    path: Path | str
    format_name: str
    count: int
    sh_degree: int
    up: Vector3 | None = None
    lod_counts: tuple[int, ...] = ()
    cameras: tuple[Camera, ...] = ()
    notes: tuple[str, ...] = ()
    up_assumed: bool = False
    outline: Outline | None = None
    unit: str = "Gaussians"
    cameras_assumed: bool = False

    @property
    def training_cameras(self) -> tuple[Camera, ...]:
        """Those that it was trained with, where they are known."""
        return () if self.cameras_assumed else self.cameras

    @property
    def facts(self) -> str:
        """One line: format, size, harmonics."""
        harmonics = f" · SH {self.sh_degree}" if self.unit == "Gaussians" else ""
        return f"{self.format_name} · {counted(self.count, self.unit)}{harmonics}"


class SceneSource(Protocol):
    """An open scene file. Reading is lazy; ``batches`` may be called more than once."""

    meta: SceneMeta

    def batches(self, max_count: int) -> Iterator[Gaussians]:
        """All Gaussians in the source's order, in parts of at most ``max_count``.

        Quaternions are unit length, wxyz; nothing else is changed or dropped, so values
        may still be non-finite.

        Raises:
            SceneFormatError: Where the data turns out to be broken.
        """

    def close(self) -> None:
        """Release files and mappings; Gaussians already handed out stay valid."""

    def __enter__(self) -> SceneSource: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A scene in memory, fit to be drawn.

    Attributes:
        meta: What its source said.
        gaussians: Finite, in Morton order, so that neighbours in memory are neighbours
            in space.
        dropped: Gaussians left out because a value was not finite or a scale not usable.
    """

    meta: SceneMeta
    gaussians: Gaussians
    dropped: int = 0
