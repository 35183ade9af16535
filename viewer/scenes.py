"""What the commands open: a file of any format, or the built-in town."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote

import numpy as np

from scene_store.formats.source import reason_of
from scene_store.manifest import MANIFEST_FILE
from scene_store.memory import DRAW_FACTOR, require_memory
from scene_store.models import is_model
from scene_store.remote.address import Address, is_remote
from scene_store.remote.options import RemoteOptions
from scene_store.scene import Scene, SceneMeta, Vector3
from scene_store.store import STORE_SUFFIX, is_store, open_store
from scene_store.store_folder import PARTIAL_SUFFIX, is_unfinished_store
from splat.errors import SceneError, SceneNotFoundError, SettingsError
from viewer.start_view import StartView, choose_start_view

TOWN_NAME = "Town"
TOWN_WORD = "town"  # or town:N, in the place of a path
TOWN_RADIUS = 40.0  # of the market square and what surrounds it: the scale to walk at
FILES_NAMED_BY_FOLDER = ("lod-meta.json", "meta.json", "point_cloud.ply", MANIFEST_FILE)
# What is downloaded where it is elsewhere: one file is the whole scene.
FILE_SUFFIXES = (".ply", ".splat", ".ksplat", ".spz", ".sog", ".zip")
COMPOSITION_SUFFIXES = (".yaml", ".yml")
Progress = Callable[[float, str], None]


def looks_like_scene(text: str) -> bool:
    """Whether a text could be meant as a scene, by its name alone."""
    path = PurePosixPath(text)
    suffixes = (*FILE_SUFFIXES, *COMPOSITION_SUFFIXES, STORE_SUFFIX)
    if is_remote(text) or text.startswith(f"{TOWN_WORD}:"):
        return True
    return path.name in FILES_NAMED_BY_FOLDER or path.suffix.lower() in suffixes


@dataclass(frozen=True, slots=True)
class SceneChoice:
    """Which scene, and what the user says about it.

    Attributes:
        path: File or folder; None for the town, and for a remote scene.
        gaussians: Size of the town.
        lod: Level of detail to read, 0 the finest; None for the reader's choice.
        up: Upward direction, where the user knows better.
        fov_deg: Vertical field of view of the start view.
        address: Of a remote scene, as the user wrote it; it may hold secrets (``shown``).
        remote: How to deal with its server.
        trust: Whether what is in the files of a neural scene may be executed.
    """

    path: Path | None
    gaussians: int
    lod: int | None = None
    up: Vector3 | None = None
    fov_deg: float = 60.0
    address: str | None = field(default=None, repr=False)
    remote: RemoteOptions = field(default=RemoteOptions(), repr=False)
    trust: bool = False

    @classmethod
    def of(
        cls,
        scene: str | None,
        gaussians: int,
        lod: int | None = None,
        up: Vector3 | None = None,
        fov_deg: float = 60.0,
    ) -> SceneChoice:
        """The scene that a person named by a path, an address, ``town`` or ``town:N``; None for
        the town.

        Raises:
            SceneError: If it begins like a town's name and goes on like none.
        """
        if scene is not None and is_remote(scene):
            return cls(None, gaussians, lod, up, fov_deg, scene)
        if scene is None or (scene == TOWN_WORD and not os.path.exists(scene)):
            return cls(None, gaussians, lod, up, fov_deg)
        if scene.startswith(f"{TOWN_WORD}:") and not os.path.exists(scene):
            from scene_store.town_source import town_count  # its recipe takes a moment to load

            return cls(None, town_count(scene) or gaussians, lod, up, fov_deg)
        return cls(Path(scene), gaussians, lod, up, fov_deg)

    @property
    def is_town(self) -> bool:
        """Whether it is the built-in town."""
        return self.path is None and self.address is None

    @property
    def source_name(self) -> str:
        """What a scene that is here is called wherever one may look for it (``open_named``)."""
        if self.path is None:
            return f"{TOWN_WORD}:{self.gaussians}"
        return str(self.path.resolve())

    @property
    def is_streamed(self) -> bool:
        """Whether chunks are read as they are wanted: of a store, of a neural scene, and of a
        remote scene that is more than one file."""
        if self.address is None:
            return self.is_store or self.is_model
        return not self.is_download

    @property
    def is_download(self) -> bool:
        """Whether it is one file on a server, which must be here to be opened."""
        if self.address is None:
            return False
        return Address.of(self.address).path.lower().endswith(FILE_SUFFIXES)

    @property
    def shown(self) -> str:
        """The path or address, for people: without password and query."""
        if self.address is not None:
            return Address.of(self.address).shown()
        return TOWN_NAME if self.path is None else str(self.path)

    @property
    def is_store(self) -> bool:
        """Whether it is a local store, of which chunks are read as they are wanted."""
        return self.path is not None and is_store(self.store_folder)

    @property
    def is_model(self) -> bool:
        """Whether it is a neural scene: anchors or a field."""
        return self.path is not None and not self.is_store and is_model(self.path)

    @property
    def store_folder(self) -> Path:
        """The folder of a store that may have been named by its manifest."""
        assert self.path is not None
        return self.path.parent if self.path.name == MANIFEST_FILE else self.path

    @property
    def title(self) -> str:
        """The scene's name, for people."""
        path: PurePath
        if self.address is not None:
            path = PurePosixPath(unquote(Address.of(self.address).path))
        elif self.path is not None:
            path = self.path.resolve()
        else:
            return TOWN_NAME
        named_by_folder = path.name in FILES_NAMED_BY_FOLDER
        return (path.parent.name if named_by_folder else path.name) or self.shown


