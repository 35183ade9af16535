"""Fields of planes cut into blocks over the ground, and coarse ones that stand in for them.

LandMarkSystem, too, divides planes into X × Y blocks and keeps those around the camera (the
neighbourhood) in memory; here what is kept is residency's business.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from scene_store.models.field_bytes import FieldBlock
from scene_store.models.field_chunks import StandIn
from splat.fields import (
    Contraction,
    Encoding,
    Field,
    Float32Array,
    Float64Array,
    PlaneEncoding,
)

MAX_BLOCKS = 4096
BLOCK_BYTES = 16 << 20  # of planes, about: what is fetched at once
COARSE = 8  # texels a side of which a coarse plane has one


def partition(field: Field, nx: int, ny: int) -> list[Field]:
    """A field's planes cut into blocks over the ground, x slowest.

    A block holds the texels that its box needs, those of its border included, and says of which
    plane they are a window: inside its box it has the values of the whole to the bit.

    Args:
        field: Of planes over the box of its space, without a contraction.
        nx, ny: Blocks along x and y.

    Raises:
        ValueError: If it has no planes, or there would be more than ``MAX_BLOCKS``.
    """
    if not (nx >= 1 and ny >= 1 and nx * ny <= MAX_BLOCKS):
        raise ValueError(f"{nx} x {ny} blocks")
    return [block_of_planes(field, number, nx, ny) for number in range(nx * ny)]


def block_of_planes(field: Field, number: int, nx: int, ny: int) -> Field:
    """One block of ``partition``."""
    space, network = field.space, field.network
    if space.contraction is not Contraction.NONE or not isinstance(network.position, PlaneEncoding):
        raise ValueError("only fields of planes can be cut into blocks")
    corners = np.stack([space.lo, space.hi])
    lo, hi = part_of_box(corners, number, nx, ny)
    matrix, shift = space.world_to_field[:, :3], space.world_to_field[:, 3]
    share = np.stack([lo, hi]) @ matrix.T + shift
    cut = replace(
        network,
        position=_cut(network.position, share),
        color_position=_cut(network.color_position, share),
    )
    return replace(field, network=cut, space=replace(space, lo=lo, hi=hi))


def part_of_box(box: Float64Array, number: int, nx: int, ny: int) -> Float64Array:
    """[2, 3] of a block's box; neighbours have the same borders to the bit."""
    x, y = divmod(number, ny)
    share = np.array([[x / nx, y / ny, 0.0], [(x + 1) / nx, (y + 1) / ny, 1.0]])
    part: Float64Array = (1 - share) * box[0] + share * box[1]
    return part


def division_of(field: Field) -> tuple[int, int]:
    """Into how many blocks along x and y a field is cut: squarish ones of ``BLOCK_BYTES``."""
    parts = (field.network.position, field.network.color_position)
    planes = [plane for part in parts if isinstance(part, PlaneEncoding) for plane in part.planes]
    count = -(-sum(plane.nbytes for plane in planes) // BLOCK_BYTES)
    size = field.space.hi - field.space.lo
    nx = max(1, round(math.sqrt(count * size[0] / size[1])))
    return nx, max(1, -(-count // nx))


def coarse_planes(block: FieldBlock) -> StandIn:
    """A block with one texel of its planes for ``COARSE`` times as many, their mean."""
    field = block.field
    network = replace(
        field.network,
        position=_coarse(field.network.position),
        color_position=_coarse(field.network.color_position),
    )
    encoding = network.position
    assert isinstance(encoding, PlaneEncoding) and encoding.windows is not None
    finest = max(width for width, *_ in encoding.windows)
    extent = 1 / np.linalg.norm(field.space.world_to_field[0, :3])
    return StandIn(replace(field, network=network), float(extent / max(finest - 1, 1)))


def _cut(encoding: Encoding | None, share: Float64Array) -> Any:
    """Planes to a part [2, 3] of the unit cube; encodings of other kinds as they are."""
    if not isinstance(encoding, PlaneEncoding):
        return encoding
    planes, windows = [], []
    for plane, axes, (width, height, column, row) in zip(
        encoding.planes, encoding.axes, _windows(encoding), strict=True
    ):
        left, right = _texels(share[:, axes[0]], width, column, plane.shape[2])
        top, bottom = _texels(share[:, axes[1]], height, row, plane.shape[1])
        planes.append(
            np.ascontiguousarray(plane[:, top - row : bottom - row, left - column : right - column])
        )
        windows.append((width, height, left, top))
    return replace(encoding, planes=tuple(planes), windows=tuple(windows))


def _windows(encoding: PlaneEncoding) -> Any:
    return encoding.windows or [(p.shape[2], p.shape[1], 0, 0) for p in encoding.planes]


def _texels(share: Float64Array, size: int, first: int, there: int) -> tuple[int, int]:
    """First texel and end of those that a part of [0, 1] needs, one more on each side for what is
    rounded; of those that are there."""
    low, high = math.floor(share[0] * (size - 1)) - 1, math.ceil(share[1] * (size - 1)) + 2
    return max(low, first), min(high, first + there)


def _coarse(encoding: Encoding | None) -> Any:
    if not isinstance(encoding, PlaneEncoding):
        return encoding
    planes, windows = [], []
    for plane, (width, height, column, row) in zip(
        encoding.planes, _windows(encoding), strict=True
    ):
        across, wide, left = _coarse_texels(width, column, plane.shape[2])
        down, high, top = _coarse_texels(height, row, plane.shape[1])
        planes.append(_means(_means(plane, across, 2), down, 1))
        windows.append((wide, high, left, top))
    return replace(encoding, planes=tuple(planes), windows=tuple(windows))


def _coarse_texels(size: int, first: int, there: int) -> tuple[list[slice], int, int]:
    """Of which texels each coarse one is the mean (of those that are there); how many the coarse
    plane has, and which is the first of them."""
    count = max(2, -(-(size - 1) // COARSE) + 1)
    step = (size - 1) / (count - 1)
    low, high = math.floor(first / step), math.ceil((first + there - 1) / step)
    slices = []
    for number in range(low, min(high, count - 1) + 1):
        middle = number * step - first
        begin = min(max(math.ceil(middle - step / 2), 0), there - 1)
        end = max(min(math.floor(middle + step / 2) + 1, there), begin + 1)
        slices.append(slice(begin, end))
    return slices, count, low


def _means(plane: Float32Array, slices: list[slice], axis: int) -> Float32Array:
    parts = [
        plane[(slice(None),) * axis + (part,)].mean(axis=axis, keepdims=True, dtype=np.float32)
        for part in slices
    ]
    means: Float32Array = np.concatenate(parts, axis=axis)
    return means
