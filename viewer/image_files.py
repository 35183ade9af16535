"""Images on disk: pictures for people, float maps for programs, each file whole or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.errors import OutputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAP_SUFFIXES = (".exr", ".npy")

Encoder = Callable[[Path], object]


def check_target(path: Path, suffixes: tuple[str, ...]) -> None:
    """See before any work is done whether ``path`` can be written.

    Raises:
        OutputError: If the suffix is not one of ``suffixes``, or the folder does not exist
            or refuses new files.
    """
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        named = f"'{path.suffix}'" if path.suffix else "no ending"
        raise OutputError(f"{path}: cannot write {named}; use one of {known}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist")
    try:
        handle, probe = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=folder)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_picture(path: Path, rgb: NDArray[np.uint8], quality: int) -> None:
    """Write [H, W, 3] or grey [H, W] uint8 as PNG, JPEG or WebP, by the suffix.

    ``quality`` is 1 to 100, for JPEG and WebP.

    Raises:
        OutputError: If it cannot be written.
    """
    import cv2

    pixels = rgb if rgb.ndim == 2 else np.ascontiguousarray(rgb[..., ::-1])
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }.get(path.suffix.lower(), [])
    try:
        done, encoded = cv2.imencode(path.suffix.lower(), pixels, options)
    except cv2.error as error:  # such as a side that WebP cannot hold
        raise OutputError(f"{path}: cannot encode {_size(rgb)}: {error.err}") from None
    if not done:
        raise OutputError(f"{path}: cannot encode {_size(rgb)} as {path.suffix}")
    _write_whole(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))


def write_map(path: Path, values: NDArray[np.float32], channel: str) -> None:
    """Write [H, W] float32 as a NumPy file, or an OpenEXR one with the named channel.

    Raises:
        OutputError: If it cannot be written.
    """
    if path.suffix.lower() == ".npy":
        _write_whole(path, lambda temporary: np.save(temporary, values))
        return
    import OpenEXR

    header: dict[str, Any] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
    }
    image = OpenEXR.File(header, {channel: np.ascontiguousarray(values, np.float32)})
    _write_whole(path, lambda temporary: image.write(str(temporary)))


def _write_whole(path: Path, write: Encoder) -> None:
    """Write beside ``path`` and rename, so that a reader never meets half a file."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # OpenEXR raises RuntimeError
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{path}: cannot write: {reason}")


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]} pixels"
