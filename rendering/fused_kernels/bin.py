"""Splats in one list, and pairs: one for every tile that an ellipse touches, in order of depth."""

import triton
import triton.language as tl

from rendering.fused_kernels.footprint import tiles_of_row
from rendering.fused_kernels.layout import (
    COLUMNS,
    EXTENT,
    OTHER_COLUMNS,
    OTHER_X,
    ROWS,
    SPLAT_COLUMNS,
    WXX,
    WXY,
    WYY,
    X,
    Y,
)


@triton.jit
def gather_kernel(
    chunks,  # as in ``project_kernel``
    depths,
    written,
    ends,  # [programs] int64: how many splats they and those before them wrote
    list_depths,  # [visible] int32
    list_places,  # [visible] int32: of splats
    EYES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Closes the gaps between what programs wrote: one list of all splats."""
    chunk = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    if first >= tl.load(chunks + 4 * chunk):
        return
    program = chunk * tl.num_programs(1) + tl.program_id(1)
    count = tl.load(written + program)
    begin = tl.load(ends + program) - count
    place = EYES * (tl.load(chunks + 4 * chunk + 1) + first)
    lane = tl.arange(0, EYES * BLOCK)
    mask = lane < count
    tl.store(list_depths + begin + lane, tl.load(depths + place + lane, mask, 0), mask)
    tl.store(list_places + begin + lane, place + lane, mask)


@triton.jit
def word(record, column, mask):
    """A word of splats that is an integer."""
    return tl.load(record + column, mask, 0.0).to(tl.int32, bitcast=True)


@triton.jit(do_not_specialize=("pairs", "visible", "steps", "columns", "first_row", "tiles"))
def pair_kernel(
    splats,  # [visible, SPLAT_COLUMNS] float32
    order,  # [visible] int32: places in ``splats`` by depth
    ends,  # [visible] int64: of each splat's pairs, in that order
    pairs,
    visible,
    steps,  # so that 2^steps > visible
    pair_tiles,  # [pairs] int16 or int32: the second eye's follow the first one's
    pair_splats,  # [pairs] int32
    columns,  # tiles in a row of the image
    first_row,  # of tiles that are drawn
    tiles,  # of an eye
    EYES: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """One lane a pair: whose it is, by bisection, and which of its tiles, row by row."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pair < pairs
    lo = tl.zeros([BLOCK], tl.int32)
    hi = tl.zeros([BLOCK], tl.int32) + (visible - 1)
    step = 0
    while step < steps:  # the first one that ends after this pair
        middle = (lo + hi) // 2
        after = tl.load(ends + middle, mask, 0) > pair
        hi = tl.where(after, middle, hi)
        lo = tl.where(after | (lo >= hi), lo, middle + 1)
        step += 1
    begin = tl.load(ends + lo - 1, mask & (lo > 0), 0)
    rank = (pair - begin).to(tl.int32)
    splat = tl.load(order + lo, mask, 0)
    record = splats + splat.to(tl.int64) * SPLAT_COLUMNS
    x = tl.load(record + X, mask, 0.0)
    y = tl.load(record + Y, mask, 0.0)
    wxx = tl.load(record + WXX, mask, 1.0)
    wxy = tl.load(record + WXY, mask, 0.0)
    wyy = tl.load(record + WYY, mask, 1.0)
    extent_x = tl.load(record + EXTENT, mask, 1.0)
    extent_y = tl.load(record + EXTENT + 1, mask, 1.0)
    seen = word(record, COLUMNS, mask)
    rows = word(record, ROWS, mask)
    if EYES == 2:
        other_x = tl.load(record + OTHER_X, mask, 0.0)
        other_seen = word(record, OTHER_COLUMNS, mask)
    tile = tl.zeros([BLOCK], tl.int32)
    found = mask == 0
    # Each lane goes through rows of its own: pairs by depth lie all over the picture.
    row = rows & 0xFFFF
    more = tl.max(tl.where(mask, (rows >> 16) - row, -1))
    while more >= 0:
        begin_of_row = (row - first_row) * columns
        here, first = tiles_of_row(x, y, wxx, wxy, wyy, extent_x, extent_y, seen, rows, row, TILE)
        mine = (found == 0) & (rank < here)
        tile = tl.where(mine, begin_of_row + first + rank, tile)
        found = found | mine
        rank = tl.where(found, rank, rank - here)
        if EYES == 2:
            here, first = tiles_of_row(
                other_x, y, wxx, wxy, wyy, extent_x, extent_y, other_seen, rows, row, TILE
            )
            mine = (found == 0) & (rank < here)
            tile = tl.where(mine, tiles + begin_of_row + first + rank, tile)
            found = found | mine
            rank = tl.where(found, rank, rank - here)
        row += 1
        more -= 1
    tl.store(pair_tiles + pair, tile, mask)
    tl.store(pair_splats + pair, splat, mask)
