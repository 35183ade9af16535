"""Models of anchors in memory, as readers make them of files."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from splat.anchors import AnchorLayout, AnchorModel, LevelRule, OctreeLevels
from splat.networks import Activation, Layer, Mlp
from splat.rows import Rows
from tests.models.anchors_torch import ARCHITECTURES, AnchorConfig, AnchorNet, random_net

_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation.RELU,
    nn.Tanh: Activation.TANH,
    nn.Sigmoid: Activation.SIGMOID,
    nn.Softmax: Activation.SOFTMAX,
}


def random_anchors(
    architecture: str = "scaffold", count: int = 200, seed: int = 0
) -> tuple[AnchorModel, Rows]:
    """A model of an architecture of ``ARCHITECTURES``, all parameters at random."""
    return scene_of(random_net(ARCHITECTURES[architecture], count, seed))


def scene_of(net: AnchorNet) -> tuple[AnchorModel, Rows]:
    """What the torch model holds, as the project keeps it."""
    return model_of(net), rows_of(net)


def model_of(net: AnchorNet) -> AnchorModel:
    """The part that anchors share."""
    config = net.config
    octree = config.octree
    bank, looks = net.mlp_feature_bank, net.embedding_appearance
    return AnchorModel(
        layout=_layout(config),
        opacity_mlp=_mlp(net.mlp_opacity),
        color_mlp=_mlp(net.mlp_color),
        covariance_mlp=_mlp(net.mlp_cov),
        opacity_dist=config.add_opacity_dist,
        color_dist=config.add_color_dist,
        covariance_dist=config.add_cov_dist,
        level_input=config.add_level,
        bank_mlp=None if bank is None else _mlp(bank),
        appearances=None if looks is None else _array(looks.embedding.weight),
        levels=None
        if octree is None
        else OctreeLevels(
            levels=octree.levels,
            standard_dist=octree.standard_dist,
            fork=octree.fork,
            rule=LevelRule(octree.dist2level),
            voxel_size=octree.voxel_size,
        ),
    )


def rows_of(net: AnchorNet) -> Rows:
    """The anchors."""
    count = len(net.anchor)
    columns = [net.anchor, net.scaling, net.offset.reshape(count, -1), net.anchor_feat]
    if net.config.octree is not None:
        columns += [net.level[:, None], net.extra_level.reshape(count, 1)]
    return Rows(np.concatenate([_array(column) for column in columns], axis=1))


def _layout(config: AnchorConfig) -> AnchorLayout:
    return AnchorLayout(config.n_offsets, config.feat_dim, config.octree is not None)


def _mlp(modules: nn.Sequential) -> Mlp:
    layers: list[Layer] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append(Layer(_array(module.weight), _array(module.bias)))
        else:
            last = layers.pop()
            layers.append(Layer(last.weight, last.bias, _ACTIVATIONS[type(module)]))
    return Mlp(layers[0].inputs, tuple(layers))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)
