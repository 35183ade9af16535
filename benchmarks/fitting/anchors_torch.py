"""Scaffold-GS and Octree-GS in plain torch: the oracle for readers and engines, and what is fitted.

Written from the papers (Lu et al. 2024, "Scaffold-GS", sections 3.2 and 3.3; Ren et al. 2024,
"Octree-GS", section 3.2) and from what their trainers compute. It shares no code with
``scene_store`` or ``rendering.models``. It is here because benchmarks may not import tests; tests
import it through ``tests.models.anchors_torch``, which adds tiny models. Files are written by
``benchmarks.fitting.anchor_files``, models fitted by ``benchmarks.fitting.anchor_fit``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEVEL_RULES = ("floor", "round", "ceil", "progressive")


@dataclass(frozen=True, slots=True)
class OctreeConfig:
    """What Octree-GS adds; names as in its ``arguments``.

    Attributes:
        levels: How many; level 0 is the coarsest.
        voxel_size: Side of the voxels of level 0, world units.
        standard_dist: Distance at which level 0 suffices, world units.
        dist2level: One of ``LEVEL_RULES``.
    """

    levels: int
    voxel_size: float
    standard_dist: float
    fork: int = 2
    dist2level: str = "round"


@dataclass(frozen=True, slots=True)
class AnchorConfig:
    """The architecture of a model; names and defaults as in the trainers' ``arguments``.

    Attributes:
        appearance_dim: Width of a training camera's embedding; 0 for none.
        cameras: Training cameras, with an embedding each.
        add_level: Whether networks are told an anchor's level (Octree-GS alone).
        octree: None for Scaffold-GS.
    """

    feat_dim: int = 32
    n_offsets: int = 10
    use_feat_bank: bool = False
    appearance_dim: int = 0
    cameras: int = 1
    add_opacity_dist: bool = False
    add_cov_dist: bool = False
    add_color_dist: bool = False
    add_level: bool = False
    octree: OctreeConfig | None = None

    def inputs(self, dist: bool) -> int:
        """Values that a network takes, the appearance apart: [feature, direction, (d), (level)]."""
        return self.feat_dim + 3 + dist + self.add_level

    @property
    def bank_inputs(self) -> int:
        """[direction, distance] of Scaffold-GS; [direction, (level)] of Octree-GS."""
        return 4 if self.octree is None else 3 + self.add_level


@dataclass(frozen=True, slots=True, eq=False)
class DecodedGaussians:
    """The Gaussians of a view.

    Attributes:
        means: [M, 3] world.
        quats: [M, 4] wxyz, unit length.
        scales: [M, 3] standard deviations.
        opacities: [M] above 0.
        colors: [M, 3] as displayed.
        anchors: [M] int64, whose each is.
        slots: [M] int64, which of its k.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    anchors: Tensor
    slots: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NeuralValues:
    """What the networks say of N anchors, before anything is left out.

    Attributes:
        opacities: [N, k], in (-1, 1), the fraction of a level to come not yet applied.
        colors: [N, k, 3].
        scales: [N, k, 3] standard deviations, world units.
        quats: [N, k, 4] wxyz, unit length.
    """

    opacities: Tensor
    colors: Tensor
    scales: Tensor
    quats: Tensor


