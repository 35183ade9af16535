"""Which memory needs what of a frame. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rendering.depth_slabs import Slab
from splat.camera import Camera

EyeSlab = tuple[int, Slab]
"""Which camera of a request, and what of its depth."""


class _Part(Protocol):
    @property
    def eye(self) -> int: ...

    @property
    def slab(self) -> Slab | None: ...


class _Piece(Protocol):
    @property
    def device(self) -> str: ...

    @property
    def parts(self) -> tuple[_Part, ...]: ...


@dataclass(frozen=True, slots=True)
class Division:
    """The memories of the devices that draw a frame, where they have some of their own.

    Attributes:
        draws: By memory, the slabs that its devices draw; None if they may draw any part.
        beside: Memories whose devices draw other frames, or are to draw such ones soon: they load
            what these need.
    """

    draws: Mapping[str, frozenset[EyeSlab] | None]
    beside: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, pieces: Iterable[_Piece], memory_of: Mapping[str, str], beside: Iterable[str] = ()
    ) -> Division:
        """What the devices of some pieces need.

        A device that draws a band, or one eye, needs all that the frame shows: any other may then
        take its place, and nothing has to be loaded when bands move. A device that draws slabs
        needs what is in them.

        Args:
            memory_of: By device.
            beside: Memories; those that draw are left out.
        """
        draws: dict[str, frozenset[EyeSlab] | None] = {}
        for piece in pieces:
            memory = memory_of[piece.device]
            slabs = [(part.eye, part.slab) for part in piece.parts if part.slab is not None]
            before = draws.get(memory, frozenset())
            whole = before is None or len(slabs) < len(piece.parts)
            draws[memory] = None if whole else (before or frozenset()) | frozenset(slabs)
        return cls(draws, frozenset(beside) - draws.keys())

    @property
    def in_slabs(self) -> bool:
        """Whether some memory needs only a part."""
        return any(slabs is not None for slabs in self.draws.values())

    def cameras(self, memory: str, cameras: tuple[Camera, ...]) -> tuple[Camera, ...] | None:
        """What the devices of a memory look through; None if that is all that the frame shows."""
        slabs = self.draws.get(memory)
        if slabs is None:
            return None
        ordered = sorted(slabs, key=lambda entry: (entry[0], entry[1].near))
        return tuple(slab.seen_by(cameras[eye]) for eye, slab in ordered)
