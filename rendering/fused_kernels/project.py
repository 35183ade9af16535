"""Projection of a frame's chunks, straight from the paged pool (image model, steps 1 and 2).

A program projects ``BLOCK`` Gaussians of one chunk: it reads the chunk's page where it lies, leaves
at once if the chunk's box cannot be seen, and appends what survives to one list for the frame. The
arithmetic is that of ``rendering/native/src/project.h``: EWA with the determinant from 2×2 minors,
and a larger unit of length where fourth powers would overflow.
"""

import triton
import triton.language as tl

# A page (``rendering.fused_pages``): bounds, rows of geometry, then of harmonics and their scales.
HEADER = tl.constexpr(16)  # words
MEAN = tl.constexpr(0)
QUAT = tl.constexpr(3)
SCALE = tl.constexpr(7)
LOG2_OPACITY = tl.constexpr(10)
DC = tl.constexpr(11)
GEOMETRY_ROWS = tl.constexpr(14)

# Columns of the camera's vector of doubles (``rendering.fused_cuda.camera_vector``).
ROTATION = tl.constexpr(0)
TRANSLATION_Z = tl.constexpr(9)
ORIGIN = tl.constexpr(10)
ORIGIN_HI = tl.constexpr(13)
ORIGIN_LO = tl.constexpr(16)
FOCAL = tl.constexpr(19)
CENTRE = tl.constexpr(21)
LIMITS = tl.constexpr(23)  # right, left, bottom, top: of x/z and y/z inside J
NEAR_FAR = tl.constexpr(27)
SIZE = tl.constexpr(29)
REACHES = tl.constexpr(31)  # of the image's edges, for boxes: right, left, bottom, top
STRETCHES = tl.constexpr(35)  # how much wider than a scale a Gaussian may be in x and y
SLACK = tl.constexpr(37)
CAMERA_COLUMNS = tl.constexpr(38)

# Columns of a projected Gaussian (a cache line).
X = tl.constexpr(0)
Y = tl.constexpr(1)
WXX = tl.constexpr(2)
WXY = tl.constexpr(3)
WYY = tl.constexpr(4)
OPACITY = tl.constexpr(5)  # log2
RED = tl.constexpr(6)
DEPTH = tl.constexpr(9)
EXTENT = tl.constexpr(10)
TILES = tl.constexpr(12)  # first and last column of tiles, then rows, in 16 bits each
OTHER_X = tl.constexpr(14)  # where a second eye sees it
SPLAT_COLUMNS = tl.constexpr(16)

PINHOLE = tl.constexpr(0)
ORTHO = tl.constexpr(1)
FISHEYE = tl.constexpr(2)

DILATION_PX2 = tl.constexpr(0.3)
LOG2_ALPHA_CUT = tl.constexpr(-7.994353436858858)
LOG2_E = tl.constexpr(1.4426950408889634)
FISHEYE_MAX_THETA = tl.constexpr(2.530727415391778)
LARGEST_DET = tl.constexpr(1e36)
SMALLEST_DET = tl.constexpr(1e-36)
LARGEST_PIXELS = tl.constexpr(1e37)
HUGE_PIXELS = tl.constexpr(1048576.0)


@triton.jit
def dot3(ax, ay, az, bx, by, bz):
    return ax * bx + ay * by + az * bz


