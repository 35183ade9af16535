"""In which order clients get their frames: as they asked for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rendering.frame import Frame, FrameRequest
from splat.errors import BelvedereError, RenderCancelled


class Answer(Protocol):
    """A frame on its way: an open one has no outcome yet."""

    @property
    def request(self) -> FrameRequest:
        """What it answers."""

    outcome: Frame | BelvedereError | None


A = TypeVar("A", bound=Answer)


@dataclass(slots=True)
class _Client:
    answers: list[Answer] = field(default_factory=list)
    delivering: bool = False


class Outbox:
    """Frames that were begun and not yet given to those who asked. Not thread-safe.

    Several frames of a client may be drawn at a time and end in any order. They are delivered in
    the order of their sequence, one at a time: an older frame never comes after a newer one. Where
    only the newest view matters (``FrameRequest.replaces``), a newer frame does not wait for an
    older one: that is in vain.
    """

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def __len__(self) -> int:
        return sum(len(client.answers) for client in self._clients.values())

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Everything that is not delivered."""
        return tuple(answer for client in self._clients.values() for answer in client.answers)

    def opened(self, answer: Answer) -> None:
        """A frame is begun, the newest of its client."""
        self._clients.setdefault(answer.request.client, _Client()).answers.append(answer)

    def ended(self, answer: Answer) -> tuple[Answer, ...]:
        """The outcome of a frame is there.

        Returns:
            Those that are in vain now, each with an outcome that says so.
        """
        client = self._clients.get(answer.request.client)
        if client is None or answer not in client.answers:
            return ()  # it was in vain, and that was delivered
        if not answer.request.replaces or not isinstance(answer.outcome, Frame):
            return ()
        older = client.answers[: client.answers.index(answer)]
        in_vain = tuple(other for other in older if other.outcome is None)
        for other in in_vain:
            other.outcome = RenderCancelled("a newer frame was ready before this one")
        return in_vain

    def take(self, client: str) -> Answer | None:
        """What to deliver to a client now, then say ``delivered``; None while there is nothing,
        or somebody else is delivering to it."""
        entry = self._clients.get(client)
        if entry is None or entry.delivering or entry.answers[0].outcome is None:
            return None
        entry.delivering = True
        return entry.answers[0]

    def delivered(self, answer: Answer) -> None:
        """What was taken has arrived."""
        name = answer.request.client
        entry = self._clients.get(name)
        if entry is None or answer not in entry.answers:
            return
        entry.delivering = False
        entry.answers.remove(answer)
        if not entry.answers:
            del self._clients[name]

    def interrupted(self, client: str) -> None:
        """Who was delivering to a client will not say that it is done; somebody else may."""
        entry = self._clients.get(client)
        if entry is not None:
            entry.delivering = False

    def clear(self) -> tuple[Answer, ...]:
        """Remove and return everything."""
        answers = self.answers
        self._clients.clear()
        return answers
