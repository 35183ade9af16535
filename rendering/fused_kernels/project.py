"""Projection of a frame's chunks, straight from the paged pool (image model, steps 1 and 2).

A program projects ``BLOCK`` Gaussians of one chunk: it reads the chunk's page where it lies, leaves
at once if the chunk's box cannot be seen, and writes what survives where its first Gaussian's splat
would be: so splats are in the order of the Gaussians, whichever program ends first.

The arithmetic is that of ``rendering/native/src/project.h``: EWA with the determinant from 2×2
minors, and a larger unit of length where fourth powers would overflow.
"""

import triton
import triton.language as tl

from rendering.fused_kernels.footprint import tiles_of_row
from rendering.fused_kernels.layout import (
    CENTRE,
    COLUMNS,
    DEPTH,
    DILATION_PX2,
    EXTENT,
    FISHEYE_MAX_THETA,
    FOCAL,
    HEADER,
    HUGE_PIXELS,
    LARGEST_HALF,
    LARGEST_PIXELS,
    LIMITS,
    LOG2_ALPHA_CUT,
    LOG2_E,
    LOG2_OPACITY,
    MEAN,
    NEAR_FAR,
    NO_COLUMNS,
    OPACITY,
    ORIGIN,
    ORIGIN_HI,
    ORIGIN_LO,
    ORTHO,
    OTHER_COLUMNS,
    OTHER_X,
    PINHOLE,
    QUAT,
    RED,
    ROTATION,
    ROWS,
    SCALE,
    SIZE,
    SMALLEST_DET,
    SPLAT_COLUMNS,
    TRANSLATION_Z,
    WXX,
    WXY,
    WYY,
    X,
    Y,
    at,
    dot3,
)
from rendering.fused_kernels.shade import colors_towards


@triton.jit
def atan2_positive(y, x):
    """atan2 for y ≥ 0, to single precision."""
    across = tl.abs(x)
    t = tl.minimum(y, across) / tl.maximum(tl.maximum(y, across), 1e-37)
    # Half the angle: atan t = 2 atan h, and h is at most tan(π / 8), where the series is short.
    h = t / (1.0 + tl.sqrt(1.0 + t * t))
    s = h * h
    series = 1.0 / 17.0 * s - 1.0 / 15.0
    series = series * s + 1.0 / 13.0
    series = series * s - 1.0 / 11.0
    series = series * s + 1.0 / 9.0
    series = series * s - 1.0 / 7.0
    series = series * s + 1.0 / 5.0
    series = series * s - 1.0 / 3.0
    angle = 2.0 * (h + h * s * series)
    angle = tl.where(y > across, 1.5707963267948966 - angle, angle)
    return tl.where(x < 0, 3.141592653589793 - angle, angle)


