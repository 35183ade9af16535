"""The jobs of a frame: choose and divide, draw the pieces, join them, hand over.

::

    Begin ──► Draw ──┐
         ├──► Draw ──┼──► Join ──► Deliver
         └──► Draw ──┘

Each is done by a device's thread; one device does all of them one after the other. A frame has
all of its pictures or none: the first error of a piece is the frame's, and stops the others.

A piece whose device is lost is drawn by another one, if that has in its memory what the piece
shows. Otherwise the whole frame is begun again, by the devices that are left: all of a picture, and
both eyes, are of one choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol

from render_cache.reuse import NO_REUSE
from rendering.assignment import Group
from rendering.base import CancelFlag, RasterImage, Rasterizer
from rendering.crew import Crew
from rendering.delivery import Outbox
from rendering.device import HOST_MEMORY, Device, DeviceLost
from rendering.device_speed import work_of
from rendering.drawable import Drawable
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest, FrameStats, PartStats
from rendering.frame_pieces import Piece, joined, part_times
from rendering.frame_plan import Plan, Planner
from rendering.job import Job
from rendering.part_balance import PartBalance
from rendering.picture_cache import PictureCache
from rendering.scene_holder import SceneHolder
from rendering.schedule import Schedule, Shares
from rendering.timeline import GIVEN_UP, JOIN
from splat.errors import BelvedereError, BudgetError, RenderCancelled


@dataclass(slots=True, eq=False)
class FrameWork:
    """A frame under way. Guarded by the crew's lock.

    Attributes:
        request, future: What was asked for, and where the answer goes.
        group: The devices that it has to itself.
        schedule: How it is divided.
        started_s: When it was begun.
        number: Counts the frames of all clients in the order they were begun.
        plan: Once it is made.
        drawn: Of each piece that is drawn, the images.
        parts: What devices did for it.
        left: Pieces that are not drawn.
        beside: Memories that load what it shows, though nobody draws it from there.
        as_planned: Whether every piece was drawn by the device that it was for.
        again: Whether it is to be begun again: a device had not in memory what it was to draw.
        displaced: Pieces over which that came about.
        cost_s: Their time.
        error: The first one.
        outcome: What the client gets.
        stopping: Whether nobody needs it any more.
        flags: What its devices watch.
    """

    request: FrameRequest
    future: Future[Frame]
    group: Group
    schedule: Schedule
    started_s: float
    number: int = 0
    plan: Plan | None = None
    drawn: dict[int, Sequence[RasterImage]] = field(default_factory=dict)
    parts: list[PartStats] = field(default_factory=list)
    left: int = 0
    beside: frozenset[str] = frozenset()
    as_planned: bool = True
    again: bool = False
    displaced: list[Job] = field(default_factory=list)
    cost_s: float = 0.0
    error: BelvedereError | None = None
    outcome: Frame | BelvedereError | None = None
    stopping: bool = False
    flags: list[CancelFlag] = field(default_factory=list)

    def stop(self) -> None:
        """Nobody needs it: have its devices stop at the next tile."""
        self.stopping = True
        for flag in self.flags:
            flag.set()

    def fail(self, error: BelvedereError) -> None:
        """A piece failed, so the others are in vain."""
        self.error = self.error or error
        self.stop()

    def give_up_plan(self, piece: Job) -> None:
        """A piece cannot be drawn: when all devices have stopped, the frame is begun again."""
        if self.stopping:
            self.fail(RenderCancelled("nobody needs this frame any more"))
        self.again = True
        self.displaced.append(piece)
        for flag in self.flags:
            flag.set()

    def begun(self, plan: Plan) -> None:
        """There is something to draw, perhaps not for the first time."""
        self.plan, self.left = plan, len(plan.pieces)
        self.drawn, self.flags, self.again = {}, [], False
        self.as_planned = True

    def watch(self, cancel: CancelFlag) -> None:
        """A device watches this flag for the frame."""
        self.flags.append(cancel)
        if self.stopping or self.again:
            cancel.set()


class Line(Protocol):
    """What the jobs of all frames have in common (``rendering.frame_line``)."""

    scenes: SceneHolder
    pictures: PictureCache
    crew: Crew
    outbox: Outbox
    slabs: PartBalance
    bands: PartBalance

    def now_s(self) -> float:
        """Seconds of the engine's clock."""

    def drew(self, device: str, work: float, seconds: float) -> None:
        """A device drew a piece. Under the lock."""

    def ended(self, frame: FrameWork) -> None:
        """A frame has its outcome, and its devices are free. Under the lock."""


class FrameJob(Job):
    """A job of one frame."""

    def __init__(self, line: Line, frame: FrameWork) -> None:
        super().__init__()
        self.line, self.frame = line, frame

    def _end(self, device: str = "") -> None:
        """All pieces have ended."""
        self.line.crew.post(Join(self.line, self.frame), device, first=True)


