"""Gaussians dressed as anchors, so that contracts of engines hold for what draws anchors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.models.anchors import AnchorPairRasterizer
from rendering.native.cpu import NativeRasterizer
from splat.anchors import AnchorLayout, AnchorModel
from splat.gaussians import Gaussians
from splat.harmonics import sh0_to_rgb
from splat.networks import Activation, Layer, Mlp
from splat.rows import Rows

Float32Array = NDArray[np.float32]

_FEATURES = 8  # opacity, colour, rotation
_INPUTS = _FEATURES + 3


def anchors_of(gaussians: Gaussians) -> Rows:
    """An anchor for each, of which networks say what it is, whoever looks; harmonics are lost."""
    count = len(gaussians)
    rows = np.zeros((count, PLAIN.layout.width))
    rows[:, PLAIN.layout.means] = gaussians.means
    rows[:, PLAIN.layout.scales][:, 3:] = np.log(2.0 * gaussians.scales)
    rgb = np.clip(sh0_to_rgb(gaussians.sh[:, 0].astype(np.float64)), 1e-6, 1 - 1e-6)
    opacity = np.minimum(gaussians.opacities.astype(np.float64), 1 - 1e-7)
    feature = rows[:, PLAIN.layout.feature_values]
    feature[:, 0] = np.arctanh(opacity)
    feature[:, 1:4] = np.log(rgb / (1 - rgb))
    feature[:, 4:8] = gaussians.quats
    return Rows(rows.astype(np.float32))


def _taking(features: list[int | None], activation: Activation = Activation.NONE) -> Mlp:
    """Outputs that are features, or 0."""
    weight = np.zeros((len(features), _INPUTS), np.float32)
    for output, feature in enumerate(features):
        if feature is not None:
            weight[output, feature] = 1.0
    return Mlp(_INPUTS, (Layer(weight, np.zeros(len(features), np.float32), activation),))


PLAIN = AnchorModel(
    AnchorLayout(1, _FEATURES),
    opacity_mlp=_taking([0], Activation.TANH),
    color_mlp=_taking([1, 2, 3], Activation.SIGMOID),
    covariance_mlp=_taking([None, None, None, 4, 5, 6, 7]),
)
"""Of anchors that are a Gaussian each."""


class GaussiansAsAnchors(AnchorPairRasterizer):
    """Takes Gaussians, as engines do, and draws them as anchors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(PLAIN, NativeRasterizer(), **options)

    def prepare(self, gaussians: Any) -> Any:
        return super().prepare(anchors_of(gaussians))

    def new_pool(self, page_gaussians: int, sh_degree: int) -> Any:
        return _Pool(super().new_pool(page_gaussians, sh_degree))


class _Pool:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def pack(self, gaussians: Gaussians) -> Any:
        return self._pool.pack(anchors_of(gaussians))

    def pack_many(self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1) -> Any:
        return self._pool.pack_many(anchors_of(gaussians), rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
