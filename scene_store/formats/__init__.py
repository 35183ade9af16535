"""Readers (and one writer) of the scene formats in use, one file each.

All give ``Gaussians`` in the axes of the file: nothing is rotated, because rotating axes
would mean rotating harmonics too. ``SceneMeta.up`` says which way is up by the format's
convention: (0, −1, 0) for PLY, compressed PLY, splat, ksplat and SOG (x right, y down,
z forward), (0, 1, 0) for SPZ (x right, y up, z back) unless the file names other axes.
"""

from __future__ import annotations

from scene_store.formats.detect import open_scene
from scene_store.formats.ply import write_ply

__all__ = ["open_scene", "write_ply"]
