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


@dataclass(frozen=True, slots=True, eq=False)
class _Textures:
    """Decoded textures as [pixels, 4] uint8, and the palette [rows + 1, coefficients, 3]."""

    means_low: ByteArray
    means_high: ByteArray
    quats: ByteArray
    scales: ByteArray
    sh0: ByteArray
    labels: ByteArray | None
    palette: Float32Array | None


class SogSource(IndexedSource):
    """A SOG scene: textures are decoded at the first batch and kept until closed."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        self._textures: _Textures | None = None
        self._files = _open_files(path)
        try:
            meta = _read_meta(path, self._files)
            self._sog: SogMeta = parse_sog_meta(meta)
            compressed = sum(self._files.size(name) for name in _texture_names(self._sog))
            require_plausible_count(path, self._sog.count, compressed, meta.place or "count")
            degree = _sh_degree(self._files, self._sog.palette)
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
            self._textures = _decode_textures(self._files, self._sog, self.meta.sh_degree)

    def _decode(self, start: int, stop: int) -> Gaussians:
        self.load_textures()
        textures = self._textures
        assert textures is not None
        part = slice(start, stop)
        tables = self._sog
        means = np.empty((stop - start, 3), np.float32)
        scales = np.empty((stop - start, 3), np.float32)
        sh = np.empty((stop - start, SH_COUNT_OF_DEGREE[self.meta.sh_degree], 3), np.float32)
        for axis in range(3):
            low = textures.means_low[part, axis].astype(np.uint16)
            high = textures.means_high[part, axis].astype(np.uint16)
            means[:, axis] = tables.means[axis][low | high << 8]
            scales[:, axis] = tables.scales[axis][textures.scales[part, axis]]
            sh[:, 0, axis] = tables.colours[axis][textures.sh0[part, axis]]
        if textures.labels is not None and textures.palette is not None:
            labels = textures.labels[part].astype(np.uint16)
            rows = (labels[:, 0] | labels[:, 1] << 8).astype(np.intp)
            # The row after the palette is zero: labels beyond it have no harmonics.
            sh[:, 1:] = textures.palette[np.minimum(rows, len(textures.palette) - 1)]
        return Gaussians(
            means,
            _quats(textures.quats[part]),
            scales,
            tables.opacities[textures.sh0[part, 3]],
            sh,
        )

    def close(self) -> None:
        """See ``SceneSource.close``."""
        super().close()
        self._textures = None
        self._files.close()


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


def _texture_names(sog: SogMeta) -> tuple[str, ...]:
    palette = sog.palette
    return sog.files + ((palette.centroids_file, palette.labels_file) if palette else ())


def _sh_degree(files: SideFiles, palette: ShPalette | None) -> int:
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


def _decode_textures(files: SideFiles, sog: SogMeta, degree: int) -> _Textures:
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
    return _Textures(means_low, means_high, quats, scales, sh0, labels, palette)


def _palette(files: SideFiles, palette: ShPalette, degree: int) -> Float32Array:
    """[rows + 1, coefficients, 3] harmonics; the last row is zero."""
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
    out = np.zeros((count + 1, coefficients, 3), np.float32)
    out[:count] = palette.values[image.reshape(rows, coefficients, 4)[:count, :, :3]]
    return out


def _quats(texels: ByteArray) -> Float32Array:
    tags = texels[:, 3]
    quats = quats_from_three(tags.astype(np.int16) - _LARGEST_TAG, _QUAT_VALUES[texels[:, :3]])
    unknown: NDArray[np.bool_] = tags < _LARGEST_TAG
    if unknown.any():
        quats[unknown] = (1.0, 0.0, 0.0, 0.0)
    return quats
