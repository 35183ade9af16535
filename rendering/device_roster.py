"""Which devices draw the next frame: the schedule on those that can draw now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rendering.assignment import Assignment, Group, RatedDevice, assign
from rendering.demand import Load
from rendering.device import Device
from rendering.device_speed import DeviceSpeeds
from rendering.elastic import Decision, ElasticPolicy
from rendering.schedule import ALL_DEVICES, Fidelity, Pick, Schedule, Shares
from splat.errors import SettingsError

SINGLE = Schedule("single")


class DeviceRoster:
    """The devices, the schedule, and who is taken by a frame.

    A frame takes a group of devices, and the devices of a group draw one frame at a time: stages
    that a schedule lets overlap do so anyway, as chunks are fetched and decoded by the scene's own
    threads and pictures are encoded by who asked for them. Helpers draw nothing, which leaves
    their processors to those.

    Args:
        devices: Names apart.
        schedule: How frames are divided.
        elastic: Whether only as many devices are used as a frame rate needs, the first ones;
            None for all.

    Raises:
        SettingsError: If the schedule cannot be drawn, or names a device that is not there.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        schedule: Schedule = SINGLE,
        elastic: ElasticPolicy | None = None,
    ) -> None:
        if not devices or len({device.name for device in devices}) < len(devices):
            raise ValueError(f"devices of different names are needed, got {devices}")
        self._names = tuple(device.name for device in devices)
        self.speeds = DeviceSpeeds(devices)
        self._elastic = elastic
        self._in_use = len(devices) if elastic is None else min(elastic.least, len(devices))
        self._frame_ms: list[float] = []
        self.decision: Decision | None = None
        self._taken: set[str] = set()
        self._turn = 0
        self.set_schedule(schedule)

    @property
    def schedule(self) -> Schedule:
        """How frames are divided."""
        return self._schedule

    def set_schedule(self, schedule: Schedule) -> None:
        """Divide frames differently from the next one on."""
        if schedule.fidelity is Fidelity.APPROXIMATE:
            raise SettingsError(
                f"the schedule {schedule.name} deals out chunks whatever their depth, which is"
                " simulated, but not drawn; use order: depth"
            )
        devices = assign(schedule, [RatedDevice(name) for name in self._names]).devices
        self._schedule, self._of_use = schedule, len(devices)
        self._frame_ms.clear()

    def in_use(self, ready: Collection[str]) -> tuple[str, ...]:
        """Devices that draw, if those that are ``ready`` can, in the order of the machine's."""
        return tuple(name for name in self._names if name in ready)[: self._in_use]

    def drawing(self, ready: Collection[str], now_s: float) -> frozenset[str]:
        """Devices that would draw, if those that are ``ready`` could."""
        groups = self._assignment(ready, now_s).groups
        return frozenset(device.name for group in groups for device in group.devices)

    def take_group(
        self, lead: str, ready: Collection[str], idle: Collection[str], now_s: float
    ) -> Group | None:
        """The group to draw the next frame, if ``lead`` leads it; it is taken until ``release``.

        Args:
            ready: Devices that can draw.
            idle: Those that do nothing now.
        """
        group = self._next_group(ready, idle, now_s)
        if group is None or group.lead.name != lead:
            return None
        self._taken.update(device.name for device in group.devices)
        self._turn += 1
        return group

    def release(self, group: Group) -> None:
        """The frame of a group has ended."""
        self._taken.difference_update(device.name for device in group.devices)

    def give_back(self, group: Group) -> None:
        """There was no frame for a group that was just taken: it is still its turn."""
        self.release(group)
        self._turn -= 1

    def group_count(self, ready: Collection[str], now_s: float) -> int:
        """Frames that can be drawn at a time."""
        return len(self._assignment(ready, now_s).groups) or 1

    @property
    def is_elastic(self) -> bool:
        """Whether only as many devices are used as are needed."""
        return self._elastic is not None

    def adapt(self, load: Load, ready: Collection[str]) -> bool:
        """A frame of a camera in motion is done: perhaps more devices are needed, or fewer.

        What counts is the time that all wishes of a frame's time take, one after the other: where
        frames alternate, each takes as long as before, but they end more often.

        Returns:
            Whether others are used from now on.
        """
        if self._elastic is None:
            return False
        self._frame_ms.append(self._elastic.target_ms * load.wanted / load.capacity)
        del self._frame_ms[: -self._elastic.shrink_after]
        available = min(len(ready), self._of_use)
        self.decision = self._elastic.decide(self._frame_ms, self._in_use, available)
        if self.decision.wanted == self._in_use:
            return False
        self._in_use = self.decision.wanted
        self._frame_ms.clear()
        return True

    def _next_group(
        self, ready: Collection[str], idle: Collection[str], now_s: float
    ) -> Group | None:
        groups = self._assignment(ready, now_s).groups

        def is_free(group: Group) -> bool:
            return all(d.name in idle and d.name not in self._taken for d in group.devices)

        if groups and self._schedule.shares is Shares.EQUAL:
            group = groups[self._turn % len(groups)]
            return group if is_free(group) else None
        free = [group for group in groups if is_free(group)]
        return max(free, key=lambda group: group.weight, default=None)

    def _assignment(self, ready: Collection[str], now_s: float) -> Assignment:
        names, weights = self.in_use(ready), self.speeds.weights(now_s)
        if not names:
            return Assignment(())
        rated = [RatedDevice(name, weights[name]) for name in names]
        return assign(_without_missing(self._schedule, names), rated)


def _without_missing(schedule: Schedule, names: Sequence[str]) -> Schedule:
    """The schedule on the devices of its list that are there now; on any, if none is."""
    choice = schedule.devices
    if choice.pick is not Pick.NAMED:
        return schedule
    there = tuple(name for name in choice.names if name in names)
    devices = replace(choice, names=there) if there else ALL_DEVICES
    helpers = min(schedule.helpers, max(0, (len(there) or len(names)) - 1))
    return replace(schedule, devices=devices, helpers=helpers)
