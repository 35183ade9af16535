"""Models of neural anchors as large as trained ones, with everything in them at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from splat.anchors import AnchorLayout, AnchorModel, LevelRule, OctreeLevels
from splat.networks import Activation, Mlp
from splat.rows import Rows

Float32Array = NDArray[np.float32]

# As the trainers of Scaffold-GS and Octree-GS have them by default.
FEATURES, OFFSETS, HIDDEN = 32, 10, 32
SIDE = 100.0  # of the cube about the origin in which anchors lie, world units
OUTSIDE = np.array([3.0, 2.0, -70.0])  # of it, whence they are seen
# Levels that blend: no rounding decides whether an anchor is seen.
LEVELS = OctreeLevels(levels=4, standard_dist=128.0, rule=LevelRule.PROGRESSIVE, voxel_size=8.0)


def scaffold(count: int) -> tuple[AnchorModel, Rows]:
    """Scaffold-GS of so many anchors: the networks, and the rows."""
    random = default_rng(1)
    layout = AnchorLayout(OFFSETS, FEATURES)
    return AnchorModel(layout, *_heads(random)), Rows(_columns(random, layout, count))


def octree(count: int) -> tuple[AnchorModel, Rows]:
    """Octree-GS of so many, on all levels alike, with a feature bank."""
    random = default_rng(2)
    layout = AnchorLayout(OFFSETS, FEATURES, has_levels=True)
    bank = _mlp(random, 3, 3, Activation.SOFTMAX)
    data = _columns(random, layout, count)
    extra = np.abs(data[:, layout.level_values][:, 1])
    data[:, layout.level_values] = np.stack([np.arange(count) % LEVELS.levels, 0.3 * extra], axis=1)
    model = AnchorModel(layout, *_heads(random), bank_mlp=bank, levels=LEVELS, name="Octree-GS")
    return model, Rows(data)


MODELS: dict[str, Callable[[int], tuple[AnchorModel, Rows]]] = {
    "Scaffold-GS": scaffold,
    "Octree-GS with a bank": octree,
}


def _heads(random: Generator) -> tuple[Mlp, Mlp, Mlp]:
    """Of opacities, colours, shapes."""
    inputs = FEATURES + 3
    return (
        _mlp(random, inputs, OFFSETS, Activation.TANH),
        _mlp(random, inputs, 3 * OFFSETS, Activation.SIGMOID),
        _mlp(random, inputs, 7 * OFFSETS, Activation.NONE),
    )


def _mlp(random: Generator, inputs: int, outputs: int, last: Activation) -> Mlp:
    """One hidden layer; what it gives is about as large as what it takes."""
    weights, biases = [], []
    for before, after in ((inputs, HIDDEN), (HIDDEN, outputs)):
        weights.append(_normal(random, after, before) / np.float32(before**0.5))
        biases.append(0.5 * _normal(random, after))
    return Mlp.of(weights, biases, last=last)


def _columns(random: Generator, layout: AnchorLayout, count: int) -> Float32Array:
    """[count, W] rows of a layout; what levels are is left to the caller."""
    data = _normal(random, count, layout.width)
    data[:, layout.means] = SIDE * (random.random((count, 3), np.float32) - 0.5)
    data[:, layout.scales] = 0.3 * data[:, layout.scales] - 1.5
    return data


def _normal(random: Generator, *shape: int) -> Float32Array:
    return random.standard_normal(shape, np.float32)
