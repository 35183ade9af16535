"""What every builder of the town works with: where parts go, what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

from scene_store.town.parts import Parts, Wall
from scene_store.town.recipe import Recipe, load_recipe
from splat.gaussians import Float32Array

WHITE = np.array([0.93, 0.92, 0.88], np.float32)
IRON = np.array([0.13, 0.14, 0.14], np.float32)


class Finish(IntEnum):
    """How much detail is worth its Gaussians at the spacing that a cell can afford."""

    MASSING = 0  # walls, roofs, plain windows
    PLAIN = 1  # window frames, awnings, cars
    FULL = 2  # sills, reveals, mouldings, balconies, railings

    @classmethod
    def at_spacing(cls, detail: float) -> Finish:
        """The finish for a spacing of ``detail`` times the recipe's."""
        return cls.FULL if detail < 2.6 else cls.PLAIN if detail < 6.0 else cls.MASSING


@dataclass(slots=True)
class Kit:
    """The parts of one cell as they are collected.

    Attributes:
        rng: The cell's own generator: order of calls decides, so builders run in a fixed order.
    """

    rng: np.random.Generator
    finish: Finish
    parts: Parts = field(default_factory=Parts)
    recipe: Recipe = field(default_factory=load_recipe)

    def material(self, name: str) -> int:
        """Index of a material."""
        return self.recipe.material_index(name)

    def color(self, palette: str) -> Float32Array:
        """[3] a colour of a palette."""
        color: Float32Array = self.recipe.pick(palette, self.rng)[0]
        return color

    def colors(self, palette: str, count: int) -> Float32Array:
        """[count, 3] colours of a palette."""
        return self.recipe.pick(palette, self.rng, count)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def solid(
        self,
        material: str,
        box: tuple[float, float, float, float],
        low: float,
        high: float,
        color: ArrayLike,
        top: str | None = None,
    ) -> None:
        """A box on (x0, x1, z0, z1) from ``low`` to ``high``: four walls and a lid."""
        index = self.material(material)
        for side in "wesn":
            wall = Wall.of_box(side, box, high - low, base=low)
            wall.rect(self.parts, index, 0.0, wall.width, 0.0, wall.height, color)
        lid = index if top is None else self.material(top)
        self.parts.floor(lid, *box, color, height=high)
