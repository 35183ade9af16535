"""What a worker draws from: a scene that is all in memory, or one of which parts come and go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from rendering.base import Rasterizer
from rendering.depth_slabs import Slab
from rendering.division import Division, EyeSlab
from rendering.frame import FrameRequest, StreamStats
from rendering.scene_parts import SceneParts
from splat.camera import Camera
from splat.errors import RenderError


@dataclass(frozen=True, slots=True, eq=False)
class Drawable:
    """A scene for one frame.

    Attributes:
        scene: Fit for ``Rasterizer.render``.
        stream: What streaming had to say of it; None for a scene that is all there.
        key: Equal for two frames if they draw the same Gaussians in the same order with the
            same weights and tints; None if that is not known.
        parts: Where its Gaussians are; None if that is not known.
        forms: The scene in each of the memories that it is drawn from, ``scene`` one of them, as
            long as they are there; None where there is the host's alone, which is never lost.
        slabs: What can be drawn of this form; None for any part.
        relieve: Called when there is no memory left to draw it: has the scene take less of it from
            now on, and says whether that can be; None if it cannot.
    """

    scene: Any
    stream: StreamStats | None = None
    key: Hashable | None = None
    parts: SceneParts | None = None
    forms: dict[str, Drawable] | None = None
    slabs: frozenset[EyeSlab] | None = None
    relieve: Callable[[], bool] | None = None

    def in_memory(self, memory: str) -> Drawable | None:
        """As devices of a memory draw it; None if it is not there."""
        return self if self.forms is None else self.forms.get(memory)

    def lose(self, memory: str) -> None:
        """The memory is gone; who draws from it at the moment draws in vain."""
        if self.forms is not None:
            self.forms.pop(memory, None)

    def holds(self, eye: int, slab: Slab | None) -> bool:
        """Whether all is there of a part of a picture."""
        return self.slabs is None or (slab is not None and (eye, slab) in self.slabs)

    def seen_by(self, camera: Camera) -> Any:
        """A scene for ``Rasterizer.render`` that holds all that a camera sees."""
        return self.scene if self.parts is None else self.parts.scene_for(camera, self.scene)


class SceneClosed(RenderError):
    """The scene was closed before the frame began; its successor may draw it."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What a frame will be drawn from when everything is there.

    Attributes:
        parts: Where its Gaussians are.
        needed: What memories must have for that, coarser chunks among it; its counts are pages.
        share: Of these pages, what one memory has room for.
    """

    parts: SceneParts
    needed: SceneParts
    share: float


class MemoryGone(Exception):
    """None of the memories that a frame is to be drawn from is there: their devices were lost."""


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


class SceneInMemories(ABC):
    """A ``DrawableScene`` that may be in several memories, each with a form of its own.

    ``Drawable.forms`` has those that are there. Nobody draws from a memory that is gone; what a
    frame still holds of it stays as long as the frame.
    """

    @property
    @abstractmethod
    def memories(self) -> tuple[str, ...]:
        """Those that it was made for."""

    @property
    @abstractmethod
    def detail_counts(self) -> tuple[int, ...]:
        """As of ``DrawableScene``."""

    @abstractmethod
    def held_bytes(self, memory: str) -> tuple[int, int]:
        """What it takes of a memory, and the most that it may; 0 if there is no bound."""

    @abstractmethod
    def engine_of(self, memory: str) -> str:
        """The name of the engine that its form in a memory is for; "" if that is gone."""

    @abstractmethod
    def acquire(self, request: FrameRequest) -> AbstractContextManager[Drawable]:
        """As of ``DrawableScene``, from every memory.

        Raises:
            SceneClosed: If ``close`` was called.
            MemoryGone: If no memory is left that frames can be drawn from.
        """

    @abstractmethod
    def lose(self, memory: str) -> None:
        """The memory is gone with its device. Returns at once."""

    @abstractmethod
    def renew(self, memory: str, rasterizer: Rasterizer, timeout_s: float) -> None:
        """The memory is there again, empty: fill it, as far as that is quick.

        Args:
            rasterizer: What draws from it.
            timeout_s: The most that may take.
        """

    @abstractmethod
    def forget(self, client: str) -> None:
        """As of ``DrawableScene``."""

    @abstractmethod
    def close(self) -> None:
        """As of ``DrawableScene``."""


class DividedScene(SceneInMemories):
    """A scene of which each memory holds what its devices need."""

    @property
    @abstractmethod
    def present(self) -> frozenset[str]:
        """Memories that are there."""

    @property
    @abstractmethod
    def behind(self) -> frozenset[str]:
        """Memories that would make pictures coarser: they lack what others draw."""

    @abstractmethod
    def outlook(self, request: FrameRequest) -> Outlook:
        """What there will be to draw when everything is there."""

    @abstractmethod
    def acquire(
        self, request: FrameRequest, division: Division | None = None
    ) -> AbstractContextManager[Drawable]:
        """The scene for one frame: one cut, of which each memory has what it needs.

        Args:
            division: Which memory needs what; None for all of it in the first one.
        """
