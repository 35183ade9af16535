"""What a visitor of the viewer's page saw, and how quick it was: pure, no sockets, no clock.

All times are seconds since the epoch, so that those of several processes can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Summary
from benchmarks.scenes import Size

# A frame header (SOF) of a JPEG: all of the markers 0xC0 to 0xCF but three of other meaning.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """A picture that arrived."""

    at_s: float
    size: Size


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit to the page.

    Attributes:
        pictures: In the order of their arrival.
        motions_s: When the visitor's camera was told to move.
    """

    pictures: tuple[ShownPicture, ...]
    motions_s: tuple[float, ...]

    def rests(self, size: Size, now_s: float, quiet_s: float) -> bool:
        """Whether the newest picture is a full one, and nothing has come for ``quiet_s``."""
        if not self.pictures:
            return False
        newest = self.pictures[-1]
        return newest.size == size and now_s - newest.at_s >= quiet_s


@dataclass(frozen=True, slots=True)
class Motion:
    """How a moving camera was shown.

    Attributes:
        duration_s: From the first motion to the last.
        poses_per_s: How often the visitor told of a new pose.
        pictures_per_s: Pictures that arrived meanwhile.
        interval_ms: From the first motion to the first of them, and from each to the next.
        moving_size: The median one of them, by area.
        full_picture_s: From the last motion to the arrival of the resting camera's picture.
    """

    duration_s: float
    poses_per_s: float
    pictures_per_s: float
    interval_ms: Summary
    moving_size: Size
    full_picture_s: float


def motion_of(visit: Visit, since_s: float) -> Motion:
    """The motion that began after ``since_s`` and has come to rest.

    Raises:
        ValueError: If there was no motion, or no picture after it.
    """
    motions = [at_s for at_s in visit.motions_s if at_s >= since_s]
    if len(motions) < 2 or motions[-1] <= motions[0]:
        raise ValueError("the camera did not move")
    first_s, last_s = motions[0], motions[-1]
    moving = [picture for picture in visit.pictures if first_s <= picture.at_s <= last_s]
    after = [picture for picture in visit.pictures if picture.at_s > last_s]
    if not after:
        raise ValueError("no picture came after the camera's last motion")
    times_s = [first_s, *(picture.at_s for picture in moving)] if moving else [first_s, last_s]
    by_area = sorted((picture.size for picture in moving or after), key=math.prod)
    return Motion(
        duration_s=last_s - first_s,
        poses_per_s=len(motions) / (last_s - first_s),
        pictures_per_s=len(moving) / (last_s - first_s),
        interval_ms=Summary.of([1e3 * gap for gap in np.diff(times_s)]),
        moving_size=by_area[len(by_area) // 2],
        full_picture_s=after[-1].at_s - last_s,
    )


def jpeg_size(head: bytes) -> Size:
    """(width, height) of a JPEG, from its first bytes.

    Raises:
        ValueError: If they do not tell.
    """
    at = 2
    while head[:2] == b"\xff\xd8" and at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 1] in _JPEG_FRAMES:
            height, width = (int.from_bytes(head[at + i : at + i + 2], "big") for i in (5, 7))
            return width, height
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    raise ValueError("no JPEG, or its size is not among these bytes")
