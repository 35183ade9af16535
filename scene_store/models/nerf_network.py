"""Networks of plain NeRFs, of the tensors of two trainers.

Sources, read for layouts: ``krrish94/nerf-pytorch`` (``nerf/models.py``, ``FlexibleNeRFModel``) and
``yenchenlin/nerf-pytorch`` (``run_nerf_helpers.py``, ``NeRF``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.source import DOWNLOAD_AGAIN
from scene_store.models.nerf_config import NerfConfig
from splat.errors import SceneFormatError
from splat.fields import FrequencyEncoding, Network
from splat.networks import MAX_LAYERS, MAX_WIDTH, Activation, Layer, Mlp

MAX_OCTAVES = 24

Tensors = Mapping[str, NDArray[Any]]


def flexible_network(path: Path, tensors: Tensors, config: NerfConfig) -> Network:
    """Of krrish94's ``FlexibleNeRFModel``.

    Raises:
        SceneFormatError: If tensors are missing, or of shapes that make no such network.
        ValueError: If they do not fit each other.
    """
    weights = _Weights(path, tensors)
    first = weights.layer("layer1", Activation.NONE)
    layers = [first]
    for number in range(weights.count("layers_xyz")):
        layers.append(weights.layer(f"layers_xyz.{number}", Activation.RELU))
        # The position follows what was there: here it comes first.
        layers[-1] = _skipping(layers[-1], first.inputs, layers[-2].outputs, last=True)
    position = weights.encoding(first.inputs, config.linear_position)
    trunk = Mlp(first.inputs, tuple(layers))
    if "fc_alpha.weight" not in tensors:
        return _without_directions(position, trunk, weights.layer("fc_out"))
    feature = weights.layer("fc_feat", Activation.RELU)
    seen = [
        weights.layer(f"layers_dir.{number}", Activation.RELU)
        for number in range(weights.count("layers_dir"))
    ]
    return _with_directions(
        position,
        trunk,
        density=weights.layer("fc_alpha"),
        feature=feature,
        direction=weights.encoding(seen[0].inputs - feature.outputs, config.linear_direction),
        color=(*seen, weights.layer("fc_rgb", Activation.SIGMOID)),
    )


def original_network(path: Path, tensors: Tensors, config: NerfConfig) -> Network:
    """Of yenchenlin's ``NeRF``, which is the original authors' architecture.

    Raises:
        SceneFormatError: If tensors are missing, or of shapes that make no such network.
        ValueError: If they do not fit each other.
    """
    weights = _Weights(path, tensors)
    layers = [weights.layer("pts_linears.0", Activation.RELU)]
    inputs = layers[0].inputs
    for number in range(1, weights.count("pts_linears")):
        layer = weights.layer(f"pts_linears.{number}", Activation.RELU)
        layers.append(_skipping(layer, inputs, layers[-1].outputs))
    position = weights.encoding(inputs, config.linear_position)
    trunk = Mlp(inputs, tuple(layers))
    if "alpha_linear.weight" not in tensors:
        return _without_directions(position, trunk, weights.layer("output_linear"))
    feature, seen = (
        weights.layer("feature_linear"),
        weights.layer("views_linears.0", Activation.RELU),
    )
    return _with_directions(
        position,
        trunk,
        density=weights.layer("alpha_linear"),
        feature=feature,
        direction=weights.encoding(seen.inputs - feature.outputs, config.linear_direction),
        color=(seen, weights.layer("rgb_linear", Activation.SIGMOID)),
    )


def _with_directions(
    position: FrequencyEncoding,
    trunk: Mlp,
    *,
    density: Layer,
    feature: Layer,
    direction: FrequencyEncoding,
    color: tuple[Layer, ...],
) -> Network:
    return Network(
        position=position,
        trunk=trunk,
        density_head=Mlp(trunk.outputs, (density,)),
        density_activation=Activation.RELU,
        feature_head=Mlp(trunk.outputs, (feature,)),
        direction=direction,
        color_mlp=Mlp(color[0].inputs, color),
    )


def _without_directions(position: FrequencyEncoding, trunk: Mlp, out: Layer) -> Network:
    """Colours that look the same from everywhere: three outputs; the fourth is the density."""
    if out.outputs < 4:
        raise ValueError(f"its last layer gives {out.outputs} values, not a colour and a density")
    sigmoid = Layer(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), Activation.SIGMOID)
    return Network(
        position=position,
        trunk=trunk,
        density_head=Mlp(trunk.outputs, (Layer(out.weight[3:4], out.bias[3:4]),)),
        density_activation=Activation.RELU,
        feature_head=Mlp(trunk.outputs, (Layer(out.weight[:3], out.bias[:3]),)),
        color_mlp=Mlp(3, (sigmoid,)),
        color_inputs=("feature",),
    )


def _skipping(layer: Layer, inputs: int, width: int, *, last: bool = False) -> Layer:
    """The layer, with the network's input before its own if it takes both.

    Args:
        inputs: Of the network.
        width: Of the layer before.
        last: Whether the file has the network's input behind.
    """
    if layer.inputs != inputs + width:
        return layer
    weight = layer.weight
    if last:
        weight = np.concatenate([weight[:, width:], weight[:, :width]], axis=1)
    return Layer(weight, layer.bias, layer.activation, skip=True)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Tensors by name, each checked as it is taken."""

    path: Path
    tensors: Tensors

    def layer(self, name: str, activation: Activation = Activation.NONE) -> Layer:
        weight, bias = self._tensor(f"{name}.weight", 2), self._tensor(f"{name}.bias", 1)
        if max(weight.shape) > MAX_WIDTH:
            raise self._error(f"{name}.weight", f"has the shape {weight.shape}")
        try:
            return Layer(weight.astype(np.float32), bias.astype(np.float32), activation)
        except ValueError as error:
            raise self._error(name, str(error)) from None

    def count(self, name: str) -> int:
        """Layers ``name.0``, ``name.1`` and so on."""
        count = 0
        while f"{name}.{count}.weight" in self.tensors and count <= MAX_LAYERS:
            count += 1
        if count == 0:
            raise self._error(f"{name}.0.weight", "is missing")
        return count

    def encoding(self, width: int, is_linear: bool) -> FrequencyEncoding:
        """The encoding of three values that gives ``width``: as they are, and two a frequency."""
        includes_input = width % 6 == 3
        octaves = width // 6
        if width < 3 or width % 3 or not octaves <= MAX_OCTAVES:
            raise SceneFormatError(
                self.path, f"no encoding gives {width} values", remedy=DOWNLOAD_AGAIN
            )
        highest = 2.0 ** (octaves - 1)
        frequencies = np.linspace(1.0, highest, octaves) if is_linear else 2.0 ** np.arange(octaves)
        return FrequencyEncoding(
            tuple(float(f) for f in frequencies), includes_input=includes_input
        )

    def _tensor(self, name: str, dims: int) -> NDArray[Any]:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self._error(name, "is missing")
        if tensor.ndim != dims or tensor.dtype.kind != "f":
            raise self._error(name, f"is {tensor.dtype} of shape {tensor.shape}")
        return tensor

    def _error(self, name: str, problem: str) -> SceneFormatError:
        return SceneFormatError(self.path, problem, where=name, remedy=DOWNLOAD_AGAIN)
