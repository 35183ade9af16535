"""Scenes of neural anchors: what Scaffold-GS and Octree-GS train (Lu et al. 2024, Ren et al. 2024).

An anchor stands for k Gaussians. Their opacities, colours, scales and rotations are decoded from
the anchor's feature and from where it is seen from, by three small networks that all anchors
share; their means are fixed offsets from the anchor's. With c the camera's centre, for an anchor
at p with feature f::

    v = (p − c) / d,  d = |p − c|
    f' = f, or with a feature bank, w = softmax(bank(b)); b is [v, d], of an octree [v, (level)]:
         f' = w0 · repeat(f[::4], 4 times whole) + w1 · repeat(f[::2], twice whole) + w2 · f
    x = [f', v, (d), (level)]              d and the level for networks that were so trained
    opacity = tanh(opacity_mlp(x))             [k]; those of 0 and less are not drawn
    color   = sigmoid(color_mlp([x, appearance]))          [k, 3], displayed as it is
    s, q    = covariance_mlp(x)[:3], [3:7]                 [k, 7]
    scale = exp(scales[3:6]) · sigmoid(s),  quat = q / |q| (wxyz)
    mean = p + offset · exp(scales[0:3])

``repeat(f[::4], 4 times whole)`` is torch's ``f[:, ::4].repeat(1, 4)``: the short vector four
times over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from splat.networks import Mlp

Float32Array = NDArray[np.float32]

MAX_LEVELS = 32
MAX_NUMBER = 1e30  # what float32 holds, with room for products


class LevelRule(Enum):
    """How a fractional level becomes a whole one (Octree-GS ``dist2level``; halves round to even).

    PROGRESSIVE blends: with ``x = clamp(level + 1, 0.9999, levels − 0.0001)`` the anchors of level
    ``floor(x)`` and coarser ones are drawn, and of those of just that level the opacities are
    multiplied by ``x − floor(x)``.
    """

    FLOOR = "floor"
    ROUND = "round"
    CEIL = "ceil"
    PROGRESSIVE = "progressive"


@dataclass(frozen=True, slots=True)
class OctreeLevels:
    """Which levels are drawn at which distance (Octree-GS, section 3.2).

    At distance d an anchor is drawn if its level is at most
    ``clamp(rule(log(standard_dist / (d · res_scale)) / log(fork) + extra_level), 0, levels − 1)``.
    This d alone is from the camera to ``mean + voxel_size / 2 / fork^level`` (added to x, y and z);
    the networks' is to the mean.

    Attributes:
        levels: How many there are; 0 is the coarsest.
        standard_dist: Distance at which level 0 suffices, world units.
        fork: By how much the voxels of a level are smaller than those of the one before.
        rule: What becomes of fractions.
        voxel_size: Of level 0, world units.
        res_scale: Larger draws coarser.

    Raises:
        ValueError: If a number is none that an octree can have.
    """

    levels: int
    standard_dist: float
    fork: float = 2.0
    rule: LevelRule = LevelRule.ROUND
    voxel_size: float = 0.0
    res_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MAX_LEVELS:
            raise ValueError(f"an octree of {self.levels} levels; 1 to {MAX_LEVELS} are drawn")
        # The largest voxel's edge may be any: it is 0 where it is not known.
        for name, value, least in (
            ("standard distance", self.standard_dist, 0.0),
            ("fork", self.fork, 1.0),
            ("scale of distances", self.res_scale, 0.0),
        ):
            if not least < value <= MAX_NUMBER:
                raise ValueError(f"an octree whose {name} is {value:g}")
        if not 0 <= self.voxel_size <= MAX_NUMBER:
            raise ValueError(f"an octree whose voxels are {self.voxel_size:g} wide")


@dataclass(frozen=True, slots=True)
class AnchorLayout:
    """Where what is in a row of float32 (``splat.rows.Rows``) that is an anchor, in this order.

    mean [3] · scales [6], logarithms: of the offsets, then of the Gaussians · offsets [k, 3] ·
    feature [F] · level, extra_level [2] if there are levels.
    """

    offsets: int
    features: int
    has_levels: bool = False

    @property
    def means(self) -> slice:
        return slice(0, 3)

    @property
    def scales(self) -> slice:
        return slice(3, 9)

    @property
    def offset_values(self) -> slice:
        return slice(9, 9 + 3 * self.offsets)

    @property
    def feature_values(self) -> slice:
        start = 9 + 3 * self.offsets
        return slice(start, start + self.features)

    @property
    def level_values(self) -> slice:
        start = 9 + 3 * self.offsets + self.features
        return slice(start, start + 2 * self.has_levels)

    @property
    def width(self) -> int:
        """Values of a row."""
        return 9 + 3 * self.offsets + self.features + 2 * self.has_levels


@dataclass(frozen=True, slots=True, eq=False)
class AnchorModel:
    """What all anchors of a scene share: to be drawn, ``Rows`` of ``layout`` need it.

    Attributes:
        layout: Of an anchor.
        opacity_mlp: To k values, tanh.
        color_mlp: To 3 k values, sigmoid.
        covariance_mlp: To 7 k values.
        opacity_dist, color_dist, covariance_dist: Whether the network's input has the distance.
        level_input: Whether the networks' input has the level (Octree-GS ``add_level``), after the
            distance.
        bank_mlp: Of the feature bank, to 3 values, softmax, from direction and distance, or of an
            octree from the direction, and the level if ``level_input``; None without.
        appearances: [A, E] an embedding for each training camera; None without.
        levels: Of an octree; None without, or to draw anchors of all levels everywhere.
        name: Of the kind, for people.

    Raises:
        ValueError: If a network's width does not fit, or levels are needed that anchors lack.
    """

    layout: AnchorLayout
    opacity_mlp: Mlp
    color_mlp: Mlp
    covariance_mlp: Mlp
    opacity_dist: bool = False
    color_dist: bool = False
    covariance_dist: bool = False
    level_input: bool = False
    bank_mlp: Mlp | None = None
    appearances: Float32Array | None = None
    levels: OctreeLevels | None = None
    name: str = "Scaffold-GS"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        k = self.layout.offsets
        if k < 1 or self.layout.features < 1:
            raise ValueError(f"anchors of {k} offsets and {self.layout.features} features")
        if not self.layout.has_levels and (self.levels is not None or self.level_input):
            raise ValueError("an octree, or networks that take levels, of anchors that have none")
        appearance = 0 if self.appearances is None else int(self.appearances.shape[1])
        for name, mlp, dist, more, outputs in (
            ("opacity", self.opacity_mlp, self.opacity_dist, 0, k),
            ("color", self.color_mlp, self.color_dist, appearance, 3 * k),
            ("covariance", self.covariance_mlp, self.covariance_dist, 0, 7 * k),
        ):
            inputs = self.layout.features + 3 + dist + self.level_input + more
            if (mlp.inputs, mlp.outputs) != (inputs, outputs):
                raise ValueError(
                    f"the {name} network takes {mlp.inputs} values and gives {mlp.outputs}; "
                    f"{inputs} and {outputs} were expected"
                )
        bank = 3 + (self.level_input if self.layout.has_levels else 1)
        if self.bank_mlp is not None and (self.bank_mlp.inputs, self.bank_mlp.outputs) != (bank, 3):
            raise ValueError(f"the feature bank's network must take {bank} values and give 3")
