"""The queue of requests, with plain values: latest wins, fair turns, and nobody starves."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.fairness import NEWCOMERS, QUANTUM_S, WEIGHTS, Urgency
from rendering.frame import FrameRequest
from rendering.scheduler import FairQueue
from splat.camera import Camera

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)
Queue = FairQueue[FrameRequest]


def ask(
    client: str,
    sequence: int = 0,
    urgency: Urgency = Urgency.MOVING,
    *,
    preemptible: bool = False,
    replaces: bool = True,
) -> FrameRequest:
    return FrameRequest(
        client,
        sequence,
        (CAMERA,),
        urgency=urgency,
        preemptible=preemptible,
        replaces=replaces,
        submitted_s=0.0,
    )


def serve(queue: Queue, cost_s: float) -> str:
    request = queue.start_next()
    assert request is not None
    queue.finish(request, cost_s)
    return request.client


def test_nothing_to_start_when_nothing_waits() -> None:
    assert Queue().start_next() is None


def test_a_newer_request_replaces_the_waiting_one() -> None:
    queue = Queue()
    first, second = ask("a", 1), ask("a", 2)
    queue.admit(first)
    assert queue.admit(second).dropped is first
    assert queue.start_next() is second and len(queue) == 0


def test_an_older_request_never_replaces_a_newer_one() -> None:
    queue = Queue()
    late, newest = ask("a", 1), ask("a", 2)
    queue.admit(newest)
    assert queue.admit(late).dropped is late
    assert queue.start_next() is newest
    assert queue.admit(late).dropped is late
    assert queue.running == (newest,)


@pytest.mark.parametrize("preemptible", [True, False])
def test_only_preemptible_running_frames_of_the_client_are_cancelled(preemptible: bool) -> None:
    queue = Queue()
    running = ask("a", 1, preemptible=preemptible)
    queue.admit(running)
    queue.start_next()
    assert queue.admit(ask("b", 5)).cancelled == ()
    admitted = queue.admit(ask("a", 2))
    assert admitted.cancelled == (running,) * preemptible and admitted.dropped is None


def test_all_running_refinements_of_a_client_give_way() -> None:
    queue = Queue()
    for sequence in (1, 2):
        queue.admit(ask("a", sequence))
        queue.start_next()
    refinement = ask("a", 3, preemptible=True)
    queue.admit(refinement)
    queue.start_next()
    assert queue.admit(ask("a", 4)).cancelled == (refinement,)


def test_frames_of_an_export_are_all_drawn_in_order() -> None:
    queue = Queue()
    frames = [ask("export", i, Urgency.EXPORT, replaces=False) for i in range(4)]
    for frame in frames:
        assert queue.admit(frame).dropped is None
    drawn = []
    while (request := queue.start_next()) is not None:
        drawn.append(request)
        queue.finish(request, 0.1)
    assert drawn == frames


def test_several_frames_may_run_at_a_time_and_end_in_any_order() -> None:
    queue = Queue()
    requests = [ask("a", 1), ask("b", 1), ask("a", 2)]
    queue.admit(requests[0])
    queue.admit(requests[1])
    assert [queue.start_next(), queue.start_next()] == requests[:2]
    queue.admit(requests[2])
    assert queue.start_next() is requests[2]
    assert set(queue.running) == set(requests) and queue.start_next() is None
    queue.finish(requests[2], 0.1)
    assert set(queue.running) == set(requests[:2])
    for request in requests[:2]:
        queue.finish(request, 0.1)
    assert not queue.running and queue.start_next() is None


def test_replacing_a_request_keeps_its_place_in_line() -> None:
    queue = Queue()
    for request in (ask("a", 1), ask("b", 1), ask("a", 2)):
        queue.admit(request)
    assert queue.start_next() == ask("a", 2)
    assert queue.start_next() == ask("b", 1)


def test_the_more_urgent_comes_first_and_a_camera_that_moves_again_is_no_longer_still() -> None:
    queue = Queue()
    queue.admit(ask("export", 0, Urgency.EXPORT, replaces=False))
    queue.admit(ask("still", 0, Urgency.STILL))
    queue.admit(ask("rested", 0, Urgency.STILL))
    queue.admit(ask("moving"))
    queue.admit(ask("headset", 0, Urgency.VR))
    queue.admit(ask("rested", 1))
    served = [serve(queue, 0.001) for _ in range(5)]
    assert served == ["headset", "rested", "moving", "still", "export"]


def test_those_whose_deadline_is_over_leave() -> None:
    queue = Queue()
    assert queue.next_deadline_s == math.inf
    late, later, never = ask("a"), replace(ask("b"), deadline_s=2.0), ask("c")
    late = replace(late, deadline_s=1.0)
    for request in (later, late, never):
        queue.admit(request)
    assert queue.next_deadline_s == 1.0 and queue.expire(0.99) == ()
    assert queue.expire(1.0) == (late,) and queue.next_deadline_s == 2.0
    assert queue.start_next() is later and queue.next_deadline_s == math.inf
    assert queue.expire(3.0) == (), "it was begun in time"
    assert queue.start_next() is never and queue.start_next() is None


def test_nobody_is_turned_away_twice_without_having_been_served() -> None:
    queue = Queue()
    for sequence, turned_away in enumerate([True, False, True]):
        request = replace(ask("a", sequence), deadline_s=1.0)
        queue.admit(request)
        assert (queue.next_deadline_s == 1.0) == turned_away
        assert queue.expire(2.0) == (request,) * turned_away
        if not turned_away:
            assert queue.start_next() is request
            queue.finish(request, 0.1)
    queue.forget("a")
    queue.admit(replace(ask("a", 9), deadline_s=1.0))
    assert queue.next_deadline_s == 1.0


@given(st.integers(2, 12), st.floats(0.02, 0.3), st.integers(0, 100))
def test_an_overload_with_deadlines_serves_everybody(
    count: int, patience_s: float, seed: int
) -> None:
    """Whoever is turned away asks again at once, and is not turned away for ever."""
    chance, queue, now_s = random.Random(seed), Queue(), 0.0
    cost_s = {f"client {i}": chance.uniform(0.01, 0.1) for i in range(count)}
    served = dict.fromkeys(cost_s, 0.0)

    def ask_again(client: str, sequence: int) -> None:
        request = ask(client, sequence)
        queue.admit(replace(request, deadline_s=now_s + patience_s))

    for client in cost_s:
        ask_again(client, 0)
    for sequence in range(1, 300):
        request = queue.start_next()
        assert request is not None
        now_s += cost_s[request.client]
        served[request.client] += cost_s[request.client]
        queue.finish(request, cost_s[request.client])
        for overdue in (request, *queue.expire(now_s)):
            ask_again(overdue.client, sequence)
    fair_s = now_s / count
    assert min(served.values()) >= 0.5 * fair_s


def test_equal_clients_alternate() -> None:
    queue = Queue()
    served = []
    for sequence in range(6):
        queue.admit(ask("a", sequence))
        queue.admit(ask("b", sequence))
        served.append(serve(queue, 0.1))
    assert served == ["a", "b"] * 3


@pytest.mark.parametrize("urgency", Urgency)
def test_within_a_class_shares_are_of_time_not_of_frames(urgency: Urgency) -> None:
    """A client whose frames cost ten times as much gets a tenth of the frames."""
    queue = Queue()
    cost = {"heavy": 1.0, "light": 0.1}
    used = dict.fromkeys(cost, 0.0)
    for sequence in range(220):
        for client in cost:
            queue.admit(ask(client, sequence, urgency))
        request = queue.start_next()
        assert request is not None
        queue.finish(request, cost[request.client])
        used[request.client] += cost[request.client]
    assert used["light"] == pytest.approx(used["heavy"], abs=2 * cost["heavy"])


def test_idleness_is_no_credit() -> None:
    """A client that slept while another worked does not get the engine for itself."""
    queue = Queue()
    for sequence in range(50):
        queue.admit(ask("busy", sequence))
        queue.admit(ask("other", sequence))
        serve(queue, 1.0)
    served = []
    for sequence in range(50, 56):
        for client in ("busy", "sleeper", "other"):
            queue.admit(ask(client, sequence))
        served.append(serve(queue, 1.0))
    assert served.count("sleeper") <= 2


def test_what_a_client_waited_for_that_is_gone_is_not_drawn() -> None:
    queue = Queue()
    for sequence in range(3):
        queue.admit(ask("a", sequence, Urgency.EXPORT, replaces=False))
    first = queue.start_next()
    queue.admit(ask("b"))
    assert [gone.sequence for gone in queue.forget("a")] == [1, 2]
    assert queue.forget("a") == queue.forget("nobody") == ()
    second = queue.start_next()
    assert second is not None and second.client == "b" and queue.start_next() is None
    assert first is not None and queue.running == (first, second)


def test_clients_that_left_are_forgotten() -> None:
    queue = Queue()
    for number in range(100):
        queue.admit(ask(f"visitor {number}"))
        serve(queue, 0.1)
    assert not queue._clients and not len(queue._turns)


def test_a_request_can_be_taken_back() -> None:
    queue = Queue()
    request = ask("a", 1)
    queue.admit(request)
    assert queue.withdraw(request) and not queue.withdraw(request)
    assert queue.start_next() is None and len(queue) == 0


def test_drain_returns_what_waited() -> None:
    queue = Queue()
    running, waiting = ask("a", 1), [ask("a", 2), ask("b", 1)]
    queue.admit(running)
    queue.start_next()
    for request in waiting:
        queue.admit(request)
    assert list(queue.drain()) == waiting and queue.start_next() is None
    queue.finish(running, 0.1)
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "start", "end"]))))
def test_no_request_is_lost_or_drawn_twice(steps: list[tuple[str, str]]) -> None:
    queue = Queue()
    waiting: dict[str, FrameRequest] = {}
    running: list[FrameRequest] = []
    for sequence, (client, step) in enumerate(steps):
        if step == "ask":
            request = ask(client, sequence)
            assert queue.admit(request).dropped == waiting.get(client)
            waiting[client] = request
        elif step == "start":
            started = queue.start_next()
            assert (started is None) == (not waiting)
            if started is not None:
                assert waiting.pop(started.client) is started
                running.append(started)
        elif running:
            queue.finish(running.pop(0), 0.01)
    assert len(queue) == len(waiting) and set(queue.running) == set(running)


@dataclass
class Crowd:
    """Clients of random urgency, cost and pace, and visitors who come once, for some servers.

    Plays until so much was served, and remembers how much others got of the servers while each
    client waited.
    """

    seed: int
    clients: int
    servers: int
    most_cost_s: float
    waits_s: dict[tuple[Urgency, str], float]

    def play(self, served_s: float) -> None:
        chance = random.Random(self.seed)
        urgencies = {f"client {i}": chance.choice(list(Urgency)) for i in range(self.clients)}
        urgencies |= {"still": Urgency.STILL, "export": Urgency.EXPORT}
        cost_s = {name: chance.uniform(0.001, self.most_cost_s) for name in urgencies}
        eager = {name: chance.random() < 0.7 for name in urgencies} | {"still": True}
        queue, sequence, total_s = Queue(), 0, 0.0
        running: list[FrameRequest] = []
        since_s: dict[str, float] = {}
        while total_s < served_s:
            names = [name for name in urgencies if eager[name] or chance.random() < 0.3]
            names += [f"visitor {sequence}"] * (chance.random() < 0.5)
            for name in names:
                sequence += 1
                urgency = urgencies.get(name, Urgency.VR)
                if urgency is Urgency.EXPORT and name in since_s:
                    continue  # it keeps one frame waiting
                queue.admit(ask(name, sequence, urgency, replaces=urgency is not Urgency.EXPORT))
                since_s.setdefault(name, total_s)
            while len(running) < self.servers and (started := queue.start_next()) is not None:
                running.append(started)
                key = started.urgency, started.client
                waited_s = total_s - since_s.pop(started.client)
                self.waits_s[key] = max(self.waits_s.get(key, 0.0), waited_s)
            ended = running.pop(chance.randrange(len(running)))
            spent_s = cost_s.get(ended.client, self.most_cost_s) * chance.uniform(0.5, 1.0)
            queue.finish(ended, spent_s)
            total_s += spent_s
        for name, since in since_s.items():
            key = urgencies.get(name, Urgency.VR), name
            self.waits_s[key] = max(self.waits_s.get(key, 0.0), total_s - since)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 2), st.floats(0.004, 0.01))
def test_no_request_starves(seed: int, clients: int, servers: int, most_cost_s: float) -> None:
    """However many arrive, whatever they cost and how urgent they are: a client that waits is
    served after a number of rounds that only its own last frame decides."""
    crowd = Crowd(seed, clients, servers, most_cost_s, {})
    crowd.play(served_s=12.0)
    assert {"still", "export"} <= {name for _, name in crowd.waits_s}
    # What one round serves: of everybody an income, and the frames that exceed it.
    income_s = QUANTUM_S * max(WEIGHTS.values())
    per_round_s = (clients + 2 + NEWCOMERS) * (income_s + (servers + 1) * most_cost_s)
    for (urgency, name), waited_s in crowd.waits_s.items():
        rounds = 2 + math.ceil(servers * most_cost_s / (QUANTUM_S * WEIGHTS[urgency]))
        bound_s = rounds * per_round_s
        assert bound_s < 12.0, "or this proves nothing"
        assert waited_s <= bound_s, (name, urgency)


def test_a_camera_at_rest_is_served_beside_headsets_that_never_rest() -> None:
    queue = Queue()
    queue.admit(ask("still", 0, Urgency.STILL))
    served = []
    for sequence in range(40):
        for headset in ("left", "right"):
            queue.admit(replace(ask(headset, sequence), urgency=Urgency.VR))
        served.append(serve(queue, 0.02))
    assert "still" in served[:8]
