"""Devices with memories of their own for tests: what is in one cannot be drawn from another."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import CancelFlag, PagePool, RasterImage, RasterSettings, ScenePart
from rendering.device import Device, cpu_devices
from rendering.native.cpu import NativeRasterizer
from splat.camera import Camera
from splat.gaussians import Gaussians


@dataclass(frozen=True, eq=False)
class Inside:
    """Something in the memory that one rasterizer draws from."""

    owner: int
    what: Any


@dataclass(eq=False)
class Meter:
    """How many pages are in a device's memory, as seen from outside.

    Attributes:
        most: The most that there were at once.
        packed: All that were ever packed.
        page_bytes: Of one.
    """

    pages: weakref.WeakSet[Inside] = field(default_factory=weakref.WeakSet)
    most: int = 0
    packed: int = 0
    page_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, pages: Sequence[Inside]) -> None:
        with self.lock:
            for page in pages:
                self.pages.add(page)
            self.packed += len(pages)
            self.most = max(self.most, len(self.pages))


class _Pool:
    def __init__(self, pool: PagePool, owner: int, meter: Meter) -> None:
        self._pool, self._owner, self._meter = pool, owner, meter
        meter.page_bytes = pool.page_bytes

    @property
    def page_bytes(self) -> int:
        return self._pool.page_bytes

    def keep_free(self, pages: int) -> None:
        self._pool.keep_free(pages)

    def pack(self, gaussians: Gaussians) -> Inside:
        return self._inside([self._pool.pack(gaussians)])[0]

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> list[Inside]:
        return self._inside(self._pool.pack_many(gaussians, rows))

    def _inside(self, packed: Sequence[Any]) -> list[Inside]:
        pages = [Inside(self._owner, page) for page in packed]
        self._meter.add(pages)
        return pages


class OwnRasterizer(NativeRasterizer):
    """The native engine, of which each instance draws only what it made itself: one device's.

    Attributes:
        meter: Of its pages.
        trouble: Called before a picture is drawn, and again after it.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        trouble: Callable[[CancelFlag | None], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.meter = meter or Meter()
        self.trouble = trouble

    def prepare(self, gaussians: Gaussians) -> Any:
        return Inside(id(self), super().prepare(gaussians))

    def new_pool(self, page_gaussians: int, sh_degree: int) -> Any:
        return _Pool(super().new_pool(page_gaussians, sh_degree), id(self), self.meter)

    def compose(self, parts: Sequence[ScenePart]) -> Any:
        mine = [
            ScenePart(self._mine(part.scene), part.weight, part.tint, part.tint_share)
            for part in parts
        ]
        # Whoever draws it holds the pages.
        return Inside(id(self), (super().compose(mine), [part.scene for part in parts]))

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        self.trouble(cancel)
        what = self._mine(scene)
        image = super().render(
            what[0] if isinstance(what, tuple) else what, camera, settings, cancel
        )
        self.trouble(cancel)
        return image

    def _mine(self, inside: Inside) -> Any:
        assert inside.owner == id(self), "from another device's memory"
        return inside.what


class OwnDevices:
    """Some devices, what they draw with, and what is in their memories.

    Args:
        count: How many.
        trouble: What happens as they draw.

    Attributes:
        made: Rasterizers that were made for each, by name; the last one is in use.
    """

    def __init__(
        self, count: int, trouble: Callable[[CancelFlag | None], None] = lambda _: None
    ) -> None:
        self.devices = cpu_devices(count, count, own_memories=True)
        self.made: dict[str, list[OwnRasterizer]] = {device.name: [] for device in self.devices}
        self._trouble = trouble
        self._first = {device.name: self._make(device) for device in self.devices}

    @property
    def rasterizers(self) -> dict[str, OwnRasterizer]:
        """Those of the beginning, by memory."""
        return {device.memory: self.made[device.name][0] for device in self.devices}

    @property
    def first(self) -> OwnRasterizer:
        """What the first device begins with."""
        return self._first.pop(self.devices[0].name)

    @property
    def meters(self) -> list[Meter]:
        """Of every device's memory in each of its lives."""
        return [rasterizer.meter for made in self.made.values() for rasterizer in made]

    def packed(self, name: str | None = None) -> int:
        """Pages that were ever packed for a device, or for all."""
        names = self.made if name is None else [name]
        return sum(rasterizer.meter.packed for each in names for rasterizer in self.made[each])

    def new(self, device: Device) -> OwnRasterizer:
        """What a device begins with, or starts anew with."""
        return self._first.pop(device.name, None) or self._make(device)

    def _make(self, device: Device) -> OwnRasterizer:
        rasterizer = OwnRasterizer(trouble=self._trouble)
        self.made[device.name].append(rasterizer)
        return rasterizer
