"""What residency has the owner of the bytes do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Actions:
    """What the owner of the bytes has to do, in this order.

    Attributes:
        drop: Forget these chunks' encoded bytes.
        evict: Give these chunks' device pages back; children come before their parents.
        cancel_loads: Abandon these reads, and report ``cancelled`` (or whatever came of them).
        promote: Decode these into device pages, drop the encoded bytes, report ``promoted``.
        start_loads: Read these, report ``loaded``.
    """

    drop: tuple[int, ...] = ()
    evict: tuple[int, ...] = ()
    cancel_loads: tuple[int, ...] = ()
    promote: tuple[int, ...] = ()
    start_loads: tuple[int, ...] = ()


@dataclass(slots=True)
class Plan:
    """Actions being put together."""

    drop: list[int] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    cancel_loads: list[int] = field(default_factory=list)
    promote: list[int] = field(default_factory=list)
    start_loads: list[int] = field(default_factory=list)

    def actions(self) -> Actions:
        """The finished plan."""
        return Actions(
            tuple(self.drop),
            tuple(self.evict),
            tuple(self.cancel_loads),
            tuple(self.promote),
            tuple(self.start_loads),
        )
