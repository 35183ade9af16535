"""Budgets that two forms of a scene share: what each gets, and that both together keep to them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_cache.byte_cache import CacheStats
from scene_store.ledger import Budgets
from splat.errors import BudgetError
from viewer.budgets import DECODED_SHARE, PICTURES_SHARE, KeptBytes, kept_share
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


class Memory:
    """Whoever has a share of the device's budget, and the most that all had together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.shares = limit, dict[str, int]()

    def set(self, name: str, device_bytes: int) -> None:
        self.shares[name] = device_bytes
        assert sum(self.shares.values()) <= self.limit, self.shares


@dataclass
class Part:
    """A form whose share is watched."""

    memory: Memory
    name: str
    budgets: Budgets
    least_budgets: Budgets

    def __post_init__(self) -> None:
        self.memory.set(self.name, self.budgets.device_bytes)

    def set_budgets(self, budgets: Budgets) -> None:
        if not fits(self.least_budgets, budgets):
            raise BudgetError("too small")
        self.budgets = budgets
        self.memory.set(self.name, budgets.device_bytes)

    def stats(self) -> Any:
        return self.budgets

    def close(self) -> None:
        self.memory.set(self.name, 0)


class Pictures:
    """Keeps as many pictures as it may."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @property
    def pictures(self) -> CacheStats:
        return CacheStats(held_bytes=self.memory.shares.get("pictures", 0))

    def set_picture_bytes(self, budget_bytes: int) -> None:
        self.memory.set("pictures", budget_bytes)


class Decoded:
    """Keeps as many decoded anchors as it may."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @property
    def held_bytes(self) -> int:
        return self.memory.shares.get("decoded", 0)

    def set_bytes(self, budget_bytes: int) -> None:
        self.memory.set("decoded", budget_bytes)


@given(*[st.integers(0, 10_000)] * 4)
def test_what_is_kept_has_a_part_of_the_device_that_chunks_can_spare(
    device: int, pictures: int, decoded: int, least: int
) -> None:
    most = KeptBytes(pictures, decoded)
    kept = kept_share(Budgets(0, device), most, Budgets(0, least))
    assert 0 <= kept.pictures <= min(pictures, PICTURES_SHARE * device)
    assert 0 <= kept.decoded <= min(decoded, DECODED_SHARE * device)
    assert kept.pictures + kept.decoded <= max(0, device - least)
    if device - least >= (PICTURES_SHARE + DECODED_SHARE) * device:
        assert kept == KeptBytes(
            min(pictures, int(PICTURES_SHARE * device)), min(decoded, int(DECODED_SHARE * device))
        )


@settings(max_examples=200)
@given(
    st.integers(1000, 5000),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.lists(
        st.tuples(
            st.sampled_from(["admit", "take over", "give up", "last", "alone", "set"]),
            st.integers(1, 3000),
        ),
        max_size=12,
    ),
)
def test_what_is_kept_and_all_forms_together_never_exceed_the_device_budget(
    device: int, most_pictures: int, most_decoded: int, steps: list[tuple[str, int]]
) -> None:
    memory, most = Memory(device), KeptBytes(most_pictures, most_decoded)
    shares = SharedBudgets(Budgets(1000, device), None, Pictures(memory), Decoded(memory), most)
    shown: Part | None = None
    coming: Part | None = None
    for number, (step, size) in enumerate(steps):
        least = Budgets(1, size)

        def make(budgets: Budgets, name: str = str(number), least: Budgets = least) -> Part:
            return Part(memory, name, budgets, least)

        if step == "admit" and coming is None:
            coming = shares.admit(least, make)
        elif step == "take over" and coming is not None:
            before, shown, taken = shown, coming, coming
            shares.take_over(taken, before.close if before else lambda: None)
            coming = None
        elif step == "give up" and coming is not None:
            shares.give_up()
            coming.close()
            coming = None
        elif step == "last" and shown is not None and coming is None:
            shares.leave_all_to(shown)
            expected = kept_share(shares.budgets, most, shown.least_budgets)
            assert memory.shares["pictures"] == expected.pictures
            assert memory.shares["decoded"] == expected.decoded
            assert shown.budgets.device_bytes == device - expected.pictures - expected.decoded
        elif step == "alone" and coming is None:
            with contextlib.suppress(BudgetError):
                shown = shares.admit_alone(least, shown.close if shown else lambda: None, make)
        elif step == "set":
            # A smaller number counts when it is accepted; what is held until then is the old one.
            before_shares = dict(memory.shares)
            memory.limit = max(device, size)
            try:
                shares.set_budgets(Budgets(1000, size))
                device = size
            except BudgetError:
                assert memory.shares == before_shares
            memory.limit = device
            assert sum(memory.shares.values()) <= device == shares.budgets.device_bytes


def test_what_is_held_counts_what_is_kept() -> None:
    memory = Memory(1600)
    form = Part(memory, "form", Budgets(100, 1000), Budgets(1, 1))
    shares = SharedBudgets(
        Budgets(100, 1600), form, Pictures(memory), Decoded(memory), KeptBytes(1000, 1000)
    )
    assert memory.shares == {"form": 1000, "pictures": 200, "decoded": 400}
    assert shares.kept_bytes == 600 and shares.held_bytes == 100 + 1000 + 600
    shares.set_budgets(Budgets(100, 800))
    assert memory.shares == {"form": 500, "pictures": 100, "decoded": 200}


def test_decoded_anchors_of_gpus_are_not_in_the_hosts_memory() -> None:
    memory = Memory(1600)
    form = Part(memory, "form", Budgets(100, 1200), Budgets(1, 1))
    shares = SharedBudgets(
        Budgets(100, 1600), form, None, Decoded(memory), KeptBytes(1000, 1000), memories=0
    )
    assert memory.shares == {"form": 1200, "decoded": 400}
    assert shares.kept_bytes == 400 and shares.held_bytes == 100


def test_pictures_give_way_to_what_chunks_cannot_do_without() -> None:
    memory = Memory(1600)
    form = Part(memory, "form", Budgets(100, 1400), Budgets(1, 900))
    shares = SharedBudgets(Budgets(100, 1600), form, Pictures(memory), most_kept=KeptBytes(1000))
    coming = shares.admit(
        Budgets(1, 650), lambda budgets: Part(memory, "coming", budgets, Budgets(1, 650))
    )
    assert coming is not None and memory.shares["pictures"] == 50
    shares.take_over(coming, form.close)
    shares.leave_all_to(coming)
    assert memory.shares == {"form": 0, "coming": 1400, "pictures": 200}
    shares.set_budgets(Budgets(100, 650))
    assert memory.shares["pictures"] == 0


def test_budgets_of_one_form_are_its_own() -> None:
    form = Form(ALL)
    shares = SharedBudgets(ALL, form)
    shares.set_budgets(Budgets(77, 88))
    assert form.budgets == Budgets(77, 88)
    with pytest.raises(BudgetError):
        shares.set_budgets(Budgets(1, 1))
    assert shares.budgets == form.budgets == Budgets(77, 88)
    assert shares.held_bytes == 77 + 88
