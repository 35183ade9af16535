"""antimatter15's ``.splat``: 32 bytes per Gaussian and nothing else.

Position and linear scale as float32, colour and opacity as bytes, rotation as four bytes
(wxyz, 128 is zero). There is no header, so a file is recognized by its values.
Axes: x right, y down, z forward.

Source: ``convert.py`` of https://github.com/antimatter15/splat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.decoding import normalized
from scene_store.formats.source import (
    DOWNLOAD_AGAIN,
    FileBytes,
    IndexedSource,
    require_file,
    require_only_lod,
)
from scene_store.scene import SceneMeta
from splat.errors import SceneFormatError
from splat.gaussians import Gaussians
from splat.harmonics import rgb_to_sh0

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])

_PROBED_RECORDS = 64
_FARTHEST = 1e7
_LARGEST_SCALE = 1e6


def looks_like_splat(path: Path) -> bool:
    """Whether the first records of a file hold values that Gaussians would have."""
    size = require_file(path)
    if size % RECORD.itemsize:
        return False
    head = FileBytes(path)[: _PROBED_RECORDS * RECORD.itemsize].view(RECORD)
    means, scales = head["mean"], head["scale"]
    norms = np.linalg.norm((head["quat"].astype(np.float32) - 128.0) / 128.0, axis=1)
    with np.errstate(invalid="ignore"):
        plausible = (
            (np.abs(means) < _FARTHEST).all(axis=1)
            & ((scales >= 0) & (scales < _LARGEST_SCALE)).all(axis=1)
            & ((norms > 0.9) & (norms < 1.1))
            # Small integers in other formats read as denormal numbers.
            & (scales > 1e-30).any(axis=1)
        )
    return bool(plausible.mean() > 0.9)


class SplatSource(IndexedSource):
    """A ``.splat``, read and decoded on demand."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        require_only_lod(path, lod)
        data = FileBytes(path)
        count, rest = divmod(data.size, RECORD.itemsize)
        if rest:
            raise SceneFormatError(
                path,
                f"ends after {rest} of {RECORD.itemsize} bytes of its last Gaussian",
                where=f"byte {data.size:,}",
                remedy=DOWNLOAD_AGAIN,
            )
        self._records = data.records(0, data.size, RECORD)
        self.meta = SceneMeta(
            path=path, format_name="splat", count=count, sh_degree=0, up=(0.0, -1.0, 0.0)
        )

    def decode_at(self, places: NDArray[np.int64]) -> Gaussians:
        """See ``sampling.Scattered``."""
        with np.errstate(all="ignore"):
            return self._decoded(self._records.at(places))

    def _decode(self, start: int, stop: int) -> Gaussians:
        return self._decoded(self._records[start:stop])

    def _decoded(self, records: NDArray[np.void]) -> Gaussians:
        rgba = records["rgba"].astype(np.float32) / np.float32(255)
        quats = (records["quat"].astype(np.float32) - np.float32(128)) / np.float32(128)
        return Gaussians(
            records["mean"].astype(np.float32),
            normalized(quats),
            records["scale"].astype(np.float32),
            rgba[:, 3].copy(),
            rgb_to_sh0(rgba[:, None, :3]),
        )
