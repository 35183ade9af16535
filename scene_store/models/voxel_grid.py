"""Grids of densities and colours (``.npz``), as scripts make them; the model that
``docs/adding-a-model.md`` walks through.

A file has arrays ``density`` [N, N, N] (z, y, x; per world unit, 0 or more) and ``rgb``
[N, N, N, 3] (0 to 1, as displayed), values at the corners of N − 1 cells a side; and ``lo`` and
``hi`` [3], the corners of the cube that they fill. It may have ``background`` [3], and ``up`` [3].
Between corners all is trilinear, as in Plenoxels without view dependence (Fridovich-Keil et al.
2022) or a baked NeRF.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from scene_store.formats.side_files import ZIP_ERRORS
from scene_store.formats.source import DOWNLOAD_AGAIN
from scene_store.formats.zip_entries import MAX_DIRECTORY_BYTES, directory_bytes, entries_of
from scene_store.memory import available_bytes
from scene_store.models.field_checks import require_valid
from splat.errors import BudgetError, SceneFormatError, SceneNotFoundError
from splat.fields import (
    Contraction,
    Field,
    FieldSpace,
    GridLevel,
    HashGridEncoding,
    IdentityEncoding,
    Network,
    OccupancySampler,
)
from splat.networks import Activation, Mlp

MAX_SIDE = 512
STEPS_A_CELL = 2

_ARRAYS = ("density", "rgb", "lo", "hi")
_PIECE = 1 << 18  # values that are unpacked at once
_SEE = "see docs/adding-a-model.md for its arrays"


def recognizes(path: Path) -> bool:
    """Whether it is an archive of numpy with the arrays of a grid."""
    return not {f"{name}.npy" for name in _ARRAYS[:2]}.isdisjoint(entries_of(path))


def read_field(path: Path, *, trust: bool = False) -> Field:
    """The field of a grid.

    Args:
        path: The file.
        trust: Without effect: there is nothing in it that could be executed.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is damaged, or no such grid.
        BudgetError: If there is no memory for one as large.
    """
    arrays = _read_arrays(path)
    grid = arrays["grid"]
    side = len(grid)
    lo, hi = arrays["lo"].astype(np.float64), arrays["hi"].astype(np.float64)
    edge = float((hi - lo)[0])
    step = 1.0 / (STEPS_A_CELL * (side - 1))
    field = Field(
        kind="Voxel grid",
        network=_network(grid.reshape(-1, 4), side),
        space=FieldSpace(
            np.hstack([np.eye(3) / edge, -lo[:, None] / edge]), Contraction.NONE, lo, hi
        ),
        sampler=OccupancySampler(_occupied(grid[..., 0])[None], step, step),
        near=0.0,
        far=float(np.inf),
        background=_three(arrays.get("background")),
        up=_three(arrays.get("up")),
    )
    try:
        require_valid(field)
    except ValueError as error:
        raise SceneFormatError(path, str(error), remedy=DOWNLOAD_AGAIN) from None
    return field


def _network(table: NDArray[np.float32], side: int) -> Network:
    """Without layers: what is interpolated is what is seen."""
    level = GridLevel(float(side - 1), side, hashed=False, entries=side**3, first=0)
    return Network(
        position=HashGridEncoding((level,), table, shift=0.0),
        trunk=Mlp(4),
        density_head=Mlp(4),
        density_activation=Activation.RELU,
        feature_columns=(1, 4),
        direction=IdentityEncoding(),
        color_mlp=Mlp(3),
        color_inputs=("feature",),
    )


def _occupied(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N − 1, N − 1, N − 1]: cells of which a corner has a density; between empty corners there is
    nothing."""
    dense = density > 0
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        dense = dense[tuple(ahead)] | dense[tuple(behind)]
    return dense


