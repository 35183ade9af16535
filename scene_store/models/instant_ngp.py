"""Instant-NGP snapshots: the ``.msgpack`` and ``.ingp`` files of NVlabs/instant-ngp (Müller et al.
2022).

A snapshot is the configuration of the networks with all else under ``snapshot``: parameters, the
grid of densities that empty space is skipped by, boxes, and the data set's cameras. An ``.ingp``
is the same in gzip or zlib.

Coordinates: instant-ngp trains in a world of its own, ``n = P (scale · x + offset)``, where P
cycles the axes (x of it is y of the data set, y is z, z is x; not for Mitsuba's scenes). Where a
snapshot tells scale and offset, the world here is that of the data set's ``transforms.json``, x;
else n.

Colours: networks give sRGB values, composited as they are, unless somebody chose "linear colors"
while training, which snapshots do not tell. Densities are exponentials; with HDR images so are
colours.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.formats.json_fields import JsonObject
from scene_store.formats.source import DOWNLOAD_AGAIN, read_head, require_file
from scene_store.models.field_checks import require_valid
from scene_store.models.instant_ngp_cameras import snapshot_cameras
from scene_store.models.instant_ngp_network import ModelConfig, Parameters, make_network
from scene_store.models.instant_ngp_world import NgpWorld
from scene_store.models.msgpack import MAX_VALUES, leading_names, parse_msgpack, starts_map
from splat.errors import SceneFormatError
from splat.fields import Contraction, Field, FieldSpace, OccupancySampler
from splat.gaussians import Float32Array
from splat.text import counted

KIND = "Instant-NGP"

MAX_FILE_BYTES = 1 << 32
SMALL_BYTES = 1 << 26  # a compressed file may always become this
MAX_RATIO = 64  # and beyond it so many times its size: what was trained does not compress so well
SMALL_VALUES = 1 << 16  # a file may always hold so many
VALUES_PER_BYTE = 0.5  # and beyond it so many for each of its bytes, which are weights above all
HEAD_BYTES = 1 << 14  # in which a file says what it is
_PIECE = 1 << 20
_GZIP = b"\x1f\x8b"
MAX_LATENTS = 256

GRID_SIDE = 128  # cells of the grid of densities
MAX_CASCADES = 8
MIN_OPTICAL_THICKNESS = 0.01  # of a cell that is not empty
MIN_STEP = math.sqrt(3.0) / 1024.0  # units of the unit cube
MAX_STEP = MIN_STEP * (1 << (MAX_CASCADES - 1)) * 1024 / GRID_SIDE
CONE_ANGLE = 1.0 / 256.0  # of scenes larger than the unit cube

_RETRAIN = "save it again with a current version of instant-ngp"


def recognizes(path: Path) -> bool:
    """Whether a file holds a snapshot of instant-ngp, or the configuration that one begins with."""
    if not path.is_file():
        return False
    start = read_head(path, 2)
    is_plain = starts_map(start[0])
    if not is_plain and not _is_compressed(start):
        return False
    head = read_head(path, HEAD_BYTES)
    if not is_plain:
        try:
            head = zlib.decompressobj(wbits=47).decompress(head, HEAD_BYTES)
        except zlib.error:
            return False
    names = leading_names(head)
    return "snapshot" in names or names >= {"encoding", "network"}


def read_field(path: Path, *, trust: bool = False) -> Field:
    """The radiance field of a snapshot.

    Args:
        path: An ``.msgpack`` or ``.ingp`` file.
        trust: Nothing: snapshots hold no code.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is damaged, of another mode than NeRF, or of networks that are not
            supported.
    """
    root = JsonObject.of(path, _parsed(path), "", DOWNLOAD_AGAIN)
    if "snapshot" not in root:
        raise SceneFormatError(path, "holds no snapshot, only a configuration", remedy=_RETRAIN)
    snapshot = root.child("snapshot")
    _require_nerf(snapshot)
    field = _field(root, snapshot, NgpWorld.of(snapshot))
    try:
        require_valid(field)
    except ValueError as error:
        raise SceneFormatError(path, str(error), remedy=DOWNLOAD_AGAIN) from None
    return field


def _require_nerf(snapshot: JsonObject) -> None:
    if "version" not in snapshot or snapshot.integer("version") < 1:
        raise SceneFormatError(
            snapshot.path, "is a snapshot of a format of 2022 or before", remedy=_RETRAIN
        )
    mode = snapshot.fields.get("mode") or "nerf"
    if not isinstance(mode, str) or mode.lower() != "nerf" or "nerf" not in snapshot:
        shown = mode if isinstance(mode, str) else "unknown"
        raise SceneFormatError(
            snapshot.path,
            f"is a snapshot of the mode '{shown}', not of a radiance field",
            where="snapshot.mode",
            remedy="only snapshots of NeRF mode can be viewed",
        )


def _field(root: JsonObject, snapshot: JsonObject, world: NgpWorld) -> Field:
    dataset = world.dataset
    latents = _latents(dataset)
    is_hdr = bool(dataset.fields.get("is_hdr"))
    appearances, notes = _appearances(snapshot, latents)
    config = ModelConfig(root, world.side, latents, is_hdr)
    network = make_network(config, _parameters(snapshot), appearances)
    sampler, more = _sampler(snapshot, world.side)
    lo, hi = world.box(snapshot)
    return Field(
        kind=KIND,
        network=network,
        space=FieldSpace(
            world_to_field=world.to_field,
            contraction=Contraction.NONE,
            lo=lo,
            hi=hi,
            density_scale=world.scale,
        ),
        sampler=sampler,
        near=0.0,
        far=math.inf,
        background=_background(snapshot),
        up=world.up(snapshot),
        cameras=snapshot_cameras(snapshot, world),
        notes=(*world.notes, *notes, *more, *_notes(snapshot, dataset)),
    )


def _latents(dataset: JsonObject) -> int:
    """Values of an image's appearance."""
    name = "n_extra_learnable_dims"
    latents = dataset.integer(name) if name in dataset else 0
    if latents > MAX_LATENTS:
        raise dataset.error(f"claims appearances of {latents:,} values", name)
    return latents


