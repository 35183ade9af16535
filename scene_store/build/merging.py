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


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The Gaussians of a node, with what levels above need to know of them.

    Attributes:
        gaussians: The node's own.
        sizes: [N] float32, weighted mean of √tr Σ of the originals that each stands for,
            world units.
        error: How far they lie from the originals (``displacement``), world units.
    """

    gaussians: Gaussians
    sizes: Float32Array
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class BuiltNode:
    """A node that is finished.

    Attributes:
        content: What its parent is merged from.
        encoded: What is written.
        lo, hi: [3] box of all means in the subtree.
        max_scale: Of the subtree, as ``LodTree.max_scale``.
        error: As ``LodTree.error``.
    """

    content: Content
    encoded: EncodedChunk
    lo: Float32Array
    hi: Float32Array
    max_scale: np.float32
    error: np.float32


def original(gaussians: Gaussians) -> Content:
    """Gaussians of the scene itself."""
    return Content(gaussians, _spreads(gaussians), 0.0)


def merge(parts: Sequence[Content], target: int) -> Content:
    """``target`` Gaussians that stand in for all of ``parts`` (at least as many).

    Deterministic; the interpreter's lock is released for most of it.
    """
    gaussians = Gaussians.concatenate([part.gaussians for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    if target >= len(gaussians):
        return Content(gaussians, sizes, displacement(gaussians, sizes))
    first = all(part.error == 0 for part in parts)
    labels = np.empty(len(gaussians), np.uint32)
    _store.cluster(*gaussians.arrays, first, target, labels)
    merged = Gaussians.allocate(target, gaussians.sh_degree)
    merged_sizes = np.empty(target, np.float32)
    _store.merge_clusters(*gaussians.arrays, first, sizes, labels, *merged.arrays, merged_sizes)
    return Content(merged, merged_sizes, displacement(merged, merged_sizes))


def displacement(gaussians: Gaussians, sizes: Float32Array) -> float:
    """How far originals are moved and blurred by what stands in for them: weighted RMS.

    The squared Wasserstein-2 distance between a Gaussian (μ₀, Σ₀) and its stand-in (μ, Σ) is
    at least ``|μ₀ − μ|² + (√tr Σ₀ − √tr Σ)²`` (Gelbrich, 1990). Moments are preserved, so
    ``tr Σ = E[tr Σ₀ + |μ₀ − μ|²]``, and the expectation over all originals of one stand-in
    is ``2 √tr Σ (√tr Σ − E √tr Σ₀)``: nothing needs to be remembered but the mean size.
    """
    spreads = _spreads(gaussians).astype(np.float64)
    squares = 2 * spreads * np.maximum(spreads - sizes, 0.0)
    weights = _weights(gaussians)
    total = float(weights.sum())
    return math.sqrt(float((weights * squares).sum()) / total) if total > 0 else 0.0


def foreign(gaussians: Gaussians, error: float) -> Content:
    """Gaussians that the source made for a coarser level, at a known distance from the originals.

    ``sizes`` are such that ``displacement`` gives that distance, as far as they can.
    """
    spreads = _spreads(gaussians).astype(np.float64)
    sizes = np.maximum(spreads - 0.5 * error * error / spreads, 0.0)
    return Content(gaussians, sizes.astype(np.float32), error)


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
    """[N] opacity · area."""
    a, b, c = (gaussians.scales.T.astype(np.float64)) ** 2
    weights: NDArray[np.float64] = gaussians.opacities * np.sqrt(a * b + a * c + b * c)
    return weights
