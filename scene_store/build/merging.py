"""Chunks in the making, and the merged Gaussians that stand in for several of them.

Which Gaussians are merged, and into what, is native code (``native/src/cluster.cpp`` and
``merge.cpp``); ``tests/store/slow_merge.py`` is the same in plain numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk
from scene_store.native import _store
from splat.gaussians import Float32Array, Gaussians

# Opacities of merged Gaussians may exceed 1: their mass is preserved, and alpha is clipped in
# each pixel.
MAX_MERGED_OPACITY = 8.0
_LOG_CUT = math.log(255.0)
_MOST = float(np.finfo(np.float32).max)
_SHAPE_LOSS = 0.002  # squared colour that a Gaussian of another shape is thought to differ by


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The Gaussians of a node, with what levels above need to know of them.

    Attributes:
        gaussians: The node's own.
        sizes: [N] float32, weighted mean of √tr Σ of the originals that each stands for,
            world units.
        variances: [N] float32, weighted mean square of the difference of their displayed
            colours (of degree 0) to its own, summed over the channels.
        error: How far they lie from the originals (``displacement``), world units.
    """

    gaussians: Gaussians
    sizes: Float32Array
    variances: Float32Array
    error: float

    @property
    def loss(self) -> float:
        """What is lost of the picture, as ``LodTree.loss``.

        Differences of shape count a little, so that there is an order for scenes of a single
        colour, too.
        """
        spreads = _spreads(self.gaussians).astype(np.float64)
        shapes = np.maximum(1 - self.sizes / spreads, 0.0)
        losses = _weights(self.gaussians) * (self.variances + _SHAPE_LOSS * shapes)
        return min(float(losses.sum()), _MOST)


@dataclass(frozen=True, slots=True, eq=False)
class BuiltNode:
    """A node that is finished.

    Attributes:
        content: What its parent is merged from.
        encoded: What is written.
        lo, hi: [3] box of all means in the subtree.
        max_scale: Of the subtree, as ``LodTree.max_scale``.
        error: As ``LodTree.error``.
        loss: As ``LodTree.loss``.
    """

    content: Content
    encoded: EncodedChunk
    lo: Float32Array
    hi: Float32Array
    max_scale: np.float32
    error: np.float32
    loss: np.float32

    @property
    def numbers(self) -> Float32Array:
        """[9] lo, hi, max_scale, error, loss."""
        return np.array(
            [*self.lo, *self.hi, self.max_scale, self.error, self.loss], dtype=np.float32
        )

    @classmethod
    def of(cls, content: Content, encoded: EncodedChunk, numbers: Float32Array) -> BuiltNode:
        """With what ``numbers`` gave."""
        return cls(content, encoded, numbers[0:3], numbers[3:6], *numbers[6:9])


def original(gaussians: Gaussians) -> Content:
    """Gaussians of the scene itself."""
    return Content(gaussians, _spreads(gaussians), np.zeros(len(gaussians), np.float32), 0.0)


def merge(parts: Sequence[Content], target: int) -> Content:
    """``target`` Gaussians that stand in for all of ``parts`` (at least as many).

    Deterministic; the interpreter's lock is released for most of it.
    """
    gaussians = Gaussians.concatenate([part.gaussians for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    variances = np.concatenate([part.variances for part in parts])
    if target >= len(gaussians):
        return Content(gaussians, sizes, variances, displacement(gaussians, sizes))
    first = all(part.error == 0 for part in parts)
    labels = np.empty(len(gaussians), np.uint32)
    _store.cluster(*gaussians.arrays, first, target, labels)
    merged = Gaussians.allocate(target, gaussians.sh_degree)
    merged_sizes, merged_variances = np.empty((2, target), np.float32)
    _store.merge_clusters(
        *gaussians.arrays,
        first,
        sizes,
        variances,
        labels,
        *merged.arrays,
        merged_sizes,
        merged_variances,
    )
    error = displacement(merged, merged_sizes)
    return Content(merged, merged_sizes, merged_variances, error)


def displacement(gaussians: Gaussians, sizes: Float32Array) -> float:
    """How far originals are moved and blurred by what stands in for them: weighted RMS.

    The squared Wasserstein-2 distance between a Gaussian (μ₀, Σ₀) and its stand-in (μ, Σ) is
    at least ``|μ₀ − μ|² + (√tr Σ₀ − √tr Σ)²`` (Gelbrich, 1990). Moments are preserved, so
    ``tr Σ = E[tr Σ₀ + |μ₀ − μ|²]``, and the expectation over all originals of one stand-in
    is ``2 √tr Σ (√tr Σ − E √tr Σ₀)``: nothing needs to be remembered but the mean size. Where
    a stand-in was grown (``merge.cpp``), this says more than was lost.
    """
    spreads = _spreads(gaussians).astype(np.float64)
    squares = 2 * spreads * np.maximum(spreads - sizes, 0.0)
    weights = _weights(gaussians)
    total = float(weights.sum())
    return math.sqrt(float((weights * squares).sum()) / total) if total > 0 else 0.0


def foreign(gaussians: Gaussians, error: float, loss: float) -> Content:
    """Gaussians that the source made for a coarser level, at a known distance from the originals.

    ``sizes`` and ``variances`` are such that ``displacement`` and ``loss`` give these, as far
    as they can.
    """
    spreads = _spreads(gaussians).astype(np.float64)
    sizes = np.maximum(spreads - 0.5 * error * error / spreads, 0.0)
    total = float(_weights(gaussians).sum())
    variances = np.full(len(gaussians), loss / total if total > 0 else 0.0, np.float32)
    return Content(gaussians, sizes.astype(np.float32), variances, error)


def reach(gaussians: Gaussians) -> np.float32:
    """``LodTree.max_scale`` of some Gaussians."""
    louder = np.log(255.0 * np.maximum(gaussians.opacities, 1.0)) / _LOG_CUT
    furthest: np.float32 = (gaussians.scales.max(axis=1) * np.sqrt(louder)).max()
    return furthest


def _spreads(gaussians: Gaussians) -> Float32Array:
    """[N] √tr Σ."""
    squares = np.einsum("ij,ij->i", gaussians.scales, gaussians.scales)
    spreads: Float32Array = np.maximum(np.sqrt(squares), np.float32(1e-30))
    return spreads


def _weights(gaussians: Gaussians) -> NDArray[np.float64]:
    """[N] opacity · area, the root of its mean square over all directions; world units²."""
    a, b, c = (gaussians.scales.T.astype(np.float64)) ** 2
    areas = 2 * math.pi * np.sqrt((a * b + a * c + b * c) / 3)
    weights: NDArray[np.float64] = gaussians.opacities * areas
    return weights
