"""Places worth looking from: where the viewer starts, what benchmarks and pictures show.

They are given in plan coordinates and carried into the world, so they follow the streets;
the streets that they use are the same for every seed and size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_store.town.plan import bend

Vector3 = tuple[float, float, float]

TOWN_UP: Vector3 = (0.0, -1.0, 0.0)
EYE_HEIGHT = 1.7


@dataclass(frozen=True, slots=True)
class View:
    """A pinhole camera's place: world coordinates, vertical field of view in degrees."""

    position: Vector3
    target: Vector3
    fov_y_deg: float = 55.0
    up: Vector3 = TOWN_UP


@dataclass(frozen=True, slots=True)
class Orbit:
    """A circle in the air around ``center``, looking at it."""

    center: Vector3
    radius: float
    height: float
    fov_y_deg: float = 50.0


@dataclass(frozen=True, slots=True)
class Walk:
    """A straight line at eye height, free of obstacles, looking ahead."""

    start: Vector3
    end: Vector3
    fov_y_deg: float = 60.0


@dataclass(frozen=True, slots=True)
class TownViews:
    """The views by name.

    Attributes:
        start: Where the viewer begins.
        picture: What the README shows.
        aerial, walk: The benchmarks' camera paths.
    """

    start: View
    picture: View
    quay: View
    street: View
    river: View
    square: View
    overview: View
    aerial: Orbit
    walk: Walk


def _at(x: float, height: float, z: float) -> Vector3:
    """World position of a plan point at a height in metres."""
    east, forward = bend(np.array([x], np.float32), np.array([z], np.float32))
    return float(east[0]), -height, float(forward[0])


_OVER_THE_RIVER = View(_at(46.0, 19.0, -91.0), _at(-14.0, 5.0, 4.0), 52.0)

TOWN_VIEWS = TownViews(
    start=_OVER_THE_RIVER,
    picture=_OVER_THE_RIVER,
    quay=View(_at(26.0, 3.2, -71.0), _at(-16.0, 8.0, 12.0), 50.0),
    street=View(_at(-31.0, EYE_HEIGHT, -14.0), _at(-26.5, 7.0, 40.0), 60.0),
    river=View(_at(20.0, 0.2, -64.0), _at(-60.0, 3.0, -58.0), 55.0),
    square=View(_at(-12.0, EYE_HEIGHT, -21.0), _at(6.0, 9.0, 34.0), 60.0),
    overview=View(_at(60.0, 62.0, -170.0), _at(0.0, 8.0, 0.0), 50.0),
    aerial=Orbit(_at(0.0, 5.0, 0.0), radius=190.0, height=85.0),
    walk=Walk(_at(-32.0, EYE_HEIGHT, -24.0), _at(-32.0, EYE_HEIGHT, 26.0)),
)
TOWN_START_VIEW = TOWN_VIEWS.start
