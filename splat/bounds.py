"""Which boxes of Gaussians a camera may see: conservative tests of many boxes at once.

A box bounds the *means* of its Gaussians; ``max_scale`` says how far these may reach (see
``scene_store.tree.LodTree``). A test may answer yes for a box that leaves no trace in the
picture, but never no for one that does: a pixel lost here is a hole. The image model is
that of ``rendering.base``, and the frustum test is the one of the native rasterizer's
projection, with wider margins, so that nothing is dropped here that it would have drawn.

Sums are written out term by term: the native selection repeats them in the same order and
comes to the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from splat.camera import Camera, CameraModel, Float64Array

# The image model's numbers (rendering/base.py).
_ALPHA_CUT = 1.0 / 255.0
_DILATION_PX2 = 0.3
JACOBIAN_MARGIN = 0.3  # J is linearized no further out than this share of tan(fov / 2)
FISHEYE_MAX_THETA_RAD = math.radians(145.0)
MAX_MERGED_OPACITY = 8.0
"""Largest opacity of a merged Gaussian: merging keeps opacity mass, so it may exceed 1."""

MAX_SIGMAS = math.sqrt(2.0 * math.log(1.0 / _ALPHA_CUT))
"""Where alpha of a Gaussian of opacity 1 reaches the cut, in standard deviations; ``max_scale``
allows for the rest where an opacity is above 1."""
# What the dilation adds to any Gaussian's extent, and a pixel for rounding.
_DILATION_REACH_PX = 1.0 + math.sqrt(
    _DILATION_PX2 * 2.0 * math.log(MAX_MERGED_OPACITY / _ALPHA_CUT)
)
_POSITION_SLACK = 1e-5  # relative; engines work in float32
_DEPTH_SLACK = 1e-6  # relative; near and far are compared in float32
_ANGLE_SLACK_RAD = 1e-4
# Beyond this angle the equidistant image plane stretches too much for a bound to be of use.
_MAX_STRETCHED_THETA_RAD = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class BoxesInView:
    """M boxes as a camera's position sees them.

    Attributes:
        centre: Three [M] float64, x, y, z of the centres relative to the camera, world axes.
        half: Three [M] float64, half the sides.
    """

    centre: tuple[Float64Array, Float64Array, Float64Array]
    half: tuple[Float64Array, Float64Array, Float64Array]

    @classmethod
    def of(
        cls, position: Float64Array, lo: NDArray[np.float32], hi: NDArray[np.float32]
    ) -> BoxesInView:
        """Boxes [M, 3] lowest and highest corners, world units, seen from ``position`` [3]."""
        low, high = lo.astype(np.float64), hi.astype(np.float64)
        centre, half = 0.5 * (low + high) - position, 0.5 * (high - low)
        return cls((centre[:, 0], centre[:, 1], centre[:, 2]), (half[:, 0], half[:, 1], half[:, 2]))

    def distance(self) -> Float64Array:
        """[M] from the camera to the nearest point of each box; 0 inside it."""
        x, y, z = (
            np.maximum(np.abs(c) - h, 0.0) for c, h in zip(self.centre, self.half, strict=True)
        )
        return np.asarray(np.sqrt(x * x + y * y + z * z))

    def farthest(self) -> Float64Array:
        """[M] from the camera to the farthest corner of each box."""
        x, y, z = (np.abs(c) + h for c, h in zip(self.centre, self.half, strict=True))
        return np.asarray(np.sqrt(x * x + y * y + z * z))

    def along(self, direction: Float64Array) -> Float64Array:
        """[M] coordinate of the centres along a direction [3]."""
        x, y, z = self.centre
        return np.asarray(direction[0] * x + direction[1] * y + direction[2] * z)

    def extent_along(self, direction: Float64Array) -> Float64Array:
        """[M] half the boxes' widths along a direction [3]."""
        x, y, z = self.half
        return np.asarray(abs(direction[0]) * x + abs(direction[1]) * y + abs(direction[2]) * z)

    def centre_distance(self) -> Float64Array:
        """[M] from the camera to the centres."""
        x, y, z = self.centre
        return np.asarray(np.sqrt(x * x + y * y + z * z))

    def radius(self) -> Float64Array:
        """[M] of the spheres around the boxes."""
        x, y, z = self.half
        return np.asarray(np.sqrt(x * x + y * y + z * z))