def _parameters(snapshot: JsonObject) -> Parameters:
    kind = snapshot.fields.get("params_type", "__half")
    if kind not in ("__half", "float"):
        raise snapshot.error("needs to be __half or float", "params_type")
    values: Parameters = _binary(snapshot, "params_binary", "<f2" if kind == "__half" else "<f4")
    return values


def _binary(table: JsonObject, name: str, dtype: str) -> NDArray[Any]:
    value = table.fields.get(name)
    size = np.dtype(dtype).itemsize
    if not isinstance(value, memoryview) or len(value) % size:
        raise table.error(f"needs binary data of {size} bytes a value", name)
    return np.frombuffer(value, dtype)


def _appearances(snapshot: JsonObject, latents: int) -> tuple[Float32Array | None, tuple[str, ...]]:
    """[A, E] of the images that it was trained with."""
    if latents == 0:
        return None, ()
    nerf = snapshot.child("nerf")
    if "extra_dims_opt" not in nerf or not nerf.items("extra_dims_opt"):
        note = "the appearances of its images are not in the snapshot: zeros are taken"
        return np.zeros((1, latents), np.float32), (note,)
    place = "snapshot.nerf.extra_dims_opt"
    rows = [
        JsonObject.of(nerf.path, each, place, DOWNLOAD_AGAIN).numbers("variable", latents)
        for each in nerf.items("extra_dims_opt")
    ]
    return np.array(rows, np.float32), (
        f"trained with {counted(len(rows), 'appearances')}: the first image's is shown, as "
        "instant-ngp does",
    )


# --- Empty space ---------------------------------------------------------------------------------


def _sampler(snapshot: JsonObject, side: int) -> tuple[OccupancySampler, tuple[str, ...]]:
    """Steps of instant-ngp, in units of the field's cube: the whole box of the scene."""
    occupied, notes = _occupied(snapshot, side)
    sampler = OccupancySampler(
        occupied=occupied,
        min_step=MIN_STEP / side,
        max_step=MAX_STEP / side,
        cone_angle=CONE_ANGLE if side > 1 else 0.0,
    )
    return sampler, notes


def _occupied(snapshot: JsonObject, side: int) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """[K, R, R, R] bool (z, y, x); in the file cells lie along a Z-curve, as optical thicknesses of
    the shortest step."""
    cascades = side.bit_length()
    if snapshot.integer("density_grid_size") != GRID_SIDE:
        raise snapshot.error(f"needs to be {GRID_SIDE}", "density_grid_size")
    densities = _binary(snapshot, "density_grid_binary", "<f2")
    shape = (cascades, GRID_SIDE, GRID_SIDE, GRID_SIDE)
    if not len(densities):
        note = "trained too briefly to know what is empty: drawn without skipping anything"
        return np.ones(shape, np.bool_), (note,)
    if len(densities) != math.prod(shape):
        raise snapshot.error(
            f"has {len(densities):,} cells; a box of side {side} takes {math.prod(shape):,}",
            "density_grid_binary",
        )
    thickness = densities.reshape(cascades, -1)
    innermost = np.nan_to_num(thickness[0].astype(np.float32), nan=0.0, posinf=0.0)
    threshold = min(MIN_OPTICAL_THICKNESS, float(np.maximum(innermost, 0.0).mean()))
    with np.errstate(invalid="ignore"):
        along_curve = thickness > np.float32(threshold)
    return along_curve[:, _curve_cells()], ()


