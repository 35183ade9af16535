"""The town's recipe: its light, materials and palettes, read from ``assets/town.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from splat.errors import SettingsError
from splat.gaussians import Float32Array

RECIPE_PATH = Path(__file__).resolve().parents[2] / "assets" / "town.yaml"


@dataclass(frozen=True, slots=True)
class Material:
    """How a surface is sampled and coloured; fields as documented in the recipe."""

    name: str
    spacing: float
    block: tuple[float, float] = (0.0, 0.0)
    stagger: float = 0.0
    vary: float = 0.0
    speckle: float = 0.0
    stain: float = 0.0
    warm: float = 0.0
    gloss: float = 0.0
    opacity: float = 0.99


class Texture(IntEnum):
    """Columns of ``Recipe.texture``: what varies a surface's colour, material by material."""

    SPECKLE = 0
    STAIN = 1
    VARY = 2
    WARM = 3
    STAGGER = 4
    PER_METER_U = 5  # blocks per metre, along and across; 0 for none
    PER_METER_V = 6
    OPACITY = 7


@dataclass(frozen=True, slots=True, eq=False)
class LightRecipe:
    """Sun and sky. ``to_sun`` is a unit vector; ``sun``, ``sky`` and ``bounce`` are linear
    irradiances; ``zenith``, ``horizon`` and ``glow`` are the sky's displayed colours."""

    to_sun: Float32Array
    sun: Float32Array
    sky: Float32Array
    bounce: Float32Array
    zenith: Float32Array
    horizon: Float32Array
    glow: Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """Everything the recipe file says.

    Attributes:
        materials: In the file's order; a panel refers to one by its index.
        indices: Name of a material → its index.
        texture: [materials, len(Texture)], the numbers of ``materials`` as a table.
        palettes: Name → [n, 3] sRGB colours.
        density: Kind of cell → expected Gaussians per square metre at detail 1.
        leaf_spacing, strut_spacing: Metres between neighbouring Gaussians at detail 1.
    """

    light: LightRecipe
    materials: tuple[Material, ...]
    indices: Mapping[str, int]
    texture: Float32Array
    palettes: Mapping[str, Float32Array]
    density: Mapping[str, float]
    leaf_spacing: float
    strut_spacing: float

    def material_index(self, name: str) -> int:
        """Index of a material by its name."""
        return self.indices[name]

    def pick(self, palette: str, rng: np.random.Generator, count: int = 1) -> Float32Array:
        """[count, 3] colours of a palette, each a little different from the palette's."""
        colors = self.palettes[palette]
        chosen = colors[rng.integers(len(colors), size=count)]
        shade = rng.normal(1.0, 0.045, (count, 1)) + rng.normal(0.0, 0.012, (count, 3))
        return np.clip(chosen * shade, 0.02, 0.98).astype(np.float32)


@cache
def load_recipe() -> Recipe:
    """The recipe that ships with the project.

    Raises:
        SettingsError: If the file is missing or does not hold what it should.
    """
    try:
        return _parse(yaml.safe_load(RECIPE_PATH.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{RECIPE_PATH}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{RECIPE_PATH}: not a town recipe: {error!r}") from error


def _parse(raw: Mapping[str, Any]) -> Recipe:
    light = {name: np.asarray(value, np.float32) for name, value in raw["light"].items()}
    light["to_sun"] = light["to_sun"] / np.float32(np.linalg.norm(light["to_sun"]))
    materials = tuple(_material(name, values) for name, values in raw["materials"].items())
    palettes: dict[str, NDArray[np.float32]] = {
        name: np.asarray(colors, np.float32).reshape(-1, 3)
        for name, colors in raw["palettes"].items()
    }
    return Recipe(
        light=LightRecipe(**light),
        materials=materials,
        indices={material.name: index for index, material in enumerate(materials)},
        texture=np.array([_texture_row(m) for m in materials], np.float32),
        palettes=palettes,
        density={name: float(value) for name, value in raw["density"].items()},
        leaf_spacing=float(raw["leaf_spacing"]),
        strut_spacing=float(raw["strut_spacing"]),
    )


def _material(name: str, values: Mapping[str, Any]) -> Material:
    fields = dict(values)
    if "block" in fields:
        along, across = fields["block"]
        fields["block"] = (float(along), float(across))
    return Material(name=name, **fields)


def _texture_row(m: Material) -> list[float]:
    per_meter = [1.0 / size if size > 0.0 else 0.0 for size in m.block]
    return [m.speckle, m.stain, m.vary, m.warm, m.stagger, *per_meter, m.opacity]
