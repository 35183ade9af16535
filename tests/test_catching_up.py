"""Memories that are behind: who should not draw for now, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rendering.catching_up import CATCH_UP_S, CatchingUp, Lacks
from rendering.depth_slabs import Slab
from rendering.division import Division

NAMES = ("a", "b", "c")


def drawn_by(*memories: str, beside: str = "") -> Division:
    return Division(dict.fromkeys(memories), frozenset(beside))


def in_slabs(*memories: str, beside: str = "") -> Division:
    slabs = {name: frozenset({(0, Slab(1.0 + i, 2.0 + i))}) for i, name in enumerate(memories)}
    return Division(slabs, frozenset(beside))


def test_nobody_is_behind_before_the_first_frame() -> None:
    known = CatchingUp(NAMES)
    assert not known.behind
    assert known.agreeing("x", drawn_by("a", beside="bc")) == {"b", "c"}


def test_who_did_not_take_part_is_behind_until_it_has_what_was_drawn() -> None:
    known = CatchingUp(NAMES)
    known.drew("x", drawn_by("a"), {}, 0.0)
    assert known.behind == {"b", "c"}
    known.drew("x", drawn_by("a", beside="b"), {"b": Lacks.DETAIL}, 1.0)
    assert known.behind == {"b", "c"} and not known.is_level("x", "b")
    known.drew("x", drawn_by("a", beside="b"), {"b": Lacks.NOTHING}, 1.1)
    assert known.behind == {"c"} and known.is_level("x", "b")
    assert known.agreeing("x", drawn_by("a", beside="bc")) == {"b"}
    known.drew("x", drawn_by("a", beside="b"), {"b": Lacks.DETAIL}, 1.2)
    assert known.behind == {"c"}, "it agreed on what is drawn"


def test_frames_in_turn_keep_all_that_take_part() -> None:
    known = CatchingUp(NAMES)
    for turn in range(6):
        name = NAMES[turn % 3]
        beside = "".join(other for other in NAMES if other != name)
        known.drew("x", drawn_by(name, beside=beside), {}, float(turn))
        assert not known.behind


def test_who_loads_for_long_draws_with_what_it_has_but_never_without_roots() -> None:
    known = CatchingUp(NAMES[:2])
    known.drew("x", drawn_by("a"), {}, 0.0)
    alone = drawn_by("a", beside="b")
    for now, lacks, behind in (
        (5.0, Lacks.ROOTS, True),
        (5.0 + CATCH_UP_S + 0.1, Lacks.ROOTS, True),
        (5.2 + CATCH_UP_S, Lacks.DETAIL, False),
    ):
        known.drew("x", alone, {"b": lacks}, now)
        assert ("b" in known.behind) == behind
    known.drew("x", drawn_by("a"), {}, 20.0)
    known.drew("x", alone, {"b": Lacks.DETAIL}, 21.0)
    assert known.behind == {"b"}, "its time begins anew"


def test_a_memory_that_is_lost_is_behind_for_everybody() -> None:
    known = CatchingUp(NAMES[:2])
    known.lost("a")
    assert not known.behind, "nothing was drawn yet"
    for client in "xy":
        known.drew(client, drawn_by("a", "b"), {}, 0.0)
    known.lost("b")
    assert known.behind == {"b"}
    for client, behind in (("x", {"b"}), ("y", set())):
        known.drew(client, drawn_by("a", beside="b"), {"b": Lacks.NOTHING}, 1.0)
        assert known.behind == behind


def test_who_is_gone_is_not_waited_for() -> None:
    known = CatchingUp(NAMES[:2])
    known.drew("x", drawn_by("a", "b"), {}, 0.0)
    known.drew("y", drawn_by("a"), {}, 0.0)
    assert known.behind == {"b"}
    known.forget("y", 1.0)
    assert not known.behind


def test_memories_of_slabs_never_agree_and_stay_level_while_they_take_turns() -> None:
    known = CatchingUp((*NAMES, "d"))
    first, second = in_slabs("a", "b", beside="cd"), in_slabs("c", "d", beside="ab")
    for now in range(4):
        assert not known.agreeing("x", first)
        known.drew("x", (first, second)[now % 2], {}, float(now))
        assert not known.behind


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xy"),
            st.sets(st.sampled_from(NAMES), min_size=1),
            st.sets(st.sampled_from(NAMES)),
            st.sampled_from(Lacks),
            st.sampled_from(["drew", "lost", "forget"]),
        ),
        max_size=12,
    )
)
def test_who_draws_for_everybody_is_never_behind(
    events: list[tuple[str, set[str], set[str], Lacks, str]],
) -> None:
    known = CatchingUp(NAMES)
    for now, (client, draws, beside, lacks, what) in enumerate(events):
        if what == "lost":
            known.lost(min(draws))
        elif what == "forget":
            known.forget(client, float(now))
        else:
            division = Division(dict.fromkeys(draws), frozenset(beside - draws))
            known.drew(client, division, dict.fromkeys(beside - draws, lacks), float(now))
    for client in "xy":
        known.drew(client, drawn_by(*NAMES), {}, 100.0)
    assert not known.behind