@triton.jit
def at(camera, column):
    """A number of the camera in single precision."""
    return tl.load(camera + column).to(tl.float32)


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
def box_may_be_seen(bounds, camera, MODEL: tl.constexpr):
    """Whether a chunk may contribute: its box, its largest Gaussian and J's limits, in doubles."""
    nearest_z = -tl.load(camera + SLACK)
    furthest_z = tl.load(camera + SLACK)
    least_right = tl.load(camera + REACHES) * 0.0
    least_left = least_right
    least_bottom = least_right
    least_top = least_right
    nearest2 = least_right
    furthest2 = least_right
    for k in tl.static_range(3):
        lo = tl.load(bounds + k).to(tl.float64)
        hi = tl.load(bounds + 3 + k).to(tl.float64)
        centre = 0.5 * (lo + hi) - tl.load(camera + ORIGIN + k)
        half = 0.5 * (hi - lo)
        rx = tl.load(camera + ROTATION + k)
        ry = tl.load(camera + ROTATION + 3 + k)
        rz = tl.load(camera + ROTATION + 6 + k)
        nearest_z += rz * centre - tl.abs(rz) * half
        furthest_z += rz * centre + tl.abs(rz) * half
        if MODEL == ORTHO:
            least_right += rx * centre - tl.abs(rx) * half
            least_left += -rx * centre - tl.abs(rx) * half
            least_bottom += ry * centre - tl.abs(ry) * half
            least_top += -ry * centre - tl.abs(ry) * half
        else:
            right = rx - tl.load(camera + REACHES) * rz
            left = -rx - tl.load(camera + REACHES + 1) * rz
            bottom = ry - tl.load(camera + REACHES + 2) * rz
            top = -ry - tl.load(camera + REACHES + 3) * rz
            least_right += right * centre - tl.abs(right) * half
            least_left += left * centre - tl.abs(left) * half
            least_bottom += bottom * centre - tl.abs(bottom) * half
            least_top += top * centre - tl.abs(top) * half
        offset = tl.abs(centre)
        gap = tl.maximum(offset - half, 0.0)
        nearest2 += gap * gap
        furthest2 += (offset + half) * (offset + half)
    near = tl.load(camera + NEAR_FAR)
    far = tl.load(camera + NEAR_FAR + 1)
    slack = tl.load(camera + SLACK) + 1e-5 * tl.sqrt(furthest2)
    if MODEL == FISHEYE:
        seen = (tl.sqrt(nearest2) <= far + slack) & (tl.sqrt(furthest2) >= near - slack)
    else:
        largest = tl.load(bounds + 6).to(tl.float64)
        wide = largest * tl.load(camera + STRETCHES) + slack
        high = largest * tl.load(camera + STRETCHES + 1) + slack
        if MODEL == ORTHO:
            wide += tl.load(camera + REACHES)
            wide_left = wide - tl.load(camera + REACHES) + tl.load(camera + REACHES + 1)
            high_top = high + tl.load(camera + REACHES + 3)
            high += tl.load(camera + REACHES + 2)
        else:
            wide_left = wide
            high_top = high
        seen = (nearest_z <= far + slack) & (furthest_z >= near - slack)
        seen = seen & (least_right <= wide) & (least_left <= wide_left)
        seen = seen & (least_bottom <= high) & (least_top <= high_top)
    return seen


