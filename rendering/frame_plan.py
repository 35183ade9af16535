"""What is drawn of a frame, by whom, and from what: chosen once for all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from rendering.assignment import Group, RatedDevice
from rendering.base import RasterImage
from rendering.crew import Crew
from rendering.depth_slabs import DepthMasses, Slab, cut_in_slabs
from rendering.device import Device, DeviceLost
from rendering.division import Division
from rendering.drawable import Drawable, MemoryGone
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.frame_pieces import CutInSlabs, Piece, pieces_of
from rendering.part_balance import PartBalance
from rendering.part_costs import PartCosts
from rendering.picture_cache import PictureCache
from rendering.scene_holder import SceneHolder
from rendering.schedule import Schedule, SplitBy
from splat.camera import Camera


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be drawn of a frame, and what is held for it.

    Attributes:
        leases: Holds the scene, until ``release``.
        drawable: The same for all pieces.
        kept: Pictures that were drawn before, by camera.
        pieces: The rest.
        team: Whom they are for; their weights are those that were divided by.
    """

    leases: list[ExitStack]
    drawable: Drawable
    kept: dict[int, RasterImage]
    pieces: tuple[Piece, ...]
    team: Group

    def release(self) -> None:
        """Let go of the scene; whoever comes second does nothing."""
        try:
            lease = self.leases.pop()
        except IndexError:
            return
        lease.close()


class Known(Protocol):
    """What plans follow from (``rendering.frame_line``)."""

    scenes: SceneHolder
    pictures: PictureCache
    crew: Crew
    slabs: PartBalance
    bands: PartBalance


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans one frame.

    Attributes:
        known: What it follows from.
        request, schedule: What is asked for, and how it is divided.
        group: The devices that the frame was given to.
        beside: Memories that load what it shows.
        failed: Devices that failed at it.
    """

    known: Known
    request: FrameRequest
    schedule: Schedule
    group: Group
    beside: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()

    def plan(self, device: Device) -> Plan:
        """The plan, with the scene held.

        Args:
            device: Which one asks.

        Raises:
            DeviceLost: If no memory is left that the frame could be drawn from.
        """
        try:
            return self._divided(device) if self.known.scenes.is_divided else self._shared()
        except MemoryGone:
            raise DeviceLost("its memory is gone") from None

    def _shared(self) -> Plan:
        """Of a scene that every device has all of: chosen, then divided."""
        with ExitStack() as lease:
            drawable = lease.enter_context(self.known.scenes.acquire(self.request))
            kept = self._kept(drawable)
            missing = [eye for eye in range(len(self.request.cameras)) if eye not in kept]
            cut = None if drawable.parts is None else self._cut_of(drawable.parts.masses)
            pieces = pieces_of(
                self.schedule, self.group, self.request, missing, cut, self._cut_rows
            )
            return Plan([lease.pop_all()], drawable, kept, pieces, self.group)
        raise AssertionError("no scene suppresses errors")

    def _divided(self, device: Device) -> Plan:
        """Of a scene of which memories have what they need: divided, then chosen."""
        scenes, everything = self.known.scenes, range(len(self.request.cameras))
        cut = self._settled_cut()
        for team in self._teams(device):
            pieces = pieces_of(self.schedule, team, self.request, everything, cut, self._cut_rows)
            division = Division.of(pieces, scenes.memory_of, self.beside)
            with ExitStack() as lease:
                try:
                    drawable = lease.enter_context(scenes.acquire(self.request, division))
                except MemoryGone:
                    continue
                if not (drawable.forms or {}).keys() >= division.draws.keys():
                    continue  # one was lost a moment ago
                kept = self._kept(drawable)
                left = tuple(rest for piece in pieces if (rest := piece.without(kept)).parts)
                return Plan([lease.pop_all()], drawable, kept, left, team)
        raise MemoryGone

    def _teams(self, device: Device) -> Iterator[Group]:
        """The devices of the group, as long as they have their memories and did not fail; then
        another one, and at last the one that asks."""
        scenes = self.known.scenes
        for _ in self.group.devices:
            there = tuple(
                one
                for one in self.group.devices
                if scenes.has_memory(one.name) and one.name not in self.failed
            )
            if there:
                yield self._in_order(there)
        with self.known.crew.lock:
            ready = self.known.crew.ready
        others = (n for n in scenes.memory_of if n in ready and scenes.has_memory(n))
        other = next((name for name in others if name not in self.failed), device.name)
        yield Group((RatedDevice(other),))
        yield Group((RatedDevice(device.name),))

    def _in_order(self, devices: tuple[RatedDevice, ...]) -> Group:
        """Devices that hold slabs keep theirs, whoever is the fastest at the moment. What they
        take is learnt with what slabs cost, so nothing is lost by taking them for equals."""
        if not self.schedule.has(SplitBy.SHARD):
            return Group(devices)
        names = {device.name for device in devices}
        return Group(tuple(RatedDevice(n) for n in self.known.scenes.memory_of if n in names))

    def _kept(self, drawable: Drawable) -> dict[int, RasterImage]:
        if self.request.urgency < Urgency.STILL:  # theirs are not kept, and are drawn otherwise
            return {}
        found = {
            eye: self.known.pictures.get(drawable, camera, self.request.settings)
            for eye, camera in enumerate(self.request.cameras)
        }
        return {eye: image for eye, image in found.items() if image is not None}

    def _cut_rows(self, eye: int, shares: Sequence[float]) -> Sequence[float]:
        """Where bands end that have such shares of the cost."""
        with self.known.crew.lock:
            return self.known.bands.of(self.request.client, eye).cuts(shares)

    def _slab_costs(self, eye: int) -> PartCosts:
        with self.known.crew.lock:
            return self.known.slabs.of(self.request.client, eye)

    def _cut_of(self, masses: Callable[[Camera], DepthMasses]) -> CutInSlabs | None:
        """Cuts the views of the request in slabs of depth, if that is wanted."""
        if not self.schedule.has(SplitBy.SHARD):
            return None

        def cut(eye: int, shares: Sequence[float]) -> tuple[Slab | None, ...]:
            camera = self.request.cameras[eye]
            return cut_in_slabs(camera, masses(camera), self._slab_costs(eye), shares)

        return cut

    def _settled_cut(self) -> CutInSlabs | None:
        """The same where memories hold slabs: by what there will be to draw, whatever is there, at
        borders that stay as long as they do."""
        if not self.schedule.has(SplitBy.SHARD):
            return None
        scenes, request = self.known.scenes, self.request
        outlook = scenes.outlook(request)

        def cut(eye: int, shares: Sequence[float]) -> tuple[Slab | None, ...]:
            camera, ends = request.cameras[eye], self._slab_costs(eye).cuts(shares)
            return scenes.borders.slabs(request.client, eye, camera, outlook, ends)

        return cut
