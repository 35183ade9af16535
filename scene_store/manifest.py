"""What a store says of itself: ``manifest.json``, read first and written last."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scene_store.scene import Vector3

DEFAULT_PAGE_GAUSSIANS = 16_384
PAGE_GRANULARITY = 1_024


class Profile(str, Enum):
    """How chunks are encoded."""

    COMPACT = "compact"
    LOSSLESS = "lossless"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that a store was built from, as it was then.

    Attributes:
        path: As the user named it.
        size_bytes: Its length.
        modified_ns: When it was last changed, nanoseconds since 1970.
    """

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store is to remember of the scene beside its chunks.

    Attributes:
        up: The direction that is up, in the axes of the Gaussians; None if unknown.
        sources: What it was built from.
        settings: The build's settings, for people and for a later build to compare.
        notes: What a user should know, one line each.
    """

    up: Vector3 | None = None
    sources: tuple[SourceFile, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
