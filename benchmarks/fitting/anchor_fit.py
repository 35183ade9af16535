"""Anchors fitted to Gaussians: networks learn to say what a scene's own Gaussians are.

A scene of Gaussians is known better than its pictures, so what an original trainer finds by
rendering for hours is found here by regression in seconds to minutes: anchors are the voxels that
Gaussians lie in, at most k in each (finer voxels where there are more, as growing does it); offsets
follow from the means; features and networks are fitted so that opacities, covariances and the
colours seen from the training cameras are those of the Gaussians.

An octree's levels are filled from the coarsest: a voxel takes the k Gaussians that cover most, and
leaves the others to finer voxels. Those of a coarse level are larger from where finer ones are not
drawn, so that they cover what all together do; so networks must be told the distance
(``add_cov_dist``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.fitting.anchors_torch import AnchorConfig, AnchorNet, NeuralValues
from benchmarks.fitting.steps import each_step
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis

NONE = -1  # no Gaussian in a slot
SIZE_MARGIN = 1.3  # of the largest scale of an anchor's over the largest that is wanted
LARGEST_GROWTH = 3.0  # of a coarse level's scales
EMPTY_OPACITY = -0.3  # at most, of a slot without a Gaussian
MAX_HALVINGS = 24


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How long and how fast; the rates are about the original trainers'."""

    steps: int = 1500
    batch: int = 4096
    feature_rate: float = 0.01
    network_rate: float = 0.004
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which anchor has which Gaussians.

    Attributes:
        anchors: [N, 3] float32.
        members: [N, k] int64 rows of Gaussians, those that cover most first; ``NONE`` where there
            are fewer.
        levels: [N] int64; zeros without an octree.
    """

    anchors: NDArray[np.float32]
    members: NDArray[np.int64]
    levels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the networks should say; N anchors of k slots.

    Attributes:
        used: [N, k] bool.
        weights: [N, k], of mean 1 where used: how much a Gaussian covers.
        means: [N, k, 3]; those of an anchor where nothing is.
        opacities: [N, k].
        roots: [N, k, 3, 3] of the covariances.
        sh: [N, k, B, 3].
        growth: [N, L] by how much scales grow where levels up to each are drawn; [N, 1] ones
            without an octree.
    """

    used: Tensor
    weights: Tensor
    means: Tensor
    opacities: Tensor
    roots: Tensor
    sh: Tensor
    growth: Tensor


def areas(gaussians: Gaussians) -> NDArray[np.float64]:
    """[N] what each Gaussian covers: opacity times its two largest scales."""
    largest = np.sort(gaussians.scales.astype(np.float64), axis=1)[:, 1:]
    covered: NDArray[np.float64] = gaussians.opacities * largest.prod(axis=1)
    return covered


def place_in_voxels(gaussians: Gaussians, k: int, voxel_size: float) -> Placement:
    """Voxels halved until none holds more than k."""
    order = np.argsort(-areas(gaussians), kind="stable")
    anchors, members = [], []
    for halving in range(MAX_HALVINGS + 1):
        size = voxel_size / 2**halving
        voxels, of_each, counts = _voxels(gaussians.means[order], size)
        fits = (counts <= k)[of_each] | (halving == MAX_HALVINGS)
        taken = _in_slots(order[fits], of_each[fits], len(voxels), k)
        some = taken[:, 0] != NONE
        anchors.append(voxels[some] * size)
        members.append(taken[some])
        order = order[~fits]
        if not len(order):
            break
    placed = np.concatenate(anchors).astype(np.float32)
    return Placement(placed, np.concatenate(members), np.zeros(len(placed), np.int64))


def place_in_octree(gaussians: Gaussians, config: AnchorConfig) -> Placement:
    """A voxel of each level has the k that cover most of what coarser ones left; the finest level
    has as many anchors in a voxel as are needed."""
    octree, k = config.octree, config.n_offsets
    assert octree is not None
    order = np.argsort(-areas(gaussians), kind="stable")
    anchors, members, levels = [], [], []
    level = 0
    while len(order):
        size = octree.voxel_size / octree.fork**level
        voxels, of_each, _ = _voxels(gaussians.means[order], size)
        taken = _in_slots(order, of_each, len(voxels), k)
        anchors.append(voxels * size)
        members.append(taken)
        levels.append(np.full(len(voxels), level))
        order = order[~np.isin(order, taken)]
        level = min(level + 1, octree.levels - 1)
    return Placement(
        np.concatenate(anchors).astype(np.float32),
        np.concatenate(members),
        np.concatenate(levels),
    )


