"""Deficit round robin between clients: shares, urgency, and nobody starves."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.fairness import NEWCOMERS, WEIGHTS, DeficitTurns, Turn, Urgency

QUANTUM_S = 0.01
URGENCIES = st.sampled_from(Urgency)
COSTS_S = st.floats(0.001, 0.2)


def serve(turns: DeficitTurns, cost_s: float) -> str:
    """One frame of whoever's turn it is, who wants another at once."""
    turn = turns.take()
    assert turn is not None
    turns.settle(turn, cost_s)
    return turn.client


def greedy(
    clients: dict[str, tuple[Urgency, float]], frames: int
) -> tuple[dict[str, float], list[str]]:
    """Seconds that each client gets if none ever rests, and who was served in turn."""
    turns = DeficitTurns(QUANTUM_S)
    used = dict.fromkeys(clients, 0.0)
    served = []
    for client, (urgency, _) in clients.items():
        turns.enter(client, urgency)
    for _ in range(frames):
        turn = turns.take()
        assert turn is not None
        urgency, cost_s = clients[turn.client]
        turns.enter(turn.client, urgency)  # the next request is there before the frame is done
        turns.settle(turn, cost_s)
        used[turn.client] += cost_s
        served.append(turn.client)
    return used, served


CLIENTS = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(URGENCIES, COSTS_S), min_size=2, max_size=6
)


@given(CLIENTS, st.integers(50, 400))
def test_shares_are_within_a_quantum_and_a_frame(
    clients: dict[str, tuple[Urgency, float]], frames: int
) -> None:
    used, _ = greedy(clients, frames)

    def service(name: str) -> float:
        return used[name] / WEIGHTS[clients[name][0]]

    for a in clients:
        for b in clients:
            urgency, cost_s = clients[a]
            slack = QUANTUM_S + cost_s / WEIGHTS[urgency]
            assert service(a) - service(b) <= slack + 1e-9


@given(CLIENTS)
def test_nobody_starves(clients: dict[str, tuple[Urgency, float]]) -> None:
    """Between two turns of a client, each other one gets no more than its share and two frames."""
    _, served = greedy(clients, 1500)
    for name, (urgency, cost_s) in clients.items():
        rounds = 2 + 2 * cost_s / (QUANTUM_S * WEIGHTS[urgency])
        most = sum(
            2 + rounds * QUANTUM_S * WEIGHTS[other] / other_cost_s
            for other, other_cost_s in clients.values()
        )
        gap = longest_gap(served, name)
        assert gap <= most + len(clients)


def longest_gap(served: list[str], name: str) -> int:
    places = [-1, *(i for i, client in enumerate(served) if client == name), len(served)]
    return max(after - before for before, after in pairwise(places))


def test_a_heavier_client_pays_with_waiting() -> None:
    clients = {"heavy": (Urgency.MOVING, 0.1), "light": (Urgency.MOVING, 0.01)}
    used, served = greedy(clients, 220)
    assert used["heavy"] == pytest.approx(used["light"], abs=0.2)
    counts = Counter(served)
    assert counts["light"] == pytest.approx(10 * counts["heavy"], rel=0.1)


def test_the_most_urgent_of_those_with_balance_comes_first() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("still", Urgency.STILL)
    turns.enter("moving", Urgency.MOVING)
    turns.enter("export", Urgency.EXPORT)
    turns.enter("vr", Urgency.VR)
    served = [serve(turns, 0.001) for _ in range(4)]
    assert served == ["vr", "moving", "still", "export"]


def test_the_urgent_run_out_of_balance() -> None:
    turns = DeficitTurns(QUANTUM_S)
    served = []
    for _ in range(12):
        turns.enter("vr", Urgency.VR)
        turns.enter("still", Urgency.STILL)
        served.append(serve(turns, 0.02))
    assert served[:3] == ["vr", "vr", "still"]
    assert 1 <= served.count("still") <= 4


def test_equally_urgent_clients_come_in_the_order_they_began_to_wait() -> None:
    turns = DeficitTurns(QUANTUM_S)
    for client in "cab":
        turns.enter(client, Urgency.MOVING)
    assert [serve(turns, 0.001) for _ in range(3)] == ["c", "a", "b"]


def test_idleness_is_no_credit() -> None:
    turns = DeficitTurns(QUANTUM_S)
    for client in ("busy", "other"):
        turns.enter(client, Urgency.MOVING)
    for _ in range(50):
        turns.enter(serve(turns, 0.02), Urgency.MOVING)
    served = []
    turns.enter("sleeper", Urgency.MOVING)
    for _ in range(9):
        client = serve(turns, 0.02)
        served.append(client)
        turns.enter(client, Urgency.MOVING)
    assert served.count("sleeper") <= 4


