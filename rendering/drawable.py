"""What a worker draws from: a scene that is all in memory, or one of which parts come and go."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rendering.base import Rasterizer
from rendering.frame import FrameRequest, StreamStats
from rendering.scene_parts import SceneParts
from splat.camera import Camera
from splat.errors import RenderError
from splat.gaussians import Gaussians


@dataclass(frozen=True, slots=True, eq=False)
class Drawable:
    """A scene for one frame.

    Attributes:
        scene: Fit for ``Rasterizer.render``.
        stream: What streaming had to say of it; None for a scene that is all there.
        key: Equal for two frames if they draw the same Gaussians in the same order with the
            same weights and tints; None if that is not known.
        parts: Where its Gaussians are; None if that is not known.
    """

    scene: Any
    stream: StreamStats | None = None
    key: Hashable | None = None
    parts: SceneParts | None = None

    def seen_by(self, camera: Camera) -> Any:
        """A scene for ``Rasterizer.render`` that holds all that a camera sees."""
        return self.scene if self.parts is None else self.parts.scene_for(camera, self.scene)


class SceneClosed(RenderError):
    """The scene was closed before the frame began; its successor may draw it."""


class DrawableScene(Protocol):
    """A scene that many clients look at. Safe to call from several threads at once."""

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians that a frame of each ``FrameRequest.detail`` may draw, finest first."""

    def acquire(self, request: FrameRequest) -> AbstractContextManager[Drawable]:
        """The scene for one frame, the same for all its cameras; held until the block ends.

        Raises:
            SceneClosed: If ``close`` was called.
        """

    def forget(self, client: str) -> None:
        """The client is gone."""

    def close(self) -> None:
        """Give everything back; frames still being drawn end as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    count: int
    scene: Any
    parts: SceneParts | None = None
    key: Hashable = field(default_factory=object)  # no other level has this one


class ResidentScene:
    """A scene that is all in memory, perhaps in several levels of detail.

    Args:
        rasterizer: What will draw it.
        gaussians: The scene; no reference to it is kept.
    """

    def __init__(self, rasterizer: Rasterizer, gaussians: Gaussians) -> None:
        self._rasterizer = rasterizer
        # Finest first. Replaced as a whole, so that a frame sees one state of it; by one
        # thread at a time, so that no change is lost.
        self._levels: tuple[_Level, ...] = (self._prepare(gaussians),)
        self._changing = threading.Lock()
        self._closed = False

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return tuple(level.count for level in self._levels)

    def add_coarser(self, gaussians: Gaussians) -> None:
        """Have one more level of detail, coarser than those there are."""
        level = self._prepare(gaussians)
        with self._changing:
            if not self._closed:
                self._levels = (*self._levels, level)

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Drawable]:
        """The level that the request asks for, or the coarsest."""
        levels = self._levels
        if self._closed:
            raise SceneClosed("the scene is closed")
        level = levels[min(request.detail, len(levels) - 1)]
        yield Drawable(level.scene, key=level.key, parts=level.parts)

    def forget(self, client: str) -> None:
        """Nothing is kept of a client."""

    def close(self) -> None:
        """Memory goes with the last frame, though others may still hold this object."""
        with self._changing:
            self._closed = True
            self._levels = tuple(_Level(level.count, None) for level in self._levels)

    def _prepare(self, gaussians: Gaussians) -> _Level:
        scene = self._rasterizer.prepare(gaussians)
        return _Level(len(gaussians), scene, SceneParts.sampled(gaussians))