def fit_anchors(
    gaussians: Gaussians,
    config: AnchorConfig,
    centers: NDArray[np.floating],
    voxel_size: float,
    settings: FitSettings = FitSettings(),
) -> AnchorNet:
    """A model of a scene.

    Args:
        gaussians: The scene.
        config: The model's architecture.
        centers: [C, 3] of the training cameras, world units: from where colours are right.
        voxel_size: Of the coarsest voxels, world units; an octree says its own.
    """
    torch.manual_seed(settings.seed)
    if config.octree is None:
        placement = place_in_voxels(gaussians, config.n_offsets, voxel_size)
        net = AnchorNet(config, torch.from_numpy(placement.anchors))
    else:
        placement = place_in_octree(gaussians, config)
        levels = torch.from_numpy(placement.levels)
        net = AnchorNet(config, torch.from_numpy(placement.anchors), levels)
    targets = _targets(gaussians, placement, config)
    _set_geometry(net, gaussians, placement, targets)
    net.anchor_feat.data = _principal_features(targets, config.feat_dim)
    _regress(net, targets, torch.from_numpy(np.asarray(centers, np.float32)), settings)
    return net


# --- Where anchors are ---------------------------------------------------------------------------


def _voxels(
    means: NDArray[np.float32], size: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Voxels by their whole coordinates, the voxel of each mean, how many each voxel has."""
    voxels, of_each, counts = np.unique(
        np.round(means.astype(np.float64) / size), axis=0, return_inverse=True, return_counts=True
    )
    return voxels, of_each.reshape(-1), counts


def _in_slots(
    rows: NDArray[np.int64], of_each: NDArray[np.int64], count: int, k: int
) -> NDArray[np.int64]:
    """[count, k] the first k rows of each voxel, in the order given."""
    slots = np.full((count, k), NONE, np.int64)
    by_voxel = np.argsort(of_each, kind="stable")
    sorted_voxels = of_each[by_voxel]
    place = np.arange(len(rows)) - np.searchsorted(sorted_voxels, sorted_voxels)
    kept = place < k
    slots[sorted_voxels[kept], place[kept]] = rows[by_voxel[kept]]
    return slots


# --- What networks should say --------------------------------------------------------------------


def _targets(gaussians: Gaussians, placement: Placement, config: AnchorConfig) -> Targets:
    used = placement.members != NONE
    rows = np.where(used, placement.members, 0)
    covered = np.where(used, areas(gaussians)[rows], 0.0)
    rotations = _rotations(torch.from_numpy(gaussians.quats[rows]))
    scales = torch.from_numpy(gaussians.scales[rows])
    means = np.where(used[..., None], gaussians.means[rows], placement.anchors[:, None])
    return Targets(
        used=torch.from_numpy(used),
        weights=torch.from_numpy(np.sqrt(covered / covered[used].mean())).float(),
        means=torch.from_numpy(means),
        opacities=torch.from_numpy(gaussians.opacities[rows]),
        roots=_roots(rotations, scales),
        sh=torch.from_numpy(gaussians.sh[rows]),
        growth=torch.from_numpy(_growth(gaussians, placement, config)),
    )


def _growth(
    gaussians: Gaussians, placement: Placement, config: AnchorConfig
) -> NDArray[np.float32]:
    """See ``Targets.growth``: the root of all area in an anchor's voxel over the part drawn."""
    octree = config.octree
    if octree is None:
        return np.ones((len(placement.anchors), 1), np.float32)
    covered, used = areas(gaussians), placement.members != NONE
    levels = np.zeros(len(gaussians), np.int64)
    levels[placement.members[used]] = np.repeat(placement.levels, used.sum(axis=1))
    growth = np.ones((len(placement.anchors), octree.levels))
    for level in range(octree.levels):
        mine = placement.levels == level
        _, of_each, counts = _voxels(gaussians.means, octree.voxel_size / octree.fork**level)
        voxel = of_each[placement.members[mine, 0]]
        total = np.bincount(of_each, covered, len(counts))
        for reached in range(level, octree.levels):
            drawn = np.bincount(of_each, covered * (levels <= reached), len(counts))
            growth[mine, reached] = np.sqrt(total[voxel] / drawn[voxel])
    return growth.clip(1.0, LARGEST_GROWTH).astype(np.float32)


def _set_geometry(
    net: AnchorNet, gaussians: Gaussians, placement: Placement, targets: Targets
) -> None:
    """Offsets and the six scales of each anchor."""
    ways = targets.means - net.anchor[:, None]
    reach = ways.abs().amax(1).clamp_min(1e-3)
    rows = np.where(placement.members == NONE, placement.members[:, :1], placement.members)
    sizes = torch.from_numpy(gaussians.scales[rows]).amax(1) * targets.growth.amax(1, keepdim=True)
    net.offset.data = ways / reach[:, None]
    net.scaling.data = torch.cat([reach, sizes * SIZE_MARGIN], 1).log()


def _principal_features(targets: Targets, width: int) -> Tensor:
    """[N, width] the principal components of the targets: a good place to begin."""
    parts = (
        targets.opacities[..., None],
        targets.sh.flatten(2),
        (targets.roots / targets.roots.norm(dim=(2, 3), keepdim=True)).flatten(2),
    )
    wanted = torch.cat(parts, 2) * (targets.used * targets.weights.clamp(0.3, 3.0))[..., None]
    flat = wanted.flatten(1)
    flat = flat - flat.mean(0)
    components = torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)[:, :width]
    features = flat @ components
    features = features / features[:, 0].std().clamp_min(1e-6)
    return nn.functional.pad(features, (0, width - features.shape[1]))


# --- Fitting -------------------------------------------------------------------------------------


