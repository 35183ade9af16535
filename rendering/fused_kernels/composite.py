"""Compositing, front to back, a tile a program (image model, steps 3 and 4)."""

import triton
import triton.language as tl

from rendering.fused_kernels.project import (
    DEPTH,
    LOG2_ALPHA_CUT,
    OPACITY,
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
    color, alpha, depth, median, count, t, r, g, b, z, m, n, least, background, place, inside,
    WITH_COLOR: tl.constexpr, WITH_DEPTH: tl.constexpr, WITH_ALL: tl.constexpr,
):  # fmt: skip
    """The pixels of a tile. What was left when one stopped early gets the pixel's own colour."""
    opaque = (t <= least) & (least > TRANSMITTANCE_STOP)
    gain = tl.where(opaque, 1.0 / (1.0 - t), 1.0)
    left = tl.where(opaque, 0.0, t)
    tl.store(alpha + place, 1.0 - left, inside)
    if WITH_COLOR:
        tl.store(color + 3 * place, r * gain + left * tl.load(background), inside)
        tl.store(color + 3 * place + 1, g * gain + left * tl.load(background + 1), inside)
        tl.store(color + 3 * place + 2, b * gain + left * tl.load(background + 2), inside)
    if WITH_DEPTH:
        weight = 1.0 - t
        tl.store(depth + place, tl.where(weight > 0, z / weight, 0.0), inside)
    if WITH_ALL:
        tl.store(median + place, m, inside)
        tl.store(count + place, n, inside)


