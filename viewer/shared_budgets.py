"""The budgets of a scene that is shown, hard for all that is in memory of it together.

While its store is built a scene has one form after the other (``viewer.improving``), and during
a change two: what is shown, and what is coming. Finished pictures (``rendering.picture_cache``) and
what anchors were decoded to (``rendering.models.decoded_room``) are in the device's budget, too, as
far as chunks can spare it. People see and set the budgets of all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from render_cache.byte_cache import CacheStats
from scene_store.ledger import Budgets
from scene_store.residency_stats import ResidencyStats
from splat.errors import BudgetError
from viewer.budgets import KeptBytes, beside_kept, choose_budgets, kept_share
from viewer.text import memory_size

NOTHING = Budgets(0, 0)
NOTHING_KEPT = KeptBytes()


class Budgeted(Protocol):
    """A form of the scene."""

    @property
    def least_budgets(self) -> Budgets:
        """Smaller ones are refused."""

    def set_budgets(self, budgets: Budgets) -> None:
        """New limits, in force at once.

        Raises:
            BudgetError: If they are too small.
        """

    def stats(self) -> ResidencyStats:
        """What is held."""


class KeepsPictures(Protocol):
    """Who keeps finished pictures: ``rendering.engine.RenderEngine``."""

    @property
    def pictures(self) -> CacheStats:
        """What is kept."""

    def set_picture_bytes(self, budget_bytes: int) -> None:
        """Another limit, in force at once."""


class KeepsDecoded(Protocol):
    """Who keeps what anchors were decoded to: ``rendering.models.decoded_room.DecodedRoom``."""

    @property
    def held_bytes(self) -> int:
        """What all devices keep."""

    def set_bytes(self, budget_bytes: int) -> None:
        """Another limit of each memory, in force at once."""


Form = TypeVar("Form", bound=Budgeted)


class SharedBudgets:
    """Divides budgets between what is kept to save work, what is shown of a scene, and what is to
    take its place. Who gets less does so before others get more.

    Args:
        budgets: All there is to divide.
        shown: What is shown, if it has budgets at all; it has all that the others leave.
        pictures: Who keeps finished ones, of this scene alone; None if they are not in these
            budgets, as those of GPUs alone.
        decoded: Who keeps what anchors were decoded to, in each memory; None if nobody does.
        most_kept: Bytes that these may have (``viewer.budgets.kept_share``).
        memories: Of devices that are in the host's, each with the device's budget.
        gpu_bytes: What the smallest GPU can give; None without GPUs.

    Attributes:
        memories, gpu_bytes: As they are now.
    """

    def __init__(
        self,
        budgets: Budgets,
        shown: Budgeted | None = None,
        pictures: KeepsPictures | None = None,
        decoded: KeepsDecoded | None = None,
        most_kept: KeptBytes = NOTHING_KEPT,
        *,
        memories: int = 1,
        gpu_bytes: int | None = None,
    ) -> None:
        self.memories, self.gpu_bytes = memories, gpu_bytes
        self._lock = threading.RLock()
        self._budgets = budgets
        self._shown = shown
        self._coming: Budgeted | None = None
        self._more_to_come = False
        self._pictures, self._decoded = pictures, decoded
        self._most_kept = KeptBytes(
            0 if pictures is None else most_kept.pictures,
            0 if decoded is None else most_kept.decoded,
        )
        self._kept = NOTHING_KEPT
        self._allow(self._kept_share(budgets, self._least_shown))

    @property
    def budgets(self) -> Budgets:
        """Of all forms together, and of what is kept."""
        return self._budgets

    @property
    def held_bytes(self) -> int:
        """Memory of the host that all forms have taken, and what is kept."""
        with self._lock:
            held = [each.stats() for each in (self._shown, self._coming) if each is not None]
        devices = 0
        if self.memories:
            devices = sum(each.device_bytes for each in held) + self.kept_bytes
        return sum(each.host_bytes for each in held) + devices

    @property
    def kept_bytes(self) -> int:
        """Of the devices' memory, what finished pictures have taken, and decoded anchors."""
        pictures = 0 if self._pictures is None else self._pictures.pictures.held_bytes
        return pictures + (0 if self._decoded is None else self._decoded.held_bytes)

    def set_budgets(self, budgets: Budgets) -> None:
        """Other budgets, in force at once.

        Raises:
            BudgetError: If they are too small for what is in memory; the old ones stay.
        """
        with self._lock:
            before, kept = self._kept, self._kept_share(budgets, self._least_held)
            self._allow(before.least(kept))
            try:
                self._divide(beside_kept(budgets, kept))
            except BudgetError:
                self._allow(before)
                raise
            self._allow(kept)
            self._budgets = budgets

    def move_to_host(self, available: int | None) -> None:
        """A processor draws in the place of a GPU: its budget is the host's memory from now on, and
        no more than there is.

        Args:
            available: As of ``viewer.budgets.choose_budgets``.
        """
        with self._lock:
            self.memories, self.gpu_bytes = self.memories + 1, None
            room = choose_budgets(None, None, available, memories=self.memories).device_bytes
            device = max(self._least_held.device_bytes, min(self._budgets.device_bytes, room))
            self.set_budgets(Budgets(self._budgets.host_bytes, device))

    def admit(self, least: Budgets, make: Callable[[Budgets], Form]) -> Form | None:
        """Make another form beside the one that is shown, which leaves it a share.

        Args:
            least: What the form cannot do without.
            make: Makes it with its share; it may begin to load at once.

        Returns:
            None if there is not enough for both; then nothing changes.
        """
        with self._lock:
            both = _together(least, self._least_shown)
            kept = self._kept.least(self._kept_share(self._budgets, both))
            chunks = beside_kept(self._budgets, kept)
            share = share_of(chunks, least, self._least_shown)
            if share is None:
                return None
            self._more_to_come = True
            self._allow(kept)
            self._set_shown(_rest(chunks, share))
            coming = make(share)
            self._coming = coming
            return coming

    def admit_alone(
        self, least: Budgets, empty: Callable[[], None], make: Callable[[Budgets], Form]
    ) -> Form:
        """Make the last form in the place of the one that is shown.

        Args:
            least: What the form cannot do without.
            empty: Closes what is shown.
            make: Makes the form, after that.

        Raises:
            BudgetError: If there is not enough for it; then nothing changes.
        """
        with self._lock:
            if share_of(self._budgets, least) is None:
                raise BudgetError(
                    f"{memory_size(self._budgets.host_bytes)} for the host and "
                    f"{memory_size(self._budgets.device_bytes)} for the device are too little for "
                    f"the whole scene; give it more"
                )
            empty()
            self._shown = None
            kept = self._kept_share(self._budgets, least)
            self._allow(kept)
            last = make(beside_kept(self._budgets, kept))
            self._shown, self._more_to_come = last, False
            return last

    def give_up(self) -> None:
        """What was coming is gone; what is shown keeps its share, for the next one."""
        with self._lock:
            self._coming = None

    def take_over(self, coming: Budgeted, swap: Callable[[], None]) -> None:
        """Show what was coming; it keeps its share.

        Args:
            coming: What was admitted.
            swap: Shows it, and closes what was shown; nobody sets budgets meanwhile.
        """
        with self._lock:
            swap()
            self._shown, self._coming = coming, None

    def leave_all_to(self, last: Budgeted) -> None:
        """It is all there is in memory, and nothing else will be."""
        with self._lock:
            self._shown, self._coming, self._more_to_come = last, None, False
            self.set_budgets(self._budgets)

    def _divide(self, chunks: Budgets) -> None:
        """Give all forms their share of what is for chunks."""
        if self._coming is not None:
            share = share_of(chunks, self._coming.least_budgets, self._least_shown)
            if share is None:
                raise BudgetError(_TOO_SMALL_FOR_BOTH.format(*self._least_of_both()))
            self._coming.set_budgets(share)
            self._set_shown(_rest(chunks, share))
        elif self._more_to_come and self._shown is not None:
            least = self._shown.least_budgets
            self._shown.set_budgets(share_of(chunks, least) or chunks)
        else:
            self._set_shown(chunks)

    def _kept_share(self, budgets: Budgets, least: Budgets) -> KeptBytes:
        return kept_share(budgets, self._most_kept, least)

    def _allow(self, kept: KeptBytes) -> None:
        self._kept = kept
        if self._pictures is not None:
            self._pictures.set_picture_bytes(kept.pictures)
        if self._decoded is not None:
            self._decoded.set_bytes(kept.decoded)

    @property
    def _least_shown(self) -> Budgets:
        return NOTHING if self._shown is None else self._shown.least_budgets

    @property
    def _least_held(self) -> Budgets:
        coming = NOTHING if self._coming is None else self._coming.least_budgets
        return _together(coming, self._least_shown)

    def _set_shown(self, budgets: Budgets) -> None:
        if self._shown is not None:
            self._shown.set_budgets(budgets)

    def _least_of_both(self) -> tuple[str, str]:
        least = self._least_held
        return memory_size(least.host_bytes), memory_size(least.device_bytes)


_TOO_SMALL_FOR_BOTH = (
    "two forms of the scene are in memory for a moment, which takes at least {} for the host and "
    "{} for the device; try again when the next one is shown"
)


def share_of(budgets: Budgets, least: Budgets, others_least: Budgets = NOTHING) -> Budgets | None:
    """A form's half of some budgets, or as near to it as the least that both need allows.

    Args:
        budgets: To be divided.
        least: What the form cannot do without.
        others_least: What the other one cannot do without.

    Returns:
        None if there is not enough for both.
    """
    host = _part(budgets.host_bytes, least.host_bytes, others_least.host_bytes)
    device = _part(budgets.device_bytes, least.device_bytes, others_least.device_bytes)
    return None if host is None or device is None else Budgets(host, device)


def _part(total: int, least: int, others_least: int) -> int | None:
    if least + others_least > total:
        return None
    return min(max(total // 2, least), total - others_least)


def _rest(budgets: Budgets, share: Budgets) -> Budgets:
    return Budgets(budgets.host_bytes - share.host_bytes, budgets.device_bytes - share.device_bytes)


def _together(one: Budgets, other: Budgets) -> Budgets:
    return Budgets(one.host_bytes + other.host_bytes, one.device_bytes + other.device_bytes)
