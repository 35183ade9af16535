"""Images on disk: pictures for people, float maps for programs, each file whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.atomic_file import atomic_files, cannot_write, check_writable
from splat.errors import OutputError

FileWriter = Callable[[Path], None]
"""Writes the contents of a file under a name that is given to it."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAP_SUFFIXES = (".exr", ".npy")
# Longest side of a picture, pixels: WebP holds 14 bits; libjpeg stops short of its 16.
LONGEST_SIDE = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}


def check_target(path: Path, suffixes: tuple[str, ...]) -> None:
    """See before any work is done whether ``path`` can be written.

    Raises:
        OutputError: If the suffix is not one of ``suffixes``, or no file of this name could
            be written.
    """
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        named = f"'{path.suffix}'" if path.suffix else "no ending"
        raise OutputError(f"{path}: cannot write {named}; use one of {known}")
    check_writable(path)


def check_size(path: Path, width: int, height: int) -> None:
    """See whether a picture of this size fits the format that ``path`` names.

    Raises:
        OutputError: If it does not.
    """
    longest = LONGEST_SIDE.get(path.suffix.lower())
    if longest is not None and max(width, height) > longest:
        raise OutputError(
            f"{path}: a picture of {width}×{height} pixels does not fit {path.suffix}, which "
            f"holds at most {longest:,} a side; write .png or make it smaller"
        )


def write_picture(path: Path, rgb: NDArray[np.uint8], quality: int) -> None:
    """Write [H, W, 3] or grey [H, W] uint8 as PNG, JPEG or WebP, by the suffix.

    ``quality`` is 1 to 100, for JPEG and WebP.

    Raises:
        OutputError: If it cannot be written.
    """
    write_together([(path, picture_file(path, rgb, quality))])


def write_map(path: Path, values: NDArray[np.float32], channel: str) -> None:
    """Write [H, W] float32 as a NumPy file, or an OpenEXR one with the named channel.

    Raises:
        OutputError: If it cannot be written.
    """
    write_together([(path, map_file(path, values, channel))])


def write_together(files: Sequence[tuple[Path, FileWriter]]) -> None:
    """Write several files, of which all appear, or none.

    Raises:
        OutputError: If one cannot be written; it is named.
    """
    with atomic_files([path for path, _ in files]) as temporaries:
        for (path, write), temporary in zip(files, temporaries, strict=True):
            try:
                write(temporary)
            except OSError as error:  # which need not name its file
                raise cannot_write(path, error) from None


def picture_file(path: Path, rgb: NDArray[np.uint8], quality: int) -> FileWriter:
    """What writes ``write_picture``'s file; it is encoded already.

    Raises:
        OutputError: If it cannot be encoded.
    """
    import cv2

    check_size(path, rgb.shape[1], rgb.shape[0])
    pixels = rgb if rgb.ndim == 2 else np.ascontiguousarray(rgb[..., ::-1])
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }.get(path.suffix.lower(), [])
    try:
        done, encoded = cv2.imencode(path.suffix.lower(), pixels, options)
    except cv2.error as error:
        done, reason = False, f": {error.err}"
    else:
        reason = ""
    if not done:
        size = f"{rgb.shape[1]}×{rgb.shape[0]}"
        raise OutputError(f"{path}: cannot encode {size} pixels as {path.suffix}{reason}")
    return lambda temporary: _write_bytes(temporary, encoded.data)


def map_file(path: Path, values: NDArray[np.float32], channel: str) -> FileWriter:
    """What writes ``write_map``'s file."""
    if path.suffix.lower() == ".npy":
        return lambda temporary: np.save(temporary, values)
    return lambda temporary: _write_exr(path, temporary, values, channel)


def _write_bytes(temporary: Path, data: memoryview) -> None:
    temporary.write_bytes(data)


def _write_exr(path: Path, temporary: Path, values: NDArray[np.float32], channel: str) -> None:
    import OpenEXR

    header: dict[str, Any] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
    }
    image = OpenEXR.File(header, {channel: np.ascontiguousarray(values, np.float32)})
    try:
        image.write(str(temporary))
    except RuntimeError as error:  # OpenEXR's own, which may name the temporary
        reason = str(error).replace(str(temporary), str(path))
        raise OutputError(f"{path}: cannot write: {reason}") from None
