"""Small neural networks as plain arrays: what files hold, and what every engine evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

MAX_WIDTH = 1024  # of a layer: no model that is known has more than 512
MAX_LAYERS = 32


class Activation(Enum):
    """What is applied to every output of a layer, element by element.

    SOFTMAX alone is taken over all outputs of a layer; EXP is limited to arguments of
    ``EXP_LIMIT`` at most, as trainers do it, so that nothing overflows.
    """

    NONE = "none"
    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    EXP = "exp"
    SOFTPLUS = "softplus"
    SOFTMAX = "softmax"


EXP_LIMIT = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """``y = activation(weight x + bias)``.

    Attributes:
        weight: [O, I] float32.
        bias: [O] float32.
        activation: Of the outputs.
        skip: Whether the network's input is put before the layer's own input, so that I is the
            sum of both (NeRF, Mildenhall et al. 2020, figure 7).

    Raises:
        ValueError: If the shapes disagree, or a value is not finite.
    """

    weight: Float32Array
    bias: Float32Array
    activation: Activation = Activation.NONE
    skip: bool = False

    def __post_init__(self) -> None:
        weight = np.ascontiguousarray(self.weight, np.float32)
        bias = np.ascontiguousarray(self.bias, np.float32)
        if weight.ndim != 2 or bias.shape != (weight.shape[0],):
            raise ValueError(f"a layer of weight {weight.shape} and bias {bias.shape}")
        if not 0 < max(weight.shape) <= MAX_WIDTH or 0 in weight.shape:
            raise ValueError(f"a layer of {weight.shape[1]} inputs and {weight.shape[0]} outputs")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("a layer with values that are not finite")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    @property
    def inputs(self) -> int:
        """Values that it takes, the network's input included where that is put before."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Values that it gives."""
        return int(self.weight.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Mlp:
    """A multilayer perceptron; without layers it passes its input on.

    Attributes:
        inputs: Values that it takes.
        layers: In order.

    Raises:
        ValueError: If a layer does not fit the one before it.
    """

    inputs: int
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.inputs <= MAX_WIDTH or len(self.layers) > MAX_LAYERS:
            raise ValueError(f"a network of {self.inputs} inputs and {len(self.layers)} layers")
        width = self.inputs
        for number, layer in enumerate(self.layers):
            expected = width + (self.inputs if layer.skip else 0)
            if layer.inputs != expected:
                raise ValueError(
                    f"layer {number} takes {layer.inputs} values, but there are {expected}"
                )
            width = layer.outputs

    @property
    def outputs(self) -> int:
        """Values that it gives."""
        return self.layers[-1].outputs if self.layers else self.inputs

    @property
    def nbytes(self) -> int:
        """Of weights and biases."""
        return sum(layer.weight.nbytes + layer.bias.nbytes for layer in self.layers)

    @classmethod
    def of(
        cls,
        weights: Sequence[Float32Array],
        biases: Sequence[Float32Array] | None = None,
        hidden: Activation = Activation.RELU,
        last: Activation = Activation.NONE,
    ) -> Mlp:
        """One of layers in order, without skips.

        Args:
            weights: [O, I] of each.
            biases: [O] of each; zeros if None.
            hidden, last: Activations of all layers but the last, and of that.
        """
        layers = tuple(
            Layer(
                weight,
                np.zeros(len(weight), np.float32) if biases is None else biases[number],
                last if number == len(weights) - 1 else hidden,
            )
            for number, weight in enumerate(weights)
        )
        return cls(int(weights[0].shape[1]), layers)


def without_inputs(mlp: Mlp, values: NDArray[np.floating]) -> Mlp:
    """The network of which the last inputs always have the same values: part of the biases."""
    if not len(values):
        return mlp
    kept = mlp.inputs - len(values)
    layers = []
    for number, layer in enumerate(mlp.layers):
        if number and not layer.skip:
            layers.append(layer)
            continue
        # A skip puts the network's inputs before the layer's own.
        fixed = layer.weight[:, kept : mlp.inputs].astype(np.float64)
        bias = (layer.bias + fixed @ values).astype(np.float32)
        weight = np.delete(layer.weight, np.s_[kept : mlp.inputs], axis=1)
        layers.append(Layer(weight, bias, layer.activation, layer.skip))
    return Mlp(kept, tuple(layers))
