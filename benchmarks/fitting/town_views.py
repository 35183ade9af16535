"""Pictures of a block of the town, to fit models to: cameras, colours, alphas and depths.

The block stands in the town's own world: metres, y down, nothing around it. Models that want it
elsewhere carry the cameras over (``TownBlock.center``, ``TownBlock.radius``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rendering.base import Outputs, RasterSettings
from rendering.native.cpu import NativeRasterizer
from scene_store.town import TOWN_UP, generate_town
from scene_store.town.plan import PITCH_X, bend
from splat.camera import Camera
from splat.gaussians import Gaussians

Float32Array = NDArray[np.float32]
Vector3 = tuple[float, float, float]

TOWN_COUNT = 150_000
HALF_SIDE = 30.0  # metres: the block to the middle of its streets
TOP, BOTTOM = -28.0, 2.0  # of the block, y down
LARGEST = 5.0  # metres: scales of what is no house but hills or sky
FOV_Y_RAD = math.radians(45.0)
LOWEST_RAD, HIGHEST_RAD = math.radians(12.0), math.radians(65.0)  # elevations of cameras
UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # y down to z up
GOLDEN_ANGLE_RAD = math.pi * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True, slots=True, eq=False)
class TownBlock:
    """Houses around a court, with their streets.

    Attributes:
        gaussians: Those whose centres lie in the box.
        lo, hi: [3] float64, the box, world coordinates.
        up: Of the world.
    """

    gaussians: Gaussians
    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    up: Vector3 = TOWN_UP

    @property
    def center(self) -> NDArray[np.float64]:
        """[3] float64, the middle of the box."""
        return 0.5 * (self.lo + self.hi)

    @property
    def radius(self) -> float:
        """Of the ball around the box."""
        return float(np.linalg.norm(self.hi - self.lo)) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """V pictures of one size.

    Attributes:
        cameras: V pinhole cameras.
        images: [V, H, W, 3] float32 in [0, 1], over ``background``.
        alphas: [V, H, W] float32.
        depths: [V, H, W] float32, expected depth z; 0 where alpha is 0.
        background: RGB.
    """

    cameras: tuple[Camera, ...]
    images: Float32Array
    alphas: Float32Array
    depths: Float32Array
    background: Vector3

    def moved(self, center: NDArray[np.float64], unit: float) -> Views:
        """The same pictures in a world with its origin at ``center``, of which a unit is ``unit``
        metres, z up."""
        return replace(
            self, cameras=tuple(moved_camera(camera, center, unit) for camera in self.cameras)
        )


def moved_camera(camera: Camera, center: NDArray[np.float64], unit: float) -> Camera:
    """A camera of the town in the world of ``Views.moved``."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = camera.viewmat[:3, :3] @ UPRIGHT.T
    viewmat[:3, 3] = (camera.viewmat[:3, :3] @ center + camera.viewmat[:3, 3]) / unit
    return replace(camera, viewmat=viewmat, near=camera.near / unit)


@cache
def town_block(count: int = TOWN_COUNT, sh_degree: int = 1) -> TownBlock:
    """The block east of the market square, of a town of ``count`` Gaussians."""
    town = generate_town(count, sh_degree=sh_degree, workers=1)
    x, z = bend(np.array([PITCH_X], np.float32), np.zeros(1, np.float32))
    lo = np.array([x[0] - HALF_SIDE, TOP, z[0] - HALF_SIDE], np.float64)
    hi = np.array([x[0] + HALF_SIDE, BOTTOM, z[0] + HALF_SIDE], np.float64)
    inside = ((town.means > lo) & (town.means < hi)).all(axis=1)
    return TownBlock(town[inside & (town.scales.max(axis=1) < LARGEST)], lo, hi)


def block_cameras(
    block: TownBlock, count: int, width: int, height: int, *, seed: int = 0, distance: float = 1.9
) -> tuple[Camera, ...]:
    """Cameras all around and above a block, looking at its middle.

    Args:
        seed: Turns the spiral on which they stand: other seeds, other places.
        distance: From the middle, in radii of the block.
    """
    turn = float(np.random.default_rng(seed).uniform(0, 2 * math.pi))
    cameras = []
    for number in range(count):
        azimuth = turn + number * GOLDEN_ANGLE_RAD
        elevation = LOWEST_RAD + (HIGHEST_RAD - LOWEST_RAD) * (number + 0.5) / count
        level = math.cos(elevation)
        toward = (math.cos(azimuth) * level, -math.sin(elevation), math.sin(azimuth) * level)
        cameras.append(
            Camera.look_at(
                block.center + distance * block.radius * np.array(toward),
                block.center,
                block.up,
                fov_y_rad=FOV_Y_RAD,
                width=width,
                height=height,
                near=0.1,
            )
        )
    return tuple(cameras)


@cache
def town_views(
    count: int,
    width: int,
    height: int,
    *,
    seed: int = 0,
    distance: float = 1.9,
    background: Vector3 = (1.0, 1.0, 1.0),
    town_count: int = TOWN_COUNT,
) -> Views:
    """``count`` pictures of the block from all around (``block_cameras``), drawn once a process."""
    block = town_block(town_count)
    cameras = block_cameras(block, count, width, height, seed=seed, distance=distance)
    native = NativeRasterizer()
    scene = native.prepare(block.gaussians)
    settings = RasterSettings(background=background, outputs=Outputs.COLOR | Outputs.DEPTH)
    drawn = [native.render(scene, camera, settings) for camera in cameras]
    assert all(image.color is not None and image.depth is not None for image in drawn)
    return Views(
        cameras=cameras,
        images=np.clip(np.stack([image.color for image in drawn if image.color is not None]), 0, 1),
        alphas=np.stack([image.alpha for image in drawn]),
        depths=np.stack([image.depth for image in drawn if image.depth is not None]),
        background=background,
    )