def _curve_cells() -> NDArray[np.int64]:
    """[R, R, R] (z, y, x): where on the Z-curve a cell is; x has the lowest bits."""
    axis = np.arange(GRID_SIDE)
    spread = np.zeros(GRID_SIDE, np.int64)
    for bit in range(GRID_SIDE.bit_length() - 1):
        spread |= (axis >> bit & 1) << (3 * bit)
    cells: NDArray[np.int64] = (
        spread[:, None, None] << 2 | spread[None, :, None] << 1 | spread[None, None, :]
    )
    return cells


# --- What else a snapshot says -------------------------------------------------------------------


def _background(snapshot: JsonObject) -> tuple[float, float, float] | None:
    if "background_color" not in snapshot:
        return None
    red, green, blue, alpha = np.clip(snapshot.numbers("background_color", 4), 0.0, 1.0)
    return (float(red), float(green), float(blue)) if alpha > 0 else None


def _notes(snapshot: JsonObject, dataset: JsonObject) -> tuple[str, ...]:
    notes = []
    if "exposure" in snapshot and snapshot.number("exposure") != 0:
        stops = snapshot.number("exposure")
        notes.append(f"saved at an exposure of {stops:+g} stops; it is shown as it was trained")
    if "envmap_resolution" in dataset and any(dataset.numbers("envmap_resolution", 2)):
        notes.append("trained with an environment map, which snapshots do not hold")
    return tuple(notes)


# --- Bytes ---------------------------------------------------------------------------------------


def _parsed(path: Path) -> Any:
    """What the MessagePack of a snapshot holds."""
    size = require_file(path)
    if size > MAX_FILE_BYTES:
        raise SceneFormatError(path, f"is larger than {MAX_FILE_BYTES:,} bytes")
    data = read_head(path, size)
    most_values = min(MAX_VALUES, max(SMALL_VALUES, int(VALUES_PER_BYTE * len(data))))
    if starts_map(data[0]):
        return parse_msgpack(path, memoryview(data), most_values)
    if not _is_compressed(data):
        raise _no_snapshot(path)
    whole = _decompressed(path, data)
    return parse_msgpack(path, memoryview(whole).toreadonly(), most_values)


def _is_compressed(data: bytes) -> bool:
    """Whether it begins as gzip or zlib do (RFC 1952, RFC 1950): few texts do."""
    zlib_header = int.from_bytes(data[:2], "big")
    return data[:2] == _GZIP or (data[0] & 0x0F == 8 and zlib_header % 31 == 0)


def _no_snapshot(path: Path) -> SceneFormatError:
    return SceneFormatError(
        path,
        "is no snapshot of Instant-NGP: MessagePack is needed, as it is or in zlib or gzip",
        where="byte 0",
        remedy=DOWNLOAD_AGAIN,
    )


def _decompressed(path: Path, data: bytes) -> bytearray:
    most = max(SMALL_BYTES, MAX_RATIO * len(data))
    stream = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it begins with
    whole, left = bytearray(), memoryview(data)
    try:
        while left and not stream.eof:
            part, left = bytes(left[:_PIECE]), left[_PIECE:]
            while part and not stream.eof:
                whole += stream.decompress(part, _PIECE)
                part = stream.unconsumed_tail
                if len(whole) > most:
                    raise SceneFormatError(
                        path, f"becomes more than {most:,} bytes when decompressed: not a snapshot"
                    )
    except zlib.error as error:
        if not whole and data[:2] != _GZIP:  # a text can begin as zlib does
            raise _no_snapshot(path) from None
        raise SceneFormatError(
            path, f"cannot be decompressed ({error})", remedy=DOWNLOAD_AGAIN
        ) from None
    if not stream.eof:
        raise SceneFormatError(path, "ends within its compressed data", remedy=DOWNLOAD_AGAIN)
    if not whole or not starts_map(whole[0]):
        raise SceneFormatError(path, "holds no MessagePack of a snapshot", remedy=DOWNLOAD_AGAIN)
    return whole
