"""Compositing, front to back, a tile a program (image model, steps 3 and 4)."""

import triton
import triton.language as tl

from rendering.fused_kernels.layout import (
    DEPTH,
    LOG2_ALPHA_CUT,
    OPACITY,
    OTHER_X,
    RED,
    SPLAT_COLUMNS,
    WXX,
    WXY,
    WYY,
    X,
    Y,
)

ALPHA_MAX = tl.constexpr(0.999)
TRANSMITTANCE_STOP = tl.constexpr(1e-4)


@triton.jit
def write_tile(
    color, alpha, depth, median, count, t, r, g, b, z, m, n, least,
    back_r, back_g, back_b, place, inside,
    WITH_COLOR: tl.constexpr, WITH_DEPTH: tl.constexpr, WITH_ALL: tl.constexpr,
):  # fmt: skip
    """The pixels of a tile. What was left when one stopped early gets the pixel's own colour."""
    opaque = (t <= least) & (least > TRANSMITTANCE_STOP)
    gain = tl.where(opaque, 1.0 / (1.0 - t), 1.0)
    left = tl.where(opaque, 0.0, t)
    tl.store(alpha + place, 1.0 - left, inside)
    if WITH_COLOR:
        tl.store(color + 3 * place, r * gain + left * back_r, inside)
        tl.store(color + 3 * place + 1, g * gain + left * back_g, inside)
        tl.store(color + 3 * place + 2, b * gain + left * back_b, inside)
    if WITH_DEPTH:
        weight = 1.0 - t
        tl.store(depth + place, tl.where(weight > 0, z / weight, 0.0), inside)
    if WITH_ALL:
        tl.store(median + place, m, inside)
        tl.store(count + place, n, inside)