class Begin(FrameJob):
    """Chooses what the frame shows, once for all of it, and divides the work."""

    def run(self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None) -> Plan:
        """The plan, with the scene held.

        Raises:
            DeviceLost: If all memories are gone that it could be drawn from.
        """
        frame = self.frame
        if frame.plan is not None:
            frame.plan.release()
        failed = frozenset[str]().union(*(piece.tried for piece in frame.displaced))
        planner = Planner(
            self.line, frame.request, frame.schedule, frame.group, frame.beside, failed
        )
        return planner.plan(device)

    def done(self, outcome: Plan, device: Device, seconds: float) -> None:
        """Give every device its piece."""
        frame, now_s = self.frame, self.line.now_s()
        frame.begun(outcome)
        frame.cost_s += seconds
        stages = (("select", 1e3 * seconds),)
        frame.parts.append(PartStats(device.name, now_s - seconds, now_s, stages))
        jobs = [Draw(self.line, frame, *numbered) for numbered in enumerate(outcome.pieces)]
        displaced, frame.displaced = frame.displaced, []
        for before in displaced:
            self.line.crew.succeed(before, jobs)
        for job, piece in zip(jobs, outcome.pieces, strict=True):
            self.line.crew.post(job, piece.device)
        if not outcome.pieces:
            self._end(device.name)

    def failed(self, error: BelvedereError, seconds: float) -> None:
        """There is nothing to draw from."""
        self.frame.cost_s += seconds
        self.frame.fail(error)
        self._end()

    def discard(self, outcome: Plan) -> None:
        """Let go of a scene that somebody else acquired, too."""
        outcome.release()


class Draw(FrameJob):
    """Draws one piece."""

    is_drawing = True

    def __init__(self, line: Line, frame: FrameWork, number: int, piece: Piece) -> None:
        super().__init__(line, frame)
        self._number, self._piece = number, piece
        self._relieved = False

    def begin(self, cancel: CancelFlag) -> None:
        """It ends with the frame."""
        self.frame.watch(cancel)

    def fits(self, device: Device) -> bool:
        """Whether the device has in memory what the piece shows."""
        return self.frame.again or self._form(device) is not None

    def _form(self, device: Device) -> Drawable | None:
        assert self.frame.plan is not None
        form = self.frame.plan.drawable.in_memory(device.memory)
        if form is None or not all(form.holds(part.eye, part.slab) for part in self._piece.parts):
            return None
        return form

    def displaced(self) -> None:
        """Nobody who is left has it: the frame is begun again."""
        self.frame.give_up_plan(self)
        self._ended(0.0)

    def run(
        self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None
    ) -> tuple[RasterImage, ...]:
        """One image a part."""
        frame = self.frame
        if frame.error is not None or frame.again:
            raise RenderCancelled("another part of this frame failed")
        form = self._form(device)
        if form is None:
            raise DeviceLost("its memory is gone")
        try:
            return self._piece.draw(form, frame.request, rasterizer, device, cancel)
        except BudgetError:
            # Of the host's memory a picture that is too large takes nothing away from the scene.
            if device.memory != HOST_MEMORY and form.relieve is not None:
                self._relieved = form.relieve()
            raise

    def done(self, outcome: tuple[RasterImage, ...], device: Device, seconds: float) -> None:
        """One piece fewer, whatever becomes of the books."""
        self.frame.drawn[self._number] = outcome
        self.frame.as_planned &= device.name == self._piece.device
        try:
            self._book(outcome, device, seconds)
        finally:
            self._ended(seconds, device.name)

    def _book(self, outcome: tuple[RasterImage, ...], device: Device, seconds: float) -> None:
        now_s = self.line.now_s()
        part = PartStats(
            device.name,
            now_s - seconds,
            now_s,
            tuple(stage for image in outcome for stage in image.stats.stage_ms.items()),
            tuple(part.eye for part in self._piece.parts),
            tuple(part.rows for part in self._piece.parts),
            len(self.tried - {device.name}) + 1,
        )
        self.frame.parts.append(part)
        self.line.drew(device.name, work_of(outcome), seconds)

    def failed(self, error: BelvedereError, seconds: float) -> None:
        """The frame cannot be completed, unless it is begun again, with less if memory is short."""
        if isinstance(error, BudgetError):
            _forget_what_was_drawn(error)
        if self._relieved and not (self.frame.again or self.frame.stopping):
            self.frame.give_up_plan(self)
        if not self.frame.again or self.frame.stopping:
            self.frame.fail(error)
        if not self.tried:  # else it was another device's
            now_s, stages = self.line.now_s(), ((GIVEN_UP, 1e3 * seconds),)
            self.frame.parts.append(PartStats(self._piece.device, now_s - seconds, now_s, stages))
        self._ended(seconds)

    def _ended(self, seconds: float, device: str = "") -> None:
        self.frame.cost_s += seconds
        self.frame.left -= 1
        if self.frame.left:
            return
        if self.frame.again and self.frame.error is None:
            self.line.crew.post(Begin(self.line, self.frame), device, first=True)
        else:
            self._end(device)


