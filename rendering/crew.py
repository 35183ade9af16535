"""The workers of all devices: who does which job, and what happens when one fails.

A job goes to the device that it is for; one whose device is lost goes to whoever is idle first.
Nothing here knows what a frame is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from rendering.base import CancelFlag, Rasterizer
from rendering.device import Device, DeviceLost
from rendering.device_health import DEFAULT_FAULTS, DeviceHealth, FaultPolicy
from rendering.job import Job
from rendering.worker import Worker
from splat.errors import BelvedereError, RenderError

log = logging.getLogger(__name__)

NewRasterizer = Callable[[Device], Rasterizer]
Find = Callable[[str], Job | None]


class Crew:
    """Threads, one a device, and the jobs that wait for them.

    A device fails if its thread dies, if it says so (``DeviceLost``), if it is far too long at a
    job, or if another device then does what it raised an unforeseen error over. It starts anew
    with a new rasterizer, after a pause that grows (``FaultPolicy``), and what it was doing is done
    by others. An error that several devices raise over one job is the job's own.

    A device that has no other beside it is never blamed, but for being lost: it goes on with what
    it has. If it says that it is lost, what it was doing waits until it has started anew.

    Args:
        devices: Names apart.
        rasterizers: What they draw with.
        new_rasterizer: Called for each that starts anew, on its thread, before it takes jobs.
        lost: Called for each that is lost, under the lock.
        find: Asked, under the lock, for a job for a device that is idle; None if there is none.
        policy: What happens when devices fail.

    Attributes:
        lock: Guards everything; notified whenever there may be something to do.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        rasterizers: Sequence[Rasterizer],
        new_rasterizer: NewRasterizer,
        find: Find,
        lost: Callable[[Device], None],
        policy: FaultPolicy = DEFAULT_FAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = threading.Condition()
        self.health = DeviceHealth([device.name for device in devices], policy)
        self._policy = policy
        self._new_rasterizer = new_rasterizer
        self._find = find
        self._lost = lost
        self._clock = clock
        self._orphans: deque[Job] = deque()
        self._suspects: dict[Job, list[tuple[Worker, Exception]]] = {}
        self._left_alone: list[Worker] = []  # lost, but their threads may still run
        self._stopped = threading.Event()
        self._workers = {
            device.name: Worker(device, own, self._serve)
            for device, own in zip(devices, rasterizers, strict=True)
        }
        self._watch = threading.Thread(target=self._watch_over, name="render-watch", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        with self.lock:
            for worker in self._workers.values():
                worker.ready = True
                worker.start()
        if len(self._workers) > 1:
            self._watch.start()

    @property
    def ready(self) -> frozenset[str]:
        """Devices that take jobs. Under the lock."""
        return frozenset(name for name, worker in self._workers.items() if worker.ready)

    @property
    def idle(self) -> frozenset[str]:
        """Those of them that have none. Under the lock."""
        return frozenset(name for name, worker in self._workers.items() if worker.idle)

    def engine_of(self, device: str) -> str:
        """The name of what a device draws with. Under the lock."""
        return self._workers[device].rasterizer.name

    @property
    def is_member(self) -> bool:
        """Whether the thread that asks is one of these."""
        return any(worker.is_current for worker in self._workers.values())

    def post(self, job: Job, device: str = "", *, first: bool = False) -> None:
        """Have a job done, by a device if that is there; perhaps before all others that wait.
        Under the lock."""
        worker = self._workers.get(device)
        queue = worker.queue if worker is not None and worker.ready else self._orphans
        if first:
            queue.appendleft(job)
        else:
            queue.append(job)
        self.lock.notify_all()

    def succeed(self, before: Job, jobs: Sequence[Job]) -> None:
        """Jobs take the place of one that was displaced: who failed at that is not asked again, and
        is at fault if the first of them is done. Under the lock."""
        suspects = self._suspects.pop(before, [])
        for job in jobs:
            job.tried |= before.tried
            job.losses = max(job.losses, before.losses)
        if jobs and suspects:
            self._suspects.setdefault(jobs[0], []).extend(suspects)

    def restart(self, device: str, why: str) -> None:
        """Give up what a device is doing, and start it anew at once; others do its jobs.

        It is not blamed for it.
        """
        with self.lock:
            worker = self._workers.get(device)
            if worker is not None and not self._stopped.is_set():
                self._lose(worker, DeviceLost(why), is_blamed=False)

    def stop(self, timeout_s: float) -> None:
        """End the threads, those that can be ended in such a time; jobs left over are dropped."""
        deadline_s = self._clock() + timeout_s
        with self.lock:
            self._stopped.set()
            # Native code must not find the interpreter gone when it returns.
            workers = [*self._workers.values(), *self._left_alone]
            for worker in workers:
                worker.queue.clear()
                if worker.cancel is not None:
                    worker.cancel.set()
            self._orphans.clear()
            self.lock.notify_all()
        for worker in workers:
            if worker.alive and not worker.is_current:
                worker.join(max(0.0, deadline_s - self._clock()))
        with self.lock:
            for worker in workers:
                worker.lost = True  # what still runs counts for nothing

    def _serve(self, worker: Worker) -> None:
        """What a worker's thread runs: jobs, until the end or its loss."""
        try:
            if not worker.ready and not self._start_anew(worker):
                return
            while (job := self._next_job(worker)) is not None:
                self._do(worker, job)
                del job  # nothing of a frame is kept while waiting for the next
        except BaseException as error:  # the thread is dying
            with self.lock:
                self._lose(worker, error)

    def _start_anew(self, worker: Worker) -> bool:
        pause_s = worker.since_s - self._clock()
        with self.lock:
            self.lock.wait_for(lambda: self._stopped.is_set() or worker.lost, max(0.0, pause_s))
        try:
            worker.rasterizer = self._new_rasterizer(worker.device)
        except Exception as error:
            with self.lock:
                if self.health.serving != {worker.device.name}:
                    self._lose(worker, error)
                    return False
            log.warning("%s cannot start anew: %s", worker.device.name, _said(error))
        with self.lock:
            worker.ready = True
            self.lock.notify_all()
        return True

    def _next_job(self, worker: Worker) -> Job | None:
        with self.lock:
            while not (worker.lost or self._stopped.is_set()):
                job = self._pick(worker)
                if job is not None:
                    worker.job, worker.since_s = job, self._clock()
                    return job
                self.lock.wait()
        return None

    def _pick(self, worker: Worker) -> Job | None:
        if worker.queue and worker.queue[0].fits(worker.device):
            return worker.queue.popleft()
        if worker.queue:
            self._orphans.append(worker.queue.popleft())
            self.lock.notify_all()  # those who could do it may have looked before
            return self._pick(worker)
        name = worker.device.name
        for job in self._orphans:
            if job.must_end or (name not in job.tried and job.fits(worker.device)):
                self._orphans.remove(job)
                return job
            if not self._may_be_done(job):
                self._orphans.remove(job)
                job.displaced()
                return self._pick(worker)
        return self._find(name)

    def _may_be_done(self, job: Job) -> bool:
        """Whether one of those who are there and have not tried it has what it takes."""
        others = [
            worker.device
            for name, worker in self._workers.items()
            if worker.ready and name not in job.tried
        ]
        return not others or any(job.fits(device) for device in others)

    def _do(self, worker: Worker, job: Job) -> None:
        error: Exception | None = None
        outcome = None
        try:
            cancel = self._watched(worker, job) if job.is_drawing else None
            outcome = job.run(worker.rasterizer, worker.device, cancel)
        except Exception as raised:
            error = raised
        with self.lock:
            is_lost = worker.lost
            if not is_lost:
                self._settle(worker, job, outcome, error)
        if is_lost and error is None:
            job.discard(outcome)

    def _watched(self, worker: Worker, job: Job) -> CancelFlag:
        """The flag for a picture that is begun now; set, if that is in vain already."""
        cancel = worker.rasterizer.new_cancel_flag()
        with self.lock:
            worker.cancel = cancel
            job.begin(cancel)
            if worker.lost:
                cancel.set()
        return cancel

    def _settle(self, worker: Worker, job: Job, outcome: object, error: Exception | None) -> None:
        """A job has ended in one way or another. Under the lock."""
        seconds = self._clock() - worker.since_s
        if isinstance(error, DeviceLost):
            self._lose(worker, error)
            return
        worker.job = worker.cancel = None
        if error is None:
            try:
                job.done(outcome, worker.device, seconds)
            except Exception as fault:  # of ours, in the books; the device goes on
                log.error("%s: after a job: %s", worker.device.name, _said(fault))
                log.debug("%s: details", worker.device.name, exc_info=fault)
            for suspect, its_error in self._suspects.pop(job, ()):
                self._lose(suspect, its_error)
        elif isinstance(error, BelvedereError):
            self._suspects.pop(job, None)
            job.failed(error, seconds)
        else:
            log.debug("%s: a job failed", worker.device.name, exc_info=error)
            if job.is_drawing:
                self._suspects.setdefault(job, []).append((worker, error))
                job.tried.add(worker.device.name)
            self._move(job, error, seconds)
        self.lock.notify_all()

    def _move(self, job: Job, error: BaseException, seconds: float = 0.0) -> None:
        """Let another device try, if that makes sense. Under the lock."""
        untried = self.health.serving - job.tried
        may_move = (
            job.is_drawing or isinstance(error, DeviceLost) or not isinstance(error, Exception)
        )
        if job.must_end or (may_move and untried and len(job.tried) < self._policy.tries):
            self._orphans.append(job)
            return
        self._suspects.pop(job, None)
        given_up = RenderError(f"drawing failed: {_said(error)}")
        given_up.__cause__ = error
        job.failed(given_up, seconds)

    def _lose(self, worker: Worker, error: BaseException, *, is_blamed: bool = True) -> None:
        """Give a worker up; another takes its device, and others its jobs. Under the lock."""
        if worker.lost:
            return
        worker.lost, worker.ready = True, False
        name, now_s = worker.device.name, self._clock()
        if worker.cancel is not None:
            worker.cancel.set()
        self._left_alone = [other for other in self._left_alone if other.alive] + [worker]
        self._lost(worker.device)
        self._orphans.extend(worker.queue)
        worker.queue.clear()
        pause_s = self._judge(name, error, now_s) if is_blamed else 0.0
        if pause_s is not None and not self._stopped.is_set():
            heir = Worker(worker.device, worker.rasterizer, self._serve)
            heir.since_s = now_s + pause_s
            self._workers[name] = heir
            heir.start()
        job, worker.job = worker.job, None
        if job is not None and not self._stopped.is_set():
            job.interrupted()
            if is_blamed and not self._may_wait(job, name, error):
                job.tried.add(name)
            self._move(job, error if is_blamed else DeviceLost(str(error)))
        if pause_s is None:
            self._give_up_hopeless()
        self.lock.notify_all()

    def _may_wait(self, job: Job, name: str, error: BaseException) -> bool:
        """Whether a job is left for a device to do that starts anew, as there is no other."""
        is_alone = self.health.serving == {name} and isinstance(error, DeviceLost)
        job.losses += is_alone
        return is_alone and job.losses <= self._policy.tries

    def _judge(self, name: str, error: BaseException, now_s: float) -> float | None:
        """The pause after a fault; None if the device retires."""
        sentence = self.health.fault(name, now_s)
        if sentence.retired:
            log.error(
                "%s failed again and again, the last time of %s; it is no longer used",
                name,
                _said(error),
            )
            return None
        if sentence.first:
            others = "" if self.health.serving == {name} else "others do its work, and "
            log.warning("%s failed: %s; %sit starts anew", name, _said(error), others)
        return sentence.pause_s

    def _give_up_hopeless(self) -> None:
        """A device retired: jobs that all others have tried will never be done."""
        for job in [job for job in self._orphans if not job.must_end]:
            if not self.health.serving - job.tried:
                self._orphans.remove(job)
                self._suspects.pop(job, None)
                job.failed(RenderError("drawing failed on every device"), 0.0)

    def _watch_over(self) -> None:
        """What the watching thread runs: a device that is too long at a job is lost."""
        while not self._stopped.wait(self._policy.patience_s / 8):
            with self.lock:
                if len(self.health.serving) < 2:
                    continue
                for worker in list(self._workers.values()):
                    if self._is_late(worker):
                        self._lose_late(worker)

    def _is_late(self, worker: Worker) -> bool:
        """Whether it is too long at a job, or at starting anew."""
        is_at_it = worker.job is not None or not (worker.ready or worker.lost)
        return is_at_it and self._clock() - worker.since_s > self._policy.patience_s

    def _lose_late(self, worker: Worker) -> None:
        why = DeviceLost(f"it was at one part for {self._policy.patience_s:g} s")
        if worker.job is not None:
            worker.job.tried.add(worker.device.name)
        self._lose(worker, why, is_blamed=worker.job is None or worker.job.is_drawing)


def _said(error: BaseException) -> str:
    """The same words for every frame, so that they need to be told only once."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
