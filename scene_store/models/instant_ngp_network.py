"""Networks of Instant-NGP snapshots: from one run of parameters to encodings and layers.

tiny-cuda-nn keeps a model's parameters in one array; of instant-ngp's the density network, the
colour network, the position's encoding. Matrices are [out, in], row by row, without biases; widths
are padded, to 16 where tensor cores are used. What is made of that here has the widths that it
says (``instant_ngp_encodings``).

Sources, read for layouts: NVlabs/instant-ngp ``nerf_network.h``; NVlabs/tiny-cuda-nn
``networks/*.h``, ``trainer.h``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.json_fields import JsonObject
from scene_store.models.instant_ngp_encodings import (
    Encoded,
    Grid,
    count_of,
    direction_encoding,
    multiple_of,
    otype,
    plain,
    position_encodings,
    text,
)
from splat.fields import HashGridEncoding, IdentityEncoding, Network
from splat.networks import MAX_LAYERS, MAX_WIDTH, Activation, Mlp

Float32Array = NDArray[np.float32]
Parameters = NDArray[np.float16] | NDArray[np.float32]

DENSITY_OUTPUTS = 16

_FUSED = ("fullyfusedmlp", "megakernelmlp")
_ACTIVATIONS = {
    "none": Activation.NONE,
    "relu": Activation.RELU,
    "sigmoid": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "exponential": Activation.EXP,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a snapshot says about its networks.

    Attributes:
        root: The network's configuration.
        aabb_scale: Side of the box of the scene, in unit cubes.
        latents: Values of an image's appearance.
        is_hdr: Whether colours are exponentials.
    """

    root: JsonObject
    aabb_scale: int
    latents: int
    is_hdr: bool


@dataclass(frozen=True, slots=True)
class _MlpShape:
    """A network without biases.

    Attributes:
        config: Of it.
        inputs, neurons, outputs: Widths, padded.
        hidden: Hidden layers.
    """

    config: JsonObject
    inputs: int
    neurons: int
    outputs: int
    hidden: int

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of each."""
        if self.hidden == 0:
            return ((self.outputs, self.inputs),)
        between = ((self.neurons, self.neurons),) * (self.hidden - 1)
        return ((self.neurons, self.inputs), *between, (self.outputs, self.neurons))

    @property
    def parameters(self) -> int:
        return sum(rows * columns for rows, columns in self.matrices)


@dataclass(frozen=True, slots=True)
class _Layout:
    """One way in which a configuration's parameters may be laid out."""

    position: Encoded | Grid
    position_width: int
    direction: Encoded
    density: _MlpShape
    color: _MlpShape

    @property
    def parameters(self) -> int:
        grid = self.position
        table = grid.entries * grid.features if isinstance(grid, Grid) else 0
        return self.density.parameters + self.color.parameters + table


def make_network(
    config: ModelConfig, parameters: Parameters, appearances: Float32Array | None
) -> Network:
    """The network of a snapshot.

    Args:
        parameters: All of it, in their order.
        appearances: [A, E] of the training images, E as ``config.latents``; None without.

    Raises:
        SceneFormatError: If the configuration is not one that is known, or of another number of
            parameters.
    """
    layout = _find_layout(config, parameters)
    try:
        return _network(config, layout, parameters, appearances)
    except ValueError as error:  # of what the classes of splat verify
        raise config.root.error(str(error)) from None


def _network(
    config: ModelConfig,
    layout: _Layout,
    parameters: Parameters,
    appearances: Float32Array | None,
) -> Network:
    first = layout.density.parameters
    density = _matrices(layout.density, parameters[:first])
    color = _matrices(layout.color, parameters[first:])
    position = _position(layout, parameters[first + layout.color.parameters :])
    assert position.encoding is not None
    features = layout.density.outputs
    known, mixed = np.split(color[0], [features], axis=1)
    direction = layout.direction
    color[0] = np.concatenate([known, mixed @ direction.mixing], axis=1)
    color[-1] = color[-1][:3]
    inputs: list[str] = ["feature"]
    if direction.encoding is not None:
        inputs.append("direction")
    if config.latents:
        inputs.append("appearance")
    return Network(
        position=position.encoding,
        trunk=_mlp(layout.density, density, density[0] @ position.constant, position.mixing),
        density_head=Mlp(features),
        density_activation=Activation.EXP,
        direction=direction.encoding or IdentityEncoding(),
        color_mlp=_mlp(
            layout.color,
            color,
            mixed @ direction.constant,
            last=Activation.EXP if config.is_hdr else Activation.SIGMOID,
        ),
        color_inputs=tuple(inputs),
        appearances=appearances if config.latents else None,
        appearance=0 if config.latents else None,  # that instant-ngp shows
    )


