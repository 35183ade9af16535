"""What is said of chunks that fail: not more than there is to know."""

from __future__ import annotations

import logging
import math
import random
import re
import time

import numpy as np
import pytest

from scene_store.failures import FailureLog, Failures, RetryPolicy
from splat.errors import ChunkReadError
from tests.store.fake_source import BatchedFakeSource
from tests.store.test_loader import PAGE_GAUSSIANS, PATIENCE_S, TREE, Stage


class Log:
    """A failure log with what feeds it, and what it said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        self.log = FailureLog()
        self._failures = Failures(RetryPolicy(), random.Random(0))
        self._caplog = caplog

    def fail(self, error: ChunkReadError, now: float = 0.0) -> None:
        self.log.add(self._failures.add(error.chunk, error, now), error, now)

    def said(self, now: float) -> list[str]:
        self._caplog.clear()
        self.log.tell(now)
        return list(self._caplog.messages)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def damaged(chunk: int, file: str = "a.bin") -> ChunkReadError:
    problem = f"is damaged: the checksum of bytes {chunk * 1000:,} to {chunk * 2000:,} differs"
    return ChunkReadError(file, chunk, problem)


def test_one_line_for_each_file_and_problem(log: Log) -> None:
    for chunk in range(40):
        log.fail(damaged(7 + chunk))
    log.fail(damaged(3, "b.bin"))
    log.fail(ChunkReadError("a.bin", 99, "is missing"))
    assert log.said(0.0) == []
    many, one, other = log.said(log.log.due)
    assert many == (
        "a.bin: chunk 7: is damaged: the checksum of bytes 7,000 to 14,000 differs "
        "(lost; 39 more such)"
    )
    assert one.startswith("b.bin: chunk 3: is damaged") and one.endswith("(lost)")
    assert other == "a.bin: chunk 99: is missing (lost)"
    assert log.said(math.inf) == [] and log.log.due == math.inf


def test_later_ones_are_counted_after_longer_and_longer_waits(log: Log) -> None:
    now, lines = 0.0, 0
    for chunk in range(1000):
        now += 0.1
        log.fail(damaged(chunk), now)
        lines += len(log.said(now))
    assert 2 <= lines <= 5
    (last,) = log.said(math.inf)
    assert last.endswith("(lost; 999 more such)")


def test_another_try_of_the_same_chunk_is_no_news(log: Log) -> None:
    error = ChunkReadError("http://there/a.bin", 5, "no answer within 30 s", transient=True)
    log.fail(error)
    (line,) = log.said(10.0)
    assert line.endswith("no answer within 30 s (tried again)")
    log.fail(error, 20.0)
    assert log.said(math.inf) == []
    log.fail(ChunkReadError("http://there/a.bin", 5, "no answer within 30 s"), 30.0)
    (line,) = log.said(math.inf)
    assert line.endswith("(lost)")


def test_a_loader_tells_of_it_in_time_though_nothing_else_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    leaves = np.flatnonzero(TREE.is_leaf).tolist()
    source = BatchedFakeSource(TREE, PAGE_GAUSSIANS, damaged=set(leaves[:20]))
    stage = Stage(source)
    with stage.loader, caplog.at_level(logging.WARNING):
        stage.look_until_settled()
        end = time.monotonic() + PATIENCE_S
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
        (line,) = caplog.messages
        assert re.fullmatch(r"fake.bvs: chunk \d+: checksum differs \(lost; \d+ more such\)", line)


def test_what_was_not_said_yet_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    leaf = int(np.flatnonzero(TREE.is_leaf)[0])
    stage = Stage(BatchedFakeSource(TREE, PAGE_GAUSSIANS, damaged={leaf}))
    with caplog.at_level(logging.WARNING):
        with stage.loader:
            stage.look_until_settled()
        assert len(caplog.messages) == 1
