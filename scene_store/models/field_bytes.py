"""A block of a radiance field as bytes, and back: what its chunk is on the way to a device.

Layout, little-endian, in rows of ``ROW_BYTES``::

    0   8   magic
    8   4   version, uint32
    12  4   CRC-32 of all that follows byte 32
    16  8   rows in all, uint64
    24  8   length of the header, uint64
    32      the header, JSON
    …       arrays, each where the header says

Header and arrays are those of ``scene_store.typed_bytes``: whatever is not what the classes of
``splat.fields`` say is refused.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_store.models.field_checks import require_valid
from scene_store.placement import Placement
from scene_store.typed_bytes import Description, aligned, rebuild
from splat.fields import Field
from splat.rows import Rows

MAGIC = b"BVFIELD\x00"
VERSION = 1
ROW_BYTES = 256
_PROLOGUE = struct.Struct("<8sIIQQ")

Vector3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class FieldBlock:
    """A field, or a part of one, as a scene places it.

    Attributes:
        field: In a world of its own.
        lo, hi: Corners of the box outside of which it is not seen, in that world; infinite for all
            of it. Where boxes overlap, blocks are blended.
        site: Blocks of one site stand for the same part of the scene, at several levels of detail.
        group: Blocks of one group are blended where they overlap; those of several add up.
        border: As of ``splat.fields.FieldModel``: over which blocks of the group are blended.
        placement: Of that world in the scene's.

    Raises:
        ValueError: If its box has no volume, or it is blended over what is no length.
    """

    field: Field
    lo: Vector3 = (-math.inf, -math.inf, -math.inf)
    hi: Vector3 = (math.inf, math.inf, math.inf)
    site: int = 0
    group: int = 0
    border: float = 0.0
    placement: Placement = dataclasses.field(default_factory=Placement)

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.lo, self.hi, strict=True)):
            raise ValueError(f"a block from {self.lo} to {self.hi} has no volume")
        if not 0.0 <= self.border < math.inf:
            raise ValueError(f"a block is blended over {self.border:g}")


def block_rows(block: FieldBlock) -> Rows:
    """A block as rows [R, ROW_BYTES] of bytes, without the cameras that it was trained with.

    Raises:
        ValueError: If it has more parts than can be described.
    """
    bare = replace(block, field=replace(block.field, cameras=()))
    described = Description.of(bare)
    header = described.header
    first = aligned(_PROLOGUE.size + len(header))
    out = np.zeros((-(-(first + described.nbytes) // ROW_BYTES), ROW_BYTES), np.uint8)
    flat = out.reshape(-1)
    flat[_PROLOGUE.size : _PROLOGUE.size + len(header)] = np.frombuffer(header, np.uint8)
    described.fill(flat[first:])
    checksum = zlib.crc32(flat[_PROLOGUE.size :].data)
    prologue = _PROLOGUE.pack(MAGIC, VERSION, checksum, len(out), len(header))
    flat[: _PROLOGUE.size] = np.frombuffer(prologue, np.uint8)
    return Rows(out)


def rows_in_block(first_row: NDArray[np.uint8]) -> int:
    """Rows of the block that begins with this one.

    Raises:
        ValueError: If none does.
    """
    magic, version, _, rows, _ = _PROLOGUE.unpack_from(first_row.tobytes())
    if magic != MAGIC or version != VERSION or rows < 1:
        raise ValueError("it is no block of a field, or of another version")
    return int(rows)


def rows_block(rows: Rows, *, checked: bool = True, tables_bytes: int = 0) -> FieldBlock:
    """The block that some rows are; its arrays are views of them.

    Args:
        checked: Whether the checksum is compared.
        tables_bytes: As of ``require_valid``.

    Raises:
        ValueError: If they are damaged, or describe no field.
    """
    if rows.data.dtype != np.uint8 or rows.width != ROW_BYTES or not len(rows):
        raise ValueError(f"a field's rows are of {ROW_BYTES} bytes")
    flat = rows.data.reshape(-1)
    if rows_in_block(rows.data[0]) != len(rows):
        raise ValueError("the field's bytes are cut off")
    _, _, checksum, _, length = _PROLOGUE.unpack_from(flat[: _PROLOGUE.size].tobytes())
    if checked and zlib.crc32(flat[_PROLOGUE.size :].data) != checksum:
        raise ValueError("the field's bytes do not fit their checksum")
    if length > flat.size - _PROLOGUE.size:
        raise ValueError("the field's description is longer than its bytes")
    header = flat[_PROLOGUE.size : _PROLOGUE.size + length].tobytes()
    block = rebuild(FieldBlock, header, flat[aligned(_PROLOGUE.size + length) :])
    require_valid(block.field, tables_bytes)
    return block