@triton.jit
def stream_kernel(
    splats,  # [visible, SPLAT_COLUMNS] float32
    pair_splats,  # [pairs] int32: by tile, front to back
    tile_ends,  # [tiles] int64
    color, alpha, depth, median, count,
    background, width, first_row, end_row, columns, least,
    WITH_COLOR: tl.constexpr,
    WITH_DEPTH: tl.constexpr,
    WITH_ALL: tl.constexpr,
    STRIDE: tl.constexpr,  # splats between two looks at the transmittance
    TILE: tl.constexpr,
):  # fmt: skip
    """One splat after the other; each thread keeps its pixels in registers."""
    tile = tl.program_id(0)
    pixel = tl.arange(0, TILE * TILE)
    ix = (tile % columns) * TILE + pixel % TILE
    iy = first_row + (tile // columns) * TILE + pixel // TILE
    inside = (ix < width) & (iy < end_row)
    px = ix.to(tl.float32) + 0.5
    py = iy.to(tl.float32) + 0.5
    t = tl.where(inside, 1.0, 0.0)
    r = tl.zeros_like(t)
    g = tl.zeros_like(t)
    b = tl.zeros_like(t)
    z = tl.zeros_like(t)
    m = tl.zeros_like(t)
    n = tl.zeros([TILE * TILE], tl.int32)
    at = tl.load(tile_ends + tile - 1, tile > 0, 0)
    end = tl.load(tile_ends + tile)
    live = at < end
    while live:
        for step in tl.static_range(STRIDE):
            here = at + step < end
            record = splats + tl.load(pair_splats + at + step, here, 0).to(tl.int64) * SPLAT_COLUMNS
            dx = px - tl.load(record + X)
            dy = py - tl.load(record + Y)
            wx = tl.load(record + WXX) * dx + tl.load(record + WXY) * dy
            wy = tl.load(record + WYY) * dy
            power = tl.load(record + OPACITY) - wy * wy - wx * wx
            takes = (power >= LOG2_ALPHA_CUT) & (t > least) & here
            weight = tl.where(takes, tl.minimum(tl.exp2(power), ALPHA_MAX) * t, 0.0)
            behind = t - weight
            if WITH_COLOR:
                r += weight * tl.load(record + RED)
                g += weight * tl.load(record + RED + 1)
                b += weight * tl.load(record + RED + 2)
            if WITH_DEPTH:
                z += weight * tl.load(record + DEPTH)
            if WITH_ALL:
                m = tl.where((t > 0.5) & (behind <= 0.5), tl.load(record + DEPTH), m)
                n += takes.to(tl.int32)
            t = behind
        at += STRIDE
        live = (at < end) & (tl.max(t) > least)
    place = (iy - first_row).to(tl.int64) * width + ix
    write_tile(
        color, alpha, depth, median, count, t, r, g, b, z, m, n, least, background, place, inside,
        WITH_COLOR, WITH_DEPTH, WITH_ALL,
    )  # fmt: skip


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def matrix_kernel(
    splats, pair_splats, tile_ends,
    color, alpha, depth, median, count,
    background, width, first_row, end_row, columns, least,
    WITH_COLOR: tl.constexpr,
    WITH_DEPTH: tl.constexpr,
    WITH_ALL: tl.constexpr,
    STRIDE: tl.constexpr,  # splats of one product
    TILE: tl.constexpr,
):  # fmt: skip
    """``STRIDE`` splats at a time: alphas of all pixels as a matrix, transmittance by a scan along
    it, and colours as a product with the splats' colours. About the tile's centre the exponent is
    a polynomial of a pixel's place, which is a product of two small matrices."""
    tile = tl.program_id(0)
    pixel = tl.arange(0, TILE * TILE)
    ix = (tile % columns) * TILE + pixel % TILE
    iy = first_row + (tile // columns) * TILE + pixel // TILE
    inside = (ix < width) & (iy < end_row)
    centre_x = ((tile % columns) * TILE).to(tl.float32) + 0.5 * TILE
    centre_y = (first_row + (tile // columns) * TILE).to(tl.float32) + 0.5 * TILE
    qx = (ix.to(tl.float32) + 0.5) - centre_x
    qy = (iy.to(tl.float32) + 0.5) - centre_y
    term = tl.arange(0, 16)
    # x², xy, y², x, y, 1 of each pixel
    features = tl.where(term[None, :] == 0, (qx * qx)[:, None], 0.0)
    features = tl.where(term[None, :] == 1, (qx * qy)[:, None], features)
    features = tl.where(term[None, :] == 2, (qy * qy)[:, None], features)
    features = tl.where(term[None, :] == 3, qx[:, None], features)
    features = tl.where(term[None, :] == 4, qy[:, None], features)
    features = tl.where(term[None, :] == 5, 1.0, features)
    t = tl.where(inside, 1.0, 0.0)
    sums = tl.zeros([TILE * TILE, 16], tl.float32)
    m = tl.zeros_like(t)
    n = tl.zeros([TILE * TILE], tl.int32)
    at = tl.load(tile_ends + tile - 1, tile > 0, 0)
    end = tl.load(tile_ends + tile)
    one = tl.arange(0, STRIDE)
    live = at < end
    while live:
        here = at + one < end
        record = splats + tl.load(pair_splats + at + one, here, 0).to(tl.int64) * SPLAT_COLUMNS
        dx = tl.load(record + X, here, 0.0) - centre_x
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
        k = term[:, None]
        polynomial = tl.where(k == 0, -a[None, :], 0.0)
        polynomial = tl.where(k == 1, (-2.0 * c)[None, :], polynomial)
        polynomial = tl.where(k == 2, -e[None, :], polynomial)
        polynomial = tl.where(k == 3, (2.0 * wxx * wx)[None, :], polynomial)
        polynomial = tl.where(k == 4, (2.0 * (wxy * wx + wyy * wy))[None, :], polynomial)
        polynomial = tl.where(k == 5, constant[None, :], polynomial)
        power = tl.dot(features, polynomial, input_precision="tf32x3")
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
            red = tl.load(record + RED, here, 0.0)
            green = tl.load(record + RED + 1, here, 0.0)
            blue = tl.load(record + RED + 2, here, 0.0)
            values = tl.where(column == 0, red[:, None], 0.0)
            values = tl.where(column == 1, green[:, None], values)
            values = tl.where(column == 2, blue[:, None], values)
            values = tl.where(column == 3, z[:, None], values)
            sums += tl.dot(weight, values, input_precision="tf32x3")
        elif WITH_DEPTH:
            column = tl.arange(0, 16)[None, :]
            values = tl.where(column == 3, z[:, None], 0.0)
            sums += tl.dot(weight, values, input_precision="tf32x3")
        if WITH_ALL:
            falls = takes & (before > 0.5) & (before - weight <= 0.5)
            m += tl.sum(tl.where(falls, z[None, :], 0.0), 1)
            n += tl.sum(takes.to(tl.int32), 1)
        t *= tl.reduce(tl.where(takes, 1.0 - opacity, 1.0), 1, multiply)
        at += STRIDE
        live = (at < end) & (tl.max(t) > least)
    place = (iy - first_row).to(tl.int64) * width + ix
    column = tl.arange(0, 16)[None, :]
    r = tl.sum(tl.where(column == 0, sums, 0.0), 1)
    g = tl.sum(tl.where(column == 1, sums, 0.0), 1)
    b = tl.sum(tl.where(column == 2, sums, 0.0), 1)
    z = tl.sum(tl.where(column == 3, sums, 0.0), 1)
    write_tile(
        color, alpha, depth, median, count, t, r, g, b, z, m, n, least, background, place, inside,
        WITH_COLOR, WITH_DEPTH, WITH_ALL,
    )  # fmt: skip
