"""How blocks that overlap share space: a partition of unity over their boxes. Pure.

In a block's box of corners lo and hi, with a border b::

    u(x) = Π_axes clamp(min(x − lo, hi − x) / b, 2⁻²⁰, 1)      0 outside; 1 inside if b is 0
    w_i(x) = u_i(x) / Σ_j u_j(x)

The density of block i is multiplied by w_i. A ray through an overlap passes samples of all blocks
in it, in order of distance, and their weights add up to one everywhere; what one block alone covers
is its own. Blocks of one site (levels of detail of the same part) have one box and count once.

The weights depend on the blocks that are drawn. One that is culled has no point of its box in view,
so that what is in view is the same with it and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.models.field_bytes import FieldBlock
from splat.camera import Float64Array

Float32Array = NDArray[np.float32]
LEAST = 2.0**-20


@dataclass(frozen=True, slots=True)
class Overlap:
    """A block's box, and the boxes of others that it overlaps.

    Attributes:
        own: (lo, hi), each three numbers.
        others: Likewise.
        border: World units.
    """

    own: tuple[tuple[float, ...], tuple[float, ...]]
    others: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    border: float

    def weights(self, points: Float64Array) -> Float32Array:
        """[N] of points [3, N] of the blocks' world, which are inside the own box."""
        own = _inside(points, *self.own, self.border)
        total = own.copy()
        for box in self.others:
            total += _inside(points, *box, self.border)
        with np.errstate(invalid="ignore"):
            return np.where(own > 0, own / total, 0.0).astype(np.float32)


def overlaps(blocks: Sequence[FieldBlock]) -> list[Overlap | None]:
    """Of each block what it shares its space with; None if it has it alone."""
    boxes = {(block.group, block.site): (block.lo, block.hi) for block in blocks}
    out: list[Overlap | None] = []
    for block in blocks:
        others = tuple(
            box
            for (group, site), box in boxes.items()
            if group == block.group and site != block.site and _touch(box, block)
        )
        own = block.lo, block.hi
        out.append(Overlap(own, others, block.border) if others else None)
    return out


def _touch(box: tuple[tuple[float, ...], tuple[float, ...]], block: FieldBlock) -> bool:
    sides = zip(*box, block.lo, block.hi, strict=True)
    return all(low < high_b and low_b < high for low, high, low_b, high_b in sides)


def _inside(
    points: Float64Array, lo: Sequence[float], hi: Sequence[float], border: float
) -> Float64Array:
    share = np.ones(points.shape[1])
    for x, low, high in zip(points, lo, hi, strict=True):
        depth = np.minimum(x - low, high - x)
        ramp = np.clip(depth / border, LEAST, 1.0) if border else np.ones_like(depth)
        share *= np.where((x >= low) & (x < high), ramp, 0.0)
    return share
