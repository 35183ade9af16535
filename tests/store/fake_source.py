"""A ``ChunkSource`` without files: as slow, flaky, stalled or damaged as a test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from scene_store.chunks import (
    DecodedChunks,
    EncodedChunk,
    ReadOutcome,
    decode_one_by_one,
    never_cancelled,
)
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.errors import ChunkReadError
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

FAKE_PATH = Path("fake.bvs")


@dataclass(eq=False)
class FakeSource:
    """Chunks made up from their index, the same every time.

    Attributes:
        tree: Its chunks.
        delay_s: How long a read takes; it heeds its cancel flag meanwhile.
        read_errors: By chunk, what its next reads raise, one after the other.
        damaged: Chunks whose bytes do not decode.
        stalled: Chunks whose reads hang, deaf to their flag, until ``resume`` is called.
        reads: Chunks whose reads were started, in that order.
    """

    tree: LodTree
    page_gaussians: int = 16_384
    sh_degree: int = 0
    delay_s: float = 0.0
    read_errors: dict[int, list[BaseException]] = field(default_factory=dict)
    damaged: set[int] = field(default_factory=set)
    stalled: set[int] = field(default_factory=set)
    reads: list[int] = field(default_factory=list)
    closed: bool = False
    _resumed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def meta(self) -> SceneMeta:
        leaves = int(self.tree.count[self.tree.is_leaf].sum())
        return SceneMeta(FAKE_PATH, "fake", leaves, self.sh_degree)

    def encoded_bytes(self, chunk: int) -> int:
        """Four bytes a Gaussian."""
        return 4 * int(self.tree.count[chunk])

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        with self._lock:
            self.reads.append(chunk)
            errors = self.read_errors.get(chunk, [])
            error = errors.pop(0) if errors else None
        if chunk in self.stalled:
            self._resumed.wait()
        end = time.monotonic() + self.delay_s
        while time.monotonic() < end and not cancelled():
            time.sleep(0.001)
        if error is not None:
            raise error
        if cancelled():
            return None
        return EncodedChunk((np.full(self.tree.count[chunk], chunk, np.int32).tobytes(),))

    def resume(self) -> None:
        """Lets stalled reads go on."""
        self._resumed.set()

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        """Gaussians spread over the chunk's box."""
        if chunk in self.damaged or set(np.frombuffer(encoded.parts[0], np.int32)) != {chunk}:
            raise ChunkReadError(FAKE_PATH, chunk, "checksum differs")
        random = np.random.default_rng(chunk)
        count, box = int(self.tree.count[chunk]), (self.tree.lo[chunk], self.tree.hi[chunk])
        return Gaussians(
            means=random.uniform(*box, (count, 3)).astype(np.float32),
            quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
            scales=np.full((count, 3), self.tree.max_scale[chunk], np.float32),
            opacities=np.full(count, 0.8, np.float32),
            sh=np.zeros((count, SH_COUNT_OF_DEGREE[self.sh_degree], 3), np.float32),
        )

    def close(self) -> None:
        self.closed = True


@dataclass(eq=False)
class BatchedFakeSource(FakeSource):
    """The same, in batches of neighbours.

    Attributes:
        batches: What was read together.
        decoded_together: What was decoded together.
    """

    batches: list[list[int]] = field(default_factory=list)
    decoded_together: list[list[int]] = field(default_factory=list)

    def read_batches(self, chunks: Sequence[int], most_bytes: int) -> list[list[int]]:
        """By four in the order of the tree; the most urgent first."""
        ranks = {chunk: rank for rank, chunk in enumerate(chunks)}
        batches: dict[int, list[int]] = {}
        for chunk in sorted(chunks):
            batches.setdefault(chunk // 4, []).append(chunk)
        return sorted(batches.values(), key=lambda batch: min(map(ranks.__getitem__, batch)))

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        """Each as ``read`` has it."""

        def one(chunk: int) -> ReadOutcome:
            try:
                return self.read(chunk, partial(cancelled, chunk))
            except BaseException as error:
                return error

        self.batches.append(list(chunks))
        return [one(chunk) for chunk in chunks]

    def decode_many(self, chunks: Sequence[int], encoded: Sequence[EncodedChunk]) -> DecodedChunks:
        """Each as ``decode`` has it."""
        self.decoded_together.append(list(chunks))
        return decode_one_by_one(self, chunks, encoded)
