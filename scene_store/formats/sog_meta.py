"""``meta.json`` of a SOG scene, versions 1 and 2, as lookup tables.

The versions differ only in how a byte becomes a value: version 1 interpolates between a
minimum and a maximum of each channel (opacity as a logit); version 2 looks it up in a
codebook (opacity is the byte itself). Both are tables of 256 values here, so that the
decoder knows nothing of versions.

Source: https://github.com/playcanvas/splat-transform (``read-sog.ts``, ``read-sog-v1.ts``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import exponential, sigmoid
from scene_store.formats.json_fields import JsonObject
from splat.gaussians import Float32Array

META_FILE = "meta.json"

_BYTE = np.arange(256) / 255.0
_WORD = np.arange(65536) / 65535.0


@dataclass(frozen=True, slots=True, eq=False)
class ShPalette:
    """Harmonics above degree 0: a label for each Gaussian picks a row of a palette.

    ``count`` rows and ``degree`` are None in version 1, where the image's size tells them.
    """

    values: Float32Array
    count: int | None
    degree: int | None
    centroids_file: str
    labels_file: str


@dataclass(frozen=True, slots=True, eq=False)
class SogMeta:
    """What the textures of a SOG scene mean.

    Attributes:
        version: 1 or 2.
        count: Gaussians.
        means: [3, 65536] float32, world coordinate of each 16-bit value, per axis.
        scales: [3, 256] float32, linear scale of each byte, per axis.
        colours: [3, 256] float32, degree-0 harmonic of each byte, per channel.
        opacities: [256] float32.
        files: Names of the means (low and high bytes), quats, scales and sh0 textures.
        palette: The higher harmonics, if any.
        notes: For the user.
    """

    version: int
    count: int
    means: Float32Array
    scales: Float32Array
    colours: Float32Array
    opacities: Float32Array
    files: tuple[str, str, str, str, str]
    palette: ShPalette | None
    notes: tuple[str, ...]


# A unit of a streamed scene is opened by a thread, where the opener's setting does not hold.
@np.errstate(all="ignore")
def parse_sog_meta(meta: JsonObject) -> SogMeta:
    """Checks a parsed ``meta.json`` and builds its tables.

    Raises:
        SceneFormatError: If a field is missing or wrong, or the version is unknown.
    """
    version = meta.integer("version") if "version" in meta else 1
    if version not in (1, 2):
        raise meta.error(f"is SOG version {version}; versions 1 and 2 are read", "version")
    means, scales, sh0 = meta.child("means"), meta.child("scales"), meta.child("sh0")
    files = (
        *means.strings("files", 2)[:2],
        meta.child("quats").strings("files", 1)[0],
        scales.strings("files", 1)[0],
        sh0.strings("files", 1)[0],
    )
    count = _count_v1(means) if version == 1 else meta.integer("count", 1)
    build = _tables_v1 if version == 1 else _tables_v2
    scale_table, colour_table, opacity_table = build(scales, sh0)
    model = meta.fields.get("model")
    notes = (f"trained as {model[:40]!r}",) if isinstance(model, str) and model != "default" else ()
    return SogMeta(
        version=version,
        count=count,
        means=_mean_tables(means),
        scales=scale_table,
        colours=colour_table,
        opacities=opacity_table,
        files=(files[0], files[1], files[2], files[3], files[4]),
        palette=_palette(meta.child("shN"), version) if "shN" in meta else None,
        notes=notes,
    )


def _count_v1(means: JsonObject) -> int:
    shape = means.items("shape")
    count = JsonObject(means.path, {"shape": shape[0] if shape else None}, means.place)
    return count.integer("shape", 1)


def _mean_tables(means: JsonObject) -> Float32Array:
    """Coordinates are stored as sign(x)·ln(1 + |x|), in 16 bits between two bounds."""
    low, high = _bounds(means, 3)
    logs = low[:, None] + (high - low)[:, None] * _WORD
    return (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)


def _bounds(field: JsonObject, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array(field.numbers("mins", count)), np.array(field.numbers("maxs", count))


_Tables = tuple[Float32Array, Float32Array, Float32Array]


def _tables_v1(scales: JsonObject, sh0: JsonObject) -> _Tables:
    low, high = _bounds(scales, 3)
    log_scales = low[:, None] + (high - low)[:, None] * _BYTE
    low, high = _bounds(sh0, 4)
    values = low[:, None] + (high - low)[:, None] * _BYTE
    return exponential(log_scales), values[:3].astype(np.float32), sigmoid(values[3])


def _tables_v2(scales: JsonObject, sh0: JsonObject) -> _Tables:
    log_scales, colours = _codebook(scales), _codebook(sh0)
    return (
        np.tile(exponential(log_scales), (3, 1)),
        np.tile(colours.astype(np.float32), (3, 1)),
        _BYTE.astype(np.float32),
    )


def _codebook(field: JsonObject) -> NDArray[np.float64]:
    """[256] values; those that a shorter codebook lacks are NaN, so using one is noticed."""
    values = field.items("codebook")
    if not 1 <= len(values) <= 256:
        raise field.error("needs 1 to 256 numbers", "codebook")
    table = np.full(256, np.nan)
    table[: len(values)] = field.numbers("codebook", len(values))
    return table


def _palette(field: JsonObject, version: int) -> ShPalette:
    centroids, labels = field.strings("files", 2)[:2]
    if version == 1:
        low, high = field.number("mins"), field.number("maxs")
        values = (low + (high - low) * _BYTE).astype(np.float32)
        return ShPalette(values, None, None, centroids, labels)
    degree = field.integer("bands")
    if not 1 <= degree <= 3:
        raise field.error("harmonics need degree 1, 2 or 3", "bands")
    count = field.integer("count", 1)
    return ShPalette(_codebook(field).astype(np.float32), count, degree, centroids, labels)
