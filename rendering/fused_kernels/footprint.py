"""Which tiles an ellipse touches, row by row (``rendering/native/src/ellipse.h``)."""

import triton
import triton.language as tl


@triton.jit
def span_of_band(x, y, wxx, wxy, wyy, extent_x, extent_y, first, last):
    """Absolute x-range of ellipses within pixel-centre rows [first, last], and whether there is one
    (rendering/native/src/ellipse.h)."""
    lo = tl.maximum(first - y, -extent_y)
    hi = tl.minimum(last - y, extent_y)
    inverse = 1.0 / wxx
    shear = -wxy * inverse
    spread = wyy * inverse
    rightmost = shear * (extent_y / extent_x) * extent_y
    at_right = tl.minimum(tl.maximum(rightmost, lo), hi)
    at_left = tl.minimum(tl.maximum(-rightmost, lo), hi)
    half_right = tl.maximum((extent_y - at_right) * (extent_y + at_right), 0.0)
    half_left = tl.maximum((extent_y - at_left) * (extent_y + at_left), 0.0)
    right = x + shear * at_right + spread * tl.sqrt(half_right)
    left = x + shear * at_left - spread * tl.sqrt(half_left)
    return left, right, lo <= hi


@triton.jit
def columns_of_row(
    x, y, wxx, wxy, wyy, extent_x, extent_y, tx0, tx1, ty0, ty1, row, TILE: tl.constexpr
):
    """First and last tile of a row of tiles that ellipses touch; last < first where none."""
    top = (row * TILE).to(tl.float32)
    left, right, some = span_of_band(
        x, y, wxx, wxy, wyy, extent_x, extent_y, top + 0.5, top + (TILE - 0.5)
    )
    # Pixel centres lie half a pixel in; 0.01 px covers the rounding of the span. What is not a
    # number covers the whole row.
    from_left = (left - 0.51) / TILE
    to_right = (right - 0.49) / TILE
    from_left = tl.where(from_left > 0.0, tl.minimum(from_left, 65535.0), 0.0)
    to_right = tl.where(to_right < 65535.0, tl.maximum(to_right, -1.0), 65535.0)
    first = tl.maximum(from_left.to(tl.int32), tx0)
    last = tl.minimum(tl.where(to_right < 0.0, -1, to_right.to(tl.int32)), tx1)
    # An ellipse whose box is one row or column of tiles touches all of them.
    exact = (tx0 != tx1) & (ty0 != ty1)
    first = tl.where(exact, first, tx0)
    last = tl.where(exact, tl.where(some, last, first - 1), tx1)
    inside = (row >= ty0) & (row <= ty1)
    return first, tl.where(inside, last, first - 1)


@triton.jit
def tiles_of_row(x, y, wxx, wxy, wyy, extent_x, extent_y, columns, rows, row, TILE: tl.constexpr):
    """How many tiles of a row of tiles splats touch, and which is the first."""
    first, last = columns_of_row(
        x, y, wxx, wxy, wyy, extent_x, extent_y,
        columns & 0xFFFF, columns >> 16, rows & 0xFFFF, rows >> 16, row, TILE,
    )  # fmt: skip
    return tl.maximum(last - first + 1, 0), first
