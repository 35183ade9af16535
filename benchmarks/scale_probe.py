"""One size of ``scale`` in a process of its own, so that its memory is that of the scene alone.

``python -m benchmarks.scale_probe STORE`` prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import Summary
from benchmarks.scenes import town_paths
from benchmarks.streaming import StreamedEngine
from rendering.base import RasterSettings
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamPolicy
from scene_store.chunks import Buffer
from scene_store.ledger import Budgets
from scene_store.range_reader import ByteRange, FolderReader
from scene_store.store import Store

MIB = 1 << 20
BUDGETS = Budgets(host_bytes=256 * MIB, device_bytes=768 * MIB)
POLICY = StreamPolicy(max_gaussians=1_000_000, fade_s=0.0)
ERROR_PX = 1.0
VIEWS = 4  # of each path
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """What one store cost.

    Attributes:
        gaussians, chunks: Of the store.
        open_s: Until it could be asked for chunks.
        open_bytes: Read until then.
        settle_s: From then until the first view was complete, the slowest view.
        frame_ms_p50, frame_ms_p95: Complete frames.
        select_ms_p50: Of them, choosing chunks.
        drawn: Gaussians a frame, the mean.
        idle_bytes: Memory of the process before the store was opened.
        peak_bytes: Most memory that it ever had.
        budget_bytes: Of the budgets together.
    """

    gaussians: int
    chunks: int
    open_s: float
    open_bytes: int
    settle_s: float
    frame_ms_p50: float
    frame_ms_p95: float
    select_ms_p50: float
    drawn: float
    idle_bytes: int
    peak_bytes: int
    budget_bytes: int


class CountingReader(FolderReader):
    """A folder's files, with the bytes that were read of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bytes_read = 0

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """See ``RangeReader``."""
        part = super().read(name, offset, size, cancelled)
        self.bytes_read += len(part or b"")
        return part

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """See ``RangeReader``."""
        parts = super().read_ranges(name, ranges, cancelled)
        self.bytes_read += sum(map(len, parts or ()))
        return parts


def probe(path: Path) -> Probe:
    """Open a town's store and look at it from both paths."""
    rasterizer, settings = NativeRasterizer(), RasterSettings()
    idle_bytes = memory_bytes("VmRSS")
    began_s = time.perf_counter()
    reader = CountingReader(path)
    store = Store(reader, path)
    open_s, open_bytes = time.perf_counter() - began_s, reader.bytes_read
    tree = store.tree
    settle_s, frame_ms, select_ms, drawn = [], [], [], []
    with StreamedEngine(store, rasterizer, BUDGETS, POLICY) as engine:
        for camera in (c for each in town_paths() for c in each.spread(VIEWS)):
            began_s = time.perf_counter()
            engine.draw_complete(camera, max_error_px=ERROR_PX, settings=settings)
            settle_s.append(time.perf_counter() - began_s)
            for _ in range(REPEATS):
                shot = engine.draw(camera, max_error_px=ERROR_PX, settings=settings)
                stream = shot.frame.stats.stream
                assert stream is not None
                frame_ms.append(shot.wall_ms)
                select_ms.append(stream.select_ms)
                drawn.append(sum(stream.gaussians_by_level))
    times = Summary.of(frame_ms)
    return Probe(
        gaussians=int(tree.count[tree.is_leaf].sum()),
        chunks=len(tree),
        open_s=open_s,
        open_bytes=open_bytes,
        settle_s=max(settle_s),
        frame_ms_p50=times.p50,
        frame_ms_p95=times.p95,
        select_ms_p50=Summary.of(select_ms).p50,
        drawn=sum(drawn) / len(drawn),
        idle_bytes=idle_bytes,
        peak_bytes=memory_bytes("VmHWM"),
        budget_bytes=BUDGETS.host_bytes + BUDGETS.device_bytes,
    )


def memory_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (ever) of this process, as Linux counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return 1024 * int(rest.split()[0])
    raise RuntimeError(f"/proc/self/status has no {field}")


def main(argv: Sequence[str]) -> None:
    """Probe the store and print."""
    print(json.dumps(asdict(probe(Path(argv[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