class _ColumnScale(nn.Module):
    """Weights in units of what their inputs are like, so that distances in metres are learnt at
    the rate of directions."""

    units: Tensor

    def __init__(self, units: Tensor) -> None:
        super().__init__()
        self.register_buffer("units", units)

    def forward(self, weight: Tensor) -> Tensor:
        return weight / self.units

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def _regress(net: AnchorNet, targets: Targets, centers: Tensor, settings: FitSettings) -> None:
    firsts = _first_layers(net)
    distance = float((net.anchor.mean(0) - centers).norm(dim=1).median())
    for layer, column in firsts:
        units = torch.ones(layer.in_features)
        units[column] = distance
        parametrize.register_parametrization(layer, "weight", _ColumnScale(units))
    networks = [p for name, p in net.named_parameters() if "mlp" in name or "embedding" in name]
    optimizer = torch.optim.Adam(
        [
            {"params": [net.anchor_feat], "lr": settings.feature_rate},
            {"params": networks, "lr": settings.network_rate},
        ],
        eps=1e-15,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in each_step(settings.steps):
        rows = torch.randint(len(net.anchor), (min(settings.batch, len(net.anchor)),))
        cameras = torch.randint(len(centers), (len(rows),))
        loss = _loss(net, targets, rows, centers[cameras], cameras)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for layer, _ in firsts:
        parametrize.remove_parametrizations(layer, "weight")


def _first_layers(net: AnchorNet) -> list[tuple[nn.Linear, int]]:
    """Those that are told the distance, and which of their inputs it is."""
    config = net.config
    told = [
        (net.mlp_opacity, config.feat_dim + 3, config.add_opacity_dist),
        (net.mlp_cov, config.feat_dim + 3, config.add_cov_dist),
        (net.mlp_color, config.feat_dim + 3, config.add_color_dist),
        (net.mlp_feature_bank, 3, config.use_feat_bank and config.octree is None),
    ]
    layers = [(module[0], column) for module, column, is_told in told if module and is_told]
    return [(layer, column) for layer, column in layers if isinstance(layer, nn.Linear)]


def _loss(
    net: AnchorNet, targets: Targets, rows: Tensor, centers: Tensor, cameras: Tensor
) -> Tensor:
    """Squared errors of colours, opacities and covariances' roots, by what Gaussians cover."""
    appearance = None
    if net.embedding_appearance is not None:
        appearance = net.embedding_appearance(cameras % net.config.cameras)
    values = net.evaluate(rows, centers, appearance)
    used, weights = targets.used[rows], targets.weights[rows]
    colors = (values.colors - _colors(targets, rows, centers)).square().sum(-1)
    shapes = _shape_errors(net, targets, values, rows, centers)
    opacities = (values.opacities - targets.opacities[rows]).square()
    empty = (values.opacities - EMPTY_OPACITY).clamp_min(0).square()
    told = (weights * (colors + 0.3 * shapes + 0.5 * opacities))[used].mean()
    return told + 0.3 * empty[~used].sum() / used.numel()


def _colors(targets: Targets, rows: Tensor, centers: Tensor) -> Tensor:
    """[n, k, 3] as seen from centers."""
    sh = targets.sh[rows]
    ways = nn.functional.normalize(targets.means[rows] - centers[:, None], dim=-1)
    basis = torch.from_numpy(sh_basis(ways.numpy(), math.isqrt(sh.shape[2]) - 1)).float()
    return (0.5 + (basis[..., None] * sh).sum(2)).clamp(0.0, 1.0)


def _shape_errors(
    net: AnchorNet, targets: Targets, values: NeuralValues, rows: Tensor, centers: Tensor
) -> Tensor:
    """[n, k] of the covariances' roots, relative: they are the same for all quaternions and orders
    of axes that are the same Gaussian."""
    growth = targets.growth[rows, 0]
    if net.config.octree is not None:
        reached = _reached(net, rows, centers)
        growth = targets.growth[rows, reached]
    wanted = targets.roots[rows] * growth[:, None, None, None]
    difference = _roots(_rotations(values.quats), values.scales) - wanted
    return difference.square().sum((2, 3)) / wanted.square().sum((2, 3)).clamp_min(1e-12)


def _reached(net: AnchorNet, rows: Tensor, centers: Tensor) -> Tensor:
    """[n] int64, the finest level that is drawn where each anchor is, but not below its own."""
    octree = net.config.octree
    assert octree is not None
    distance = (net.anchor[rows] - centers).norm(dim=1)
    level = torch.log2(octree.standard_dist / distance) / math.log2(octree.fork)
    own = net.level[rows]
    return torch.maximum(level.round(), own).clamp(0, octree.levels - 1).long()


def _roots(rotations: Tensor, scales: Tensor) -> Tensor:
    """[..., 3, 3] the symmetric roots ``R diag(s) R^T`` of covariances."""
    return (rotations * scales[..., None, :]) @ rotations.transpose(-1, -2)


def _rotations(quats: Tensor) -> Tensor:
    """[..., 3, 3] of unit quaternions wxyz."""
    w, x, y, z = quats.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
