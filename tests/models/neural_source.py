"""A small neural scene that needs no files: anchors on a grid, in two levels of detail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.anchors import AnchorLayout, AnchorModel
from splat.gaussians import Gaussians
from splat.networks import Activation, Mlp
from splat.rows import Rows

LAYOUT = AnchorLayout(offsets=2, features=4)


def mlp(rng: np.random.Generator, inputs: int, outputs: int, last: Activation) -> Mlp:
    """A network of one hidden layer of 8."""
    sizes = ((8, inputs), (outputs, 8))
    weights = [rng.normal(0, 0.5, size).astype(np.float32) for size in sizes]
    biases = [rng.normal(0, 0.1, size[0]).astype(np.float32) for size in sizes]
    return Mlp.of(weights, biases, last=last)


def small_model(seed: int = 0) -> AnchorModel:
    """Networks with values from a generator."""
    rng = np.random.default_rng(seed)
    return AnchorModel(
        LAYOUT,
        opacity_mlp=mlp(rng, 7, 2, Activation.TANH),
        color_mlp=mlp(rng, 7, 6, Activation.SIGMOID),
        covariance_mlp=mlp(rng, 7, 14, Activation.NONE),
    )


class SmallAnchors:
    """A ``NeuralSource``: a root of 8 anchors over 2 leaves of 32 each.

    Attributes:
        rows: By chunk.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.model = small_model(seed)
        self.row_bytes, self.sh_degree, self.page_gaussians = 4 * LAYOUT.width, 0, 32
        leaves = [self._anchors(rng, low) for low in (-2.0, 0.0)]
        self.rows = [Rows(np.concatenate([leaf.data[::8] for leaf in leaves])), *leaves]
        boxes = [(rows.data[:, :3].min(0), rows.data[:, :3].max(0)) for rows in leaves]
        lo = np.array([np.minimum(*(low for low, _ in boxes)), *(low for low, _ in boxes)])
        hi = np.array([np.maximum(*(high for _, high in boxes)), *(high for _, high in boxes)])
        self.tree = LodTree(
            lo=lo,
            hi=hi,
            max_scale=np.full(3, 0.2, np.float32),
            error=np.array([0.3, 0, 0], np.float32),
            count=np.array([len(rows) for rows in self.rows], np.int32),
            parent=np.array([-1, 0, 0], np.int32),
            first_child=np.array([1, 0, 0], np.int32),
            child_count=np.array([2, 0, 0], np.int32),
            level=np.array([1, 0, 0], np.int32),
        )
        self.meta = SceneMeta("grid", "Anchors", 64, 0, up=(0.0, 0.0, 1.0), unit="anchors")

    def _anchors(self, rng: np.random.Generator, low: float) -> Rows:
        data = rng.normal(0, 0.3, (32, LAYOUT.width)).astype(np.float32)
        data[:, LAYOUT.means] = rng.uniform(low, low + 2.0, (32, 3))
        data[:, LAYOUT.scales] = np.log(0.1)
        return Rows(data)

    def encoded_bytes(self, chunk: int) -> int:
        return self.rows[chunk].nbytes

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        return EncodedChunk((self.rows[chunk].data.tobytes(),))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Rows:
        values = np.frombuffer(encoded.parts[0], np.float32)
        return Rows(values.reshape(-1, LAYOUT.width))

    def overview(self) -> Gaussians:
        means = np.concatenate([rows.data[:, :3] for rows in self.rows[1:]])
        count = len(means)
        quats = np.zeros((count, 4), np.float32)
        quats[:, 0] = 1
        scales, opacities = np.full((count, 3), 0.1, np.float32), np.ones(count, np.float32)
        return Gaussians(means, quats, scales, opacities, np.zeros((count, 1, 3), np.float32))

    def close(self) -> None:
        """Nothing is open."""
