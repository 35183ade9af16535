"""Do frames wait for what is brought meanwhile? Pages are uploaded on another thread."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np

from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.gpu_kit.plan import Sampling
from benchmarks.gpu_kit.timing import time_frames
from splat.closing import Closing
from splat.gaussians import Gaussians

PAGE_GAUSSIANS, BATCH_PAGES = 1024, 32
RATES_MB_S = (0.0, 200.0, 1000.0)


def measure(bench: Bench, tell: Tell) -> None:
    """Frames with nothing uploaded, and with more and more, on every path of the first scene.

    Raises:
        Absent: If the scene is not here.
    """
    name, engine = bench.plan.scenes[0], bench.fused()
    scene, gaussians = bench.prepared(engine, name), bench.scene(name)
    sampling, size = _longer(bench.plan.sampling), bench.plan.sizes[0]
    for path in bench.plan.paths:
        views = bench.views(name, path, size)
        alone_ms = 0.0
        for rate in RATES_MB_S:
            pool = engine.new_pool(PAGE_GAUSSIANS, gaussians.sh_degree)
            with _Uploads(pool, gaussians, rate) as uploads:
                times = time_frames(
                    lambda view: (engine.render(scene, view),), views, sampling, bench.board
                )
            alone_ms = alone_ms or times.host_ms.p95
            tell(
                {
                    "table": "uploads",
                    "scene": name,
                    "path": path,
                    "width": size[0],
                    "height": size[1],
                    "asked_mb_s": rate,
                    "mb_s": uploads.mb_s,
                    **times.to_row(),
                    "times": times.host_ms.p95 / alone_ms,
                }
            )


class _Uploads(Closing):
    """Packs pages of a scene on a thread of its own, so many bytes a second at most."""

    def __init__(self, pool: Any, gaussians: Gaussians, rate_mb_s: float) -> None:
        self._pool, self._gaussians, self._rate = pool, gaussians, 1e6 * rate_mb_s
        self._stop = threading.Event()
        self._began_s = time.monotonic()
        self._bytes = 0
        self.mb_s = 0.0
        """That were uploaded; once closed."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        if self._rate:
            self._thread.start()

    def close(self) -> None:
        """No more, and what was uploaded is gone."""
        if not self._stop.is_set():
            self._stop.set()
            if self._rate:
                self._thread.join()
            self.mb_s = self._bytes / max(time.monotonic() - self._began_s, 1e-9) / 1e6

    def _run(self) -> None:
        pages = max(1, min(BATCH_PAGES, len(self._gaussians) // PAGE_GAUSSIANS))
        starts = np.arange(pages) * PAGE_GAUSSIANS
        counts = np.minimum(PAGE_GAUSSIANS, len(self._gaussians) - starts)
        rows = np.stack([starts, counts], axis=1).astype(np.int64)
        last = max(1, len(self._gaussians) - int(counts.sum()) + 1)
        for turn in itertools.count():
            first = (turn * pages * PAGE_GAUSSIANS) % last
            self._pool.pack_many(self._gaussians, rows + np.array([first, 0]))  # freed at once
            self._bytes += pages * self._pool.page_bytes
            due_s = self._began_s + self._bytes / self._rate
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return


def _longer(sampling: Sampling) -> Sampling:
    """A 95th percentile wants more frames."""
    return Sampling(sampling.views, sampling.least, 3 * sampling.most, 2 * sampling.most_s)
