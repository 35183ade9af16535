"""PlayCanvas's SOG: Gaussians as lossless WebP textures, in a ``.sog`` zip or a folder.

Texel i of each texture belongs to Gaussian i: means (16 bits a coordinate, in two
textures, logarithmic), quats (three components and the tag of the fourth), scales and sh0
(codebook indices and opacity), and, for higher harmonics, a label into a palette whose 64
rows per line are the shN centroids. Axes: x right, y down, z forward.

Source: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog/.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import SQRT_HALF, quats_from_three
from scene_store.formats.json_fields import MAX_JSON_BYTES, JsonObject, load_json, parse_json
from scene_store.formats.side_files import FolderFiles, SideFiles, ZipFiles
from scene_store.formats.sog_meta import META_FILE, ShPalette, SogMeta, parse_sog_meta
from scene_store.formats.source import (
    DOWNLOAD_AGAIN,
    ByteArray,
    IndexedSource,
    read_head,
    require_only_lod,
    require_plausible_count,
)
from scene_store.formats.webp import decode_webp, webp_size
from scene_store.scene import SceneMeta
from splat.errors import SceneFormatError
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array, Gaussians

ZIP_MAGIC = b"PK"

_PALETTE_ROWS_PER_LINE = 64
_MAX_PALETTE_ROWS = 65536

# Textures are padded to whole lines, by some writers to powers of two.
_SLACK_PIXELS = 1 << 20
_MAX_PIXELS_PER_GAUSSIAN = 4

_LARGEST_TAG = 252
_QUAT_VALUES = ((np.arange(256) / 255 * 2 - 1) * float(SQRT_HALF)).astype(np.float32)

_DECODE_THREADS = 2


Texels = tuple[ByteArray, ByteArray, ByteArray, ByteArray, ByteArray]
"""[N, 4] uint8 each: means (low and high bytes), quats, scales, sh0."""


@dataclass(frozen=True, slots=True, eq=False)
class SogTextures:
    """Decoded textures.

    Attributes:
        means_low, means_high, quats, scales, sh0: [pixels, 4] uint8; pixel i is Gaussian i's.
        labels: [pixels, 4] uint8, whose first two are the palette's row; None for degree 0.
        palette: [rows, coefficients, 3] uint8, indices into the values of harmonics.
    """

    means_low: ByteArray
    means_high: ByteArray
    quats: ByteArray
    scales: ByteArray
    sh0: ByteArray
    labels: ByteArray | None
    palette: ByteArray | None

    @property
    def texels(self) -> Texels:
        """Those of all Gaussians but for their harmonics above degree 0."""
        return (self.means_low, self.means_high, self.quats, self.scales, self.sh0)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(a.nbytes for a in (*self.texels, self.labels, self.palette) if a is not None)

    def palette_rows(self, part: slice) -> NDArray[np.intp]:
        """[N] row of the palette for each Gaussian; one beyond it stands for no harmonics."""
        assert self.labels is not None
        labels = self.labels[part].astype(np.uint16)
        return (labels[:, 0] | labels[:, 1] << 8).astype(np.intp)


class SogSource(IndexedSource):
    """A SOG scene: textures are decoded at the first batch and kept until closed."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        self._textures: SogTextures | None = None
        self._palette: Float32Array | None = None
        self._files = _open_files(path)
        try:
            meta = _read_meta(path, self._files)
            self._sog: SogMeta = parse_sog_meta(meta)
            compressed = sum(self._files.size(name) for name in texture_names(self._sog))
            require_plausible_count(path, self._sog.count, compressed, meta.place or "count")
            degree = sh_degree_of(self._files, self._sog.palette)
        except BaseException:
            self._files.close()
            raise
        self.meta = SceneMeta(
            path=path,
            format_name=f"SOG v{self._sog.version}",
            count=self._sog.count,
            sh_degree=degree,
            up=(0.0, -1.0, 0.0),
            notes=self._sog.notes,
        )

    def load_textures(self) -> None:
        """Decode all textures now, so that batches only have to look up values."""
        if self._textures is None:
            self._textures = decode_textures(self._files, self._sog, self.meta.sh_degree)
            self._palette = _palette_values(self._textures, self._sog)

    def _decode(self, start: int, stop: int) -> Gaussians:
        self.load_textures()
        textures = self._textures
        assert textures is not None
        part = slice(start, stop)
        low, high, quats, scales, sh0 = (texture[part] for texture in textures.texels)
        rest = None
        if self._palette is not None:
            # The row after the palette is zero: labels beyond it have no harmonics.
            rows = np.minimum(textures.palette_rows(part), len(self._palette) - 1)
            rest = self._palette[rows]
        return gaussians_of(self._sog, (low, high, quats, scales, sh0), rest, self.meta.sh_degree)

    def close(self) -> None:
        """See ``SceneSource.close``."""
        super().close()
        self._textures = self._palette = None
        self._files.close()


def gaussians_of(
    tables: SogMeta, texels: Texels, rest: Float32Array | None, degree: int
) -> Gaussians:
    """What texels mean.

    Args:
        tables: Of their ``meta.json``.
        texels: Of N Gaussians.
        rest: [N, coefficients, 3] harmonics above degree 0; None for none.
        degree: Of the result; coefficients that ``rest`` lacks are zero.
    """
    means_low, means_high, quats, scale_texels, sh0 = texels
    count = len(sh0)
    means = np.empty((count, 3), np.float32)
    scales = np.empty((count, 3), np.float32)
    sh = np.empty((count, SH_COUNT_OF_DEGREE[degree], 3), np.float32)
    for axis in range(3):
        low = means_low[:, axis].astype(np.uint16)
        high = means_high[:, axis].astype(np.uint16)
        means[:, axis] = tables.means[axis][low | high << 8]
        scales[:, axis] = tables.scales[axis][scale_texels[:, axis]]
        sh[:, 0, axis] = tables.colours[axis][sh0[:, axis]]
    known = 1 if rest is None else 1 + rest.shape[1]
    if rest is not None:
        sh[:, 1:known] = rest
    sh[:, known:] = 0.0
    return Gaussians(means, _quats(quats), scales, tables.opacities[sh0[:, 3]], sh)


