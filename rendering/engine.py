"""The engine: requests for frames go in, futures of frames come out."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass

from render_cache.byte_cache import CacheStats
from rendering.base import Rasterizer
from rendering.crew import Crew, NewRasterizer
from rendering.deadline_watch import DeadlineWatch
from rendering.demand import Load
from rendering.device import Device, cpu_devices
from rendering.device_health import DEFAULT_FAULTS, FaultPolicy
from rendering.device_roster import SINGLE, DeviceRoster
from rendering.drawable import DrawableScene
from rendering.elastic import Decision, ElasticPolicy
from rendering.frame import Frame, FrameRequest
from rendering.frame_line import FrameLine
from rendering.picture_cache import PictureCache
from rendering.recorder import Recorder
from rendering.scene_holder import MemoryStatus, SceneHolder
from rendering.schedule import Schedule
from splat.closing import Closing
from splat.errors import RenderCancelled, RenderError
from splat.gaussians import Gaussians

MOST_JOINING_S = 1.0  # for threads that have nothing left to do
MOST_FILLING_S = 5.0  # of a memory with the coarsest form of the scene, before its device draws


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """How a device is doing.

    Attributes:
        device: Which.
        weight: Its measured speed; the fastest has 1.
        faults: How often it failed.
        ready: Whether it draws, or starts anew after a failure.
        retired: Whether it failed too often to be used again.
        in_use: Whether frames are divided among it and others at present.
        engine: The name of what it draws with at present.
    """

    device: Device
    weight: float
    faults: int
    ready: bool
    retired: bool
    in_use: bool
    engine: str = ""


class RenderEngine(Closing):
    """Draws frames for many clients on the devices of this machine.

    ``rendering.scheduler`` says whose turn it is, ``rendering.device_roster`` on which devices,
    ``rendering.frame_jobs`` what they do, and ``rendering.crew`` what happens when one fails.
    Every future that ``submit`` returns is resolved, with a ``Frame``, a ``RenderCancelled`` or
    another ``BelvedereError``; no failure of a frame ends the engine, and no failure of a device
    a frame that another one can draw. Frames of a client come in the order of their sequence.
    Callbacks on futures run on a thread of the engine's, so they must be quick.

    An engine that nobody closed is closed when the interpreter exits: its threads would be
    frozen there with all they hold, and native scenes be reported as leaked.

    Args:
        rasterizer: What the first device draws with.
        scene: Gaussians, to which the engine keeps no reference unless a device has a memory of
            its own, or a scene made for ``rasterizer``, which the engine closes.
        picture_bytes: Memory for finished pictures, which are not drawn again.
        devices: What there is to draw with.
        schedule: How frames are divided among them.
        new_rasterizer: Makes what another device draws with, or one that starts anew, fit for
            the same scenes; None if all may use ``rasterizer``.
        faults: What happens when devices fail.
        elastic: Use only as many devices as hold a frame rate; None for all.

    Raises:
        SettingsError: If the schedule cannot be drawn on these devices.
    """

    def __init__(
        self,
        rasterizer: Rasterizer,
        scene: Gaussians | DrawableScene,
        *,
        picture_bytes: int = 0,
        devices: Sequence[Device] = cpu_devices(),
        schedule: Schedule = SINGLE,
        new_rasterizer: NewRasterizer | None = None,
        faults: FaultPolicy = DEFAULT_FAULTS,
        elastic: ElasticPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._faults = faults
        self._pictures = PictureCache(picture_bytes)
        self._make = new_rasterizer or (lambda _: rasterizer)
        self._devices = tuple(devices)
        roster = DeviceRoster(devices, schedule, elastic)
        rasterizers = [rasterizer, *(self._make(device) for device in devices[1:])]
        by_memory: dict[str, Rasterizer] = {}
        for device, own in zip(devices, rasterizers, strict=True):
            by_memory.setdefault(device.memory, own)
        scenes = SceneHolder(by_memory, scene, devices)
        self._line = FrameLine(scenes, self._pictures, roster, clock)
        self._crew = Crew(
            devices, rasterizers, self._renew, self._line.find, scenes.lose, faults, clock
        )
        self._line.crew = self._crew
        self._deadlines = DeadlineWatch(self._expire, clock)
        self._crew.start()
        atexit.register(self.close)

    def submit(self, request: FrameRequest) -> Future[Frame]:
        """Ask for a frame; returns at once.

        The future raises ``RenderCancelled`` if a newer request of the same client took
        its place, or its deadline passed before its turn, another ``BelvedereError`` if drawing
        failed. Cancelling a future whose frame has not been started takes the request back.

        Raises:
            RenderError: If the engine is closed, or the client wants every frame and too many of
                them wait already (``rendering.scheduler.MOST_WAITING``).
        """
        future: Future[Frame] = Future()
        dropped = self._line.admit(request, future)
        if dropped is not None:
            _fail(dropped, RenderCancelled("a newer request replaced this frame"))
        if request.deadline_s is not None:
            self._deadlines.expect(request.deadline_s)
        return future

    def replace_scene(self, scene: Gaussians | DrawableScene) -> None:
        """Draw another scene from the next frame on. Returns when that is so."""
        self._line.scenes.replace(scene)
        self._pictures.clear()
        if self._line.closed:  # nobody else will close it
            self._line.scenes.close()

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Offer a coarser form of the scene as the next level of detail.

        Returns:
            Whether it was taken: not if the scene streams, or was replaced in the meantime.
        """
        return self._line.scenes.add_coarser(gaussians)

    @property
    def pictures(self) -> CacheStats:
        """What is kept of finished pictures."""
        return self._pictures.stats()

    def set_picture_bytes(self, budget_bytes: int) -> None:
        """Other memory for finished pictures, in force at once."""
        self._pictures.set_budget(budget_bytes)

    @property
    def recorder(self) -> Recorder:
        """What is remembered of the last frames, for timelines and traces; tell it what else was
        done for them."""
        return self._line.recorder

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return self._line.scenes.detail_counts

    @property
    def schedule(self) -> Schedule:
        """How frames are divided among the devices."""
        return self._line.roster.schedule

    def set_schedule(self, schedule: Schedule) -> None:
        """Divide frames differently from the next one on.

        Raises:
            SettingsError: If it cannot be drawn on these devices; the old one stays.
        """
        self._line.set_schedule(schedule)

    @property
    def devices(self) -> tuple[DeviceStatus, ...]:
        """How the devices are doing."""
        with self._crew.lock:
            ready, health = self._crew.ready, self._crew.health
            weights = self._line.roster.speeds.weights(self._line.now_s())
            in_use = self._line.roster.in_use(ready)
            return tuple(
                DeviceStatus(
                    device,
                    weights[device.name],
                    health.faults(device.name),
                    device.name in ready,
                    device.name not in health.serving,
                    device.name in in_use,
                    self._crew.engine_of(device.name),
                )
                for device in self._devices
            )

    @property
    def memories(self) -> tuple[MemoryStatus, ...]:
        """What the scene takes of the memories of the devices."""
        return self._line.scenes.memories

    @property
    def rasterizers(self) -> Mapping[str, Rasterizer]:
        """By memory, what scenes are to be made for: a device that started anew may draw with
        another engine than before."""
        return self._line.scenes.rasterizers

    @property
    def decision(self) -> Decision | None:
        """Why so many devices are in use, and whether they are too few; None if all are used."""
        return self._line.roster.decision

    @property
    def load(self) -> Load:
        """What clients in motion want of the devices, and whether that is too much."""
        with self._crew.lock:
            return self._line.load()

    def share_of(self, client: str) -> float:
        """Of the time of one group of devices, what a client in motion or at rest gets if it wants
        all of it: from how many others want how much."""
        with self._crew.lock:
            return self._line.share_of(client)

    def restart_device(self, name: str, why: str = "it was asked for") -> None:
        """Give up what a device is doing and start it anew; other devices do its work.

        No frame is lost by this.
        """
        self._crew.restart(name, why)

    def forget(self, client: str) -> None:
        """The client is gone and will ask for nothing more; what it waited for is cancelled."""
        _fail_all(self._line.forget(client), RenderCancelled("the client is gone"))

    def close(self) -> None:
        """Abandon the running frames and the waiting ones, and end the threads.

        Devices that do not stop within ``FaultPolicy.closing_s`` are left alone.
        """
        atexit.unregister(self.close)
        closed = RenderCancelled("the render engine was closed")
        self._deadlines.stop()
        _fail_all(self._line.close(), closed)
        if not self._crew.is_member:
            self._line.wait_until_empty(self._faults.closing_s)
        self._crew.stop(MOST_JOINING_S)
        self._line.abandon(closed)
        self._line.scenes.close()

    def _renew(self, device: Device) -> Rasterizer:
        """A device starts anew, with all that it lost."""
        rasterizer = self._make(device)
        filling_s = min(MOST_FILLING_S, self._faults.patience_s / 4)
        self._line.scenes.renew(device, rasterizer, filling_s)
        return rasterizer

    def _expire(self, now_s: float) -> float:
        """Answer those whose deadline is over; the next one."""
        overdue, next_s = self._line.expire(now_s)
        _fail_all(overdue, RenderCancelled("the devices were too busy to draw this frame in time"))
        return next_s


def _fail_all(futures: Iterable[Future[Frame]], error: RenderError) -> None:
    """All of them, even if a callback of one ends its thread."""
    with ExitStack() as answers:
        for future in futures:
            answers.callback(_fail, future, error)


def _fail(future: Future[Frame], error: RenderError) -> None:
    """Resolve a future whose frame was never started, unless its owner cancelled it."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
