"""The scene that is drawn at present, in each of the memories of those who draw it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rendering.base import Rasterizer
from rendering.device import HOST_MEMORY, Device
from rendering.division import Division
from rendering.drawable import (
    DividedScene,
    Drawable,
    DrawableScene,
    Outlook,
    SceneClosed,
    SceneInMemories,
)
from rendering.frame import FrameRequest
from rendering.resident_scene import ResidentScene
from rendering.slab_borders import SlabBorders
from splat.errors import SettingsError
from splat.gaussians import Gaussians

Drawing = Callable[[frozenset[str]], frozenset[str]]
"""From devices that can draw to those that would, if the others could not."""


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """What the scene takes of a memory.

    Attributes:
        memory: Its name.
        devices: Whose it is.
        held_bytes: Of the scene.
        budget_bytes: The most that may be; 0 if there is no bound.
    """

    memory: str
    devices: tuple[str, ...]
    held_bytes: int
    budget_bytes: int


class SceneHolder:
    """One scene for all devices: one cut and one lease a request, whatever the number of parts.

    Devices of one memory draw from the same form of it. In each other memory there is another form,
    and a frame is chosen from what all have that draw a part of it (``rendering.streamed_scene``).
    A memory that belongs to a single device is lost with it, and filled anew when that starts anew.
    The host's stays.

    Args:
        rasterizers: What scenes are prepared for, by memory.
        scene: Gaussians, of which no reference is kept unless a memory may be lost, or a scene
            made for these rasterizers, which is closed with this.
        devices: Who will draw.

    Attributes:
        memory_of: By device.
        borders: Where slabs are cut, for memories that hold slabs.

    Raises:
        SettingsError: If the scene was not made for the memories of the devices.
    """

    def __init__(
        self,
        rasterizers: Mapping[str, Rasterizer],
        scene: Gaussians | DrawableScene,
        devices: Sequence[Device],
    ) -> None:
        self.memory_of = {device.name: device.memory for device in devices}
        self.borders = SlabBorders()
        owners = Counter(self.memory_of.values())
        self._losable = frozenset(
            memory for memory, count in owners.items() if count == 1 and memory != HOST_MEMORY
        )
        self._rasterizers = dict(rasterizers)
        self._scene = self._drawable(scene)
        self._replacing = threading.Lock()
        self._under_way: set[Drawable] = set()

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return self._scene.detail_counts

    @property
    def memories(self) -> tuple[MemoryStatus, ...]:
        """What the scene takes of each memory."""
        scene, found = self._scene, []
        for memory in dict.fromkeys(self.memory_of.values()):
            owners = tuple(name for name, its in self.memory_of.items() if its == memory)
            held = scene.held_bytes(memory) if isinstance(scene, SceneInMemories) else (0, 0)
            found.append(MemoryStatus(memory, owners, *held))
        return tuple(found)

    @property
    def rasterizers(self) -> Mapping[str, Rasterizer]:
        """What scenes are to be made for, by memory."""
        return self._rasterizers.copy()

    @property
    def is_divided(self) -> bool:
        """Whether memories hold what their devices need, so that ``acquire`` has to be told."""
        scene = self._scene
        return isinstance(scene, DividedScene) and len(scene.memories) > 1

    def has_memory(self, device: str) -> bool:
        """Whether a device's memory is there; of a scene that is divided."""
        scene = self._scene
        return not isinstance(scene, DividedScene) or self.memory_of[device] in scene.present

    def outlook(self, request: FrameRequest) -> Outlook:
        """What there will be to draw when everything is there; of a scene that is divided."""
        scene = self._scene
        if not isinstance(scene, DividedScene):
            raise SceneClosed("another scene took its place")
        return scene.outlook(request)

    @contextmanager
    def acquire(
        self, request: FrameRequest, division: Division | None = None
    ) -> Iterator[Drawable]:
        """The scene for one frame, the same for all its parts, even if it is replaced meanwhile.

        Args:
            division: Which memory needs what; a scene that is not divided ignores it.

        Raises:
            SceneClosed: If this was closed.
            MemoryGone: If the memories of all who are to draw are lost.
        """
        while True:
            scene = self._scene
            if division is not None and isinstance(scene, DividedScene):
                held = scene.acquire(request, division)
            else:
                held = scene.acquire(request)
            try:
                drawable = held.__enter__()
            except SceneClosed:
                if scene is self._scene:
                    raise
                continue  # it was replaced just before it was acquired
            break
        self._under_way.add(drawable)
        try:
            yield drawable
        finally:
            self._under_way.discard(drawable)
            held.__exit__(None, None, None)

    def replace(self, scene: Gaussians | DrawableScene) -> None:
        """Draw another scene from the next frame on; frames under way keep the old one."""
        drawable = self._drawable(scene)
        with self._replacing:
            before, self._scene = self._scene, drawable
        before.close()
        for memory in self._losable:
            self._adapt(drawable, memory)

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Have one more level of detail, coarser than those there are.

        Returns:
            Whether it counts: not if the scene streams, or was replaced while this level,
            which is of the old one, was being prepared.
        """
        scene = self._scene
        if not isinstance(scene, ResidentScene):
            return False
        scene.add_coarser(gaussians)
        return self._scene is scene

    def forget(self, client: str) -> None:
        """The client is gone."""
        self._scene.forget(client)

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()

    def lose(self, device: Device) -> None:
        """A device is lost, perhaps with its memory. Returns at once."""
        if device.memory not in self._losable:
            return
        scene = self._scene
        if isinstance(scene, SceneInMemories):
            scene.lose(device.memory)
        for drawable in self._under_way.copy():
            drawable.lose(device.memory)

    def renew(self, device: Device, rasterizer: Rasterizer, timeout_s: float) -> None:
        """A device starts anew: what it lost is filled again, as far as that is quick."""
        if device.memory not in self._losable:
            return
        self._rasterizers[device.memory] = rasterizer
        scene: DrawableScene | None = None
        while scene is not self._scene:  # replaced meanwhile
            scene = self._scene
            if isinstance(scene, SceneInMemories):
                scene.renew(device.memory, rasterizer, timeout_s)

    def able(
        self, ready: frozenset[str], drawing: Drawing
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Devices that should draw the next frame, and memories that load what it shows.

        A device whose memory lacks what others draw would make the picture coarser: it is left out,
        and loads, unless there are no others.

        Args:
            ready: Those that can draw.
        """
        scene = self._scene
        if not (isinstance(scene, DividedScene) and len(scene.memories) > 1):
            return ready, frozenset()
        behind, able = scene.behind, ready
        beside = frozenset(self.memory_of[name] for name in drawing(ready))
        while late := {name for name in drawing(able) if self.memory_of[name] in behind}:
            if able <= late:
                return ready, beside
            able = able - late
        return able or ready, beside

    def _adapt(self, scene: DrawableScene, memory: str) -> None:
        """Renew a memory that was lost while the scene was made, if another engine has it now."""
        rasterizer = self._rasterizers[memory]
        if isinstance(scene, SceneInMemories):
            made_for = scene.engine_of(memory)
            if made_for and made_for != rasterizer.name:
                scene.renew(memory, rasterizer, 0.0)

    def _drawable(self, scene: Gaussians | DrawableScene) -> DrawableScene:
        if isinstance(scene, Gaussians):
            return ResidentScene(self._rasterizers, scene, self._losable)
        memories = tuple(dict.fromkeys(self.memory_of.values()))
        made_for = scene.memories if isinstance(scene, SceneInMemories) else (HOST_MEMORY,)
        if len(memories) > 1 and not set(memories) <= set(made_for):
            raise SettingsError(
                f"devices: they have memories of their own ({', '.join(memories)}), and the scene"
                f" was made for {', '.join(made_for)}; make it for those of the devices"
            )
        return scene