@triton.jit
def shade(geometry, size, lane, rows, mask, x, y, z, DEGREE: tl.constexpr):
    """Colours along unit directions (splat/harmonics.py), not below 0; of ``rows`` of harmonics."""
    r = 0.28209479177387814 * tl.load(geometry + lane + DC * size, mask, 0.0) + 0.5
    g = 0.28209479177387814 * tl.load(geometry + lane + (DC + 1) * size, mask, 0.0) + 0.5
    b = 0.28209479177387814 * tl.load(geometry + lane + (DC + 2) * size, mask, 0.0) + 0.5
    scales = geometry + GEOMETRY_ROWS * size
    rest = (scales + size).to(tl.pointer_type(tl.int16))
    if DEGREE > 0:
        sum_r = tl.zeros_like(x)
        sum_g = tl.zeros_like(x)
        sum_b = tl.zeros_like(x)
        xx = x * x
        yy = y * y
        zz = z * z
        for k in tl.static_range((DEGREE + 1) * (DEGREE + 1) - 1):
            if k == 0:
                basis = -0.4886025119029199 * y
            elif k == 1:
                basis = 0.4886025119029199 * z
            elif k == 2:
                basis = -0.4886025119029199 * x
            elif k == 3:
                basis = 1.0925484305920792 * (x * y)
            elif k == 4:
                basis = -1.0925484305920792 * (y * z)
            elif k == 5:
                basis = 0.31539156525252005 * (2.0 * zz - xx - yy)
            elif k == 6:
                basis = -1.0925484305920792 * (x * z)
            elif k == 7:
                basis = 0.5462742152960396 * (xx - yy)
            elif k == 8:
                basis = -0.5900435899266435 * y * (3.0 * xx - yy)
            elif k == 9:
                basis = 2.890611442640554 * (x * y) * z
            elif k == 10:
                basis = -0.4570457994644658 * y * (4.0 * zz - xx - yy)
            elif k == 11:
                basis = 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
            elif k == 12:
                basis = -0.4570457994644658 * x * (4.0 * zz - xx - yy)
            elif k == 13:
                basis = 1.445305721320277 * z * (xx - yy)
            else:
                basis = -0.5900435899266435 * x * (xx - 3.0 * yy)
            row = rest + lane + 3 * k * size
            held = mask & (3 * k < rows)
            sum_r += basis * tl.load(row, held, 0).to(tl.float32)
            sum_g += basis * tl.load(row + size, held, 0).to(tl.float32)
            sum_b += basis * tl.load(row + 2 * size, held, 0).to(tl.float32)
        scale = tl.load(scales + lane, mask & (rows > 0), 0.0)
        r += sum_r * scale
        g += sum_g * scale
        b += sum_b * scale
    return tl.maximum(r, 0.0), tl.maximum(g, 0.0), tl.maximum(b, 0.0)


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
    x0 and x1, and the direction from the optical centre."""
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
    alive = mask
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
        alive = alive & (theta < FISHEYE_MAX_THETA)
    opacity = tl.load(geometry + lane + LOG2_OPACITY * size, mask, float("-inf"))
    opacity += log2_weight
    alive = alive & (opacity >= LOG2_ALPHA_CUT)
    alive = alive & (depth >= at(camera, NEAR_FAR)) & (depth <= at(camera, NEAR_FAR + 1))

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
        dx,
        dy,
        dz,
    )


@triton.jit
def look_of(looks, chunk, red, green, blue):
    """Colours with the chunk's tint."""
    share = tl.load(looks + 5 * chunk + 4)
    red += share * (tl.load(looks + 5 * chunk + 1) - red)
    green += share * (tl.load(looks + 5 * chunk + 2) - green)
    blue += share * (tl.load(looks + 5 * chunk + 3) - blue)
    return red, green, blue