class Embedding(nn.Module):
    """A row for each training camera; a module around torch's, as the trainers have it, so that
    the parameter is called ``embedding.weight``."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(in_dim, out_dim)

    def forward(self, in_tensor: Tensor) -> Tensor:
        rows: Tensor = self.embedding(in_tensor)
        return rows


# Files name the class of what was traced: they are to say what the trainers' say.
Embedding.__module__ = "scene.embedding"


class AnchorNet(nn.Module):
    """A Scaffold-GS or Octree-GS scene.

    Args:
        config: Its architecture.
        anchors: [N, 3] positions, float32.
        levels: [N] whole numbers, if ``config.octree``.

    Parameters carry the trainers' names without the underscore: ``anchor`` [N, 3], ``offset``
    [N, k, 3] in units of exp(scaling[0:3]), ``anchor_feat`` [N, F], ``scaling`` [N, 6] logarithms.
    """

    level: Tensor
    extra_level: Tensor

    def __init__(self, config: AnchorConfig, anchors: Tensor, levels: Tensor | None = None) -> None:
        super().__init__()
        if (levels is None) != (config.octree is None):
            raise ValueError("an octree has a level for each anchor, and nothing else has")
        count, k = len(anchors), config.n_offsets
        self.config = config
        self.anchor = nn.Parameter(anchors.float().clone(), requires_grad=False)
        self.offset = nn.Parameter(torch.zeros(count, k, 3))
        self.anchor_feat = nn.Parameter(torch.zeros(count, config.feat_dim))
        self.scaling = nn.Parameter(torch.zeros(count, 6))
        self.register_buffer("level", torch.zeros(count) if levels is None else levels.float())
        self.register_buffer("extra_level", torch.zeros(count))
        hidden = config.feat_dim
        self.mlp_opacity = nn.Sequential(
            nn.Linear(config.inputs(config.add_opacity_dist), hidden),
            nn.ReLU(True),
            nn.Linear(hidden, k),
            nn.Tanh(),
        )
        self.mlp_cov = nn.Sequential(
            nn.Linear(config.inputs(config.add_cov_dist), hidden),
            nn.ReLU(True),
            nn.Linear(hidden, 7 * k),
        )
        self.mlp_color = nn.Sequential(
            nn.Linear(config.inputs(config.add_color_dist) + config.appearance_dim, hidden),
            nn.ReLU(True),
            nn.Linear(hidden, 3 * k),
            nn.Sigmoid(),
        )
        self.mlp_feature_bank: nn.Sequential | None = None
        if config.use_feat_bank:
            self.mlp_feature_bank = nn.Sequential(
                nn.Linear(config.bank_inputs, hidden),
                nn.ReLU(True),
                nn.Linear(hidden, 3),
                nn.Softmax(dim=1),
            )
        self.embedding_appearance: Embedding | None = None
        if config.appearance_dim:
            self.embedding_appearance = Embedding(config.cameras, config.appearance_dim)

    def level_of_detail(self, center: Tensor, res_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Which anchors are drawn from ``center`` [3], and at which part of their opacity.

        Octree-GS measures the distance to the middle of an anchor's voxel, half a side from the
        anchor along each axis, and rounds ``log_fork(standard_dist / (distance · res_scale)) +
        extra_level``. Progressively, the anchors of the level that is reached next are drawn too,
        as opaque as the fraction says.

        Returns:
            [N] bool, [N] float.
        """
        octree = self.config.octree
        if octree is None:
            everything = torch.ones_like(self.level)
            return everything.bool(), everything
        middle = self.anchor + (octree.voxel_size / 2 / octree.fork**self.level)[:, None]
        distance = (middle - center).square().sum(1).sqrt() * res_scale
        wanted = torch.log2(octree.standard_dist / distance) / math.log2(octree.fork)
        wanted = wanted + self.extra_level
        finest = octree.levels - 1
        part = torch.ones_like(wanted)
        if octree.dist2level == "progressive":
            wanted = (wanted + 1.0).clamp(0.9999, finest + 0.9999)
            reached = wanted.floor()
            part = torch.where(self.level == reached, wanted.frac(), part)
        else:
            rule = {"floor": torch.floor, "round": torch.round, "ceil": torch.ceil}
            reached = rule[octree.dist2level](wanted).clamp(0, finest)
        return self.level <= reached, part

    def evaluate(
        self, rows: Tensor, center: Tensor, appearance: int | Tensor | None = None
    ) -> NeuralValues:
        """The networks' values of some anchors.

        Args:
            rows: [n] int64, which.
            center: [3] the camera's, world units, or [n, 3] one for each.
            appearance: Whose embedding: a training camera's number, or a vector; needed if the
                model has embeddings.
        """
        config = self.config
        way = self.anchor[rows] - center
        distance = way.norm(dim=1, keepdim=True)
        view = way / distance
        level = [self.level[rows, None]] if config.add_level else []
        feature = self._feature(self.anchor_feat[rows], view, distance, level)

        def told(with_distance: bool) -> list[Tensor]:
            return [feature, view, *([distance] if with_distance else []), *level]

        opacities = self.mlp_opacity(torch.cat(told(config.add_opacity_dist), 1))
        colors = self.mlp_color(
            torch.cat([*told(config.add_color_dist), *self._appearance(len(rows), appearance)], 1)
        )
        shape = self.mlp_cov(torch.cat(told(config.add_cov_dist), 1)).view(len(rows), -1, 7)
        size = self.scaling[rows, None, 3:].exp()
        return NeuralValues(
            opacities=opacities,
            colors=colors.view(len(rows), -1, 3),
            scales=size * torch.sigmoid(shape[..., :3]),
            quats=nn.functional.normalize(shape[..., 3:], dim=-1),
        )

    def decode(
        self,
        center: Tensor,
        appearance: int | Tensor | None = None,
        res_scale: float = 1.0,
        rows: Tensor | None = None,
    ) -> DecodedGaussians:
        """The Gaussians of a view, by anchor and slot.

        Args:
            center: [3] the camera's, world units.
            appearance: See ``evaluate``.
            res_scale: See ``level_of_detail``.
            rows: [n] int64, the only anchors to look at; None for all.
        """
        drawn, part = self.level_of_detail(center, res_scale)
        rows = torch.arange(len(self.anchor)) if rows is None else rows
        rows = rows[drawn[rows]]
        values = self.evaluate(rows, center, appearance)
        opacities = values.opacities * part[rows, None]
        at, slots = (opacities > 0).nonzero(as_tuple=True)
        anchors = rows[at]
        return DecodedGaussians(
            means=self.anchor[anchors]
            + self.offset[anchors, slots] * self.scaling[anchors, :3].exp(),
            quats=values.quats[at, slots],
            scales=values.scales[at, slots],
            opacities=opacities[at, slots],
            colors=values.colors[at, slots],
            anchors=anchors,
            slots=slots,
        )

    def _feature(
        self, feature: Tensor, view: Tensor, distance: Tensor, level: list[Tensor]
    ) -> Tensor:
        """The feature blended from three resolutions of itself (Scaffold-GS, equation 4)."""
        if self.mlp_feature_bank is None:
            return feature
        told = [view, distance] if self.config.octree is None else [view, *level]
        weights = self.mlp_feature_bank(torch.cat(told, 1))
        blended: Tensor = (
            weights[:, 0:1] * feature[:, ::4].repeat(1, 4)
            + weights[:, 1:2] * feature[:, ::2].repeat(1, 2)
            + weights[:, 2:3] * feature
        )
        return blended

    def _appearance(self, count: int, appearance: int | Tensor | None) -> list[Tensor]:
        if self.embedding_appearance is None:
            return []
        if appearance is None:
            raise ValueError("the model has embeddings: say which appearance is wanted")
        if isinstance(appearance, Tensor):
            return [appearance.expand(count, -1)]
        return [self.embedding_appearance.embedding.weight[appearance].expand(count, -1)]
