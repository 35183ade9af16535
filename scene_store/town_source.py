"""The built-in town as a scene to build from: ``town`` or ``town:200e6``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scene_store.sampling import SAMPLES
from scene_store.scene import SceneMeta
from scene_store.town import TOWN_UP, generate_town, plan_town, town_batches
from scene_store.town.plan import MIN_COUNT, check_count
from splat.closing import Closing
from splat.errors import SceneError
from splat.gaussians import Float32Array, Gaussians

TOWN_NAME = "town"
DEFAULT_COUNT = 2_000_000
TOWN_SH_DEGREE = 2

_NAME = re.compile(r"town(?::([0-9][0-9_.]*(?:e[0-9]+)?)([kmg]?))?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_MADE_A_SECOND = 250_000  # Gaussians, by one core
_EAVES = 10.0  # metres: most of a town is between the ground and here


def town_count(name: str) -> int | None:
    """The Gaussians of ``town`` or ``town:N``; None for any other name.

    Raises:
        SceneError: If it begins like a town's and goes on like none.
    """
    if name != TOWN_NAME and not name.startswith(TOWN_NAME + ":"):
        return None
    match = _NAME.fullmatch(name)
    try:
        number = float(match[1].replace("_", "")) * _FACTORS[match[2].lower()] if match else 0.0
    except (AttributeError, TypeError):  # just "town"
        return DEFAULT_COUNT
    except ValueError:
        number = 0.0
    if number < 1 or number != int(number):
        raise SceneError(f"{name}: write a town's size as in town:2M or town:200e6")
    return int(number)


class TownSource(Closing):
    """A ``SceneSource`` of any number of Gaussians, made while it is read.

    Raises:
        SceneError: If there is no town of that size.
    """

    def __init__(self, count: int, sh_degree: int = TOWN_SH_DEGREE) -> None:
        try:
            check_count(count)
        except ValueError as error:
            raise SceneError(f"{TOWN_NAME}: {error}") from None
        self.meta = SceneMeta(
            path=Path(f"{TOWN_NAME}:{count}"),
            format_name="procedural",
            count=count,
            sh_degree=sh_degree,
            up=TOWN_UP,
        )

    def batches(self, max_count: int) -> Iterator[Gaussians]:
        """All Gaussians, in parts."""
        return self.batches_from(0, max_count)

    def batches_from(self, start: int, max_count: int) -> Iterator[Gaussians]:
        """See ``sampling.Skippable``."""
        degree = self.meta.sh_degree
        for batch in town_batches(self.meta.count, sh_degree=degree, start=start):
            for at in range(0, len(batch), max_count):
                yield batch[at : at + max_count]

    def sample_means(self) -> Float32Array:
        """Points of the town's cells, as many of each as its share; the backdrop is left out."""
        quotas = plan_town(self.meta.count).quotas  # a second at 200 million
        total = sum(quota.count for quota in quotas)
        rng = np.random.default_rng(0)
        parts = []
        for quota in quotas:
            cell, count = quota.cell, -(-SAMPLES * quota.count // total)
            low, high = (cell.x0, -_EAVES, cell.z0), (cell.x1, 0.0, cell.z1)
            parts.append(rng.uniform(low, high, (count, 3)).astype(np.float32))
        return np.concatenate(parts)

    def sketch(self, count: int, time_s: float) -> Gaussians:
        """See ``sketch.Sketchable``: a smaller town, which has the same centre."""
        fewer = min(count, int(time_s * _MADE_A_SECOND), self.meta.count)
        return generate_town(max(MIN_COUNT, fewer), sh_degree=self.meta.sh_degree, workers=1)

    def close(self) -> None:
        """Nothing is held."""
