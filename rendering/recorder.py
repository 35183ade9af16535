"""What the engine and its clients did of late: the newest frames, and no more than so many."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from render_cache.byte_cache import CacheStats
from rendering.frame import PartStats

MOST_FRAMES = 1000  # half a minute at full speed
TRACED_FRAMES = 10_000  # of a trace that was asked for: five minutes
ERRANDS_A_FRAME = 8  # that are kept: encoding, sending, reading and decoding chunks


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A frame that has ended, as far as it is remembered: no pictures.

    Attributes:
        number: Of the frame; counts those of all clients in the order they were begun.
        client, sequence: Of the request.
        asked_s, begun_s, ended_s: When it was asked for, taken by devices, and had its outcome.
        parts: What devices did for it.
        reused: Of its pictures, those that had been drawn before.
        complete: Whether it was drawn to its end; else it was given up, or failed.
        pictures: The cache of finished pictures after it.
    """

    number: int
    client: str
    sequence: int
    asked_s: float
    begun_s: float
    ended_s: float
    parts: tuple[PartStats, ...]
    reused: int
    complete: bool
    pictures: CacheStats


@dataclass(frozen=True, slots=True)
class Errand:
    """What somebody other than a device did, for a frame or for none alone.

    Attributes:
        lane, stage: As of ``rendering.timeline.Span``.
        start_s, end_s: Seconds of the engine's clock.
        client, sequence: Of the frame's request; "" and −1 without a frame.
    """

    lane: str
    stage: str
    start_s: float
    end_s: float
    client: str = ""
    sequence: int = -1


@dataclass(frozen=True, slots=True)
class Recording:
    """A copy of what is remembered.

    Attributes:
        frames: In the order they ended.
        errands: In the order they ended.
        forgotten: Frames that were there before.
    """

    frames: tuple[FrameRecord, ...] = ()
    errands: tuple[Errand, ...] = ()
    forgotten: int = 0

    def last(self, count: int) -> Recording:
        """Its newest frames, and what was done since the first of them was asked for."""
        if len(self.frames) <= count:
            return self
        frames = self.frames[-count:] if count else ()
        since_s = min((frame.asked_s for frame in frames), default=float("inf"))
        errands = tuple(errand for errand in self.errands if errand.end_s > since_s)
        return Recording(frames, errands, self.forgotten + len(self.frames) - len(frames))


class Recorder:
    """Remembers the newest frames. Thread-safe; to be told something takes a microsecond.

    Args:
        most_frames: That are kept, with ``ERRANDS_A_FRAME`` times as many errands.
    """

    def __init__(self, most_frames: int = MOST_FRAMES) -> None:
        self._lock = threading.Lock()
        self._frames: deque[FrameRecord] = deque(maxlen=most_frames)
        self._errands: deque[Errand] = deque(maxlen=ERRANDS_A_FRAME * most_frames)
        self._ended = self._told = 0

    @property
    def told(self) -> int:
        """Grows with everything that it is told."""
        return self._told

    def keep(self, most_frames: int) -> None:
        """Remember more frames, or fewer, from now on."""
        with self._lock:
            self._frames = deque(self._frames, maxlen=most_frames)
            self._errands = deque(self._errands, maxlen=ERRANDS_A_FRAME * most_frames)

    def frame(self, record: FrameRecord) -> None:
        """A frame has its outcome."""
        with self._lock:
            self._frames.append(record)
            self._ended += 1
            self._told += 1

    def did(
        self,
        lane: str,
        stage: str,
        start_s: float,
        end_s: float,
        client: str = "",
        sequence: int = -1,
    ) -> None:
        """Something else is done."""
        record = Errand(lane, stage, start_s, end_s, client, sequence)
        with self._lock:
            self._errands.append(record)
            self._told += 1

    def recording(self) -> Recording:
        """What is remembered now."""
        with self._lock:
            frames, errands = tuple(self._frames), tuple(self._errands)
            return Recording(frames, errands, self._ended - len(frames))
