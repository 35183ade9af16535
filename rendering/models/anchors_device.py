"""Neural anchors in a GPU's memory, decoded where they lie for the fused engine.

Pages of anchors are copied to the device once, when residency brings them. For a frame one launch
decodes all pages that it needs (``rendering.models.anchor_kernel``) into pages that the engine
draws; nothing but their numbers and boxes crosses the bus. A page of Gaussians has room for all
that its anchors stand for: how many can be seen is known to the device alone, and asking would
take longer than drawing them.

Nothing here needs the native kernels of neural models; what draws does, to choose pages
(``rendering.models.anchors_device_drawing``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rendering.fused_cuda import FusedRasterizer
from rendering.fused_pages import DevicePage, RowPagePool
from rendering.models import anchor_kernel
from rendering.models.anchor_kernel import decode_kernel
from rendering.models.anchor_pages import AnchorPage, AnchorPool, next_number
from rendering.models.anchors_reference import appearance_of
from rendering.stages import Stage
from splat.anchors import AnchorLayout, AnchorModel, LevelRule, OctreeLevels
from splat.networks import Activation, Mlp, without_inputs
from splat.rows import Rows

Float32Array = NDArray[np.float32]

LEAST_WIDTH = 16  # of matrices that are multiplied
MOST_WIDTH = 128  # of a hidden layer, and features
MOST_OFFSETS = 64
ROOM_STEP = 2048  # Gaussians: a page of 1024 anchors of ten is five of it
_SEEN = 5  # direction, distance, level
_ROUNDING = 1e-5  # relative, of boxes: kernels round otherwise than numpy
_RULES = {
    LevelRule.FLOOR: anchor_kernel.FLOOR.value,
    LevelRule.ROUND: anchor_kernel.ROUND.value,
    LevelRule.CEIL: anchor_kernel.CEIL.value,
    LevelRule.PROGRESSIVE: anchor_kernel.PROGRESSIVE.value,
}


@dataclass(frozen=True, slots=True)
class DecoderTuning:
    """Of speed alone.

    Attributes:
        block: Anchors of a program, a power of 2, at least 16. More of them to a warp need more
            registers than a thread has.
        warps: That share them.
    """

    block: int = 16
    warps: int = 4


DEFAULT_TUNING = DecoderTuning()


def can_decode(model: AnchorModel) -> bool:
    """Whether the kernel knows the model's networks: one hidden layer each, as the trainers have
    them. Others are decoded by the processor."""
    layout = model.layout
    if layout.offsets > MOST_OFFSETS or layout.features > MOST_WIDTH:
        return False
    heads = [
        (model.opacity_mlp, Activation.TANH),
        (model.color_mlp, Activation.SIGMOID),
        (model.covariance_mlp, Activation.NONE),
    ]
    if model.bank_mlp is not None:
        heads.append((model.bank_mlp, Activation.SOFTMAX))
    return all(_is_known(mlp, last) for mlp, last in heads)


def _is_known(mlp: Mlp, last: Activation) -> bool:
    if len(mlp.layers) != 2 or any(layer.skip for layer in mlp.layers):
        return False
    first, second = mlp.layers
    known = (first.activation, second.activation) == (Activation.RELU, last)
    return known and first.outputs <= MOST_WIDTH


@dataclass(frozen=True, slots=True, eq=False)
class DeviceAnchorPage(AnchorPage):
    """Anchors in a page of a device; ``data`` has none of them.

    Attributes:
        rows: Where they are.
    """

    rows: DevicePage

    @property
    def count(self) -> int:
        """Anchors."""
        return self.rows.count


class DeviceAnchorPool(AnchorPool):
    """Pages of anchors in a GPU's memory; see ``rendering.base.PagePool``.

    Args:
        page_rows, layout, gone: As of ``AnchorPool``.
        engine: Of the device.
    """

    def __init__(
        self, page_rows: int, layout: AnchorLayout, gone: deque[int], engine: FusedRasterizer
    ) -> None:
        super().__init__(page_rows, layout, gone)
        self._rows: RowPagePool = engine.memory.new_row_pool(layout.width, page_rows)

    @property
    def page_bytes(self) -> int:
        """Memory of the device that one page takes, however full it is."""
        return self._rows.page_bytes

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages; the device has the others' memory again."""
        self._rows.keep_free(pages)

    def limit(self, most_bytes: int) -> None:
        """See ``rendering.fused_pages.FusedPagePool``."""
        self._rows.limit(most_bytes)

    def is_loose(self) -> bool:
        """See ``rendering.fused_pages.FusedPagePool``."""
        return self._rows.is_loose()

    def moved(self, pages: Iterable[DeviceAnchorPage]) -> dict[DeviceAnchorPage, DeviceAnchorPage]:
        """See ``rendering.fused_pages.FusedPagePool``."""
        by_rows = {page.rows: page for page in pages}
        moved = self._rows.moved_rows(by_rows)
        return {
            by_rows[before]: self._known(replace(by_rows[before], number=next_number(), rows=after))
            for before, after in moved.items()
        }

    def _pages_of(self, rows: Rows, places: NDArray[np.int64]) -> list[AnchorPage]:
        there = self._rows.pack_rows(rows.data, places)
        none = np.empty((0, rows.width), np.float32)
        return [
            DeviceAnchorPage(
                number=page.number,
                data=none,
                spheres=page.spheres,
                low=page.low,
                high=page.high,
                largest=page.largest,
                middle=page.middle,
                radius=page.radius,
                rows=on_device,
            )
            for page, on_device in zip(super()._pages_of(rows, places), there, strict=True)
        ]


