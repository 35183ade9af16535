"""Chunks that no Gaussian of can be seen: a test of the box that holds their means."""

import triton
import triton.language as tl

from rendering.fused_kernels.layout import (
    FISHEYE,
    NEAR_FAR,
    ORIGIN,
    ORTHO,
    REACHES,
    ROTATION,
    SLACK,
    STRETCHES,
)


@triton.jit
def boxes_may_be_seen(bounds, mask, camera, MODEL: tl.constexpr):
    """Whether chunks may contribute: their boxes, largest Gaussians and J's limits, in doubles."""
    nearest_z = -tl.load(camera + SLACK)
    furthest_z = tl.load(camera + SLACK)
    least_right = tl.load(camera + REACHES) * 0.0
    least_left = least_right
    least_bottom = least_right
    least_top = least_right
    nearest2 = least_right
    furthest2 = least_right
    for k in tl.static_range(3):
        lo = tl.load(bounds + k, mask, 0.0).to(tl.float64)
        hi = tl.load(bounds + 3 + k, mask, 0.0).to(tl.float64)
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
        largest = tl.load(bounds + 6, mask, 0.0).to(tl.float64)
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


@triton.jit(do_not_specialize=("count",))
def cull_kernel(
    pages,  # [n] int64: addresses
    count,
    camera,  # of each eye
    other,
    seen,  # [n] int32
    MODEL: tl.constexpr,
    EYES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A lane looks at a chunk: whether an eye may see any of it."""
    chunk = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = chunk < count
    bounds = tl.load(pages + chunk, mask, 0).to(tl.pointer_type(tl.float32))
    may = boxes_may_be_seen(bounds, mask, camera, MODEL)
    if EYES == 2:
        may = may | boxes_may_be_seen(bounds, mask, other, MODEL)
    tl.store(seen + chunk, may.to(tl.int32), mask)