@dataclass(frozen=True, slots=True, eq=False)
class ViewVolume:
    """The constants of one camera's visibility test.

    Attributes:
        model: The projection.
        position: [3] float64, the optical centre, world units.
        rotation: [3, 3] float64, world → camera.
        near, far: World units, with an allowance for their comparison in float32.
        planes: [6, 5] float64. A box may be seen only if, for each row (n, offset, reach), its
            smallest ``n · (p − position)`` is at most ``offset + reach · max_scale``, but for
            rounding. World units. None of the six binds for a fisheye camera.
        rect: (left, right, top, bottom) of a fisheye's image on the plane of
            ``q = θ (cos φ, sin φ)``, radians, dilation included; zeros for other models.
    """

    model: CameraModel
    position: Float64Array
    rotation: Float64Array
    near: float
    far: float
    planes: Float64Array
    rect: tuple[float, float, float, float]

    @classmethod
    def of(cls, camera: Camera, zoom: float = 1.0) -> ViewVolume:
        """The volume that ``camera`` sees.

        Args:
            zoom: Multiplies its focal lengths: below 1 it sees more.
        """
        return _volume_of(camera, zoom)

    @property
    def rect_radius(self) -> float:
        """Distance on the plane of q from the axis to the fisheye image's farthest corner."""
        left, right, top, bottom = self.rect
        x, y = max(abs(left), abs(right)), max(abs(top), abs(bottom))
        return math.sqrt(x * x + y * y)

    @property
    def position_slack(self) -> float:
        """World units: rounding that comes of the camera's distance from the origin."""
        x, y, z = (abs(float(value)) for value in self.position)
        return _POSITION_SLACK * (x + y + z)

    def may_see(
        self, lo: NDArray[np.float32], hi: NDArray[np.float32], max_scale: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Whether a pixel may take something of what each box holds.

        Args:
            lo, hi: [M, 3] float32, boxes of the means, world units.
            max_scale: [M] float32, largest standard deviation in the box, world units, times
                ``sqrt(ln(255 max(1, opacity)) / ln 255)``.

        Returns:
            [M] bool; True wherever in doubt.
        """
        boxes = BoxesInView.of(self.position, lo, hi)
        scale = max_scale.astype(np.float64)
        if self.model is CameraModel.FISHEYE:
            return self._in_fisheye(boxes, scale)
        return self._in_planes(boxes, scale)

    def _in_planes(self, boxes: BoxesInView, max_scale: Float64Array) -> NDArray[np.bool_]:
        hx, hy, hz = boxes.half
        slack = self.position_slack + _POSITION_SLACK * (hx + hy + hz)
        seen = np.ones(len(max_scale), np.bool_)
        for plane in self.planes:
            least = boxes.along(plane) - boxes.extent_along(plane)
            seen &= least <= plane[3] + plane[4] * max_scale + slack
        return seen

    def _in_fisheye(self, boxes: BoxesInView, max_scale: Float64Array) -> NDArray[np.bool_]:
        """Near and far are distances; the cone is that of the sphere around the box.

        On the plane of q a direction is a point, and the map from the unit sphere stretches by
        at most θ / sin θ. So a cap of half angle α lands within α θ / sin θ of its centre, and
        a Gaussian of size s at distance ρ within s / ρ · θ / sin θ of its own.
        """
        nearest, farthest = boxes.distance(), boxes.farthest()
        radius, distance = boxes.radius(), boxes.centre_distance()
        slack = self.position_slack + _POSITION_SLACK * radius
        in_range = (nearest <= self.far + slack) & (farthest >= self.near - slack)
        around = distance <= radius + slack
        x, y, z = (boxes.along(self.rotation[row]) for row in range(3))
        across = np.sqrt(x * x + y * y)
        theta = np.arctan2(across, z)
        ratio = np.minimum(radius / np.where(around, 1.0, distance), 1.0)
        cap = np.arcsin(ratio) + _ANGLE_SLACK_RAD
        lowest = theta - cap
        in_cone = lowest <= FISHEYE_MAX_THETA_RAD
        reach = (MAX_SIGMAS * max_scale / np.maximum(nearest, self.near)) * _stretch(
            np.minimum(theta + cap, FISHEYE_MAX_THETA_RAD + _ANGLE_SLACK_RAD)
        )
        in_circle = lowest <= self.rect_radius + math.sqrt(2.0) * reach
        spread = cap * _stretch(np.minimum(theta + cap, _MAX_STRETCHED_THETA_RAD)) + reach
        safe_across = np.where(across > 0, across, 1.0)
        qx, qy = theta * x / safe_across, theta * y / safe_across
        left, right, top, bottom = self.rect
        in_rect = (qx - spread <= right) & (qx + spread >= left)
        in_rect &= (qy - spread <= bottom) & (qy + spread >= top)
        in_rect |= theta + cap > _MAX_STRETCHED_THETA_RAD
        return np.asarray(in_range & (around | (in_cone & in_circle & in_rect)))


def _stretch(theta: Float64Array) -> Float64Array:
    """θ / sin θ; 1 on the axis."""
    safe = np.maximum(theta, 1e-6)
    return np.asarray(safe / np.sin(safe))


def _no_planes() -> Float64Array:
    planes = np.zeros((6, 5))
    planes[:, 3] = math.inf
    return planes


@lru_cache(maxsize=16)  # selection, culling and bands of a frame ask for the same ones
def _volume_of(camera: Camera, zoom: float) -> ViewVolume:
    fisheye = camera.model is CameraModel.FISHEYE
    planes = _no_planes() if fisheye else _planes(camera, zoom)
    rect = _image_rect(camera, zoom) if fisheye else (0.0, 0.0, 0.0, 0.0)
    if zoom != 1.0:
        return replace(_volume_of(camera, 1.0), planes=planes, rect=rect)
    return ViewVolume(
        model=camera.model,
        position=camera.position,
        rotation=np.array(camera.viewmat[:3, :3]),
        near=camera.near * (1.0 - _DEPTH_SLACK),
        far=camera.far * (1.0 + _DEPTH_SLACK),
        planes=planes,
        rect=rect,
    )


def _planes(camera: Camera, zoom: float) -> Float64Array:
    """The planes of a pinhole's or ortho's frustum; see ``ViewVolume.planes``.

    A mean at (x, y, z) in the camera frame shows at the right edge or left of it if
    ``fx x / z + cx − extent ≤ width``, where the extent in pixels is at most the dilation's
    plus ``sigmas · max_scale · fx / z · sqrt(1 + (x/z)²)``, with x/z limited as in J.
    """
    # In plain numbers: of so few, arrays take longer.
    (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
    fx, fy = zoom * fx, zoom * fy
    right, left = (camera.width - cx + _DILATION_REACH_PX) / fx, (cx + _DILATION_REACH_PX) / fx
    bottom, top = (camera.height - cy + _DILATION_REACH_PX) / fy, (cy + _DILATION_REACH_PX) / fy
    near, far = camera.near * (1.0 - _DEPTH_SLACK), camera.far * (1.0 + _DEPTH_SLACK)
    x, y, z = camera.viewmat[:3, :3].tolist()
    planes = [[*z, far, 0.0], [-z[0], -z[1], -z[2], -near, 0.0]]
    sides = ((x, 1.0, right), (x, -1.0, left), (y, 1.0, bottom), (y, -1.0, top))
    if camera.model is CameraModel.ORTHO:
        for row, sign, edge in sides:
            planes.append([sign * row[0], sign * row[1], sign * row[2], edge, MAX_SIGMAS])
        return np.array(planes)
    reach_x = MAX_SIGMAS * _row_norm(right, left, camera.width / fx)
    reach_y = MAX_SIGMAS * _row_norm(bottom, top, camera.height / fy)
    for (row, sign, edge), reach in zip(sides, (reach_x, reach_x, reach_y, reach_y), strict=True):
        normal = [sign * row[k] - edge * z[k] for k in range(3)]
        planes.append([*normal, 0.0, reach])
    return np.array(planes)


def _row_norm(one_side: float, other_side: float, extent: float) -> float:
    """Largest norm of a row of J, times z / f."""
    limit = max(one_side, other_side) + JACOBIAN_MARGIN * 0.5 * extent
    return math.sqrt(1.0 + limit * limit)


def _image_rect(camera: Camera, zoom: float) -> tuple[float, float, float, float]:
    fx, fy = zoom * float(camera.K[0, 0]), zoom * float(camera.K[1, 1])
    cx, cy = float(camera.K[0, 2]), float(camera.K[1, 2])
    margin = _DILATION_REACH_PX
    return (
        (-cx - margin) / fx,
        (camera.width - cx + margin) / fx,
        (-cy - margin) / fy,
        (camera.height - cy + margin) / fy,
    )
