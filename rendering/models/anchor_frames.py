"""What a frame decodes of neural anchors: which pages, for which point, and what it may reuse."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from render_cache.byte_cache import CacheStats
from render_cache.derived import MOST_CLIENTS, DerivedCache, DerivedFrame
from render_cache.derived_rule import DerivedLimits, FrameCosts
from render_cache.shared_bytes import SharedBytes
from rendering.base import ScenePart
from rendering.frame import FrameRequest
from rendering.models.anchor_reuse import ReuseChoices
from splat.camera import Camera

GUARD = 0.1  # of the focal lengths

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPage:
    """The Gaussians of a page of anchors, in pages of the engine that draws.

    Attributes:
        parts: Pages of the engine, in order, as they are drawn where nothing fades.
        room: Of each of these, Gaussians.
        missing: [5, n] float32, spheres (``AnchorPage``) of the anchors that were not decoded,
            where somebody may ask for them; None if all were.
        center: [3] point that they were decoded for.
        size_bytes: Memory that it takes.
    """

    parts: tuple[ScenePart, ...]
    room: int
    missing: NDArray[np.float32] | None
    center: Float64Array
    size_bytes: int

    def is_for(self, center: Float64Array) -> bool:
        """Whether they were decoded for just this point."""
        return bool(np.array_equal(self.center, center))


@dataclass(slots=True, eq=False)
class FrameViews:
    """A request's cameras, and what their pictures took.

    Attributes:
        cameras: Of which pictures are wanted.
        center: [3] float64 point that all of them are decoded for.
        derived: What may be reused; None for nothing.
        reduced_to: Of ``FrameRequest``.
        decode_ms, draw_ms: What decoding took, and the rest.
        decoded, seen: Anchors that were decoded, and those that might have been.
    """

    cameras: tuple[Camera, ...]
    center: Float64Array
    derived: DerivedFrame[DecodedPage] | None = None
    reduced_to: float = 1.0
    decode_ms: float = 0.0
    draw_ms: float = 0.0
    decoded: int = 0
    seen: int = 0

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> FrameViews:
        """Of cameras alone."""
        return cls(tuple(cameras), middle_of(cameras))

    @property
    def guard_zoom(self) -> float:
        """How much wider than the cameras pages are cut for, as coming frames are to reuse them;
        see ``ViewVolume.of``."""
        return 1.0 - GUARD if self.derived is not None and self.derived.reuse.depth else 1.0

    def includes(self, camera: Camera) -> bool:
        """Whether a camera is one of them, or sees a part of what one of them does."""
        return any(
            camera.model is own.model
            and (camera.width, camera.height) == (own.width, own.height)
            and camera.near >= own.near
            and camera.far <= own.far
            and np.array_equal(camera.viewmat, own.viewmat)
            and np.array_equal(camera.K, own.K)
            for own in self.cameras
        )


def middle_of(cameras: Sequence[Camera]) -> Float64Array:
    """[3] the point midway between cameras: of two eyes, where the head is."""
    first = cameras[0].position
    if all(np.array_equal(camera.position, first) for camera in cameras[1:]):
        return first
    middle: Float64Array = np.mean([camera.position for camera in cameras], axis=0)
    return middle


@dataclass(slots=True, eq=False)
class _Client:
    """What a client's frames took.

    Attributes:
        request, views: Its last frame.
        anchor_ms: What an anchor takes to decode; 0 before the first.
        costs: Of a frame at full quality that decodes all; None before the first.
    """

    request: FrameRequest
    views: FrameViews
    anchor_ms: float = 0.0
    costs: FrameCosts | None = None

    def learn(self) -> None:
        """From its last frame, which has ended or was given up."""
        views = self.views
        if views.decoded and views.decode_ms > 0:
            newer = views.decode_ms / views.decoded
            self.anchor_ms += (newer - self.anchor_ms) * (0.25 if self.anchor_ms else 1.0)
        if not (views.seen and views.draw_ms):
            return
        measured = FrameCosts(self.anchor_ms * views.seen, views.draw_ms / views.reduced_to)
        self.costs = measured if self.costs is None else self.costs.blended(measured)


class AnchorFrames:
    """The frames of all clients, and the cache that they share. Safe to call from several threads.

    Args:
        limits: Of what frames reuse of each other.
        gone: Numbers of pages that nobody has any more; emptied here.
        choices: Of how far frames go; shared with others who draw the scene.
        room: For what is kept, shared with others who keep some; None if there are none.
    """

    def __init__(
        self,
        limits: DerivedLimits,
        gone: deque[int],
        choices: ReuseChoices | None = None,
        room: SharedBytes | None = None,
    ) -> None:
        self._limits, self._gone = limits, gone
        self._choices = ReuseChoices() if choices is None else choices
        self._room = SharedBytes() if room is None else room
        self._cache: DerivedCache[DecodedPage] = DerivedCache(limits.budget_bytes, self._room)
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def limits(self) -> DerivedLimits:
        """In force; may be replaced at any time."""
        return self._limits

    @limits.setter
    def limits(self, limits: DerivedLimits) -> None:
        self._limits = limits
        self._cache.set_budget(limits.budget_bytes)

    def shed(self) -> None:
        """Keep no more than what the clients' last frames drew."""
        self._forget_gone()
        self._cache.shed()

    def clear(self) -> None:
        """Keep nothing."""
        self._forget_gone()
        self._cache.clear()

    def stats(self) -> CacheStats:
        """What is kept, and how often it helped, in pages."""
        self._forget_gone()
        return self._cache.stats()

    def views_of(
        self, request: FrameRequest, cameras: Sequence[Camera] | None = None
    ) -> FrameViews:
        """Of a request, the same ones whenever it is asked for.

        Args:
            cameras: Of the request, in the world of the anchors; None where it is the request's.
        """
        self._forget_gone()
        with self._lock:
            known = self._clients.get(request.client)
            if known is not None and known.request is request:
                return known.views
            views = FrameViews.of(request.cameras if cameras is None else cameras)
            views.reduced_to = request.reduced_to
            if known is None:
                known = self._clients[request.client] = _Client(request, views)
                while len(self._clients) > MOST_CLIENTS:
                    self._clients.popitem(last=False)
            else:
                known.learn()
                known.request, known.views = request, views
            self._clients.move_to_end(request.client)
            if known.costs is not None:
                self._choices.tell(request.client, self, known.costs)
            if self._limits.budget_bytes and self._room.most_bytes:
                chosen = self._choices.choice_of(request, self._limits)
                views.derived = self._cache.begin(
                    request.client, views.center, chosen.reuse, chosen.number
                )
            return views

    def _forget_gone(self) -> None:
        gone = []
        while self._gone:
            gone.append(self._gone.popleft())
        if gone:
            self._cache.forget(gone)
