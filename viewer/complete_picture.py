"""Pictures of a streamed scene with all its detail, however long that takes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rendering.base import CancelFlag, RasterImage, Rasterizer, RasterSettings
from rendering.cancel import EventCancelFlag
from rendering.division import Division
from rendering.drawable import DividedScene, Drawable, Outlook
from rendering.frame import FrameRequest, StreamStats
from rendering.streamed_scene import StreamedScene
from scene_store.ledger import ChunkState
from splat.camera import Camera
from splat.errors import RenderCancelled
from viewer.text import counted

POLL_S = 0.2  # between two looks at whether anything comes at all
SHORTEST_WAIT_S = 0.005
GIVE_UP_S = 60.0  # without a single chunk; a chunk is tried several times meanwhile
# The same while other pictures are drawn: their chunks may take the room.
GIVE_UP_BESIDE_S = 600.0
CLIENT = "export"
OnShare = Callable[[float], None]
"""Hears the share of what is drawn, in [0, 1], from any thread, one call at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class CompletePicture:
    """What was drawn.

    Attributes:
        images: One a camera, all of the same chunks.
        stream: How much of what was wanted they show.
        failures: Why chunks are missing, one line each.
    """

    images: tuple[RasterImage, ...]
    stream: StreamStats
    failures: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What keeps them from being whole pictures, a line each."""
        lines = [f"coarser than it should be: {text}" for text in self.failures]
        if not self.stream.complete and not lines:
            missing = counted(self.stream.missing, "chunks")
            lines = [f"coarser than it should be: {missing} did not come"]
        return lines


def draw_complete(
    scene: StreamedScene,
    rasterizer: Rasterizer,
    cameras: Sequence[Camera],
    settings: RasterSettings,
    *,
    coming: Sequence[Camera] = (),
    give_up_s: float = GIVE_UP_S,
    on_share: OnShare | None = None,
) -> CompletePicture:
    """Wait until all that the cameras see is there, or lost, and draw each of them once.

    Args:
        scene: Without fades.
        rasterizer: The one that the scene was made for.
        cameras: Those of one frame, two eyes at most: one cut is chosen for all of them.
        settings: How.
        coming: Views that follow: as far as memory has room, their chunks are read meanwhile.
        give_up_s: Chunks that still do not come after so long a silence count as lost.
        on_share: Hears the share of the pictures that is drawn, in [0, 1], if what draws knows it;
            what it raises ends this.
    """
    request = FrameRequest(CLIENT, 0, tuple(cameras), settings, coming=tuple(coming))
    with _completed(scene, request, lambda heard_s: _silent_for(heard_s, give_up_s)) as drawable:
        images = tuple(
            rasterizer.render(
                drawable.scene, camera, settings, _flag(rasterizer, on_share, number, len(cameras))
            )
            for number, camera in enumerate(cameras)
        )
        assert drawable.stream is not None
        return CompletePicture(images, drawable.stream, failures_of(scene))


def _flag(
    rasterizer: Rasterizer, on_share: OnShare | None, number: int, count: int
) -> CancelFlag | None:
    """What hears from one of several renders how far it is; None if nobody listens."""
    if on_share is None:
        return None
    flag = rasterizer.new_cancel_flag()
    if isinstance(flag, EventCancelFlag):
        flag.on_share = lambda share: on_share((number + share) / count)
    return flag


def failures_of(scene: StreamedScene) -> tuple[str, ...]:
    """Why chunks are missing, one line each."""
    return tuple(failure.text for failure in scene.stats().failures)


class CompleteScene(DividedScene):
    """A streamed scene that is only had complete, for one client's frames.

    Several frames may be drawn at a time, but are chosen one after the other, each with as much
    memory as if it were alone: a frame waits where those before it hold what it needs.

    Args:
        scene: Without fades; closed with this.
        give_up_s: Chunks that still do not come after so long a silence count as lost.
    """

    def __init__(self, scene: StreamedScene, *, give_up_s: float = GIVE_UP_S) -> None:
        self.scene = scene
        self._give_up_s = give_up_s
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._held = 0
        self._let_go_s = -math.inf  # the last time that a frame did
        self._over = threading.Event()

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians that a frame may draw."""
        return self.scene.detail_counts

    @property
    def memories(self) -> tuple[str, ...]:
        """Those that the scene was made for."""
        return self.scene.memories

    @property
    def present(self) -> frozenset[str]:
        """Memories that are there."""
        return self.scene.present

    @property
    def behind(self) -> frozenset[str]:
        """Memories that pictures would have to wait for."""
        return self.scene.behind

    def held_bytes(self, memory: str) -> tuple[int, int]:
        """What the scene takes of a memory, and the most that it may."""
        return self.scene.held_bytes(memory)

    def engine_of(self, memory: str) -> str:
        """The engine that its form in a memory is for."""
        return self.scene.engine_of(memory)

    def outlook(self, request: FrameRequest) -> Outlook:
        """What will be drawn."""
        return self.scene.outlook(request)

    def lose(self, memory: str) -> None:
        """A memory is gone with its device."""
        self.scene.lose(memory)

    def renew(self, memory: str, rasterizer: Rasterizer, timeout_s: float) -> None:
        """It is there again."""
        self.scene.renew(memory, rasterizer, timeout_s)

    @contextmanager
    def acquire(
        self, request: FrameRequest, division: Division | None = None
    ) -> Iterator[Drawable]:
        """All that the request's cameras see, as soon as it is there or lost.

        Args:
            division: Which memory needs what; None for all of it in the first one.

        Raises:
            RenderCancelled: If ``stop`` was called.
        """
        with ExitStack() as lease:
            with self._turn:
                drawable = lease.enter_context(
                    _completed(self.scene, request, self._is_in_vain, self._over, division)
                )
                self._count(1)
                lease.callback(self._count, -1)
            yield drawable

    def stop(self) -> None:
        """Nobody needs it any more: give up all waiting."""
        self._over.set()

    def forget(self, client: str) -> None:
        """The client is gone."""
        self.scene.forget(client)

    def close(self) -> None:
        """Close the scene."""
        self.stop()
        self.scene.close()

    def _is_in_vain(self, heard_s: float) -> bool:
        with self._counting:
            patience_s = GIVE_UP_BESIDE_S if self._held else self._give_up_s
            return _silent_for(max(heard_s, self._let_go_s), patience_s)  # there may be room now

    def _count(self, change: int) -> None:
        with self._counting:
            self._held += change
            if change < 0:
                self._let_go_s = time.monotonic()


def _silent_for(heard_s: float, patience_s: float) -> bool:
    return time.monotonic() - heard_s > patience_s


NEVER = threading.Event()


@contextmanager
def _completed(
    scene: StreamedScene,
    request: FrameRequest,
    is_in_vain: Callable[[float], bool],
    over: threading.Event = NEVER,
    division: Division | None = None,
) -> Iterator[Drawable]:
    """The scene when all that a request wants is there, or more will not come.

    Args:
        is_in_vain: Whether to wait no longer, from when something came last.
    """
    heard_s, present = time.monotonic(), -1
    while not over.is_set():
        held = scene.acquire(request) if division is None else scene.acquire(request, division)
        with held as drawable:
            assert drawable.stream is not None
            if drawable.stream.complete or is_in_vain(heard_s):
                yield drawable
                return
        over.wait(SHORTEST_WAIT_S)
        scene.wait_until_settled(POLL_S)
        now_present = scene.stats().chunks[ChunkState.DEVICE]
        if now_present != present:
            heard_s, present = time.monotonic(), now_present
    raise RenderCancelled("the picture was given up")