class DeviceDecoder:
    """Decodes pages of anchors on a device. Safe to use from several threads.

    Args:
        model: What the anchors share; one that it ``can_decode``.
        appearance: The training camera whose look pictures have; None for the mean of all.
        engine: Of the device.
        tuning: Of speed.
    """

    def __init__(
        self,
        model: AnchorModel,
        appearance: int | None,
        engine: FusedRasterizer,
        tuning: DecoderTuning = DEFAULT_TUNING,
    ) -> None:
        self._engine, self._device = engine, torch.device(engine.torch_device)
        self._block = tuning.block
        self.offsets = model.layout.offsets
        look = appearance_of(model, appearance)
        inputs, places = width_of(model.layout.features), width_of(self.offsets)
        color = without_inputs(model.color_mlp, look)
        bank = model.bank_mlp
        parts = [
            _head(model, model.opacity_mlp, model.opacity_dist, 1, inputs, places),
            _head(model, color, model.color_dist, 3, inputs, places),
            _head(model, model.covariance_mlp, model.covariance_dist, 7, inputs, places),
            *([] if bank is None else [_bank(bank)]),
        ]
        self._weights = self._sent(np.concatenate(parts))
        self._octree = self._sent(_octree(model.levels))
        rule = anchor_kernel.NO_LEVELS.value
        self._options: dict[str, Any] = {
            "OFFSETS": self.offsets,
            "PLACES": places,
            "FEATURES": model.layout.features,
            "INPUTS": inputs,
            "OPACITY_WIDTH": _hidden(model.opacity_mlp),
            "COLOR_WIDTH": _hidden(color),
            "COVARIANCE_WIDTH": _hidden(model.covariance_mlp),
            "BANK_WIDTH": 0 if bank is None else _hidden(bank),
            "BANK_LEVEL": model.layout.has_levels and model.level_input,
            "BANK_MORE": bank is not None and bank.inputs == 3,
            "HAS_LEVELS": model.layout.has_levels,
            "RULE": rule if model.levels is None else _RULES[model.levels.rule],
            "BLOCK": tuning.block,
            "num_warps": tuning.warps,
        }

    def decode(
        self,
        pages: Sequence[tuple[DeviceAnchorPage, DevicePage]],
        center: NDArray[np.float64],
        least_opacity: float,
    ) -> float:
        """Write the Gaussians of pages, by number and then by anchor; returns when they are there.

        Args:
            pages: With blank ones of the engine for as many Gaussians as their anchors stand for.
            center: [3] where they are seen from, world units.
            least_opacity: Gaussians of no more keep their place, and cannot be seen.

        Returns:
            Milliseconds that the kernel took, on the device's clock.

        Raises:
            BudgetError, DeviceLost: If the device fails.
        """
        if not pages:
            return 0.0
        most = max(page.count for page, _ in pages)
        with self._engine.launching(f"{len(pages)} pages of anchors") as watch:
            for mark in {page.rows.copied for page, _ in pages}:
                if not mark.is_over():
                    mark.hold_frame()
            arguments: list[NDArray[Any]] = [
                np.array([page.rows.address for page, _ in pages], np.int64),
                np.array([target.address for _, target in pages], np.int64),
                np.array([(p.count, p.rows.room, t.room) for p, t in pages], np.int32),
                np.stack([header_of(page) for page, _ in pages]),
                _in_two(center),
            ]
            sent = [self._sent(array) for array in arguments]
            watch.mark("begin")
            decode_kernel[(len(pages), -(-most // self._block))](
                *sent, self._octree, self._weights, least_opacity, **self._options
            )
            watch.mark(Stage.DECODE.value)
        return watch.stage_ms()[Stage.DECODE.value]

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def room_for(count: int) -> int:
    """Of a page for so many Gaussians: of few sizes, and none much larger than it must be."""
    if count <= ROOM_STEP:
        return 1 << (max(1, count) - 1).bit_length()
    return -(-count // ROOM_STEP) * ROOM_STEP


def width_of(values: int) -> int:
    """Of a matrix for so many values: a power of 2, not too small to be multiplied."""
    return max(LEAST_WIDTH, 1 << (values - 1).bit_length())


def header_of(page: AnchorPage) -> Float32Array:
    """[7] the box of the means, and the largest scale, of all Gaussians of a page; a little larger,
    so that no rounding of the kernel's leaves it."""
    low, high = page.low.astype(np.float64), page.high.astype(np.float64)
    slack = _ROUNDING * np.maximum(high - low, np.maximum(np.abs(low), np.abs(high)))
    return np.array([*(low - slack), *(high + slack), page.largest * (1 + _ROUNDING)], np.float32)


def _in_two(center: NDArray[np.float64]) -> Float32Array:
    """[6] the first digits of each coordinate, then the rest."""
    first = center.astype(np.float32)
    return np.concatenate([first, (center - first).astype(np.float32)])


def _hidden(mlp: Mlp) -> int:
    return width_of(mlp.layers[0].outputs)


def _head(
    model: AnchorModel, mlp: Mlp, has_distance: bool, values: int, inputs: int, places: int
) -> Float32Array:
    """A network as the kernel reads it; ``values`` of each Gaussian."""
    first, second = mlp.layers
    width, features = _hidden(mlp), model.layout.features
    hidden = np.zeros((inputs + _SEEN + 1, width), np.float32)
    weight = first.weight.T
    hidden[:features, : first.outputs] = weight[:features]
    seen = [0, 1, 2, *([3] if has_distance else []), *([4] if model.level_input else [])]
    rows = inputs + np.array(seen)
    hidden[rows, : first.outputs] = weight[features:]
    hidden[-1, : first.outputs] = first.bias
    outputs = np.zeros((values, width, places), np.float32)
    # Output ``k · values + value`` is that value of Gaussian k.
    by_value = second.weight.reshape(-1, values, first.outputs).transpose(1, 2, 0)
    outputs[:, : first.outputs, : model.layout.offsets] = by_value
    biases = np.zeros((values, places), np.float32)
    biases[:, : model.layout.offsets] = second.bias.reshape(-1, values).T
    return np.concatenate([hidden.ravel(), outputs.ravel(), biases.ravel()])


def _bank(mlp: Mlp) -> Float32Array:
    first, second = mlp.layers
    width = _hidden(mlp)
    hidden = np.zeros((5, width), np.float32)
    hidden[: mlp.inputs, : first.outputs] = first.weight.T
    hidden[4, : first.outputs] = first.bias
    outputs = np.zeros((3, width), np.float32)
    outputs[:, : first.outputs] = second.weight
    return np.concatenate([hidden.ravel(), outputs.ravel(), second.bias.astype(np.float32)])


def _octree(levels: OctreeLevels | None) -> Float32Array:
    if levels is None:
        return np.zeros(6, np.float32)
    log2_fork = float(np.log2(levels.fork))
    return np.array(
        [
            levels.standard_dist,
            levels.res_scale,
            1.0 / log2_fork,
            log2_fork,
            0.5 * levels.voxel_size,
            levels.levels,
        ],
        np.float32,
    )
