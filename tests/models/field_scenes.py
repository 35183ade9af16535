"""Small networks and encodings with random parameters, for tests of components."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.fields import (
    ConcatenatedEncoding,
    Encoding,
    FrequencyEncoding,
    FrequencyOrder,
    GridLevel,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Layer, Mlp

Float32Array = NDArray[np.float32]


def random_layer(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    activation: Activation = Activation.RELU,
    skip: bool = False,
) -> Layer:
    """Weights of a variance that keeps values of order 1."""
    weight = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
    bias = rng.normal(size=outputs) * 0.3
    return Layer(weight.astype(np.float32), bias.astype(np.float32), activation, skip)


def random_mlp(rng: np.random.Generator, *widths: int, last: Activation = Activation.NONE) -> Mlp:
    """Layers of the widths given, the first of which is the input's."""
    layers = [
        random_layer(rng, a, b, last if number == len(widths) - 2 else Activation.RELU)
        for number, (a, b) in enumerate(pairwise(widths))
    ]
    return Mlp(widths[0], tuple(layers))


def random_grid(
    rng: np.random.Generator,
    levels: int = 5,
    features: int = 2,
    dtype: type[np.float16] | type[np.float32] = np.float16,
    entries: int = 1 << 10,
    shift: float = 0.5,
    always_hashed: bool = False,
) -> HashGridEncoding:
    """Levels from dense to hashed, laid out as tiny-cuda-nn does, or nerfstudio (always hashed)."""
    made, first = [], 0
    for number in range(levels):
        scale = 5.0 * 1.7**number - 1
        resolution = int(np.ceil(scale)) + 1
        dense = -(-(resolution**3) // 8) * 8
        hashed = always_hashed or dense > entries
        held = entries if hashed else dense
        made.append(GridLevel(scale, resolution, hashed, held, first))
        first += held
    table: Any = rng.normal(size=(first, features)).astype(dtype)
    return HashGridEncoding(tuple(made), table, shift)


def random_planes(rng: np.random.Generator, summed: bool = False) -> PlaneEncoding:
    """Three planes with lines (the last without), one of them a window of a larger one."""
    sizes = ((4, 7, 9), (3, 5, 8), (5, 6, 6))
    planes = tuple(rng.normal(size=size).astype(np.float32) for size in sizes)
    lines = (
        rng.normal(size=(4, 11)).astype(np.float32),
        rng.normal(size=(3, 2)).astype(np.float32),
        None,
    )
    axes = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    windows = ((9, 7, 0, 0), (20, 13, 5, 3), (6, 6, 0, 0))
    return PlaneEncoding(planes, lines, axes, summed, windows)


def encodings(rng: np.random.Generator) -> dict[str, Encoding]:
    """One of every kind."""
    frequencies = tuple(float(2.0**k * np.pi) for k in range(4))
    return {
        "identity": IdentityEncoding(3),
        "octaves": FrequencyEncoding(frequencies),
        "dimensions": FrequencyEncoding(frequencies, 3, True, FrequencyOrder.DIMENSIONS, True),
        "waves alone": FrequencyEncoding(frequencies[:3], 3, False),
        **{f"harmonics {n}": SphericalHarmonicsEncoding(n) for n in range(1, 6)},
        "remapped harmonics": SphericalHarmonicsEncoding(4, remapped=True),
        "grid": random_grid(rng),
        "float32 grid": random_grid(rng, features=4, dtype=np.float32),
        "hashed grid": random_grid(rng, shift=0.0, always_hashed=True),
        "wide grid": random_grid(rng, features=8),
        "odd grid": random_grid(rng, features=1),
        "odd entries": random_grid(rng, features=3, entries=1001),
        "planes": random_planes(rng),
        "summed planes": random_planes(rng, summed=True),
        "parts": ConcatenatedEncoding((IdentityEncoding(3), random_grid(rng))),
    }


def instant_ngp(rng: np.random.Generator) -> Network:
    """As Instant-NGP's: the density is the first feature."""
    return Network(
        random_grid(rng),
        random_mlp(rng, 10, 32, 16),
        Mlp(16),
        Activation.EXP,
        direction=SphericalHarmonicsEncoding(4),
        color_mlp=random_mlp(rng, 32, 32, 3, last=Activation.SIGMOID),
    )


def plain_nerf(rng: np.random.Generator) -> Network:
    """As plain NeRF's: frequencies, a skip, heads of their own."""
    position = FrequencyEncoding(tuple(float(2.0**k) for k in range(5)))
    direction = FrequencyEncoding(tuple(float(2.0**k) for k in range(3)))
    trunk = Mlp(
        33,
        (
            random_layer(rng, 33, 40),
            random_layer(rng, 40, 40),
            random_layer(rng, 73, 40, skip=True),
        ),
    )
    return Network(
        position,
        trunk,
        random_mlp(rng, 40, 1),
        Activation.RELU,
        density_bias=0.2,
        feature_head=random_mlp(rng, 40, 40),
        direction=direction,
        color_mlp=random_mlp(rng, 61, 20, 3, last=Activation.SIGMOID),
    )


def nerfacto(rng: np.random.Generator) -> Network:
    """As nerfacto's: the features after the density, and a mean appearance."""
    return Network(
        random_grid(rng, shift=0.0, always_hashed=True),
        random_mlp(rng, 10, 32, 16),
        Mlp(16),
        Activation.EXP,
        feature_columns=(1, 16),
        direction=SphericalHarmonicsEncoding(4),
        color_mlp=random_mlp(rng, 16 + 15 + 6, 24, 3, last=Activation.SIGMOID),
        color_inputs=("direction", "feature", "appearance"),
        appearances=rng.normal(size=(7, 6)).astype(np.float32),
    )


def grid_nerf(rng: np.random.Generator) -> Network:
    """As GridNeRF's: planes for densities, planes with a basis for colours, a head of two."""
    return Network(
        ConcatenatedEncoding((random_planes(rng), IdentityEncoding(3))),
        random_mlp(rng, 15, 24, last=Activation.RELU),
        random_mlp(rng, 24, 2),
        Activation.SOFTPLUS,
        density_column=1,
        density_bias=-0.5,
        direction=IdentityEncoding(3),
        color_mlp=random_mlp(rng, 15 + 24 + 3 + 5 * 5, 24, 3, last=Activation.SIGMOID),
        color_inputs=("position", "feature", "direction", "grid"),
        color_position=random_planes(rng),
        color_basis=random_mlp(rng, 12, 5),
        color_encoding=FrequencyEncoding((1.0, 2.0), dims=5),
    )


def networks(rng: np.random.Generator) -> dict[str, Network]:
    """One of every kind of field."""
    return {
        "instant-ngp": instant_ngp(rng),
        "nerf": plain_nerf(rng),
        "nerfacto": nerfacto(rng),
        "gridnerf": grid_nerf(rng),
    }
