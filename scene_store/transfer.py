"""From the host to a device, beside the frames: pinned memory, copies, and their marks.

A loader's thread takes a span of a ring of pinned memory (``scene_store.staging``), writes what is
to be there, and starts the copy, which goes on by itself. A frame waits for the copies of what it
draws *on the device*: nothing that runs on the host waits for a copy, but those who want its span.
While frames are drawn, only so many bytes are copied in the time of each (``UploadAllowance``).

What CUDA does for that is at the end, behind ``Copier``. On the CPU copies are over at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scene_store.staging import (
    MIB,
    OVER,
    PATIENCE_S,
    WORD_BYTES,
    Copier,
    Mark,
    StagingRing,
    Words,
)
from scene_store.upload_allowance import UploadAllowance

if TYPE_CHECKING:
    import torch

RING_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where consecutive pieces of a transfer go.

    Attributes:
        pieces: How many.
        words: Memory of the device for all of them, one after the other.
    """

    pieces: int
    words: Any


Fill = Callable[[Words, int], None]
"""Writes pieces into [n, piece_words], the first of them being of that number."""


class Transfer:
    """Copies to one device, for any number of threads.

    Args:
        copier: To the device.
        ring_bytes: Pinned host memory at most.
        allowance: How much is copied while frames are drawn.
        clock: Seconds; does not go back.
        patience_s: How long to wait for copies.
    """

    def __init__(
        self,
        copier: Copier,
        *,
        ring_bytes: int = RING_BYTES,
        allowance: UploadAllowance | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.copier = copier
        self._ring = StagingRing(copier, ring_bytes // WORD_BYTES, patience_s)
        self._allowance = allowance or UploadAllowance()
        self._clock = clock
        self._frames = threading.Condition()  # guards the allowance, and what moves
        self._moving: list[Mark] = []

    @property
    def batch_bytes(self) -> int:
        """Of one copy, unless a single piece is more: others can be under way meanwhile."""
        return min(self._ring.words * WORD_BYTES // 8, self._allowance.frame_bytes)

    def batch_pieces(self, piece_words: int) -> int:
        """Pieces that go together."""
        return max(1, self.batch_bytes // (piece_words * WORD_BYTES))

    def require(self, piece_words: int) -> None:
        """Refuse pieces that can never be sent.

        Raises:
            BudgetError: If one is larger than the ring.
        """
        self._ring.require(piece_words)

    def send(self, targets: list[Target], piece_words: int, fill: Fill) -> list[Mark]:
        """Fills and copies pieces; returns when the last copy was started.

        Args:
            targets: Where they go, in the order of their numbers.
            piece_words: Of each.
            fill: Writes them; called for several pieces at a time.

        Returns:
            A mark for each piece.

        Raises:
            BudgetError: If a piece is larger than the ring.
            TransferStalled: If copies do not end.
        """
        marks: list[Mark] = []
        for first, batch in _batches(targets, self.batch_pieces(piece_words), piece_words):
            pieces = sum(target.pieces for target in batch)
            self._wait_for_allowance(pieces * piece_words * WORD_BYTES)
            with self._ring.filled(pieces * piece_words) as (span, words, source):
                fill(words.reshape(pieces, piece_words), first)
                at = 0
                for target in batch:
                    size = target.pieces * piece_words
                    self.copier.copy(source[at : at + size], target.words)
                    at += size
                span.mark = self.copier.mark()
                marks += [span.mark] * pieces
        return marks

    def move(self, moves: Iterable[tuple[Any, Any]]) -> Mark:
        """Copies memory of the device to other memory of it, after all copies that were started.

        Args:
            moves: From where and where to, as many words. Nothing may write the former before the
                mark is over, but for later copies.
        """
        for source, target in moves:
            self.copier.copy(source, target)
        mark = self.copier.mark()
        with self._frames:
            self._moving.append(mark)
        return mark

    def frame_begins(self, needed: Callable[[], set[Mark]]) -> None:
        """Another frame; what the calling thread launches for it waits, on the device, for the
        copies of what it draws.

        Args:
            needed: Their marks; asked only if there are copies under way.
        """
        with self._frames:
            self._allowance.frame_begins(self._clock())
            self._frames.notify_all()
            self._moving = [mark for mark in self._moving if not mark.is_over()]
            moving = list(self._moving)
        if under_way := self._ring.in_flight() + moving:
            for mark in needed().intersection(under_way):
                mark.hold_frame()

    def wait_until_over(self) -> None:
        """Until all copies are that were started.

        Raises:
            TransferStalled: If they do not end.
        """
        self._ring.wait_until_over()

    def _wait_for_allowance(self, size: int) -> None:
        with self._frames:
            while (wait_s := self._allowance.wait_s(size, self._clock())) > 0:
                self._frames.wait(wait_s)


def _batches(
    targets: list[Target], most: int, piece_words: int
) -> Iterator[tuple[int, list[Target]]]:
    """Targets cut into runs of at most so many pieces, each with the number of its first."""
    batch: list[Target] = []
    first = pieces = 0
    for target in targets:
        begun = 0
        while begun < target.pieces:
            count = min(most - pieces, target.pieces - begun)
            words = target.words[begun * piece_words : (begun + count) * piece_words]
            batch.append(Target(count, words))
            begun, pieces = begun + count, pieces + count
            if pieces == most:
                yield first, batch
                first, batch, pieces = first + pieces, [], 0
    if batch:
        yield first, batch


# --- Devices --------------------------------------------------------------------------------


class HostCopier:
    """Copies within host memory, for the interpreter of kernels: over at once."""

    def host_words(self, count: int) -> tuple[Words, Any]:
        """See ``Copier``."""
        import torch

        words = torch.empty(count, dtype=torch.float32)
        return words.numpy(), words

    def device_words(self, count: int) -> torch.Tensor:
        """See ``Copier``."""
        import torch

        return torch.empty(count, dtype=torch.float32)

    def can_free_host_words(self) -> bool:
        """See ``Copier``."""
        return True

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """See ``Copier``."""
        target.copy_(source)

    def mark(self) -> Mark:
        """See ``Copier``."""
        return OVER


class CudaMark:
    """An event of the copy stream."""

    def __init__(self, device: torch.device, event: torch.cuda.Event) -> None:
        self._device, self._event, self._is_over = device, event, False

    def is_over(self) -> bool:
        """See ``Mark``."""
        self._is_over = self._is_over or self._event.query()
        return self._is_over

    def hold_frame(self) -> None:
        """See ``Mark``."""
        import torch

        torch.cuda.current_stream(self._device).wait_event(self._event)


class CudaCopier:
    """Copies from pinned memory, on a stream of its own.

    Memory of the device is taken on that stream, too: torch gives what was freed only to the stream
    it was taken on, so that no copy writes where a kernel of another stream still reads. Whoever
    frees such memory must have waited for the kernels that read it.

    Args:
        device: Of CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._stream = torch.cuda.Stream(device)

    def host_words(self, count: int) -> tuple[Words, Any]:
        """See ``Copier``."""
        import torch

        with torch.cuda.device(self._device):  # or the first one would have a context for it
            words = torch.empty(count, dtype=torch.float32, pin_memory=True)
        return words.numpy(), words

    def device_words(self, count: int) -> torch.Tensor:
        """See ``Copier``."""
        import torch

        with torch.cuda.stream(self._stream):
            return torch.empty(count, dtype=torch.float32, device=self._device)

    def can_free_host_words(self) -> bool:
        """See ``Copier``.

        Torch records an event where memory is freed that copies were made from. After an error that
        sticks to the context that throws in a destructor, which ends the process.
        """
        try:
            self._stream.query()
        except RuntimeError:
            return False
        return True

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """See ``Copier``."""
        import torch

        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def mark(self) -> Mark:
        """See ``Copier``."""
        import torch

        event = torch.cuda.Event()
        event.record(self._stream)
        return CudaMark(self._device, event)


def transfer_to(device: torch.device) -> Transfer:
    """To a device of CUDA, or within the processor's memory."""
    return Transfer(CudaCopier(device) if device.type == "cuda" else HostCopier())
