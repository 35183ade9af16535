"""Budgets that two forms of a scene share: what each gets, and that both together keep to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene_store.ledger import Budgets
from splat.errors import BudgetError
from viewer.shared_budgets import SharedBudgets, share_of

ALL, LEAST = Budgets(1000, 4000), Budgets(10, 20)
SIZES = st.integers(0, 1 << 40)
BUDGETS = st.builds(Budgets, SIZES, SIZES)


@dataclass
class Form:
    """Keeps what it is given, if it is enough."""

    budgets: Budgets
    least_budgets: Budgets = LEAST

    def set_budgets(self, budgets: Budgets) -> None:
        if not fits(self.least_budgets, budgets):
            raise BudgetError("too small")
        self.budgets = budgets

    def stats(self) -> Any:
        return self.budgets


def fits(inner: Budgets, outer: Budgets) -> bool:
    return inner.host_bytes <= outer.host_bytes and inner.device_bytes <= outer.device_bytes


def together(*budgets: Budgets) -> Budgets:
    host, device = sum(b.host_bytes for b in budgets), sum(b.device_bytes for b in budgets)
    return Budgets(host, device)


@given(BUDGETS, BUDGETS, BUDGETS)
def test_shares_are_enough_for_both_and_never_more_than_all(
    budgets: Budgets, least: Budgets, others: Budgets
) -> None:
    share = share_of(budgets, least, others)
    assert (share is not None) == fits(together(least, others), budgets)
    if share is not None:
        assert fits(least, share) and fits(together(share, others), budgets)


def test_each_form_has_half_and_the_last_one_all() -> None:
    shares = SharedBudgets(ALL)
    first = shares.admit(LEAST, Form)
    assert first == Form(Budgets(500, 2000))
    swapped = []
    shares.take_over(first, lambda: swapped.append(first))
    assert swapped == [first]
    second = shares.admit(LEAST, Form)
    assert second == first == Form(Budgets(500, 2000))
    shares.set_budgets(Budgets(1000, 3000))
    assert first.budgets == second.budgets == Budgets(500, 1500)
    shares.take_over(second, lambda: None)
    shares.set_budgets(Budgets(800, 3000))
    assert second.budgets == Budgets(400, 1500), "another form may come"
    shares.leave_all_to(second)
    assert second.budgets == shares.budgets == Budgets(800, 3000)
    shares.set_budgets(ALL)
    assert second.budgets == ALL


def with_one_shown(budgets: Budgets) -> tuple[SharedBudgets, Form]:
    shares = SharedBudgets(budgets)
    form = shares.admit(LEAST, Form)
    assert form is not None
    shares.take_over(form, lambda: None)
    return shares, form


def test_where_half_is_not_enough_the_other_form_has_less() -> None:
    shares, small = with_one_shown(ALL)
    much = Budgets(900, 3000)
    shrunk: list[Budgets] = []

    def make(share: Budgets) -> Form:
        shrunk.append(small.budgets)
        return Form(share, much)

    large = shares.admit(much, make)
    assert large is not None and large.budgets == much
    assert shrunk == [small.budgets] == [Budgets(100, 1000)], "before the other one loads"
    with pytest.raises(BudgetError, match="two forms of the scene"):
        shares.set_budgets(Budgets(909, 3020))
    assert shares.budgets == ALL and large.budgets == much
    shares.set_budgets(Budgets(910, 3020))
    assert (small.budgets, large.budgets) == (LEAST, much)
    shares.give_up()
    shares.set_budgets(LEAST)
    assert small.budgets == LEAST, "which is enough for one"


def test_what_has_no_room_beside_it_comes_when_the_other_is_gone() -> None:
    shares, first = with_one_shown(Budgets(25, 45))
    happened: list[object] = []

    def make(budgets: Budgets) -> Form:
        happened.append(budgets)
        return Form(budgets)

    assert shares.admit(Budgets(20, 20), make) is None
    assert first.budgets == Budgets(12, 22) and not happened
    with pytest.raises(BudgetError, match="too little for the whole scene"):
        shares.admit_alone(ALL, lambda: happened.append("empty"), make)
    assert not happened, "so what is shown stays"
    last = shares.admit_alone(Budgets(20, 20), lambda: happened.append("empty"), make)
    assert happened == ["empty", Budgets(25, 45)]
    shares.set_budgets(ALL)
    assert last.budgets == ALL and first.budgets == Budgets(12, 22)


def test_budgets_of_one_form_are_its_own() -> None:
    form = Form(ALL)
    shares = SharedBudgets(ALL, form)
    shares.set_budgets(Budgets(77, 88))
    assert form.budgets == Budgets(77, 88)
    with pytest.raises(BudgetError):
        shares.set_budgets(Budgets(1, 1))
    assert shares.budgets == form.budgets == Budgets(77, 88)
    assert shares.held_bytes == 77 + 88
