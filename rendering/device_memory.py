"""How much of a GPU's memory a scene may have: pure arithmetic on what was measured.

A card's memory is for three: the scene's pages, what frames have between their stages (scratch),
and everybody else: other processes on the card, the driver, kernels as they are loaded. What
others have is known when the card is asked how much is free; what frames need is known once some
were drawn, and estimated before.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
# Of the whole card: other processes grow, and freed memory lies in pieces.
RESERVED_SHARE = 1 / 20
LEAST_RESERVE_BYTES = 384 * MIB
# An estimate before anything was drawn, of the arrays of ``rendering.fused_frame``.
EYES = 2  # at once, each with splats of its own where they share none
SPLAT_BYTES = 64 + 4 + 4  # of every Gaussian, seen or not: the splat, its depth, its tiles
# Of those that are seen: depth and place, the sort's values, indices and as much again of its own,
# then places in order, tiles and their sums.
LISTED_BYTES = 8 + 2 * (4 + 8) + 8 + 4 + 12
SCRATCH_BYTES_A_PAIR = 48  # tile and splat, the sort's as above, splats in order
PAIRS_A_SPLAT = 2
SCRATCH_BYTES_A_GAUSSIAN = EYES * (
    SPLAT_BYTES + LISTED_BYTES + PAIRS_A_SPLAT * SCRATCH_BYTES_A_PAIR
)
SCRATCH_BYTES_A_PIXEL = 32  # colour, alpha, two depths, a count


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What a card says of its memory at a moment, bytes.

    Attributes:
        total: Of the card.
        free: That any process could have now: what other processes have is neither free nor ours.
        ours: That this process has from the driver, in use or kept for later.
    """

    total: int
    free: int
    ours: int = 0

    @property
    def within_reach(self) -> int:
        """What this process has, and could have."""
        return min(self.total, self.free + self.ours)


def reserve_bytes(total: int) -> int:
    """What nobody plans with, of a card."""
    return max(LEAST_RESERVE_BYTES, int(RESERVED_SHARE * total))


def estimated_scratch_bytes(gaussians: int, pixels: int) -> int:
    """What a frame of two eyes takes between its stages, before one was measured; rather too much.

    Args:
        gaussians: That it draws at most.
        pixels: Of both pictures.
    """
    return gaussians * SCRATCH_BYTES_A_GAUSSIAN + pixels * SCRATCH_BYTES_A_PIXEL


def device_budget_bytes(memory: DeviceMemory, scratch_bytes: int) -> int:
    """What the pages of a scene may take.

    Args:
        memory: Of the card, as it is now, with what the scene has already.
        scratch_bytes: Of a frame, at most: measured (``ScratchPeak``) or estimated
            (``estimated_scratch_bytes``); 0 for what pages and frames may take together.

    Returns:
        Bytes, 0 if there are none to be had.
    """
    return max(0, memory.within_reach - scratch_bytes - reserve_bytes(memory.total))


def budget_beside_frames(reach: int, scratch_bytes: int, budget: int, least: int) -> int:
    """A scene's budget, once frames were measured.

    Args:
        reach: What pages and frames may take together.
        scratch_bytes: That frames were seen to take.
        budget: Of the scene.
        least: What it cannot do without.

    Returns:
        At most ``budget``: what frames leave of ``reach``, and never below ``least``, unless
        ``budget`` is.
    """
    return min(budget, max(least, reach - scratch_bytes))


def lowered_budget_bytes(held: int, budget: int, least: int) -> int:
    """The budget after memory ran out below it: what was to be had, less a margin for frames.

    Args:
        held: Bytes of pages that there were when it ran out.
        budget: That was in force.
        least: What the scene cannot do without.

    Returns:
        At most nine tenths of what was held, and never below ``least``, unless ``budget`` is.
    """
    return min(budget, max(least, 9 * held // 10))


@dataclass(slots=True)
class ScratchPeak:
    """The most that frames were seen to take beside the pages.

    Attributes:
        bytes: So far; 0 before the first measurement.
    """

    bytes: int = 0

    def observe(self, allocated_peak: int, held: int) -> None:
        """A frame, or some of them, are over.

        Args:
            allocated_peak: The most that was allocated meanwhile, pages included.
            held: Of that, pages.
        """
        self.bytes = max(self.bytes, allocated_peak - held)