def _read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """All arrays that are known, verified; densities and colours as one, [N, N, N, 4] ``grid``."""
    arrays = {}
    try:
        if directory_bytes(path) > MAX_DIRECTORY_BYTES:
            raise _NoSuchGridError("lists more files than a grid has arrays")
        with zipfile.ZipFile(path) as archive:
            # What all are to be is known from their headers, before anything is unpacked.
            entries = _entries(archive)
            shapes = {name: _shape(archive, entry, name) for name, entry in entries.items()}
            _check_shapes(shapes)
            _require_memory(path, shapes["density"])
            grid = np.empty((*shapes["density"], 4), np.float32)
            arrays["grid"] = grid
            for name, entry in entries.items():
                if name == "density":
                    _fill(grid[..., 0], archive, entry, name)
                elif name == "rgb":
                    _fill(grid[..., 1:], archive, entry, name)
                else:
                    arrays[name] = np.empty(3, np.float32)
                    _fill(arrays[name], archive, entry, name)
        _check_cube(arrays["lo"], arrays["hi"])
    except _NoSuchGridError as error:
        raise SceneFormatError(path, str(error), remedy=_SEE) from None
    except (*ZIP_ERRORS, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SceneNotFoundError(f"{path}: cannot be read ({error})") from None
        why = str(error)[:200] or type(error).__name__
        raise SceneFormatError(path, f"is damaged ({why})", remedy=DOWNLOAD_AGAIN) from None
    return arrays


class _NoSuchGridError(Exception):
    """Arrays that are whole, but not those of a grid."""


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found = {info.filename: info for info in archive.infolist()}
    names = (*_ARRAYS, "background", "up")
    return {name: found[f"{name}.npy"] for name in names if f"{name}.npy" in found}


def _shape(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> tuple[int, ...]:
    """Of an array of numbers, from its header."""
    with archive.open(entry) as file:
        shape, _, dtype = _header(file)
        start = file.tell()
    if dtype.kind not in "fiu":
        raise _NoSuchGridError(f"has '{name}' of {str(dtype)[:40]} instead of real numbers")
    if entry.file_size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"'{name}' is of another size than its header says")
    return shape


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype. Leaves the file where data begin.

    Raises:
        ValueError: If there is none.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a header of version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        return read(file)
    except (SyntaxError, tokenize.TokenError, TypeError) as error:
        raise ValueError(f"a header that is none: {error}") from None


def _require_memory(path: Path, shape: tuple[int, ...]) -> None:
    """A grid lies in memory as it is, and once more while it is brought to where it is drawn."""
    needed, free = 2 * 16 * math.prod(shape), available_bytes()
    if free is not None and needed > free:
        raise BudgetError(
            f"{path}: a grid of {shape[0]} a side takes {needed / 1e9:.1f} GB of memory, but "
            f"{free / 1e9:.1f} GB are free; make it of fewer cells"
        )


def _fill(
    out: NDArray[np.float32], archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str
) -> None:
    """Puts an array where it belongs, piece by piece: never does it lie in memory as it was."""
    with archive.open(entry) as file:
        _, is_fortran, dtype = _header(file)
        flat = (out.T if is_fortran else out).flat
        for start in range(0, out.size, _PIECE):
            count = min(_PIECE, out.size - start)
            raw = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
            with np.errstate(over="ignore"):  # what is infinite is refused
                values = raw.astype(np.float32)
            if not np.isfinite(values).all():
                raise _NoSuchGridError(f"has a value in '{name}' that is not finite")
            if name == "density" and (values < 0).any():
                raise _NoSuchGridError("has a density below 0")
            flat[start : start + count] = values
        file.read(1)  # behind the last byte the checksum is held against what was unpacked


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    for name in _ARRAYS:
        if name not in shapes:
            raise _NoSuchGridError(f"lacks the array '{name}'")
    density = shapes["density"]
    side = density[0] if density else 0
    if not 2 <= side <= MAX_SIDE:
        raise _NoSuchGridError(f"has a density of shape {density}; 2 to {MAX_SIDE} a side are read")
    wanted = {"density": (side,) * 3, "rgb": (side, side, side, 3)}
    for name, shape in shapes.items():
        expected = wanted.get(name, (3,))
        if shape != expected:
            raise _NoSuchGridError(f"has '{name}' of shape {shape} instead of {expected}")


def _check_cube(lo: NDArray[np.float32], hi: NDArray[np.float32]) -> None:
    edges = hi.astype(np.float64) - lo
    if not edges.min() > 0 or np.ptp(edges) > 1e-4 * edges.max():
        raise _NoSuchGridError(f"fills {edges.tolist()}, which is no cube")


def _three(array: NDArray[np.float32] | None) -> tuple[float, float, float] | None:
    if array is None:
        return None
    x, y, z = array.tolist()
    return x, y, z