def _forget_what_was_drawn(error: BaseException) -> None:
    """Tracebacks refer to it, and an error may be kept for long: its memory is wanted now."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


class Join(FrameJob):
    """Puts the pieces together, and lets go of the scene."""

    must_end = True

    def run(
        self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None
    ) -> Frame | BelvedereError:
        """The frame, or the error that there is in its place."""
        plan, error = self.frame.plan, self.frame.error
        if plan is None:
            return error or RenderCancelled("the frame was never begun")
        try:
            return error or self._frame(plan, device)
        finally:
            plan.release()

    def _frame(self, plan: Plan, device: Device) -> Frame:
        frame, started_s = self.frame, self.line.now_s()
        images = self._images(plan)
        now_s = self.line.now_s()
        stages = ((JOIN, 1e3 * (now_s - started_s)),)
        stats = FrameStats(
            queue_ms=1e3 * (frame.started_s - frame.request.submitted_s),
            render_ms=1e3 * (now_s - frame.started_s),
            raster=tuple(image.stats for image in images),
            stream=plan.drawable.stream,
            reused=len(plan.kept),
            parts=(*frame.parts, PartStats(device.name, started_s, now_s, stages)),
        )
        return Frame(frame.request, images, stats)

    def _images(self, plan: Plan) -> tuple[RasterImage, ...]:
        request, drawn = self.frame.request, self.frame.drawn
        pieces = [drawn[number] for number in range(len(plan.pieces))]
        parts = plan.drawable.parts
        images = joined(
            plan.pieces, pieces, plan.kept, request, 0 if parts is None else parts.gaussians
        )
        if self._will_be_asked_again(plan):
            for eye, image in enumerate(images):
                if eye not in plan.kept:
                    self.line.pictures.put(
                        plan.drawable, request.cameras[eye], request.settings, image
                    )
        return images

    def _will_be_asked_again(self, plan: Plan) -> bool:
        """Whether the pictures are worth keeping, and the bytes that any other way gives, too."""
        request = self.frame.request
        # A moving camera does not come back; its pictures would drive out those of one at rest.
        if request.urgency < Urgency.STILL:
            return False
        # What took something over from another eye's picture is not what it would be alone.
        if len(request.cameras) > 1 and request.settings.reuse != NO_REUSE:
            return False
        return not any(part.slab for piece in plan.pieces for part in piece.parts)

    def done(self, outcome: Frame | BelvedereError, device: Device, seconds: float) -> None:
        """The frame is complete, or given up."""
        self._close(outcome, seconds)
        if isinstance(outcome, Frame):
            self._learn()

    def failed(self, error: BelvedereError, seconds: float) -> None:
        """It could not be put together."""
        self._close(error, seconds)

    def _learn(self) -> None:
        """What slabs of depth cost, and balanced bands, for the client's next frame."""
        frame, line = self.frame, self.line
        if frame.plan is None or not frame.as_planned:
            return
        drawn = [frame.drawn[number] for number in range(len(frame.plan.pieces))]
        for layers, balance in ((True, line.slabs), (False, line.bands)):
            if not layers and frame.schedule.shares is not Shares.BALANCED:
                continue
            times = part_times(frame.plan.pieces, drawn, frame.plan.team, layers=layers)
            for eye, (spans, took) in times.items():
                balance.learn(frame.request.client, eye, spans, took)

    def _close(self, outcome: Frame | BelvedereError, seconds: float) -> None:
        frame, line = self.frame, self.line
        frame.cost_s += seconds
        frame.outcome = frame.outcome or outcome
        for other in line.outbox.ended(frame):
            assert isinstance(other, FrameWork)
            other.stop()
        # First of all: whatever goes wrong in the books, the client has its answer.
        line.crew.post(Deliver(line, frame.request.client), first=True)
        line.ended(frame)


class Deliver(Job):
    """Hands a client all that is ready for it, in order."""

    must_end = True

    def __init__(self, line: Line, client: str) -> None:
        super().__init__()
        self._line, self._client = line, client

    def run(self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None) -> None:
        """Resolve futures, which runs their callbacks."""
        outbox, lock = self._line.outbox, self._line.crew.lock
        while True:
            with lock:
                answer = outbox.take(self._client)
            if answer is None:
                return
            assert isinstance(answer, FrameWork)
            try:
                resolve(answer.future, answer.outcome)
            finally:
                with lock:
                    outbox.delivered(answer)

    def done(self, outcome: None, device: Device, seconds: float) -> None:
        """Nothing follows."""

    def failed(self, error: BelvedereError, seconds: float) -> None:
        """It cannot."""

    def interrupted(self) -> None:
        """Somebody else goes on."""
        self._line.outbox.interrupted(self._client)


def resolve(future: Future[Frame], outcome: Frame | BelvedereError | None) -> None:
    """Answer a future that nobody else has answered."""
    try:
        if isinstance(outcome, Frame):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
    except InvalidStateError:
        pass  # it was, by a device that was taken for lost
