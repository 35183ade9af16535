"""Threads that share the tasks of a picture."""

from __future__ import annotations

import threading

import pytest

from rendering.cancel import EventCancelFlag
from rendering.models import task_threads
from rendering.models.fields import FieldRasterizer
from rendering.models.task_threads import TaskThreads
from rendering.native.cpu import NativeRasterizer
from splat.errors import RenderCancelled
from splat.fields import FieldModel


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> TaskThreads:
    """On a machine of which three cores may be used."""
    monkeypatch.setattr(task_threads, "usable_cores", lambda: 3)
    return TaskThreads("test")


@pytest.mark.parametrize("wished", [0, 1, 2, 3, 64])
def test_every_task_is_done_once_by_no_more_threads_than_wished(
    three: TaskThreads, wished: int
) -> None:
    done: list[int] = []
    names: set[str] = set()

    def task(number: int) -> int:
        done.append(number)
        names.add(threading.current_thread().name)
        return number

    assert three.run(50, wished, task, None) == sum(range(50))
    assert sorted(done) == list(range(50))
    assert len(names) <= three.threads_for(50, wished) == min(wished or 3, 3)
    assert three.threads_for(2, wished) <= 2 and three.run(0, wished, task, None) == 0


def test_tasks_are_at_work_at_once(three: TaskThreads) -> None:
    together = threading.Barrier(3, timeout=30)
    assert three.run(3, 0, lambda number: together.wait() * 0 + 1, None) == 3


def test_threads_stay_from_picture_to_picture(three: TaskThreads) -> None:
    seen: set[int] = set()
    for _ in range(5):
        together = threading.Barrier(3, timeout=30)

        def task(number: int, together: threading.Barrier = together) -> int:
            together.wait()
            seen.add(threading.get_ident())
            return 1

        three.run(3, 0, task, None)
    assert len(seen) == 3


def test_an_error_or_a_flag_ends_all(three: TaskThreads) -> None:
    flag = EventCancelFlag()
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        if number == 5:
            flag.set()
        return 1

    with pytest.raises(RenderCancelled):
        three.run(1000, 1, task, flag)
    assert begun == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ZeroDivisionError):
        three.run(1000, 2, lambda number: 1 // (number - 3), None)


def test_fields_keep_to_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_threads, "usable_cores", lambda: 1)
    rasterizer = FieldRasterizer(FieldModel(("Instant-NGP",)), NativeRasterizer())
    assert rasterizer._threads.threads_for(100, 0) == 1
