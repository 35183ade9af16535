"""Frames from their being asked for to their delivery, between the policies and the devices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from rendering.crew import Crew
from rendering.delivery import Outbox
from rendering.demand import Demand, Load
from rendering.device_roster import DeviceRoster
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest, FrameStats
from rendering.frame_jobs import Begin, FrameWork, resolve
from rendering.job import Job
from rendering.part_balance import PartBalance
from rendering.picture_cache import PictureCache
from rendering.recorder import FrameRecord, Recorder
from rendering.scene_holder import SceneHolder
from rendering.schedule import Schedule
from rendering.scheduler import MOST_WAITING, FairQueue
from splat.errors import BelvedereError, RenderError


class FrameLine:
    """The frames that wait, run, and are to be delivered. Guarded by the crew's lock.

    Args:
        scenes: What is drawn.
        pictures: What is kept of finished pictures.
        roster: Which devices draw a frame.
        clock: Seconds, the clock of ``FrameRequest.submitted_s``.

    Attributes:
        crew: Who does the jobs. To be set before anything is asked for.
        outbox: What is not delivered.
        recorder: What is remembered of frames that have ended.
        slabs, bands: What is known of the costs by depth, and from the top of pictures down.
    """

    crew: Crew

    def __init__(
        self,
        scenes: SceneHolder,
        pictures: PictureCache,
        roster: DeviceRoster,
        clock: Callable[[], float],
    ) -> None:
        self.scenes, self.pictures, self.roster = scenes, pictures, roster
        self.outbox, self.slabs, self.bands = Outbox(), PartBalance(), PartBalance()
        self.recorder = Recorder()
        self._clock = clock
        self._queue: FairQueue[FrameRequest] = FairQueue()
        self._demand = Demand()
        self._waiting: dict[FrameRequest, Future[Frame]] = {}
        self._running: dict[FrameRequest, FrameWork] = {}
        self._begun = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether there are no more turns."""
        return self._closed

    def now_s(self) -> float:
        """Seconds."""
        return self._clock()

    def admit(self, request: FrameRequest, future: Future[Frame]) -> Future[Frame] | None:
        """Let a request wait for its turn.

        Returns:
            The future of the request that will not be drawn, if there is one: a waiting one that
            is replaced, or this one, if a newer one of its client was faster.

        Raises:
            RenderError: If there are no more turns, or too many requests of the client wait.
        """
        with self.crew.lock:
            if self._closed:
                raise RenderError("the render engine is closed")
            if not request.replaces and self._queue.waiting_of(request.client) >= MOST_WAITING:
                raise RenderError(
                    f"{MOST_WAITING} frames of {request.client} wait to be drawn; take some of"
                    " them before asking for more"
                )
            admitted = self._queue.admit(request)
            if admitted.dropped is request:
                return future
            self._waiting[request] = future
            self._demand.asked(request, self._clock())
            for running in admitted.cancelled:
                self._running[running].stop()
            self.crew.lock.notify_all()
            return None if admitted.dropped is None else self._waiting.pop(admitted.dropped)

    def expire(self, now_s: float) -> tuple[list[Future[Frame]], float]:
        """The futures of those whose deadline is over, which will not be drawn; the next one."""
        with self.crew.lock:
            overdue = [self._waiting.pop(request) for request in self._queue.expire(now_s)]
            return overdue, self._queue.next_deadline_s

    def forget(self, client: str) -> list[Future[Frame]]:
        """The client is gone; the futures of what it waited for, which will not be drawn."""
        with self.crew.lock:
            waiting = [self._waiting.pop(request) for request in self._queue.forget(client)]
            self._demand.forget(client)
        self.scenes.forget(client)
        return waiting

    def find(self, device: str) -> Job | None:
        """The next frame, if this device has to begin it. Under the lock."""
        while len(self._queue):
            now_s, ready = self._clock(), self.crew.ready
            able, beside = self.scenes.able(ready, partial(self.roster.drawing, now_s=now_s))
            group = self.roster.take_group(device, able, self.crew.idle, now_s)
            if group is None:
                return None
            request = self._queue.start_next()
            assert request is not None
            future = self._waiting.pop(request)
            if future.set_running_or_notify_cancel():
                frame = FrameWork(request, future, group, self.roster.schedule, now_s, self._begun)
                frame.beside = beside
                self._begun += 1
                self._running[request] = frame
                self.outbox.opened(frame)
                self.crew.lock.notify_all()  # another group may begin the next one
                return Begin(self, frame)
            self._queue.finish(request, 0.0)
            self.roster.give_back(group)
        return None

    def drew(self, device: str, work: float, seconds: float) -> None:
        """A device drew a piece. Under the lock."""
        self.roster.speeds.drew(device, work, seconds, self._clock())

    def ended(self, frame: FrameWork) -> None:
        """A frame has its outcome, and its devices are free. Under the lock."""
        del self._running[frame.request]
        self._queue.finish(frame.request, frame.cost_s)
        self.roster.release(frame.group)
        self.crew.lock.notify_all()
        self.recorder.frame(self._record(frame))
        if isinstance(frame.outcome, Frame) and not frame.outcome.stats.reused:
            self._took(frame.request, frame.outcome.stats)

    def set_schedule(self, schedule: Schedule) -> None:
        """Divide frames differently from the next one on.

        Raises:
            SettingsError: If it cannot be drawn on these devices; the old one stays.
        """
        with self.crew.lock:
            self.roster.set_schedule(schedule)
            self._demand.regrouped(self._clock())
            self.crew.lock.notify_all()

    def load(self) -> Load:
        """What those who move want, and what there is. Under the lock."""
        now_s = self._clock()
        capacity = self.roster.group_count(self.crew.ready, now_s)
        return self._demand.load(self._queue.requests, capacity, now_s)

    def share_of(self, client: str) -> float:
        """Of the time of one group of devices, what a client gets. Under the lock."""
        now_s = self._clock()
        capacity = self.roster.group_count(self.crew.ready, now_s)
        return self._demand.share(client, self._queue.requests, capacity, now_s)

    def _took(self, request: FrameRequest, stats: FrameStats) -> None:
        """A frame was drawn: perhaps more devices are needed, or fewer."""
        stream = stats.stream
        is_final = stream is None or (stream.complete and not stream.fading)
        self._demand.drew(request, 1e-3 * stats.render_ms, self._clock(), is_final=is_final)
        if not self.roster.is_elastic or request.urgency >= Urgency.STILL:
            return
        if self.roster.adapt(self.load(), self.crew.ready):
            self._demand.regrouped(self._clock())

    def _record(self, frame: FrameWork) -> FrameRecord:
        request, drawn = frame.request, isinstance(frame.outcome, Frame)
        parts = frame.outcome.stats.parts if isinstance(frame.outcome, Frame) else frame.parts
        return FrameRecord(
            frame.number,
            request.client,
            request.sequence,
            request.submitted_s,
            frame.started_s,
            self._clock(),
            tuple(parts),
            0 if frame.plan is None else len(frame.plan.kept),
            drawn,
            self.pictures.stats(),
        )

    def close(self) -> list[Future[Frame]]:
        """No more turns: stop what runs; the futures of what waited."""
        with self.crew.lock:
            self._closed = True
            waiting = [self._waiting.pop(request) for request in self._queue.drain()]
            for frame in self._running.values():
                frame.stop()
            self.crew.lock.notify_all()
            return waiting

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until every frame is delivered; whether that came about."""
        with self.crew.lock:
            return self.crew.lock.wait_for(
                lambda: not self._running and not len(self.outbox), timeout_s
            )

    def abandon(self, error: BelvedereError) -> None:
        """Answer with an error whatever devices have left over."""
        with self.crew.lock:
            left = [*self._running.values()]
            left += [a for a in self.outbox.clear() if isinstance(a, FrameWork) and a not in left]
            self._running.clear()
        for frame in left:
            if frame.plan is not None:
                frame.plan.release()
            resolve(frame.future, frame.outcome or error)
