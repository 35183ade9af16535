"""Bounds of what a person may ask for, checked before any work is done."""

from __future__ import annotations

from configs.settings import Range
from splat.camera import MAX_IMAGE_SIDE
from splat.errors import SettingsError

SIDE_PX = Range(1, MAX_IMAGE_SIDE)
FOV_DEG = Range(1, 170)
DOWNSCALE = Range(0.01, 1000)
JPEG_QUALITY = Range(1, 100)
LOD = Range(0, 99)
NEAR = Range(1e-9, 1e9)
EYES = Range(1e-9, 1e9)


def require_in_range(option: str, value: float | None, allowed: Range) -> None:
    """Pass a value that is absent or allowed.

    Raises:
        SettingsError: Naming the option and what it takes.
    """
    if value is not None and value not in allowed:
        got = f"{value}" if isinstance(value, int) else f"{value:g}"
        raise SettingsError(f"{option}: expected {allowed}, got {got}")
