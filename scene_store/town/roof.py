"""The frame that roofs are described in: along the ridge, across it, and up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scene_store.town.site import House
from splat.gaussians import Float32Array

RoofPoint = tuple[float, float, float]  # metres along the ridge, across it, above the ground


def roof_size(house: House) -> tuple[float, float]:
    """(length along the ridge, depth across it) of a house, metres."""
    x0, x1, z0, z1 = house.box
    return (x1 - x0, z1 - z0) if house.ridge_along == "x" else (z1 - z0, x1 - x0)


def roof_points(house: House, points: Sequence[RoofPoint]) -> Float32Array:
    """[n, 3] plan points with y down, of points in the roof's frame.

    The frame's ``along × across`` points up, so a face listed counterclockwise as seen from
    outside (base left, base right, top right, top left) faces outwards.
    """
    x0, x1, z0, _ = house.box
    along, across, height = np.asarray(points, np.float32).T
    if house.ridge_along == "x":
        return np.stack([x0 + along, -height, z0 + across], axis=1)
    return np.stack([x1 - across, -height, z0 + along], axis=1)
