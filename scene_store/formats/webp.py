"""Lossless WebP textures, decoded only after their size has been checked.

Format: RFC 9649.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from scene_store.formats.source import DOWNLOAD_AGAIN, UNTRUSTED, ByteArray
from splat.errors import SceneFormatError


def webp_size(
    path: str | PathLike[str], content: bytes, place: str | None = None
) -> tuple[int, int]:
    """Width and height of a WebP image, from its header alone.

    Args:
        path: The file, for errors.
        content: Its bytes.
        place: Where in the file, for errors.

    Raises:
        SceneFormatError: If it is not a WebP image.
    """
    kind = content[12:16]
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        if kind == b"VP8L" and len(content) >= 25 and content[20] == 0x2F:
            bits = int.from_bytes(content[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8X" and len(content) >= 30:
            return (
                int.from_bytes(content[24:27], "little") + 1,
                int.from_bytes(content[27:30], "little") + 1,
            )
        if kind == b"VP8 ":
            raise SceneFormatError(
                path,
                "is a lossy WebP image, which destroys the values it should hold",
                where=place,
                remedy="export it again with lossless images",
            )
    raise SceneFormatError(path, "is not a WebP image", where=place, remedy=DOWNLOAD_AGAIN)


def decode_webp(
    path: str | PathLike[str], content: bytes, max_pixels: int, place: str | None = None
) -> ByteArray:
    """Pixels [height, width, 4] uint8 in RGBA order; alpha is 255 where there is none.

    Raises:
        SceneFormatError: If it is not a WebP image, damaged, or of more than ``max_pixels``.
    """
    width, height = webp_size(path, content, place)
    if width * height > max_pixels:
        raise SceneFormatError(
            path,
            f"is an image of {width} × {height} pixels where at most {max_pixels:,} are expected",
            where=place,
            remedy=UNTRUSTED,
        )
    import cv2  # takes a while to load, and only this format needs it

    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[:2] != (height, width):
        raise SceneFormatError(path, "is a damaged WebP image", where=place, remedy=DOWNLOAD_AGAIN)
    conversion = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGBA
    return np.asarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)
