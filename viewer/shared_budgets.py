"""The budgets of a scene that is shown, hard for all forms of it that are in memory together.

While its store is built a scene has one form after the other (``viewer.improving``), and during
a change two: what is shown, and what is coming. People see and set the budgets of both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from rendering.streamed_scene import StreamedScene
from scene_store.ledger import Budgets
from scene_store.residency_stats import ResidencyStats
from splat.errors import BudgetError
from viewer.text import memory_size

NOTHING = Budgets(0, 0)


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


Form = TypeVar("Form", bound=Budgeted)


class SharedBudgets:
    """Divides budgets between what is shown of a scene and what is to take its place.

    Args:
        budgets: All there is to divide.
        shown: What is shown, if it has budgets at all; it has all of these.
    """

    def __init__(self, budgets: Budgets, shown: Budgeted | None = None) -> None:
        self._lock = threading.RLock()
        self._budgets = budgets
        self._shown = shown
        self._coming: Budgeted | None = None
        self._more_to_come = False

    @classmethod
    def of(cls, scene: StreamedScene) -> SharedBudgets:
        """Those of a scene that has one form."""
        return cls(scene.budgets, scene)

    @property
    def budgets(self) -> Budgets:
        """Of all forms together."""
        return self._budgets

    @property
    def held_bytes(self) -> int:
        """Memory that all forms have taken."""
        with self._lock:
            held = [each.stats() for each in (self._shown, self._coming) if each is not None]
        return sum(each.host_bytes + each.device_bytes for each in held)

    def set_budgets(self, budgets: Budgets) -> None:
        """Other budgets, in force at once.

        Raises:
            BudgetError: If they are too small for what is in memory; the old ones stay.
        """
        with self._lock:
            if self._coming is not None:
                share = share_of(budgets, self._coming.least_budgets, self._least_shown)
                if share is None:
                    raise BudgetError(_TOO_SMALL_FOR_BOTH.format(*self._least_of_both()))
                self._coming.set_budgets(share)
                self._set_shown(_rest(budgets, share))
            elif self._more_to_come and self._shown is not None:
                least = self._shown.least_budgets
                self._shown.set_budgets(share_of(budgets, least) or budgets)
            else:
                self._set_shown(budgets)
            self._budgets = budgets

    def admit(self, least: Budgets, make: Callable[[Budgets], Form]) -> Form | None:
        """Make another form beside the one that is shown, which leaves it a share.

        Args:
            least: What the form cannot do without.
            make: Makes it with its share; it may begin to load at once.

        Returns:
            None if there is not enough for both; then nothing changes.
        """
        with self._lock:
            share = share_of(self._budgets, least, self._least_shown)
            if share is None:
                return None
            self._more_to_come = True
            self._set_shown(_rest(self._budgets, share))
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
            last = make(self._budgets)
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
            last.set_budgets(self._budgets)
            self._shown, self._coming, self._more_to_come = last, None, False

    @property
    def _least_shown(self) -> Budgets:
        return NOTHING if self._shown is None else self._shown.least_budgets

    def _set_shown(self, budgets: Budgets) -> None:
        if self._shown is not None:
            self._shown.set_budgets(budgets)

    def _least_of_both(self) -> tuple[str, str]:
        assert self._coming is not None
        coming, shown = self._coming.least_budgets, self._least_shown
        return (
            memory_size(coming.host_bytes + shown.host_bytes),
            memory_size(coming.device_bytes + shown.device_bytes),
        )


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
