"""Splats to tiles: a pair for every tile that an ellipse touches, in the order of depth."""

import triton
import triton.language as tl

from rendering.fused_kernels.project import (
    EXTENT,
    SPLAT_COLUMNS,
    TILES,
    WXX,
    WXY,
    WYY,
    X,
    Y,
    columns_of_row,
)


@triton.jit
def pair_kernel(
    splats,  # [visible, SPLAT_COLUMNS] float32
    order,  # [visible] int64: places in ``splats`` by depth
    ends,  # [visible] int64: of each splat's pairs, in that order
    pairs,
    visible,
    pair_tiles,  # [pairs] int32
    pair_splats,  # [pairs] int32
    columns,  # tiles in a row of the image
    first_row,  # of tiles that are drawn
    STEPS: tl.constexpr,  # so that 2^STEPS > visible
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """One lane a pair: whose it is, by bisection, and which of its tiles, row by row."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pair < pairs
    lo = tl.zeros([BLOCK], tl.int32)
    hi = tl.zeros([BLOCK], tl.int32) + (visible - 1)
    for _ in range(STEPS):  # the first one that ends after this pair
        middle = (lo + hi) // 2
        after = tl.load(ends + middle, mask, 0) > pair
        hi = tl.where(after, middle, hi)
        lo = tl.where(after | (lo >= hi), lo, middle + 1)
    begin = tl.load(ends + lo - 1, mask & (lo > 0), 0)
    rank = (pair - begin).to(tl.int32)
    splat = tl.load(order + lo, mask, 0)
    record = splats + splat * SPLAT_COLUMNS
    x = tl.load(record + X, mask, 0.0)
    y = tl.load(record + Y, mask, 0.0)
    wxx = tl.load(record + WXX, mask, 1.0)
    wxy = tl.load(record + WXY, mask, 0.0)
    wyy = tl.load(record + WYY, mask, 1.0)
    extent_x = tl.load(record + EXTENT, mask, 1.0)
    extent_y = tl.load(record + EXTENT + 1, mask, 1.0)
    tx = tl.load(record + TILES, mask, 0.0).to(tl.int32, bitcast=True)
    ty = tl.load(record + TILES + 1, mask, 0.0).to(tl.int32, bitcast=True)
    tx0 = tx & 0xFFFF
    tx1 = tx >> 16
    ty0 = ty & 0xFFFF
    ty1 = ty >> 16
    tile = tl.zeros([BLOCK], tl.int32)
    found = ~mask
    row = tl.min(tl.where(mask, ty0, 1 << 30))
    end = tl.max(tl.where(mask, ty1, -1))
    while row <= end:
        first, last = columns_of_row(
            x, y, wxx, wxy, wyy, extent_x, extent_y, tx0, tx1, ty0, ty1, row, TILE
        )
        here = tl.maximum(last - first + 1, 0)
        mine = (~found) & (rank < here)
        tile = tl.where(mine, (row - first_row) * columns + first + rank, tile)
        found = found | mine
        rank = tl.where(found, rank, rank - here)
        row += 1
    tl.store(pair_tiles + pair, tile, mask)
    tl.store(pair_splats + pair, splat.to(tl.int32), mask)
