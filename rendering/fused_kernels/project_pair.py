"""Projection for two eyes in one pass (``rendering/native/src/project_pair.h``).

Each Gaussian is read once. Where its outline and the direction that it is seen from are as good
as the same for both eyes, the second one sees the first one's splat at its own x; elsewhere each
gets a splat of its own. Depths, rows and vertical extents are the same for both.
"""

import triton
import triton.language as tl

from rendering.fused_kernels.layout import (
    FOCAL,
    HEADER,
    LARGEST_PIXELS,
    LIMITS,
    LOG2_ALPHA_CUT,
    LOG2_E,
    LOG2_OPACITY,
    PINHOLE,
    ROTATION,
    SCALE,
    SIZE,
    at,
    dot3,
)
from rendering.fused_kernels.project import project_lanes, write_splats
from rendering.fused_kernels.shade import colors_towards


@triton.jit
def tangent(camera, inv_z, dx, dy, dz):
    """x/z, as far from the axis as J follows it."""
    x = dot3(
        at(camera, ROTATION), at(camera, ROTATION + 1), at(camera, ROTATION + 2), dx, dy, dz
    )  # fmt: skip
    return tl.minimum(tl.maximum(x * inv_z, -at(camera, LIMITS + 1)), at(camera, LIMITS))


@triton.jit
def outline_drift_px(geometry, size, lane, mask, log2_weight, camera, inv_z, tan, other_tan):
    """How far outlines differ between the eyes at most: k fx/z |a′ − a| times the largest scale."""
    opacity = tl.load(geometry + lane + LOG2_OPACITY * size, mask, float("-inf")) + log2_weight
    # Before compensation, which differs between the eyes: what is faint to one need not be to both.
    k = tl.sqrt((2.0 / LOG2_E) * (opacity - LOG2_ALPHA_CUT))
    s0 = tl.load(geometry + lane + SCALE * size, mask, 1.0)
    s1 = tl.load(geometry + lane + (SCALE + 1) * size, mask, 1.0)
    s2 = tl.load(geometry + lane + (SCALE + 2) * size, mask, 1.0)
    largest = tl.maximum(tl.maximum(s0, s1), s2)
    return k * largest * tl.abs(at(camera, FOCAL) * inv_z * (other_tan - tan))


@triton.jit
def project_pair_kernel(
    pages,  # as in ``project_kernel``, up to ``written``
    chunks,
    looks,
    seen,
    camera,
    kept_dilation_px2,
    first_row,
    last_row,
    splats,
    depths,
    counts,
    written,
    other,  # [CAMERA_COLUMNS] float64: the second eye's
    drift_px,  # that outlines may differ by
    nearest,  # distance from which directions differ by no more than their limit
    DEGREE: tl.constexpr,
    COMPENSATE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program projects ``BLOCK`` Gaussians of a chunk for both eyes."""
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
    log2_weight = tl.load(looks + 5 * chunk)
    geometry = bounds + HEADER
    (
        u, v, depth, wxx, wxy, wyy, opacity, extent_x, extent_y, x0, x1, y0, y1,
        alive, in_range, dx, dy, dz,
    ) = project_lanes(
        geometry, size, lane, mask, log2_weight, camera, kept_dilation_px2, PINHOLE, COMPENSATE
    )  # fmt: skip
    # Depths are the same, and what lies beyond near, far or the cut does so for both.
    if tl.sum(in_range.to(tl.int32)) == 0:
        return
    (
        u2, v2, depth2, wxx2, wxy2, wyy2, opacity2, extent_x2, extent_y2, p0, p1, q0, q1,
        alive2, _, ex, ey, ez,
    ) = project_lanes(
        geometry, size, lane, mask, log2_weight, other, kept_dilation_px2, PINHOLE, COMPENSATE
    )  # fmt: skip
    inv_z = 1.0 / depth
    tan, other_tan = tangent(camera, inv_z, dx, dy, dz), tangent(other, inv_z, ex, ey, ez)
    drift = outline_drift_px(geometry, size, lane, mask, log2_weight, camera, inv_z, tan, other_tan)
    alike = (drift <= drift_px) & (dot3(dx, dy, dz, dx, dy, dz) >= nearest * nearest)

    y0 = tl.maximum(y0, first_row)
    y1 = tl.minimum(y1, last_row)
    alive = alive & (y1 >= y0)
    sees = alive & (x1 >= x0)
    left = tl.maximum(tl.ceil(u2 - extent_x - 0.5), 0.0)
    right = tl.minimum(tl.floor(u2 + extent_x - 0.5), at(other, SIZE) - 1.0)
    other_sees = alive & alike & (tl.abs(u2) < LARGEST_PIXELS) & (right >= left)
    q0 = tl.maximum(q0, first_row)
    q1 = tl.minimum(q1, last_row)
    own = alive2 & in_range & (alike == 0) & (p1 >= p0) & (q1 >= q0)
    # A Gaussian's splat for the second eye alone follows the other one.
    firsts, seconds = (sees | other_sees).to(tl.int32), own.to(tl.int32)
    both = firsts + seconds
    tl.store(written + chunk * tl.num_programs(1) + tl.program_id(1), tl.sum(both))
    slot = 2 * (tl.load(chunks + 4 * chunk + 1) + first) + tl.cumsum(both, 0) - both
    if tl.sum(firsts) > 0:
        red, green, blue = colors_towards(
            geometry, size, lane, mask, chunks, looks, chunk, dx, dy, dz, DEGREE
        )
        write_splats(
            splats, depths, counts, slot,
            u, v, depth, wxx, wxy, wyy, opacity, red, green, blue, extent_x, extent_y,
            x0, x1, sees, u2, left, right, other_sees, y0, y1, 2, HALF, TILE,
        )  # fmt: skip
    if tl.sum(seconds) > 0:
        red, green, blue = colors_towards(
            geometry, size, lane, mask, chunks, looks, chunk, ex, ey, ez, DEGREE
        )
        write_splats(
            splats, depths, counts, slot + firsts,
            u2, v2, depth2, wxx2, wxy2, wyy2, opacity2, red, green, blue, extent_x2, extent_y2,
            p0, p1, own & (own == 0), u2, p0, p1, own, q0, q1, 2, HALF, TILE,
        )  # fmt: skip
