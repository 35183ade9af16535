"""A coarser form of a scene, to be drawn while the camera moves.

Not a level of detail to look at for long (that is the store's business): quick to make,
and close enough that sharpening after the motion is not felt as a change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat.gaussians import Float32Array, Gaussians

BLOCK_GROUPS = 1 << 16  # bounds the memory of temporaries


def coarsen(gaussians: Gaussians, group: int) -> Gaussians:
    """One Gaussian for every ``group`` neighbours of a scene in Morton order.

    Each group is stood for by its most visible member, the one with the largest opacity ×
    cross-section. It moves to the group's mean, takes its mean colour, and grows in all
    directions so that its cross-section covers as much as the group's together.

    Args:
        gaussians: [N], in Morton order.
        group: Size of a group, at least 1; the last one may be smaller.
    """
    out = Gaussians.allocate(-(-len(gaussians) // group), gaussians.sh_degree)
    for start in range(0, len(out), BLOCK_GROUPS):
        rows = slice(start, start + BLOCK_GROUPS)
        block = _coarsen_block(gaussians[start * group : rows.stop * group], group)
        for array, values in zip(out.arrays, block.arrays, strict=True):
            array[rows] = values
    return out


def _coarsen_block(block: Gaussians, group: int) -> Gaussians:
    area = np.sort(block.scales, axis=1)[:, 1:].prod(axis=1)
    weight = np.maximum(block.opacities * area, np.float32(1e-30))
    starts = np.arange(0, len(block), group)
    total = np.add.reduceat(weight, starts)
    chosen = _most_visible(weight, group)
    share = weight / np.repeat(total, group)[: len(block)]

    def mean(values: Float32Array) -> Float32Array:
        rows = values.reshape(len(block), -1) * share[:, None]
        summed = np.add.reduceat(rows, starts, axis=0)
        return summed.reshape(len(starts), *values.shape[1:])

    growth = np.sqrt(np.minimum(total / weight[chosen], np.float32(group)))
    return Gaussians(
        mean(block.means),
        block.quats[chosen],
        block.scales[chosen] * growth[:, None],
        block.opacities[chosen],
        mean(block.sh),
    )


def _most_visible(weight: Float32Array, group: int) -> NDArray[np.intp]:
    """Index of the largest weight of every group."""
    groups = -(-len(weight) // group)
    padded = np.full(groups * group, -1.0, np.float32)
    padded[: len(weight)] = weight
    within: NDArray[np.intp] = padded.reshape(groups, group).argmax(axis=1)
    return within + group * np.arange(groups)