def _mlp(
    shape: _MlpShape,
    matrices: Sequence[Float32Array],
    first_bias: Float32Array,
    mixing: Float32Array | None = None,
    last: Activation = Activation.NONE,
) -> Mlp:
    """The layers; an encoding's mixing and constant go into the first one."""
    hidden = _activation(shape.config, "activation", "ReLU")
    if _activation(shape.config, "output_activation", "None") is not Activation.NONE:
        raise shape.config.error("activates its outputs: not a network of this kind")
    weights = [matrices[0] if mixing is None else matrices[0] @ mixing, *matrices[1:]]
    biases = [np.zeros(len(weight), np.float32) for weight in weights]
    biases[0] = first_bias[: len(biases[0])].astype(np.float32)
    return Mlp.of(weights, biases, hidden, last)


def _matrices(shape: _MlpShape, parameters: Parameters) -> list[Float32Array]:
    out, at = [], 0
    for rows, columns in shape.matrices:
        matrix = parameters[at : at + rows * columns].reshape(rows, columns)
        out.append(matrix.astype(np.float32))
        at += rows * columns
    return out


def _position(layout: _Layout, parameters: Parameters) -> Encoded:
    grid = layout.position
    if isinstance(grid, Encoded):
        return grid.padded(layout.position_width, 1.0)
    # A copy: the file's other parameters are not to be kept for the sake of these.
    table = parameters[: grid.entries * grid.features].reshape(-1, grid.features).copy()
    encoding = HashGridEncoding(grid.levels, table)
    return plain(encoding).padded(layout.position_width, 0.0)


# --- Which layout it is --------------------------------------------------------------------------


def _find_layout(config: ModelConfig, parameters: Parameters) -> _Layout:
    """The layout that has as many parameters as there are.

    Paddings depend on the graphics card, and a level's size on the last bit of a logarithm.
    """
    counts = []
    for layout in _layouts(config, parameters.dtype == np.float16):
        counts.append(layout.parameters)
        if counts[-1] == len(parameters):
            return layout
    raise config.root.error(
        f"its configuration makes {counts[0]:,} parameters, but {len(parameters):,} are there"
    )


def _layouts(config: ModelConfig, is_half: bool) -> Iterator[_Layout]:
    density_config, color_config = config.root.child("network"), config.root.child("rgb_network")
    position_alignment = 16 if otype(density_config, "MLP") in _FUSED else 8
    for position in position_encodings(config.root.child("encoding"), config.aabb_scale):
        padded = multiple_of(position.width, position_alignment)
        for alignment in (16, 8) if is_half else (16, 8, 4):
            direction = direction_encoding(
                config.root.child("dir_encoding"), config.latents, alignment
            )
            outputs = count_of(density_config, "n_output_dims", DENSITY_OUTPUTS, 1, MAX_WIDTH)
            density = _shape(density_config, padded, multiple_of(outputs, alignment))
            color = _shape(
                color_config,
                multiple_of(direction.width + density.outputs, alignment),
                multiple_of(3, alignment),
            )
            yield _Layout(position, padded, direction, density, color)


def _shape(config: JsonObject, inputs: int, outputs: int) -> _MlpShape:
    kind = otype(config, "MLP")
    if kind not in (*_FUSED, "mlp", "cutlassmlp"):
        raise config.error(f"is a network of the unknown kind '{kind}'", "otype")
    return _MlpShape(
        config,
        inputs,
        count_of(config, "n_neurons", 128, 1, MAX_WIDTH),
        outputs,
        count_of(config, "n_hidden_layers", 5, 0, MAX_LAYERS - 1),
    )


def _activation(config: JsonObject, name: str, default: str) -> Activation:
    value = text(config, name, default)
    if value not in _ACTIVATIONS:
        raise config.error(f"the activation '{value}' is not supported", name)
    return _ACTIVATIONS[value]
