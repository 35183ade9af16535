"""Colours of Gaussians: spherical harmonics (``splat/harmonics.py``) and tints."""

import triton
import triton.language as tl

from rendering.fused_kernels.layout import DC, GEOMETRY_ROWS, LARGEST_COLOR, dot3


@triton.jit
def within(color):
    """Not below 0, and finite: where a splat's weight is 0, so is what it adds."""
    return tl.minimum(tl.maximum(color, 0.0), LARGEST_COLOR)


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
    return within(r), within(g), within(b)


@triton.jit
def colors_towards(
    geometry, size, lane, mask, chunks, looks, chunk, dx, dy, dz, DEGREE: tl.constexpr
):
    """Colours of a chunk's Gaussians that lie in such directions of the optical centre, tinted."""
    inv_length = 1.0 / tl.sqrt(tl.maximum(dot3(dx, dy, dz, dx, dy, dz), 1e-30))
    red, green, blue = shade(
        geometry, size, lane, tl.load(chunks + 4 * chunk + 2), mask,
        dx * inv_length, dy * inv_length, dz * inv_length, DEGREE,
    )  # fmt: skip
    share = tl.load(looks + 5 * chunk + 4)
    red += share * (tl.load(looks + 5 * chunk + 1) - red)
    green += share * (tl.load(looks + 5 * chunk + 2) - green)
    blue += share * (tl.load(looks + 5 * chunk + 3) - blue)
    return red, green, blue
