"""A device has less memory than its budget says: what the scene is content with, for a while."""

from __future__ import annotations

import logging
import threading

from rendering.device_memory import MIB, budget_beside_frames, lowered_budget_bytes
from scene_store.ledger import Budgets

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 10.0  # before more is tried: what took the memory may be gone
LONGEST_PAUSE_S = 600.0
GROWTH = 1.25
MOMENT_S = 1.0  # what runs out within it ran out once


class Shortage:
    """Lowers a scene's budgets, tells of it once, and raises them again, slowly.

    Pauses are the longer, the more often memory ran out. What frames were seen to take stays free
    for them.

    Args:
        reach_bytes: What pages and frames may take together of a device; None if nobody knows.
    """

    def __init__(self, reach_bytes: int | None = None) -> None:
        self._reach_bytes = reach_bytes
        self._lock = threading.Lock()
        self._wish: Budgets | None = None
        self._pause_s, self._since_s, self._lowered_s = FIRST_PAUSE_S, 0.0, 0.0

    def lowered(
        self, memory: str, held: int, budgets: Budgets, least: Budgets, now_s: float
    ) -> Budgets:
        """Budgets that there is memory for.

        Args:
            memory: Where it ran out.
            held: Bytes of chunks that were there then.
            budgets: In force.
            least: What the scene cannot do without.
            now_s: Seconds of a clock that does not go back.
        """
        device = lowered_budget_bytes(held, budgets.device_bytes, least.device_bytes)
        with self._lock:
            if device == budgets.device_bytes:
                return budgets
            is_news = self._wish is None
            if is_news:
                self._wish = budgets
            elif now_s - self._lowered_s > MOMENT_S:
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._since_s = self._lowered_s = now_s
        if is_news:
            logger.warning(
                "%s: memory ran out at %.1f MiB of the scene; its device budget is %.1f MiB for "
                "now instead of %.1f (end what else takes memory, or use a smaller "
                "--device-budget)",
                memory,
                held / MIB,
                device / MIB,
                budgets.device_bytes / MIB,
            )
        return Budgets(budgets.host_bytes, device)

    def revised(
        self, budgets: Budgets, scratch_bytes: int, least: Budgets, now_s: float
    ) -> Budgets:
        """Budgets to try now: those in force, or more after a while, but never what frames need.

        Args:
            budgets: In force.
            scratch_bytes: The most that frames were seen to take beside pages; 0 before the first.
            least, now_s: As of ``lowered``.
        """
        grown = self._grown(budgets, now_s)
        if self._reach_bytes is None or not scratch_bytes:
            return grown
        device = budget_beside_frames(
            self._reach_bytes, scratch_bytes, grown.device_bytes, least.device_bytes
        )
        if device < budgets.device_bytes:
            logger.info(
                "frames were seen to take %.1f MiB: %.1f MiB are left for the scene",
                scratch_bytes / MIB,
                device / MIB,
            )
        return Budgets(grown.host_bytes, device)

    def _grown(self, budgets: Budgets, now_s: float) -> Budgets:
        with self._lock:
            wish = self._wish
            if wish is None or now_s - self._since_s < self._pause_s:
                return budgets
            self._since_s = now_s
            more = int(GROWTH * budgets.device_bytes) + MIB
            return Budgets(budgets.host_bytes, min(wish.device_bytes, more))

    def forget(self) -> None:
        """Somebody chose new budgets: tell if they are too large, too."""
        with self._lock:
            self._wish, self._pause_s = None, FIRST_PAUSE_S
