"""The one extension of ``.spz`` that changes what the data means: its coordinate system.

Extensions are records of a type, a length and that many bytes; unknown ones are skipped.

Source: https://github.com/nianticlabs/spz (``extensions/README.md``).
"""

from __future__ import annotations

import struct

from scene_store.scene import Vector3

COORDINATE_SYSTEM = 0xADBE0003

# Letters name where x, y and z point: Left/Right, Up/Down, Front/Back.
AXES = (
    "", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF",
    "LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU",
)  # fmt: skip
DEFAULT_AXES = "RUB"


def axes_from_extensions(records: bytes) -> str | None:
    """The named axes of a coordinate-system record; None if there is no (valid) one."""
    offset = 0
    while offset + 8 <= len(records):
        kind, length = struct.unpack_from("<II", records, offset)
        offset += 8
        if kind == COORDINATE_SYSTEM and length >= 4 and offset + 4 <= len(records):
            (value,) = struct.unpack_from("<I", records, offset)
            return AXES[value] or None if value < len(AXES) else None
        offset += length
    return None


def up_of_axes(axes: str | None) -> tuple[Vector3, tuple[str, ...]]:
    """The up direction in these axes (RUB if None), and what a user should know."""
    axes = axes or DEFAULT_AXES
    up = [0.0, 0.0, 0.0]
    for axis, letter in enumerate(axes):
        up[axis] = {"U": 1.0, "D": -1.0}.get(letter, 0.0)
    notes: tuple[str, ...] = () if axes == DEFAULT_AXES else (f"axes {axes}",)
    if _is_left_handed(axes):
        notes += ("left-handed axes: the scene appears mirrored",)
    return (up[0], up[1], up[2]), notes


def _is_left_handed(axes: str) -> bool:
    # RUB is right-handed; each opposite letter, and swapping y with z, mirrors once.
    opposite = sum(letter in "LDF" for letter in axes)
    swapped = axes[1] in "FB"
    return (opposite + swapped) % 2 == 1
