"""Neural anchors decoded on the device: how true they are, and how quickly it is done.

What is timed is what a frame does that reuses nothing: one launch for all pages, whatever is seen
of them. Nothing here needs native kernels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kit.anchor_models import MODELS, OUTSIDE
from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.gpu_kit.kernels import resources_of
from benchmarks.gpu_kit.plan import Plan, Sampling
from benchmarks.gpu_kit.timing import turns
from benchmarks.report import Summary
from rendering.models.anchors_reference import DecodedAnchors, decode_anchors
from rendering.page_packing import GEOMETRY_ROWS, HEADER_WORDS
from splat.anchors import AnchorModel
from splat.harmonics import sh0_to_rgb
from splat.rows import Rows

if TYPE_CHECKING:
    from rendering.fused_cuda import FusedRasterizer
    from rendering.fused_pages import DevicePage
    from rendering.models.anchors_device import DecoderTuning, DeviceAnchorPage, DeviceDecoder

# Of what is drawn. At the one that engines ask for, a rounding might decide what is there.
LEAST_OPACITY = 0.0


def measure(bench: Bench, tell: Tell, *, form: int) -> None:
    """Each model, by one of the plan's forms of the kernel; then what it was compiled to."""
    from rendering.models.anchor_kernel import decode_kernel
    from rendering.models.anchors_device import DecoderTuning

    tuning = DecoderTuning(*bench.plan.anchor_forms[form])
    for name, make in MODELS.items():
        model, rows = make(bench.plan.anchors)
        there = _Anchors(bench.fused(), model, rows, tuning, bench.plan)
        tell(
            {
                "table": "anchors",
                "model": name,
                "anchors": len(rows),
                "gaussians": len(rows) * model.layout.offsets,
                "block": tuning.block,
                "warps": tuning.warps,
                "max_error": there.max_error(),
                **there.timed(bench.plan.sampling),
            }
        )
    for row in resources_of(decode_kernel):
        tell({"table": "kernels", **row})


class _Anchors:
    """Pages of a model on the device, and room for what they are decoded to."""

    def __init__(
        self,
        engine: FusedRasterizer,
        model: AnchorModel,
        rows: Rows,
        tuning: DecoderTuning,
        plan: Plan,
    ) -> None:
        from rendering.models.anchors_device import DeviceAnchorPool, DeviceDecoder, room_for

        self._model, self._rows, self._page_anchors = model, rows, plan.page_anchors
        self._decoder: DeviceDecoder = DeviceDecoder(model, None, engine, tuning)
        pool = DeviceAnchorPool(plan.page_anchors, model.layout, deque(), engine)
        firsts = np.arange(0, len(rows), plan.page_anchors, dtype=np.int64)
        counts = np.minimum(plan.page_anchors, len(rows) - firsts)
        pages: Any = pool.pack_many(rows, np.stack([firsts, counts], axis=1))
        gaussians = (counts * model.layout.offsets).tolist()
        blank = engine.new_pool(room_for(max(gaussians)), 0).blank(gaussians)
        self._pages: list[tuple[DeviceAnchorPage, DevicePage]] = list(
            zip(pages, blank, strict=True)
        )

    def timed(self, sampling: Sampling) -> dict[str, float]:
        """All pages at once, as often as the sampling says."""
        self._decode(self._pages)
        device_ms, host_ms = [], []
        for _ in turns(sampling):
            start_s = time.perf_counter()
            device_ms.append(self._decode(self._pages))
            host_ms.append(1e3 * (time.perf_counter() - start_s))
        device, host = Summary.of(device_ms), Summary.of(host_ms)
        return {
            "repeats": len(device_ms),
            "device_ms_p50": device.p50,
            "device_ms_p95": device.p95,
            "host_ms_p50": host.p50,
            "host_ms_p95": host.p95,
            "anchors_s": 1e3 * len(self._rows) / device.p50,
            "moved_bytes": self._moved_bytes(),
        }

    def max_error(self) -> float:
        """The largest of the first page, one amid, and the last, which is not full; not a number
        if something was not written."""
        some = sorted({0, len(self._pages) // 2, len(self._pages) - 1})
        for number in some:
            self._pages[number][1].words.fill_(float("nan"))
        self._decode([self._pages[number] for number in some])
        return float(np.max([self._error_of_page(number) for number in some]))

    def _error_of_page(self, number: int) -> float:
        first = number * self._page_anchors
        rows = Rows(self._rows.data[first : first + self._page_anchors])
        found = _geometry_of(self._pages[number][1], self._model.layout.offsets)
        return largest_error(found, decode_anchors(self._model, rows, OUTSIDE))

    def _decode(self, pages: Sequence[tuple[DeviceAnchorPage, DevicePage]]) -> float:
        return self._decoder.decode(pages, OUTSIDE, LEAST_OPACITY)

    def _moved_bytes(self) -> int:
        """Read and written once, in the form that pages have."""
        layout = self._model.layout
        return 4 * len(self._rows) * (layout.width + GEOMETRY_ROWS * layout.offsets)


def _geometry_of(page: DevicePage, offsets: int) -> NDArray[np.float64]:
    """[A, k, 14] of a page: mean, quat, scale, log2 of the opacity, colour as degree 0."""
    end = HEADER_WORDS + GEOMETRY_ROWS * page.room
    words = page.words[HEADER_WORDS:end].cpu().numpy().astype(np.float64)
    columns = words.reshape(GEOMETRY_ROWS, page.room)[:, : page.count]
    by_anchor: NDArray[np.float64] = columns.reshape(GEOMETRY_ROWS, offsets, -1).transpose(2, 1, 0)
    return by_anchor


def largest_error(geometry: NDArray[np.float64], truth: DecodedAnchors) -> float:
    """The most that a number of Gaussians is off: of itself where it is above 1, else as it is.

    Args:
        geometry: [A, k, 14] as pages have them.
        truth: The same A anchors.
    """
    wanted = np.concatenate(
        [
            truth.means,
            truth.quats,
            truth.scales,
            np.maximum(truth.opacities, LEAST_OPACITY)[..., None],
            truth.colors,
        ],
        axis=2,
    )
    found = geometry.copy()
    found[..., 10] = np.exp2(geometry[..., 10])
    found[..., 11:14] = sh0_to_rgb(geometry[..., 11:14])
    return float(np.max(np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))))
