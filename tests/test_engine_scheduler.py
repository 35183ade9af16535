"""The scheduling policy, with plain values: latest wins and fair turns, any number at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.scheduler import FrameScheduler, urgency_of
from splat.camera import Camera

CAMERA = Camera(np.eye(4), np.diag([10.0, 10.0, 1.0]), 8, 6)


def ask(client: str, sequence: int = 0, *, preemptible: bool = False) -> FrameRequest:
    return FrameRequest(client, sequence, (CAMERA,), preemptible=preemptible, submitted_s=0.0)


def serve(scheduler: FrameScheduler, cost_s: float) -> str:
    request = scheduler.start_next()
    assert request is not None
    scheduler.finish(request, cost_s)
    return request.client


def test_nothing_to_start_when_nothing_waits() -> None:
    assert FrameScheduler().start_next() is None


def test_a_newer_request_replaces_the_waiting_one() -> None:
    scheduler = FrameScheduler()
    first, second = ask("a", 1), ask("a", 2)
    scheduler.admit(first)
    assert scheduler.admit(second).dropped is first
    assert scheduler.start_next() is second
    assert len(scheduler) == 0


def test_an_older_request_never_replaces_a_newer_one() -> None:
    scheduler = FrameScheduler()
    late, newest = ask("a", 1), ask("a", 2)
    scheduler.admit(newest)
    assert scheduler.admit(late).dropped is late
    assert scheduler.start_next() is newest
    assert scheduler.admit(late).dropped is late


@pytest.mark.parametrize("preemptible", [True, False])
def test_only_a_preemptible_running_frame_is_cancelled(preemptible: bool) -> None:
    scheduler = FrameScheduler()
    running = ask("a", 1, preemptible=preemptible)
    scheduler.admit(running)
    scheduler.start_next()
    admitted = scheduler.admit(ask("a", 2))
    assert admitted.cancelled == ((running,) if preemptible else ())
    assert admitted.dropped is None


def test_a_client_never_cancels_the_frame_of_another() -> None:
    scheduler = FrameScheduler()
    scheduler.admit(ask("a", preemptible=True))
    scheduler.start_next()
    assert not scheduler.admit(ask("b")).cancelled


def test_frames_run_at_the_same_time_and_end_in_any_order() -> None:
    scheduler = FrameScheduler()
    requests = [ask("a", 1), ask("b", 1)]
    for request in requests:
        scheduler.admit(request)
    started = [scheduler.start_next(), scheduler.start_next()]
    assert started == requests and scheduler.running == tuple(requests)
    assert scheduler.start_next() is None
    scheduler.finish(requests[1], 0.1)
    assert scheduler.running == (requests[0],)
    scheduler.finish(requests[0], 0.1)
    assert not scheduler.running


def test_all_running_refinements_of_a_client_give_way() -> None:
    scheduler = FrameScheduler()
    for sequence in (1, 2):
        scheduler.admit(ask("a", sequence))
        scheduler.start_next()
    refinement = ask("a", 3, preemptible=True)
    scheduler.admit(refinement)
    scheduler.start_next()
    assert scheduler.admit(ask("a", 4)).cancelled == (refinement,)


def test_where_every_frame_is_wanted_all_wait_and_keep_their_order() -> None:
    scheduler = FrameScheduler()
    requests = [replace(ask("a", sequence), replaces=False) for sequence in range(3)]
    assert [scheduler.admit(request).dropped for request in requests] == [None] * 3
    assert [scheduler.start_next() for _ in requests] == requests


def test_urgency_is_told_from_the_request() -> None:
    both = FrameRequest("a", 0, (CAMERA, CAMERA))
    assert urgency_of(both) is Urgency.VR
    assert urgency_of(ask("a")) is Urgency.MOVING
    assert urgency_of(ask("a", preemptible=True)) is Urgency.STILL
    assert urgency_of(replace(both, replaces=False)) is Urgency.STILL


def test_headsets_come_first_and_still_cameras_last() -> None:
    scheduler = FrameScheduler()
    scheduler.admit(ask("still", preemptible=True))
    scheduler.admit(ask("moving"))
    scheduler.admit(FrameRequest("headset", 0, (CAMERA, CAMERA)))
    assert [serve(scheduler, 0.001) for _ in range(3)] == ["headset", "moving", "still"]


def test_replacing_a_request_keeps_its_place_in_line() -> None:
    scheduler = FrameScheduler()
    scheduler.admit(ask("a", 1))
    scheduler.admit(ask("b", 1))
    scheduler.admit(ask("a", 2))
    assert [serve(scheduler, 0.1), serve(scheduler, 0.1)] == ["a", "b"]


def test_equal_clients_alternate() -> None:
    scheduler = FrameScheduler()
    served = []
    for sequence in range(6):
        scheduler.admit(ask("a", sequence))
        scheduler.admit(ask("b", sequence))
        served.append(serve(scheduler, 0.1))
    assert served == ["a", "b"] * 3


def test_shares_are_of_time_not_of_frames() -> None:
    """A client whose frames cost ten times as much gets a tenth of the frames."""
    scheduler = FrameScheduler()
    cost = {"heavy": 1.0, "light": 0.1}
    used = dict.fromkeys(cost, 0.0)
    for sequence in range(220):
        for client in cost:
            scheduler.admit(ask(client, sequence))
        request = scheduler.start_next()
        assert request is not None
        scheduler.finish(request, cost[request.client])
        used[request.client] += cost[request.client]
    assert used["light"] == pytest.approx(used["heavy"], abs=2 * cost["heavy"])


def test_idleness_is_no_credit() -> None:
    """A client that slept while another worked does not get the engine for itself."""
    scheduler = FrameScheduler()
    for sequence in range(50):
        scheduler.admit(ask("busy", sequence))
        scheduler.admit(ask("other", sequence))
        serve(scheduler, 1.0)
    served = []
    for sequence in range(50, 56):
        scheduler.admit(ask("busy", sequence))
        scheduler.admit(ask("sleeper", sequence))
        scheduler.admit(ask("other", sequence))
        served.append(serve(scheduler, 1.0))
    assert served.count("sleeper") <= 2


def test_clients_that_left_are_forgotten() -> None:
    scheduler = FrameScheduler()
    for number in range(100):
        scheduler.admit(ask(f"visitor {number}"))
        serve(scheduler, 0.1)
    assert not scheduler._queue._clients and not len(scheduler._queue._turns)


def test_drain_returns_what_waited() -> None:
    scheduler = FrameScheduler()
    requests = [ask("a"), ask("b")]
    for request in requests:
        scheduler.admit(request)
    assert list(scheduler.drain()) == requests
    assert scheduler.start_next() is None
