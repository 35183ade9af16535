"""What a scene's numbers say about it: for ``belvedere info`` and for a first view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.scene import FIELD_UNIT, SceneMeta, Vector3
from splat.gaussians import Float32Array, Gaussians

PERCENTS = (0.0, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 100.0)

# Of the height of a scene: with more than half of its Gaussians above, it is upside down.
_HEAD_SHARE = 0.75

# A Gaussian weaker than one step of an 8-bit image is never drawn.
INVISIBLE_OPACITY = 1.0 / 255.0

_OUTLIER_PERCENT = 1.0
_MAX_SAMPLES = 1 << 20
_HUGE_SHARE_OF_SCENE = 0.25
_NEEDLE_RATIO = 1000.0
_GLARING_COEFFICIENT = 30.0  # eight times white at the least; real scenes stay below 14
_OPACITY_BINS = 10


@dataclass(frozen=True, slots=True)
class SuspiciousScales:
    """How many Gaussians have scales that often are training accidents.

    Attributes:
        huge: Largest scale above a quarter of the robust bounds' diagonal.
        needles: Longest axis more than 1000 times the middle one.
        vanishing: Largest scale below a ten-millionth of that diagonal.
    """

    huge: int
    needles: int
    vanishing: int


@dataclass(frozen=True, slots=True)
class SceneStatistics:
    """Measures of the Gaussians of a scene, in its units and axes.

    Attributes:
        count: Gaussians.
        sh_degree: 0 to 3.
        bounds: Lowest and highest centre.
        robust_bounds: The same without the outermost percent on each side of each axis.
        percents: Which percentiles the following rows hold.
        position_percentiles: One row for x, y and z.
        scale_percentiles: Of the geometric mean of each Gaussian's scales.
        opacity_percentiles: Of the opacities.
        opacity_histogram: Shares of the Gaussians in ten equal bins from 0 to 1.
        invisible: Gaussians too transparent to be drawn.
        glaring: Gaussians with a coefficient of the harmonics above 30 in magnitude, which
            means a colour of many times white or black from somewhere.
        suspicious: See ``SuspiciousScales``.
        shape_up: The up direction that the distribution suggests, along an axis.
        memory_bytes: What the arrays take.
    """

    count: int
    sh_degree: int
    bounds: tuple[Vector3, Vector3]
    robust_bounds: tuple[Vector3, Vector3]
    percents: tuple[float, ...]
    position_percentiles: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    scale_percentiles: tuple[float, ...]
    opacity_percentiles: tuple[float, ...]
    opacity_histogram: tuple[float, ...]
    invisible: int
    glaring: int
    suspicious: SuspiciousScales
    shape_up: Vector3
    memory_bytes: int


def scene_statistics(gaussians: Gaussians) -> SceneStatistics:
    """Measures finite Gaussians, as ``load_scene`` returns them.

    Percentiles of very large scenes are taken from every n-th Gaussian, counts and bounds
    from all.

    Raises:
        ValueError: If there are none.
    """
    if len(gaussians) == 0:
        raise ValueError("no Gaussians to measure")
    sample = gaussians[:: max(1, len(gaussians) // _MAX_SAMPLES)]
    low, high = robust_bounds(sample.means)
    positions = np.percentile(sample.means, PERCENTS, axis=0).T
    sizes = np.exp(np.log(sample.scales.astype(np.float64)).mean(axis=1))
    shares, _ = np.histogram(gaussians.opacities, bins=_OPACITY_BINS, range=(0.0, 1.0))
    return SceneStatistics(
        count=len(gaussians),
        sh_degree=gaussians.sh_degree,
        bounds=(_vector(gaussians.means.min(axis=0)), _vector(gaussians.means.max(axis=0))),
        robust_bounds=(_vector(low), _vector(high)),
        percents=PERCENTS,
        position_percentiles=(_row(positions[0]), _row(positions[1]), _row(positions[2])),
        scale_percentiles=_row(np.percentile(sizes, PERCENTS)),
        opacity_percentiles=_row(np.percentile(sample.opacities, PERCENTS)),
        opacity_histogram=_row(shares / len(gaussians)),
        invisible=int((gaussians.opacities < INVISIBLE_OPACITY).sum()),
        glaring=_count_glaring(gaussians.sh),
        suspicious=_suspicious_scales(gaussians.scales, float(np.linalg.norm(high - low))),
        shape_up=shape_up(sample.means),
        memory_bytes=gaussians.nbytes,
    )


def robust_bounds(means: Float32Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest centre [3] without the outermost percent on each side."""
    low, high = np.percentile(means, (_OUTLIER_PERCENT, 100 - _OUTLIER_PERCENT), axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def shape_up(means: Float32Array) -> Vector3:
    """The up direction suggested by where the Gaussians are, along a coordinate axis.

    Outdoor scenes and tabletops are flat along up, and most of them lies near the ground:
    the axis of the smallest robust extent, pointing away from where most are.
    """
    low, middle, high = np.percentile(
        means, (_OUTLIER_PERCENT, 50.0, 100 - _OUTLIER_PERCENT), axis=0
    )
    axis = int(np.argmin(high - low))
    up = np.zeros(3)
    up[axis] = 1.0 if middle[axis] <= (low[axis] + high[axis]) / 2 else -1.0
    return _vector(up)


def likely_up(meta: SceneMeta, gaussians: Gaussians) -> Vector3:
    """The best guess of where up is: a unit vector in the scene's axes.

    Training cameras are held upright on average, so they tell most; then the convention of
    the format, unless some writers do not keep it and the scene clearly stands on its head;
    then the shape of the scene. Of radiance fields their own up goes first, where it is known.
    """
    if meta.unit == FIELD_UNIT and meta.up is not None:
        return meta.up  # the world's own; its cameras are few, and look down
    if meta.cameras:
        # The second row of a world-to-camera rotation is where the image's down points.
        downs = np.array([camera.viewmat[1, :3] for camera in meta.cameras])
        mean = -downs.mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length > 0.5:  # else they were rolled in all directions
            return _vector(mean / length)
    if meta.up is not None:
        if meta.up_assumed and _stands_on_its_head(gaussians, meta.up):
            return _vector(-np.asarray(meta.up))
        return meta.up
    return shape_up(gaussians[:: max(1, len(gaussians) // _MAX_SAMPLES)].means)


def _stands_on_its_head(gaussians: Gaussians, up: Vector3) -> bool:
    """Whether most of a scene lies near its top.

    Outdoors most Gaussians are near the ground: of six captures the median lay at 4 to 22 % of
    the height, of objects alone at half of it.
    """
    sample = gaussians[:: max(1, len(gaussians) // _MAX_SAMPLES)]
    heights = sample.means.astype(np.float64) @ np.asarray(up)
    low, middle, high = np.percentile(heights, (_OUTLIER_PERCENT, 50.0, 100 - _OUTLIER_PERCENT))
    return bool(middle - low > _HEAD_SHARE * (high - low))


def _suspicious_scales(scales: Float32Array, diagonal: float) -> SuspiciousScales:
    largest = scales.max(axis=1)
    middle = np.median(scales, axis=1)
    return SuspiciousScales(
        huge=int((largest > _HUGE_SHARE_OF_SCENE * diagonal).sum()) if diagonal > 0 else 0,
        needles=int((largest > _NEEDLE_RATIO * middle).sum()),
        vanishing=int((largest < 1e-7 * diagonal).sum()),
    )


def _count_glaring(sh: Float32Array) -> int:
    lowest, highest = sh.min(axis=(1, 2)), sh.max(axis=(1, 2))  # no copy of all of them
    return int((np.maximum(highest, -lowest) > _GLARING_COEFFICIENT).sum())


def _vector(values: object) -> Vector3:
    x, y, z = (float(value) for value in np.asarray(values))
    return x, y, z


def _row(values: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
