"""What decoders let pass can be drawn: their limits are those of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rendering.models.components import Domain
from rendering.models.components.native import NativeComponents
from scene_store.models.field_checks import require_valid
from splat.encodings import (
    MAX_FREQUENCIES,
    MAX_GRID_FEATURES,
    MAX_GRID_LEVELS,
    MAX_GRID_SCALE,
    MAX_HARMONICS_DEGREE,
    MAX_PARTS,
    ConcatenatedEncoding,
    Encoding,
    FrequencyEncoding,
    GridLevel,
    HashGridEncoding,
    IdentityEncoding,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
)
from splat.fields import Field
from splat.networks import Activation, Mlp
from tests.models.small_fields import ball_field


def level(scale: float = 3.0, resolution: int = 4) -> GridLevel:
    return GridLevel(scale, resolution, hashed=False, entries=64, first=0)


def of_features(count: int) -> Encoding:
    return HashGridEncoding((level(),), np.zeros((64, count), np.float16))


def of_planes(count: int) -> Encoding:
    return PlaneEncoding(count * (np.zeros((1, 2, 2), np.float32),), count * (None,), count * AXES)


AXES = ((0, 1, 2),)
SHIFTED = HashGridEncoding((level(),), np.zeros((64, 4), np.float16))
LIMITS: dict[str, Callable[[int], Encoding]] = {  # what is more by how much than a limit
    "features": lambda more: of_features(MAX_GRID_FEATURES + more),
    "levels": lambda more: replace(SHIFTED, levels=(MAX_GRID_LEVELS + more) * (level(),)),
    "scale": lambda more: replace(SHIFTED, levels=(level(scale=MAX_GRID_SCALE + more),)),
    "resolution": lambda more: replace(SHIFTED, levels=(level(resolution=MAX_GRID_SCALE + more),)),
    "shift": lambda more: replace(SHIFTED, shift=1.0 + more / 9),
    "negative shift": lambda more: replace(SHIFTED, shift=-more / 9),
    "harmonics": lambda more: SphericalHarmonicsEncoding(MAX_HARMONICS_DEGREE + more),
    "frequencies": lambda more: FrequencyEncoding((MAX_FREQUENCIES + more) * (1.0,)),
    "planes": lambda more: of_planes(MAX_PARTS + more),
    "parts": lambda more: ConcatenatedEncoding((MAX_PARTS + more) * (IdentityEncoding(),)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_decoders_are_those_of_kernels(name: str) -> None:
    def field_of(encoding: Encoding) -> Field:
        passing = Mlp(encoding.outputs)
        network = replace(
            ball_field().network,
            position=encoding,
            trunk=passing,
            density_head=passing,
            feature_columns=(0, 3),
        )
        return replace(ball_field(), network=network)

    native, position = NativeComponents(1), np.zeros((3, 1), np.float32)
    within = LIMITS[name](0)
    require_valid(field_of(within))
    assert np.isfinite(native.encode(within, position)).all()
    beyond = LIMITS[name](1)
    with pytest.raises(ValueError, match=r"."):
        require_valid(field_of(beyond))
    with pytest.raises(ValueError, match=r"."):
        native.encode(beyond, position)


def test_no_engine_has_densities_by_softmax() -> None:
    field = ball_field()
    network = replace(field.network, density_activation=Activation.SOFTMAX)
    with pytest.raises(ValueError, match="softmax"):
        require_valid(replace(field, network=network))
    with pytest.raises(ValueError, match="activation"):
        NativeComponents(1).network(network, Domain())