@triton.jit
def place_of(tile, width, first_row, end_row, columns, tiles, TILE: tl.constexpr):
    """Column and row of a tile's first pixel, columns and rows of its pixels, whether they are in
    the image, and where in the images; and which eye sees it."""
    eye = tile // tiles
    tile -= eye * tiles
    left = (tile % columns) * TILE
    top = first_row + (tile // columns) * TILE
    pixel = tl.arange(0, TILE * TILE)
    ix = left + pixel % TILE
    iy = top + pixel // TILE
    inside = (ix < width) & (iy < end_row)
    place = (eye * (end_row - first_row) + iy - first_row).to(tl.int64) * width + ix
    return left, top, ix, iy, inside, place, eye


@triton.jit
def halves(word):
    """Two half-precision numbers of a word."""
    low = word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return low, (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def two_words(record, k: tl.constexpr):
    """Words 2 k and 2 k + 1 of a splat, by one load."""
    both = tl.load(record.to(tl.pointer_type(tl.int64)) + k)
    low = both.to(tl.int32).to(tl.float32, bitcast=True)
    return low, (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=("width", "first_row", "end_row", "columns", "tiles"))
def stream_kernel(
    splats,  # [visible, SPLAT_COLUMNS] float32
    pair_splats,  # [pairs] int32: by tile, front to back
    tile_ends,  # [tiles] int64
    color, alpha, depth, median, count,
    back_r, back_g, back_b, width, first_row, end_row, columns, tiles, least,
    WITH_COLOR: tl.constexpr,
    WITH_DEPTH: tl.constexpr,
    WITH_ALL: tl.constexpr,
    HALF: tl.constexpr,  # colours are
    EYES: tl.constexpr,
    STRIDE: tl.constexpr,  # splats between two looks at the transmittance
    TILE: tl.constexpr,
    ROWS_A_PASS: tl.constexpr,  # rows of the tile that the program's threads cover at once
):  # fmt: skip
    """One splat after the other; each thread keeps its pixels in registers.

    Sums of products are spelled out (``tl.fma``) and the compiler fuses none by itself, so that a
    picture has the same bytes whatever is drawn beside it.

    The pixels of a thread are one above the other, in rows that ``k`` counts from the middle one:
    along them the exponent is a polynomial in k, whose coefficients are the same for all of them.
    """
    tile = tl.program_id(0)
    _, top, ix, _, inside, place, eye = place_of(
        tile, width, first_row, end_row, columns, tiles, TILE
    )
    pixel = tl.arange(0, TILE * TILE)
    middle = 0.5 * (TILE - ROWS_A_PASS)
    k = (pixel // (TILE * ROWS_A_PASS) * ROWS_A_PASS).to(tl.float32) - middle
    px = ix.to(tl.float32) + 0.5
    py = (top + pixel // TILE % ROWS_A_PASS).to(tl.float32) + (0.5 + middle)
    t = tl.where(inside, 1.0, 0.0)
    r = tl.zeros_like(t)
    g = tl.zeros_like(t)
    b = tl.zeros_like(t)
    z = tl.zeros_like(t)
    m = tl.zeros_like(t)
    n = tl.zeros([TILE * TILE], tl.int32)
    at = tl.load(tile_ends + tile - 1, tile > 0, 0).to(tl.int32)
    end = tl.load(tile_ends + tile).to(tl.int32)
    live = at < end
    while live:
        for step in tl.static_range(STRIDE):
            here = at + step < end
            # Beyond the last one it once more, too faint to be seen.
            splat = tl.load(pair_splats + tl.minimum(at + step, end - 1))
            record = splats + splat.to(tl.int64) * SPLAT_COLUMNS
            x, y = two_words(record, 0)
            wxx, wxy = two_words(record, 1)
            wyy, opacity = two_words(record, 2)
            if EYES == 2:
                x = tl.load(record + tl.where(eye == 0, X, OTHER_X))
            opacity = tl.where(here, opacity, -1e4)
            dx = px - x
            dy = py - y
            wx = tl.fma(wxx, dx, wxy * dy)
            wy = wyy * dy
            slope = -2.0 * tl.fma(wx, wxy, wy * wyy)
            steepness = tl.fma(wxy, wxy, wyy * wyy)
            power = tl.fma(-wx, wx, tl.fma(-wy, wy, opacity))
            power = tl.fma(k, tl.fma(-k, steepness, slope), power)
            weight = tl.where(power >= LOG2_ALPHA_CUT, tl.minimum(tl.exp2(power), ALPHA_MAX), 0.0)
            weight = tl.where(t > least, weight * t, 0.0)
            behind = t - weight
            if WITH_COLOR:
                red, green = two_words(record, 3)
                if HALF:
                    blue = green
                    red, green = halves(red.to(tl.int32, bitcast=True))
                else:
                    blue = tl.load(record + RED + 2)
                r = tl.fma(weight, red, r)
                g = tl.fma(weight, green, g)
                b = tl.fma(weight, blue, b)
            if WITH_DEPTH:
                z = tl.fma(weight, tl.load(record + DEPTH), z)
            if WITH_ALL:
                m = tl.where((t > 0.5) & (behind <= 0.5), tl.load(record + DEPTH), m)
                n += (weight > 0.0).to(tl.int32)
            t = behind
        at += STRIDE
        live = (at < end) & (tl.max(t) > least)
    write_tile(
        color, alpha, depth, median, count, t, r, g, b, z, m, n, least,
        back_r, back_g, back_b, place, inside,
        WITH_COLOR, WITH_DEPTH, WITH_ALL,
    )  # fmt: skip


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def colors_at(record, here, HALF: tl.constexpr):
    """Red, green and blue of splats."""
    red = tl.load(record + RED, here, 0.0)
    green = tl.load(record + RED + 1, here, 0.0)
    if HALF:
        blue = green
        red, green = halves(red.to(tl.int32, bitcast=True))
    else:
        blue = tl.load(record + RED + 2, here, 0.0)
    return red, green, blue


@triton.jit
def features_of(qx, qy, term):
    """Terms of a polynomial of the second degree at pixels, twice: [pixels, 16]. They are multiples
    of a quarter below 64, which TF32 holds exactly."""
    k = term[None, :] % 8
    features = tl.where(k == 0, (qx * qx)[:, None], 0.0)
    features = tl.where(k == 1, (qx * qy)[:, None], features)
    features = tl.where(k == 2, (qy * qy)[:, None], features)
    features = tl.where(k == 3, qx[:, None], features)
    features = tl.where(k == 4, qy[:, None], features)
    return tl.where(k == 5, 1.0, features)


@triton.jit
def leading(x):
    """What TF32 holds of a number."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def in_two(x, upper):
    """A coefficient in two parts that TF32 holds, 21 bits of it, one a half of the rows."""
    high = leading(x)
    return tl.where(upper, high[None, :], (x - high)[None, :])


@triton.jit(do_not_specialize=("width", "first_row", "end_row", "columns", "tiles"))
def matrix_kernel(
    splats, pair_splats, tile_ends,
    color, alpha, depth, median, count,
    back_r, back_g, back_b, width, first_row, end_row, columns, tiles, least,
    WITH_COLOR: tl.constexpr,
    WITH_DEPTH: tl.constexpr,
    WITH_ALL: tl.constexpr,
    HALF: tl.constexpr,  # colours are, and products with them in TF32
    EYES: tl.constexpr,
    STRIDE: tl.constexpr,  # splats of one product
    TILE: tl.constexpr,
    ROWS_A_PASS: tl.constexpr,  # not used
):  # fmt: skip
    """``STRIDE`` splats at a time: alphas of all pixels as a matrix, transmittance by a scan along
    it, and colours as a product with the splats' colours. About the tile's centre the exponent is
    a polynomial of a pixel's place, which is a product of two small matrices."""
    tile = tl.program_id(0)
    left, top, ix, iy, inside, place, eye = place_of(
        tile, width, first_row, end_row, columns, tiles, TILE
    )
    centre_x = left.to(tl.float32) + 0.5 * TILE
    centre_y = top.to(tl.float32) + 0.5 * TILE
    column_of_x = tl.where(eye == 0, X, OTHER_X)
    term = tl.arange(0, 16)
    features = features_of(
        (ix.to(tl.float32) + 0.5) - centre_x, (iy.to(tl.float32) + 0.5) - centre_y, term
    )
    upper = term[:, None] < 8
    t = tl.where(inside, 1.0, 0.0)
    sums = tl.zeros([TILE * TILE, 16], tl.float32)
    m = tl.zeros_like(t)
    n = tl.zeros([TILE * TILE], tl.int32)
    at = tl.load(tile_ends + tile - 1, tile > 0, 0).to(tl.int32)
    end = tl.load(tile_ends + tile).to(tl.int32)
    one = tl.arange(0, STRIDE)
    live = at < end
    while live:
        here = at + one < end
        record = splats + tl.load(pair_splats + at + one, here, 0).to(tl.int64) * SPLAT_COLUMNS
        dx = tl.load(record + column_of_x, here, 0.0) - centre_x
        dy = tl.load(record + Y, here, 0.0) - centre_y
        wxx = tl.load(record + WXX, here, 0.0)
        wxy = tl.load(record + WXY, here, 0.0)
        wyy = tl.load(record + WYY, here, 0.0)
        a = wxx * wxx
        c = wxx * wxy
        e = wxy * wxy + wyy * wyy
        wx = wxx * dx + wxy * dy
        wy = wyy * dy
        constant = tl.load(record + OPACITY, here, -1e4) - wx * wx - wy * wy
        row = term[:, None] % 8
        polynomial = tl.where(row == 0, in_two(-a, upper), 0.0)
        polynomial = tl.where(row == 1, in_two(-2.0 * c, upper), polynomial)
        polynomial = tl.where(row == 2, in_two(-e, upper), polynomial)
        polynomial = tl.where(row == 3, in_two(2.0 * wxx * wx, upper), polynomial)
        polynomial = tl.where(row == 4, in_two(2.0 * (wxy * wx + wyy * wy), upper), polynomial)
        polynomial = tl.where(row == 5, in_two(constant, upper), polynomial)
        power = tl.dot(features, polynomial, input_precision="tf32")
        shown = power >= LOG2_ALPHA_CUT
        opacity = tl.where(shown, tl.minimum(tl.exp2(power), ALPHA_MAX), 0.0)
        passed = tl.associative_scan(1.0 - opacity, 1, multiply)
        # What the splat finds is what it leaves over what it lets through.
        before = t[:, None] * (passed / (1.0 - opacity))
        takes = shown & (before > least)
        weight = tl.where(takes, opacity * before, 0.0)
        z = tl.load(record + DEPTH, here, 0.0)
        if WITH_COLOR:
            column = tl.arange(0, 16)[None, :]
            red, green, blue = colors_at(record, here, HALF)
            values = tl.where(column == 0, red[:, None], 0.0)
            values = tl.where(column == 1, green[:, None], values)
            values = tl.where(column == 2, blue[:, None], values)
            values = tl.where(column == 3, z[:, None], values)
            sums += tl.dot(weight, values, input_precision="tf32" if HALF else "tf32x3")
        elif WITH_DEPTH:
            column = tl.arange(0, 16)[None, :]
            values = tl.where(column == 3, z[:, None], 0.0)
            sums += tl.dot(weight, values, input_precision="tf32" if HALF else "tf32x3")
        if WITH_ALL:
            falls = takes & (before > 0.5) & (before - weight <= 0.5)
            m += tl.sum(tl.where(falls, z[None, :], 0.0), 1)
            n += tl.sum(takes.to(tl.int32), 1)
        t *= tl.reduce(tl.where(takes, 1.0 - opacity, 1.0), 1, multiply)
        at += STRIDE
        live = (at < end) & (tl.max(t) > least)
    column = tl.arange(0, 16)[None, :]
    r = tl.sum(tl.where(column == 0, sums, 0.0), 1)
    g = tl.sum(tl.where(column == 1, sums, 0.0), 1)
    b = tl.sum(tl.where(column == 2, sums, 0.0), 1)
    z = tl.sum(tl.where(column == 3, sums, 0.0), 1)
    write_tile(
        color, alpha, depth, median, count, t, r, g, b, z, m, n, least,
        back_r, back_g, back_b, place, inside,
        WITH_COLOR, WITH_DEPTH, WITH_ALL,
    )  # fmt: skip