@triton.jit
def project_lanes(
    geometry,  # of the page
    size,  # Gaussians that a page of it has room for
    lane,
    mask,
    log2_weight,
    camera,
    kept_dilation_px2,
    MODEL: tl.constexpr,
    COMPENSATE: tl.constexpr,
):
    """Gaussians on the screen, all but their colours: u, v, depth, whitening matrix, log2 of the
    opacity, extents, pixel centres inside the box, whether they are drawn if there is one between
    x0 and x1, whether they were near, far and opaque enough before compensation, and the direction
    from the optical centre."""
    mx = tl.load(geometry + lane + MEAN * size, mask, 0.0)
    my = tl.load(geometry + lane + (MEAN + 1) * size, mask, 0.0)
    mz = tl.load(geometry + lane + (MEAN + 2) * size, mask, 0.0)
    dx = (mx - at(camera, ORIGIN_HI)) - at(camera, ORIGIN_LO)
    dy = (my - at(camera, ORIGIN_HI + 1)) - at(camera, ORIGIN_LO + 1)
    dz = (mz - at(camera, ORIGIN_HI + 2)) - at(camera, ORIGIN_LO + 2)
    r00 = at(camera, ROTATION)
    r01 = at(camera, ROTATION + 1)
    r02 = at(camera, ROTATION + 2)
    r10 = at(camera, ROTATION + 3)
    r11 = at(camera, ROTATION + 4)
    r12 = at(camera, ROTATION + 5)
    r20 = at(camera, ROTATION + 6)
    r21 = at(camera, ROTATION + 7)
    r22 = at(camera, ROTATION + 8)
    px = dot3(r00, r01, r02, dx, dy, dz)
    py = dot3(r10, r11, r12, dx, dy, dz)
    wide_x = mx.to(tl.float64)
    wide_y = my.to(tl.float64)
    wide_z = mz.to(tl.float64)
    deep = wide_x * tl.load(camera + ROTATION + 6) + wide_y * tl.load(camera + ROTATION + 7)
    deep = deep + wide_z * tl.load(camera + ROTATION + 8) + tl.load(camera + TRANSLATION_Z)
    pz = deep.to(tl.float32)
    depth = pz
    fx = at(camera, FOCAL)
    fy = at(camera, FOCAL + 1)
    cx = at(camera, CENTRE)
    cy = at(camera, CENTRE + 1)
    in_range = mask
    if MODEL == PINHOLE:
        inv_z = 1.0 / pz
        tx = px * inv_z
        ty = py * inv_z
        u = fx * tx + cx
        v = fy * ty + cy
        jx = tl.minimum(tl.maximum(tx, -at(camera, LIMITS + 1)), at(camera, LIMITS))
        jy = tl.minimum(tl.maximum(ty, -at(camera, LIMITS + 3)), at(camera, LIMITS + 2))
        gx = fx * inv_z
        gy = fy * inv_z
        m00 = (r00 - jx * r20) * gx
        m01 = (r01 - jx * r21) * gx
        m02 = (r02 - jx * r22) * gx
        m10 = (r10 - jy * r20) * gy
        m11 = (r11 - jy * r21) * gy
        m12 = (r12 - jy * r22) * gy
    elif MODEL == ORTHO:
        u = fx * px + cx
        v = fy * py + cy
        one = tl.zeros_like(px) + 1.0
        m00 = one * (r00 * fx)
        m01 = one * (r01 * fx)
        m02 = one * (r02 * fx)
        m10 = one * (r10 * fy)
        m11 = one * (r11 * fy)
        m12 = one * (r12 * fy)
    else:
        # Equidistant; the image stretches by θ/r across the radius and by z/ρ² along it.
        fish_x = wide_x - tl.load(camera + ORIGIN)
        fish_y = wide_y - tl.load(camera + ORIGIN + 1)
        fish_z = wide_z - tl.load(camera + ORIGIN + 2)
        depth = tl.sqrt(fish_x * fish_x + fish_y * fish_y + fish_z * fish_z).to(tl.float32)
        r2 = px * px + py * py
        r = tl.sqrt(r2)
        rho2 = pz * pz + r2
        theta = atan2_positive(r, pz)
        off_axis = r > 1e-4 * tl.sqrt(rho2)
        safe_r = tl.where(off_axis, r, 1.0)
        across = tl.where(off_axis, theta / safe_r, 1.0 / pz)
        along = pz / rho2
        u = fx * px * across + cx
        v = fy * py * across + cy
        c = tl.where(off_axis, px / safe_r, 1.0)
        s = tl.where(off_axis, py / safe_r, 0.0)
        shear = c * s * (along - across)
        j00 = fx * (c * c * along + s * s * across)
        j01 = fx * shear
        j02 = -fx * px / rho2
        j10 = fy * shear
        j11 = fy * (s * s * along + c * c * across)
        j12 = -fy * py / rho2
        m00 = dot3(j00, j01, j02, r00, r10, r20)
        m01 = dot3(j00, j01, j02, r01, r11, r21)
        m02 = dot3(j00, j01, j02, r02, r12, r22)
        m10 = dot3(j10, j11, j12, r00, r10, r20)
        m11 = dot3(j10, j11, j12, r01, r11, r21)
        m12 = dot3(j10, j11, j12, r02, r12, r22)
        in_range = in_range & (theta < FISHEYE_MAX_THETA)
    opacity = tl.load(geometry + lane + LOG2_OPACITY * size, mask, float("-inf"))
    opacity += log2_weight
    in_range = in_range & (opacity >= LOG2_ALPHA_CUT)
    in_range = in_range & (depth >= at(camera, NEAR_FAR)) & (depth <= at(camera, NEAR_FAR + 1))
    alive = in_range

    # Q = J W R S, rows of three.
    qw = tl.load(geometry + lane + QUAT * size, mask, 1.0)
    qx = tl.load(geometry + lane + (QUAT + 1) * size, mask, 0.0)
    qy = tl.load(geometry + lane + (QUAT + 2) * size, mask, 0.0)
    qz = tl.load(geometry + lane + (QUAT + 3) * size, mask, 0.0)
    s0 = tl.load(geometry + lane + SCALE * size, mask, 1.0)
    s1 = tl.load(geometry + lane + (SCALE + 1) * size, mask, 1.0)
    s2 = tl.load(geometry + lane + (SCALE + 2) * size, mask, 1.0)
    xx = 2.0 * qx * qx
    yy = 2.0 * qy * qy
    zz = 2.0 * qz * qz
    xy = 2.0 * qx * qy
    xz = 2.0 * qx * qz
    yz = 2.0 * qy * qz
    wx = 2.0 * qw * qx
    wy = 2.0 * qw * qy
    wz = 2.0 * qw * qz
    q00 = dot3(m00, m01, m02, 1.0 - (yy + zz), xy + wz, xz - wy) * s0
    q01 = dot3(m00, m01, m02, xy - wz, 1.0 - (xx + zz), yz + wx) * s1
    q02 = dot3(m00, m01, m02, xz + wy, yz - wx, 1.0 - (xx + yy)) * s2
    q10 = dot3(m10, m11, m12, 1.0 - (yy + zz), xy + wz, xz - wy) * s0
    q11 = dot3(m10, m11, m12, xy - wz, 1.0 - (xx + zz), yz + wx) * s1
    q12 = dot3(m10, m11, m12, xz + wy, yz - wx, 1.0 - (xx + yy)) * s2
    largest = tl.maximum(tl.maximum(tl.maximum(tl.abs(q00), tl.abs(q01)), tl.abs(q02)), tl.abs(q10))
    largest = tl.maximum(largest, tl.maximum(tl.abs(q11), tl.abs(q12)))
    exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
    unit = tl.where(
        largest > HUGE_PIXELS, (0x7F000000 - exponent).to(tl.float32, bitcast=True), 1.0
    )
    q00 *= unit
    q01 *= unit
    q02 *= unit
    q10 *= unit
    q11 *= unit
    q12 *= unit
    raw_xx = dot3(q00, q01, q02, q00, q01, q02)
    raw_yy = dot3(q10, q11, q12, q10, q11, q12)
    cov_xy = dot3(q00, q01, q02, q10, q11, q12)
    minor_x = q01 * q12 - q02 * q11
    minor_y = q02 * q10 - q00 * q12
    minor_z = q00 * q11 - q01 * q10
    raw_det = dot3(minor_x, minor_y, minor_z, minor_x, minor_y, minor_z)
    dilation = DILATION_PX2 * unit * unit
    cov_xx = raw_xx + dilation
    cov_yy = raw_yy + dilation
    det = dilation * ((raw_xx + raw_yy) + dilation) + raw_det
    if COMPENSATE:
        kept = kept_dilation_px2 * unit * unit
        kept_det = kept * ((raw_xx + raw_yy) + kept) + raw_det
        opacity += 0.5 * tl.log2(tl.maximum(kept_det / det, 1e-20))
        alive = alive & (opacity >= LOG2_ALPHA_CUT)
    k = (2.0 / LOG2_E) * (opacity - LOG2_ALPHA_CUT)
    pixels = 1.0 / unit
    extent_x = tl.sqrt(k * cov_xx) * pixels
    extent_y = tl.sqrt(k * cov_yy) * pixels
    x0 = tl.maximum(tl.ceil(u - extent_x - 0.5), 0.0)
    x1 = tl.minimum(tl.floor(u + extent_x - 0.5), at(camera, SIZE) - 1.0)
    y0 = tl.maximum(tl.ceil(v - extent_y - 0.5), 0.0)
    y1 = tl.minimum(tl.floor(v + extent_y - 0.5), at(camera, SIZE + 1) - 1.0)
    # Comparisons are false for what is not a number, so whatever overflowed is dropped here.
    alive = alive & (y1 >= y0)
    alive = alive & (tl.abs(u) < LARGEST_PIXELS) & (tl.abs(v) < LARGEST_PIXELS)
    alive = alive & (extent_x < LARGEST_PIXELS) & (extent_y < LARGEST_PIXELS)
    alive = alive & (det > SMALLEST_DET)
    wxx = tl.sqrt((0.5 * LOG2_E) * cov_yy / det) * unit
    wxy = -wxx * (cov_xy / cov_yy)
    wyy = tl.sqrt((0.5 * LOG2_E) / cov_yy) * unit
    return (
        u,
        v,
        depth,
        wxx,
        wxy,
        wyy,
        opacity,
        extent_x,
        extent_y,
        x0,
        x1,
        y0,
        y1,
        alive,
        in_range,
        dx,
        dy,
        dz,
    )