def test_a_debt_that_whole_rounds_just_pay_is_followed_by_another_round() -> None:
    for urgency in Urgency:
        for ms in range(1, 2001):
            assert greedy({"alone": (urgency, ms / 1000)}, 3)[1] == ["alone"] * 3


def test_debts_are_kept_while_others_wait() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("debtor", Urgency.MOVING)
    turns.enter("other", Urgency.MOVING)
    assert serve(turns, 0.5) == "debtor"
    assert turns.balance_s("debtor") == pytest.approx(0.02 - 0.5)
    turns.enter("debtor", Urgency.MOVING)
    served = []
    for _ in range(20):
        client = serve(turns, 0.02)
        served.append(client)
        turns.enter(client, Urgency.MOVING)
    assert served == ["other"] * 20


def test_a_busy_period_ends_with_all_debts() -> None:
    turns = DeficitTurns(QUANTUM_S)
    for number in range(100):
        turns.enter(f"visitor {number}", Urgency.MOVING)
        serve(turns, 1.0)
    assert len(turns) == 0


def test_those_that_left_are_forgotten_while_others_stay() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("stays", Urgency.MOVING)
    for number in range(200):
        turns.enter(f"visitor {number}", Urgency.MOVING)
        for _ in range(2):
            client = serve(turns, 0.02)
            if client == "stays":
                turns.enter(client, Urgency.MOVING)
    assert len(turns) < 20


def test_an_endless_train_of_newcomers_keeps_nobody_waiting() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("export", Urgency.EXPORT)
    served = []
    for number in range(100):
        turns.enter(f"visitor {number}", Urgency.VR)
        served.append(serve(turns, 1.0))
    assert served.index("export") <= NEWCOMERS + 1
    assert served[0] == "visitor 0"


@pytest.mark.parametrize("pause_ms", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("cost_ms", [20.0, 35.0])
def test_clients_alike_that_pause_between_frames_get_alike(cost_ms: float, pause_ms: float) -> None:
    """Whoever happens to pause when rounds begin has no more of them than others."""
    turns, chance = DeficitTurns(QUANTUM_S), random.Random(1)
    back_ms = dict.fromkeys("abcd", 0.0)
    used_ms = dict.fromkeys("abcd", 0.0)
    now_ms = 0.0
    for _ in range(1000):
        now_ms = max(now_ms, min(back_ms.values()))
        for client in back_ms:
            if back_ms[client] <= now_ms:
                turns.enter(client, Urgency.MOVING)
        turn = turns.take()
        assert turn is not None
        took_ms = cost_ms * chance.uniform(0.9, 1.1)
        now_ms += took_ms
        used_ms[turn.client] += took_ms
        back_ms[turn.client] = now_ms + pause_ms
        turns.settle(turn, 1e-3 * took_ms)
    assert max(used_ms.values()) <= 1.05 * min(used_ms.values())


def test_a_frame_that_runs_for_long_is_no_credit() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("runs", Urgency.MOVING)
    assert turns.take() == Turn("runs", 0.0)
    for _ in range(50):
        turns.enter("other", Urgency.MOVING)
        serve(turns, 0.05)
    assert turns.balance_s("runs") <= WEIGHTS[Urgency.MOVING] * QUANTUM_S


def test_several_devices_are_not_taken_on_one_balance() -> None:
    """What runs is reserved at the price of the frame before."""
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("other", Urgency.STILL)
    turns.enter("a", Urgency.MOVING)
    turns.settle(turns.take() or Turn("", 0), 0.015)
    running = []
    for _ in range(2):
        turns.enter("a", Urgency.MOVING)
        running.append(turns.take())
    assert [turn.client for turn in running if turn] == ["a", "other"]


def test_what_was_taken_back_says_nothing_of_what_the_next_frame_costs() -> None:
    turns = DeficitTurns(QUANTUM_S)
    turns.enter("other", Urgency.STILL)
    for cost_s in (0.015, 0.0):
        turns.enter("a", Urgency.MOVING)
        turn = turns.take()
        assert turn is not None and turn.client == "a"
        turns.settle(turn, cost_s)
    assert turns.balance_s("a") == pytest.approx(0.005)
    turns.enter("a", Urgency.MOVING)
    assert turns.take() == Turn("a", 0.015)


def test_impossible_quanta_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        DeficitTurns(0.0)
    with pytest.raises(ValueError, match="above 0"):
        DeficitTurns(weights={Urgency.VR: 0.0})
