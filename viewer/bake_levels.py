"""Which levels of detail of a scene are baked, and into which files."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rendering.models.bake_start import at_level, levels_of
from scene_store.chunks import NeuralSource
from splat.errors import SceneError, SettingsError
from viewer.scenes import SceneChoice
from viewer.streams import OpenedStream, open_chunk_source, open_stream

ALL: Literal["all"] = "all"
LevelChoice = int | Literal["all"] | None
"""A level, 0 the coarsest; each by itself; or the scene as it is drawn, of which there is nothing
to choose."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file to be made.

    Attributes:
        path: Its name.
        level: The finest that is drawn; None for the scene as it is.
    """

    path: Path
    level: int | None

    def open(self, choice: SceneChoice) -> OpenedStream:
        """The scene, to be drawn so; whoever does so closes its source.

        Raises:
            SceneError: If it is damaged.
        """
        opened = open_stream(choice)
        if self.level is None:
            return opened
        assert isinstance(opened.source, NeuralSource)
        return OpenedStream(opened.title, at_level(opened.source, self.level), opened.start)


def first_target(path: Path, level: LevelChoice, *, named: bool) -> Target:
    """The first file that will be made, or the only one: known before the scene is read.

    Args:
        path: Of the result.
        named: Whether the user named it. A single level that is not is written to a name of its
            own, as all are.
    """
    if level is None:
        return Target(path, None)
    if level == ALL:
        return Target(level_path(path, 0), 0)
    return Target(path if named else level_path(path, level), level)


def level_path(path: Path, level: int) -> Path:
    """``scene-level2.ply`` for ``scene.ply``."""
    return path.with_name(f"{path.stem}-level{level}{path.suffix}")


def all_targets(choice: SceneChoice, path: Path, level: LevelChoice, first: Target) -> list[Target]:
    """All files that will be made.

    Args:
        path: Of the result.
        first: The first of them.

    Raises:
        SceneError: If the scene has no levels of detail to choose from, or is damaged.
        SettingsError: If it has no such level.
    """
    if level is None:
        return [first]
    with contextlib.closing(open_chunk_source(choice)) as source:
        assert isinstance(source, NeuralSource)
        count, kind = levels_of(source.model), source.meta.format_name
    if count == 0:
        raise SceneError(
            f"{choice.shown}: --level chooses one of the levels of an Octree-GS, and this is of "
            f"{kind}; leave it out"
        )
    if level == ALL:
        return [Target(level_path(path, each), each) for each in range(count)]
    if level >= count:
        raise SettingsError(
            f"--level: expected 0 to {count - 1}, the finest of {choice.shown}, or all; got {level}"
        )
    return [first]