def _open_files(path: Path) -> FolderFiles | ZipFiles:
    bundled = read_head(path, len(ZIP_MAGIC)).startswith(ZIP_MAGIC)
    return ZipFiles(path) if bundled else FolderFiles(path)


def _read_meta(path: Path, files: FolderFiles | ZipFiles) -> JsonObject:
    if isinstance(files, FolderFiles):
        return JsonObject.of(path, load_json(path), "")
    if META_FILE not in files:
        raise SceneFormatError(
            path,
            f"is a zip archive without {META_FILE}",
            remedy="check that it is a bundled SOG scene",
        )
    place = f"entry {META_FILE!r}"
    return JsonObject.of(
        path, parse_json(path, files.read(META_FILE, MAX_JSON_BYTES), place), place
    )


def texture_names(sog: SogMeta) -> tuple[str, ...]:
    """The files of a scene's textures."""
    palette = sog.palette
    return sog.files + ((palette.centroids_file, palette.labels_file) if palette else ())


def sh_degree_of(files: SideFiles, palette: ShPalette | None) -> int:
    """Degree of a scene's harmonics; version 1 tells it by the size of an image only."""
    if palette is None:
        return 0
    if palette.degree is not None:
        return palette.degree
    path, place = files.where(palette.centroids_file)
    width, _ = webp_size(path, files.read(palette.centroids_file), place)
    for degree in (1, 2, 3):
        if width == _PALETTE_ROWS_PER_LINE * (SH_COUNT_OF_DEGREE[degree] - 1):
            return degree
    raise SceneFormatError(
        path,
        f"is {width} pixels wide; palettes of degree 1, 2 and 3 have 192, 512 and 960",
        where=place,
        remedy=DOWNLOAD_AGAIN,
    )


def decode_textures(files: SideFiles, sog: SogMeta, degree: int) -> SogTextures:
    """All textures of a scene.

    Raises:
        SceneFormatError: If one is missing, damaged, or too small for the Gaussians.
    """
    max_pixels = _SLACK_PIXELS + _MAX_PIXELS_PER_GAUSSIAN * sog.count

    def pixels(name: str) -> ByteArray:
        path, place = files.where(name)
        texels = decode_webp(path, files.read(name), max_pixels, place).reshape(-1, 4)
        if len(texels) < sog.count:
            raise SceneFormatError(
                path,
                f"has {len(texels):,} pixels for {sog.count:,} Gaussians",
                where=place,
                remedy=DOWNLOAD_AGAIN,
            )
        return texels

    names = sog.files + ((sog.palette.labels_file,) if sog.palette else ())
    # WebP decoding is outside the interpreter's lock.
    with ThreadPoolExecutor(_DECODE_THREADS) as pool:
        images = list(pool.map(pixels, names))
    palette = _palette(files, sog.palette, degree) if sog.palette else None
    means_low, means_high, quats, scales, sh0 = images[:5]
    labels = images[5] if sog.palette else None
    return SogTextures(means_low, means_high, quats, scales, sh0, labels, palette)


def _palette_values(textures: SogTextures, sog: SogMeta) -> Float32Array | None:
    """[rows + 1, coefficients, 3] harmonics; the last row is zero."""
    if textures.palette is None or sog.palette is None:
        return None
    rows, coefficients, _ = textures.palette.shape
    out = np.zeros((rows + 1, coefficients, 3), np.float32)
    out[:rows] = sog.palette.values[textures.palette]
    return out


def _palette(files: SideFiles, palette: ShPalette, degree: int) -> ByteArray:
    """[rows, coefficients, 3] uint8, indices into ``palette.values``."""
    coefficients = SH_COUNT_OF_DEGREE[degree] - 1
    path, place = files.where(palette.centroids_file)
    width = _PALETTE_ROWS_PER_LINE * coefficients
    max_pixels = _MAX_PALETTE_ROWS * coefficients
    image = decode_webp(path, files.read(palette.centroids_file), max_pixels, place)
    rows = image.shape[0] * _PALETTE_ROWS_PER_LINE
    count = rows if palette.count is None else palette.count
    if image.shape[1] != width or count > rows:
        raise SceneFormatError(
            path,
            f"is {image.shape[1]} × {image.shape[0]} pixels; {count:,} rows of degree {degree} "
            f"need a width of {width} and at least {-(-count // _PALETTE_ROWS_PER_LINE)} lines",
            where=place,
            remedy=DOWNLOAD_AGAIN,
        )
    return np.ascontiguousarray(image.reshape(rows, coefficients, 4)[:count, :, :3])


def _quats(texels: ByteArray) -> Float32Array:
    tags = texels[:, 3]
    quats = quats_from_three(tags.astype(np.int16) - _LARGEST_TAG, _QUAT_VALUES[texels[:, :3]])
    unknown: NDArray[np.bool_] = tags < _LARGEST_TAG
    if unknown.any():
        quats[unknown] = (1.0, 0.0, 0.0, 0.0)
    return quats
