"""A scene that is all in memory, in each that it is drawn from."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rendering.base import Rasterizer
from rendering.device import HOST_MEMORY
from rendering.drawable import Drawable, MemoryGone, SceneClosed, SceneInMemories
from rendering.frame import FrameRequest
from rendering.scene_parts import SceneParts
from splat.gaussians import Gaussians


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """A level of detail.

    Attributes:
        forms: Prepared, by memory.
        gaussians: What they are prepared from; None where that is never done again.
    """

    count: int
    forms: Mapping[str, Any]
    parts: SceneParts | None = None
    gaussians: Gaussians | None = None
    key: Hashable = field(default_factory=object)  # no other level has this one

    def with_forms(self, forms: Mapping[str, Any]) -> _Level:
        return replace(self, forms=dict(forms))


class ResidentScene(SceneInMemories):
    """A scene that is all in memory, perhaps in several levels of detail.

    Args:
        rasterizers: What draws it from each memory.
        gaussians: The scene. A reference to it is kept only if a memory may be lost.
        losable: Memories that may be: their form is prepared anew then.
    """

    def __init__(
        self,
        rasterizers: Mapping[str, Rasterizer],
        gaussians: Gaussians,
        losable: Collection[str] = (),
    ) -> None:
        self._memories = tuple(rasterizers)
        self._rasterizers = dict(rasterizers)  # of the memories that are there
        self._keeps = bool(losable)
        # Finest first. Replaced as a whole, so that a frame sees one state of it; by one
        # thread at a time, so that no change is lost.
        self._levels: tuple[_Level, ...] = (self._prepare(gaussians),)
        self._changing = threading.Lock()
        self._closed = False

    @property
    def memories(self) -> tuple[str, ...]:
        """Those that it was made for."""
        return self._memories

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return tuple(level.count for level in self._levels)

    def held_bytes(self, memory: str) -> tuple[int, int]:
        """What it takes of a memory, as far as its rasterizer tells; there is no bound."""
        forms = [level.forms.get(memory) for level in self._levels]
        return sum(int(getattr(form, "nbytes", 0)) for form in forms), 0

    def engine_of(self, memory: str) -> str:
        """The engine that its forms in a memory are for."""
        rasterizer = self._rasterizers.get(memory)
        return "" if rasterizer is None else rasterizer.name

    def add_coarser(self, gaussians: Gaussians) -> None:
        """Have one more level of detail, coarser than those there are."""
        level = self._prepare(gaussians)
        while not self._added(level):
            level = self._prepare(gaussians)

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Drawable]:
        """The level that the request asks for, or the coarsest.

        Raises:
            SceneClosed: If it is closed.
            MemoryGone: If all memories are lost.
        """
        levels = self._levels
        if self._closed:
            raise SceneClosed("the scene is closed")
        level = levels[min(request.detail, len(levels) - 1)]
        if not level.forms:
            raise MemoryGone
        forms = {
            memory: Drawable(scene, key=level.key, parts=level.parts)
            for memory, scene in level.forms.items()
        }
        first = next(iter(forms.values()))
        yield first if self._memories == (HOST_MEMORY,) else replace(first, forms=forms)

    def lose(self, memory: str) -> None:
        """Its forms are gone."""
        with self._changing:
            self._rasterizers.pop(memory, None)
            self._levels = tuple(
                level.with_forms({m: form for m, form in level.forms.items() if m != memory})
                for level in self._levels
            )

    def renew(self, memory: str, rasterizer: Rasterizer, timeout_s: float) -> None:
        """Prepare its forms anew, however long that takes."""
        with self._changing:
            self._rasterizers[memory] = rasterizer
        made: dict[Hashable, Any] = {}
        while (missing := self._renewed(memory, rasterizer, made)) is not None:
            assert missing.gaussians is not None, f"{memory} was never to be lost"
            made[missing.key] = rasterizer.prepare(missing.gaussians)

    def forget(self, client: str) -> None:
        """Nothing is kept of a client."""

    def close(self) -> None:
        """Memory goes with the last frame, though others may still hold this object."""
        with self._changing:
            self._closed = True
            self._levels = tuple(_Level(level.count, {}) for level in self._levels)

    def _prepare(self, gaussians: Gaussians) -> _Level:
        forms = {
            memory: each.prepare(gaussians) for memory, each in self._rasterizers.copy().items()
        }
        parts = SceneParts.sampled(gaussians)
        return _Level(len(gaussians), forms, parts, gaussians if self._keeps else None)

    def _added(self, level: _Level) -> bool:
        """Whether the level counts: not if a memory was lost or renewed meanwhile."""
        with self._changing:
            if self._closed:
                return True
            if level.forms.keys() != self._levels[0].forms.keys():
                return False
            self._levels = (*self._levels, level)
            return True

    def _renewed(
        self, memory: str, rasterizer: Rasterizer, made: Mapping[Hashable, Any]
    ) -> _Level | None:
        """A level that is still to be prepared; None if the memory is there, or lost again."""
        with self._changing:
            if self._closed or self._rasterizers.get(memory) is not rasterizer:
                return None
            for level in self._levels:
                if level.key not in made:
                    return level
            self._levels = tuple(
                level.with_forms({**level.forms, memory: made[level.key]}) for level in self._levels
            )
            return None