@triton.jit
def append(
    splats, keys, counts, counter, index,
    u, other_u, v, depth, wxx, wxy, wyy, opacity, red, green, blue, extent_x, extent_y,
    x0, x1, y0, y1, alive, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds splats to the frame's list, with the number of tiles that each touches."""
    tx0 = tl.where(alive, x0, 0.0).to(tl.int32) // TILE
    tx1 = tl.where(alive, x1, 0.0).to(tl.int32) // TILE
    ty0 = tl.where(alive, y0, 0.0).to(tl.int32) // TILE
    ty1 = tl.where(alive, y1, 0.0).to(tl.int32) // TILE
    tiles = tl.zeros_like(tx0)
    row = tl.min(tl.where(alive, ty0, 1 << 30))
    end = tl.max(tl.where(alive, ty1, -1))
    while row <= end:
        left, right = columns_of_row(
            u, v, wxx, wxy, wyy, extent_x, extent_y, tx0, tx1, ty0, ty1, row, TILE
        )
        tiles += tl.maximum(right - left + 1, 0)
        row += 1
    survivors = alive.to(tl.int32)
    slot = tl.atomic_add(counter, tl.sum(survivors)) + tl.cumsum(survivors, 0) - 1
    # A row of sixteen words a splat, so that neighbouring threads write neighbouring words.
    column = tl.arange(0, 16)[None, :]
    record = tl.where(column == X, u[:, None], 0.0)
    record = tl.where(column == Y, v[:, None], record)
    record = tl.where(column == WXX, wxx[:, None], record)
    record = tl.where(column == WXY, wxy[:, None], record)
    record = tl.where(column == WYY, wyy[:, None], record)
    record = tl.where(column == OPACITY, opacity[:, None], record)
    record = tl.where(column == RED, red[:, None], record)
    record = tl.where(column == RED + 1, green[:, None], record)
    record = tl.where(column == RED + 2, blue[:, None], record)
    record = tl.where(column == DEPTH, depth[:, None], record)
    record = tl.where(column == EXTENT, extent_x[:, None], record)
    record = tl.where(column == EXTENT + 1, extent_y[:, None], record)
    tx = (tx0 | (tx1 << 16)).to(tl.float32, bitcast=True)
    ty = (ty0 | (ty1 << 16)).to(tl.float32, bitcast=True)
    record = tl.where(column == TILES, tx[:, None], record)
    record = tl.where(column == TILES + 1, ty[:, None], record)
    record = tl.where(column == OTHER_X, other_u[:, None], record)
    place = slot.to(tl.int64)[:, None] * SPLAT_COLUMNS + column
    tl.store(splats + place, record, alive[:, None])
    key = depth.to(tl.int32, bitcast=True).to(tl.int64) << 32
    tl.store(keys + slot, key | index.to(tl.int64), alive)
    tl.store(counts + slot, tiles, alive)


@triton.jit
def project_kernel(
    pages,  # [n] int64: addresses (``rendering.fused_pages`` tells what is where)
    chunks,  # [n, 4] int32: Gaussians, index of the first one in the frame, rows of SH, room
    looks,  # [n, 5] float32: log2 weight, tint RGB, its share
    camera,  # [CAMERA_COLUMNS] float64
    kept_dilation_px2,
    first_row,  # of the pixels to draw
    last_row,
    splats,  # [capacity, SPLAT_COLUMNS] float32
    keys,  # [capacity] int64: depth, then index
    counts,  # [capacity] int32: tiles
    counter,  # [1] int32
    DEGREE: tl.constexpr,
    MODEL: tl.constexpr,
    COMPENSATE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program projects ``BLOCK`` Gaussians of a chunk."""
    chunk = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    count = tl.load(chunks + 4 * chunk)
    if first >= count:
        return
    bounds = tl.load(pages + chunk).to(tl.pointer_type(tl.float32))
    if not box_may_be_seen(bounds, camera, MODEL):
        return
    lane = first + tl.arange(0, BLOCK)
    mask = lane < count
    size = tl.load(chunks + 4 * chunk + 3)
    geometry = bounds + HEADER
    u, v, depth, wxx, wxy, wyy, opacity, extent_x, extent_y, x0, x1, y0, y1, alive, dx, dy, dz = (
        project_lanes(
            geometry, size, lane, mask, tl.load(looks + 5 * chunk), camera, kept_dilation_px2,
            MODEL, COMPENSATE,
        )
    )  # fmt: skip
    y0 = tl.maximum(y0, first_row)
    y1 = tl.minimum(y1, last_row)
    alive = alive & (x1 >= x0) & (y1 >= y0)
    if tl.sum(alive.to(tl.int32)) == 0:
        return
    inv_length = 1.0 / tl.sqrt(tl.maximum(dot3(dx, dy, dz, dx, dy, dz), 1e-30))
    red, green, blue = shade(
        geometry, size, lane, tl.load(chunks + 4 * chunk + 2), mask,
        dx * inv_length, dy * inv_length, dz * inv_length, DEGREE,
    )  # fmt: skip
    red, green, blue = look_of(looks, chunk, red, green, blue)
    index = tl.load(chunks + 4 * chunk + 1) + lane
    append(
        splats, keys, counts, counter, index,
        u, u, v, depth, wxx, wxy, wyy, opacity, red, green, blue, extent_x, extent_y,
        x0, x1, y0, y1, alive, TILE, BLOCK,
    )  # fmt: skip
