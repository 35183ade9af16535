"""Chunks that could not be had, and when to try them again."""

from __future__ import annotations

import logging
import math
import random as random_module
import re
from dataclasses import dataclass, field

from splat.errors import ChunkReadError

logger = logging.getLogger(__name__)

# Failures seldom come alone: others like it are waited for, and then for longer and longer.
_GATHERED_S = 0.5
_GATHERED_FACTOR = 4.0
_NUMBERS = re.compile(r"[\d,.]+")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a chunk that could not be read is tried again.

    Attributes:
        first_s: Wait after the first failure, seconds.
        factor: Growth of the wait from one failure to the next.
        longest_s: Where it stops growing.
        jitter: Share of the wait that is random, so that retries do not come in step.
    """

    first_s: float = 0.25
    factor: float = 2.0
    longest_s: float = 30.0
    jitter: float = 0.5

    def wait_s(self, attempts: int, random: random_module.Random) -> float:
        """Seconds to wait after ``attempts`` failures, at least one."""
        grown = self.first_s * self.factor ** min(attempts - 1, 64)
        return min(grown, self.longest_s) * (1.0 - self.jitter * random.random())


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a chunk.

    Attributes:
        chunk: Its index.
        text: One line for people.
        attempts: How often it failed in a row.
        until: When it may be tried again, in seconds of the caller's clock; None for never.
        kind: The file and the problem but for its numbers (``kind_of_error``); failures of one
            kind are told as one.
    """

    chunk: int
    text: str
    attempts: int
    until: float | None
    kind: tuple[str, str] = ("", "")

    @property
    def permanent(self) -> bool:
        """Whether the chunk is lost."""
        return self.until is None


class Failures:
    """The chunks that are failing now.

    Args:
        retry: When they are tried again.
        random: Source of the jitter.
    """

    def __init__(self, retry: RetryPolicy, random: random_module.Random) -> None:
        self._retry = retry
        self._random = random
        self._failures: dict[int, Failure] = {}

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._failures

    def add(self, chunk: int, error: BaseException, now: float) -> Failure:
        """Notes another failure of a chunk.

        A ``ChunkReadError`` says whether to try again; of any other error that is hoped.
        """
        attempts = self._failures[chunk].attempts + 1 if chunk in self._failures else 1
        transient = not isinstance(error, ChunkReadError) or error.transient
        until = now + self._retry.wait_s(attempts, self._random) if transient else None
        text = str(error) or type(error).__name__
        failure = Failure(chunk, text, attempts, until, kind_of_error(error))
        self._failures[chunk] = failure
        return failure

    def clear(self, chunk: int) -> None:
        """The chunk is there after all."""
        self._failures.pop(chunk, None)

    def all(self) -> tuple[Failure, ...]:
        """Ordered by chunk."""
        return tuple(self._failures[chunk] for chunk in sorted(self._failures))

    def lost(self) -> list[int]:
        """Chunks that will never come."""
        return [chunk for chunk, failure in self._failures.items() if failure.permanent]

    def waiting(self) -> list[tuple[int, float]]:
        """Chunks that may come yet, each with the time of its next try."""
        return [(f.chunk, f.until) for f in self._failures.values() if f.until is not None]


def kind_of(problem: str) -> str:
    """A problem but for its numbers, such as which bytes are damaged."""
    return _NUMBERS.sub("#", problem)


def kind_of_error(error: BaseException) -> tuple[str, str]:
    """The file, "" if it is not known, and the kind of problem."""
    if isinstance(error, ChunkReadError):
        return error.path, kind_of(error.problem)
    return "", kind_of(str(error) or type(error).__name__)


@dataclass(slots=True)
class _Kind:
    """Chunks of one file with one problem."""

    first: Failure
    chunks: set[int] = field(default_factory=set)
    told: int = 0
    gathered_s: float = _GATHERED_S
    due: float = math.inf

    @property
    def line(self) -> str:
        more = f"; {len(self.chunks) - 1:,} more such" if len(self.chunks) > 1 else ""
        return f"{self.first.text} ({'lost' if self.first.permanent else 'tried again'}{more})"


class FailureLog:
    """Says which chunks fail: a line for each file and problem with a count, not one for each
    chunk and try.

    The line comes a moment after the first chunk, and another one if there are more later.
    No clock; each chunk and try is logged for debugging.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, bool], _Kind] = {}

    @property
    def due(self) -> float:
        """When the next line is to be told; infinity if there is none."""
        return min((kind.due for kind in self._kinds.values()), default=math.inf)

    def add(self, failure: Failure, error: BaseException, now: float) -> None:
        """A chunk failed.

        Args:
            failure: What is known of it.
            error: Why.
            now: Seconds of the clock of ``due``.
        """
        logger.debug("%s (attempt %d)", failure.text, failure.attempts)
        key = (*kind_of_error(error), failure.permanent)
        kind = self._kinds.setdefault(key, _Kind(failure))
        kind.chunks.add(failure.chunk)
        if len(kind.chunks) > kind.told:
            kind.due = min(kind.due, now + kind.gathered_s)

    def tell(self, now: float) -> None:
        """Log what is due by now, once."""
        for kind in self._kinds.values():
            if kind.due < math.inf and kind.due <= now:
                kind.due, kind.told = math.inf, len(kind.chunks)
                kind.gathered_s *= _GATHERED_FACTOR
                logger.warning("%s", kind.line)