@triton.jit
def packed_columns(x0, x1, sees, TILE: tl.constexpr):
    """First and last column of tiles between two columns of pixels, in one word."""
    first = tl.where(sees, x0, 0.0).to(tl.int32) // TILE
    last = tl.where(sees, x1, 0.0).to(tl.int32) // TILE
    return tl.where(sees, first | (last << 16), NO_COLUMNS)


@triton.jit
def packed_red(red, green, HALF: tl.constexpr):
    """The word at RED, and the one after it."""
    if HALF:
        r = tl.minimum(red, LARGEST_HALF).to(tl.float16).to(tl.int16, bitcast=True)
        g = tl.minimum(green, LARGEST_HALF).to(tl.float16).to(tl.int16, bitcast=True)
        word = (r.to(tl.int32) & 0xFFFF) | (g.to(tl.int32) << 16)
        return word.to(tl.float32, bitcast=True)
    else:
        return red


@triton.jit
def write_splats(
    splats, depths, counts, slot,
    u, v, depth, wxx, wxy, wyy, opacity, red, green, blue, extent_x, extent_y,
    x0, x1, sees, other_u, other_x0, other_x1, other_sees, y0, y1,
    EYES: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Splats that an eye sees, with the number of tiles that each touches, to their slots."""
    alive = sees | other_sees
    columns = packed_columns(x0, x1, sees, TILE)
    other_columns = packed_columns(other_x0, other_x1, other_sees, TILE)
    first_row = tl.where(alive, y0, 0.0).to(tl.int32) // TILE
    last_row = tl.where(alive, y1, 0.0).to(tl.int32) // TILE
    rows = first_row | (last_row << 16)
    tiles = tl.zeros_like(rows)
    row = first_row
    more = tl.max(tl.where(alive, last_row - first_row, -1))
    while more >= 0:
        here, _ = tiles_of_row(u, v, wxx, wxy, wyy, extent_x, extent_y, columns, rows, row, TILE)
        tiles += here
        if EYES == 2:
            here, _ = tiles_of_row(
                other_u, v, wxx, wxy, wyy, extent_x, extent_y, other_columns, rows, row, TILE
            )
            tiles += here
        row += 1
        more -= 1
    # A row of sixteen words a splat, so that neighbouring threads write neighbouring words.
    column = tl.arange(0, 16)[None, :]
    record = tl.where(column == X, u[:, None], 0.0)
    record = tl.where(column == Y, v[:, None], record)
    record = tl.where(column == WXX, wxx[:, None], record)
    record = tl.where(column == WXY, wxy[:, None], record)
    record = tl.where(column == WYY, wyy[:, None], record)
    record = tl.where(column == OPACITY, opacity[:, None], record)
    record = tl.where(column == RED, packed_red(red, green, HALF)[:, None], record)
    if HALF:
        record = tl.where(column == RED + 1, blue[:, None], record)
    else:
        record = tl.where(column == RED + 1, green[:, None], record)
        record = tl.where(column == RED + 2, blue[:, None], record)
    record = tl.where(column == DEPTH, depth[:, None], record)
    record = tl.where(column == EXTENT, extent_x[:, None], record)
    record = tl.where(column == EXTENT + 1, extent_y[:, None], record)
    record = tl.where(column == COLUMNS, columns.to(tl.float32, bitcast=True)[:, None], record)
    record = tl.where(column == ROWS, rows.to(tl.float32, bitcast=True)[:, None], record)
    if EYES == 2:
        other = other_columns.to(tl.float32, bitcast=True)
        record = tl.where(column == OTHER_X, other_u[:, None], record)
        record = tl.where(column == OTHER_COLUMNS, other[:, None], record)
    place = slot.to(tl.int64)[:, None] * SPLAT_COLUMNS + column
    tl.store(splats + place, record, alive[:, None])
    tl.store(depths + slot, depth.to(tl.int32, bitcast=True), alive)
    tl.store(counts + slot, tiles, alive)


@triton.jit
def project_kernel(
    pages,  # [n] int64: addresses (``rendering.fused_pages`` tells what is where)
    chunks,  # [n, 4] int32: Gaussians, index of the first one in the frame, rows of SH, room
    looks,  # [n, 5] float32: log2 weight, tint RGB, its share
    seen,  # [n] int32: whether any of a chunk may be (``cull_kernel``)
    camera,  # [CAMERA_COLUMNS] float64, and the same in single precision
    kept_dilation_px2,
    first_row,  # of the pixels to draw
    last_row,
    splats,  # [capacity, SPLAT_COLUMNS] float32: each program's from its first Gaussian's on
    depths,  # [capacity] int32: the bits of positive floats, which are in the same order
    counts,  # [capacity] int32: tiles
    written,  # [programs] int32: splats of each; zeros before
    DEGREE: tl.constexpr,
    MODEL: tl.constexpr,
    COMPENSATE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program projects ``BLOCK`` Gaussians of a chunk."""
    chunk = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    count = tl.load(chunks + 4 * chunk)
    if first >= count:
        return
    if tl.load(seen + chunk) == 0:
        return
    bounds = tl.load(pages + chunk).to(tl.pointer_type(tl.float32))
    lane = first + tl.arange(0, BLOCK)
    mask = lane < count
    size = tl.load(chunks + 4 * chunk + 3)
    geometry = bounds + HEADER
    (
        u, v, depth, wxx, wxy, wyy, opacity, extent_x, extent_y, x0, x1, y0, y1,
        alive, _, dx, dy, dz,
    ) = project_lanes(
        geometry, size, lane, mask, tl.load(looks + 5 * chunk), camera, kept_dilation_px2,
        MODEL, COMPENSATE,
    )  # fmt: skip
    y0 = tl.maximum(y0, first_row)
    y1 = tl.minimum(y1, last_row)
    alive = alive & (x1 >= x0) & (y1 >= y0)
    if tl.sum(alive.to(tl.int32)) == 0:
        return
    red, green, blue = colors_towards(
        geometry, size, lane, mask, chunks, looks, chunk, dx, dy, dz, DEGREE
    )
    survivors = alive.to(tl.int32)
    tl.store(written + chunk * tl.num_programs(1) + tl.program_id(1), tl.sum(survivors))
    slot = tl.load(chunks + 4 * chunk + 1) + first + tl.cumsum(survivors, 0) - survivors
    write_splats(
        splats, depths, counts, slot,
        u, v, depth, wxx, wxy, wyy, opacity, red, green, blue, extent_x, extent_y,
        x0, x1, alive, u, x0, x1, alive, y0, y1, 1, HALF, TILE,
    )  # fmt: skip
