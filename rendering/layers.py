"""Layers of one picture, front to back, made one: the last step of sort-last rendering. Pure.

A layer is the image of the Gaussians in a slab of depth (``rendering.depth_slabs``) on a black
background, so its colour is premultiplied. With T the transmittance of all layers in front,

    color += T · color_k        alpha += T · alpha_k
    Σ w z += T · alpha_k · depth_k,    as alpha_k = Σ w of the layer's own depth Σ w z / Σ w

is exact (Porter and Duff 1984: "over" is associative), and counts add up. What differs from the
whole picture is rounding, and the stop: the whole picture of a pixel ends at the first Gaussian
that leaves a transmittance of ``RasterSettings.transmittance_stop`` or less; here the slab in which
that happens is drawn on, to its end or its own stop, and the slabs behind it are left out. So at
the usual stop alphas differ by at most ``TRANSMITTANCE_STOP``, colours by that times their range,
depths by that times the distance of what is drawn more, and such a pixel may count more Gaussians.
With an earlier stop, where a pixel that came to it is opaque, either picture is within that stop,
times the range, of the one without.

A median depth cannot be told from layers: it is where T falls to one half, and a layer behind
another one would have to know how much of T is left there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rendering.base import (
    TRANSMITTANCE_STOP,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
)

LAYERED = Outputs.COLOR | Outputs.DEPTH | Outputs.COUNT
BLACK = (0.0, 0.0, 0.0)
ONE = np.float32(1.0)
BLOCK_PX = 1 << 16  # at a time, so that what is at hand stays in a core's cache


def layer_settings(settings: RasterSettings) -> RasterSettings:
    """How to draw a layer of a picture."""
    return replace(settings, background=BLACK)


def composited(
    layers: Sequence[RasterImage], settings: RasterSettings, stats: RasterStats
) -> RasterImage:
    """The picture of all layers over a background.

    Args:
        layers: At least one, the nearest first, drawn as ``layer_settings`` says, all with the
            same of the ``LAYERED`` images.
        settings: Those of the whole picture.
        stats: Of the result.
    """
    first = layers[0]
    out = RasterImage(
        np.empty_like(first.alpha),
        None if first.color is None else np.empty_like(first.color),
        None if first.depth is None else np.empty_like(first.depth),
        None,
        None if first.count is None else np.empty_like(first.count),
        stats,
    )
    height, width = first.alpha.shape
    rows = max(1, BLOCK_PX // width)
    for top in range(0, height, rows):
        end = min(height, top + rows)
        _composite([layer.rows(top, end) for layer in layers], settings, out.rows(top, end))
    return out


def _composite(layers: Sequence[RasterImage], settings: RasterSettings, out: RasterImage) -> None:
    """Into ``out``, whose arrays are views."""
    for array, nearest in zip(out.arrays, layers[0].arrays, strict=True):
        array[...] = nearest
    alpha, color, depth = out.alpha, out.color, out.depth
    if depth is not None:
        depth *= alpha
    for layer in layers[1:]:
        _add_behind(layer, settings.transmittance_stop, out)
    if depth is not None:
        np.divide(depth, alpha, out=depth, where=alpha > 0)
    if settings.transmittance_stop > TRANSMITTANCE_STOP:
        _make_opaque(settings.transmittance_stop, out)
    background = np.array(settings.background, np.float32)
    if color is not None and background.any():
        color += (ONE - alpha)[..., None] * background


def _add_behind(layer: RasterImage, stop: float, out: RasterImage) -> None:
    """The next layer; ``out.depth`` is a sum yet."""
    alpha, color, depth, count = out.alpha, out.color, out.depth, out.count
    left = ONE - alpha
    left *= left > stop
    if color is not None and layer.color is not None:
        added = np.empty_like(color)
        for channel in range(3):  # numpy is slow at loops of three
            np.multiply(left, layer.color[..., channel], out=added[..., channel])
        color += added
    if count is not None and layer.count is not None:
        count += (left > 0) * layer.count
    left *= layer.alpha
    if depth is not None and layer.depth is not None:
        depth += left * layer.depth
    alpha += left


def _make_opaque(stop: float, out: RasterImage) -> None:
    """Pixels that came to an earlier stop get their own colour for what is left of them."""
    alpha, color = out.alpha, out.color
    opaque = alpha >= ONE - np.float32(stop)
    if color is not None:
        np.divide(color, alpha[..., None], out=color, where=opaque[..., None])
    alpha[opaque] = ONE