@dataclass(frozen=True, slots=True, eq=False)
class OpenedScene:
    """A scene in memory and a view of it."""

    title: str
    scene: Scene
    start: StartView

    @property
    def meta(self) -> SceneMeta:
        """What its source said."""
        return self.scene.meta

    @property
    def facts(self) -> str:
        """One line: format, size, harmonics."""
        return replace(self.meta, count=len(self.scene.gaussians)).facts


def check_exists(choice: SceneChoice) -> None:
    """Fail early, before anything is started.

    Raises:
        SceneNotFoundError: If the path names nothing that can be read, or the address is none.
        SceneError: If it is the address of a file that must be here to be read.
    """
    if choice.address is not None:
        _check_address(choice)
    if choice.path is not None:
        try:
            os.stat(choice.path)
        except (FileNotFoundError, NotADirectoryError):
            if is_unfinished_store(f"{choice.path}{PARTIAL_SUFFIX}"):
                raise _unfinished(choice.path) from None
            raise SceneNotFoundError(f"{choice.path}: no such file or folder") from None
        except OSError as error:
            raise SceneNotFoundError(
                f"{choice.path}: cannot be read ({reason_of(error)})"
            ) from None
        if is_unfinished_store(choice.path):
            raise _unfinished(choice.path)


def _unfinished(path: Path) -> SceneNotFoundError:
    return SceneNotFoundError(
        f"{path}: its build is unfinished; the same belvedere build command continues it"
    )


def check_openable(choice: SceneChoice, *, whole: bool = True) -> None:
    """Fail early for whatever a look at a scene's description tells; servers are not asked.

    Args:
        choice: The scene.
        whole: Whether all of it is to be in memory.

    Raises:
        BelvedereError: If the scene cannot be opened.
    """
    check_exists(choice)
    if choice.address is not None:
        return
    if choice.path is None:
        _check_town(choice.gaussians, whole)
    elif choice.is_store:
        open_store(choice.store_folder).close()
    elif not choice.is_model:  # of which a description is all there is to read
        from scene_store.formats import open_scene as open_source

        open_source(choice.path, lod=choice.lod).close()


def _check_town(count: int, whole: bool) -> None:
    from scene_store.town.generate import DEFAULT_SH_DEGREE
    from scene_store.town.plan import check_count

    try:
        check_count(count)
    except ValueError as error:
        raise SettingsError(f"--gaussians: {error}") from None
    if whole:
        require_memory(
            "the town", count, DEFAULT_SH_DEGREE, factor=DRAW_FACTOR, remedy="ask for fewer"
        )


def _check_address(choice: SceneChoice) -> None:
    assert choice.address is not None
    name = PurePosixPath(Address.of(choice.address).path).name
    if name == "meta.json" or name.lower().endswith(COMPOSITION_SUFFIXES):
        raise SceneError(
            f"{choice.shown}: of remote scenes, stores (.bvs), streamed SOGs (lod-meta.json) and "
            f"single files are read; download this one, or put there what belvedere build makes "
            f"of it"
        )


def open_scene(
    choice: SceneChoice,
    progress: Progress = lambda share, what: None,
    *,
    memory_factor: float = DRAW_FACTOR,
) -> OpenedScene:
    """Read or make the scene and choose its start view.

    Args:
        choice: Which one.
        progress: Called with the share that is done, in [0, 1], and what is being done.
        memory_factor: As in ``load_scene``: enough to draw the scene, unless said otherwise.

    Raises:
        SceneError: If it cannot be read.
    """
    check_exists(choice)
    assert choice.address is None, "remote scenes are streamed"
    if choice.path is None:
        return _make_town(choice, progress, memory_factor)
    from scene_store.loading import load_scene
    from scene_store.statistics import likely_up

    def on_progress(done: int, total: int) -> None:
        progress(done / max(total, 1), f"Reading {total:,} Gaussians")

    scene = load_scene(
        choice.path, lod=choice.lod, progress=on_progress, memory_factor=memory_factor
    )
    start = choose_start_view(
        scene.gaussians,
        up=choice.up if choice.up is not None else likely_up(scene.meta, scene.gaussians),
        cameras=scene.meta.cameras,
        fov_y_rad=math.radians(choice.fov_deg),
    )
    return OpenedScene(choice.title, scene, start)


def _make_town(choice: SceneChoice, progress: Progress, memory_factor: float) -> OpenedScene:
    from scene_store.loading import in_morton_order
    from scene_store.town import TOWN_UP, generate_town

    def on_progress(done: int, total: int) -> None:
        progress(0.9 * done / total, f"Building {total:,} Gaussians")

    try:
        gaussians = generate_town(
            choice.gaussians, progress=on_progress, memory_factor=memory_factor
        )
    except ValueError as error:  # too few for a town
        raise SettingsError(f"--gaussians: {error}") from None
    progress(0.9, "Sorting")
    gaussians = in_morton_order(gaussians)
    meta = SceneMeta(
        path=Path(TOWN_NAME),
        format_name="procedural",
        count=len(gaussians),
        sh_degree=gaussians.sh_degree,
        up=TOWN_UP,
    )
    up = choice.up if choice.up is not None else TOWN_UP
    start = choose_start_view(gaussians, up=up, fov_y_rad=math.radians(choice.fov_deg))
    return OpenedScene(choice.title, Scene(meta, gaussians), in_town(start))


def in_town(start: StartView) -> StartView:
    """A start view moved to the town's market square."""
    from scene_store.town import TOWN_START_VIEW

    start = start.changed(position=TOWN_START_VIEW.position, look_at=TOWN_START_VIEW.target)
    return replace(start, center=np.asarray(TOWN_START_VIEW.target), radius=TOWN_RADIUS)
