"""A GPU for tests: it draws what the native engine draws, from a memory of its own, until it is
lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.settings import EngineName
from rendering.base import (
    CancelFlag,
    PagePool,
    PagingRasterizer,
    RasterImage,
    RasterSettings,
)
from rendering.device import DeviceLost
from rendering.device_memory import DeviceMemory
from rendering.gpu_discovery import Gpu
from rendering.gpu_support import GPU_ENGINES, GpuSupport
from rendering.gpu_trial import SIDE_PX
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.fake_driver import H200
from tests.own_memories import OwnRasterizer
from viewer.engines import create_rasterizer, tell_once

PAGE_SHARE = 0.9  # of the native engine's pages: engines differ in this


class FakeCard:
    """A card, and what happens to it.

    Attributes:
        made: Rasterizers that were made for it, the last one in use.
        dead: Whether every call fails, as after an error that spoils its context.
    """

    def __init__(self) -> None:
        self.made: list[FakeGpuRasterizer] = []
        self.dead = False
        self._losses = 0

    def lose(self, times: int = 1) -> None:
        """Fail at the next calls that draw a scene, and work again after them."""
        self._losses = times

    def check(self, *, is_drawing: bool = False) -> None:
        """Something is asked of it."""
        if is_drawing and self._losses:
            self._losses -= 1
            raise DeviceLost("an illegal memory access was encountered")
        if self.dead:
            raise DeviceLost("the GPU has fallen off the bus")


class _Pool:
    def __init__(self, pool: PagePool, card: FakeCard) -> None:
        self._pool, self._card = pool, card

    @property
    def page_bytes(self) -> int:
        return int(PAGE_SHARE * self._pool.page_bytes)

    def keep_free(self, pages: int) -> None:
        self._pool.keep_free(pages)

    def pack(self, gaussians: Gaussians) -> Any:
        self._card.check()
        return self._pool.pack(gaussians)

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> Sequence[Any]:
        self._card.check()
        return self._pool.pack_many(gaussians, rows)


class FakeGpuRasterizer(OwnRasterizer):
    """Draws on a card; no other rasterizer can draw what it made."""

    name = "fused"

    def __init__(self, card: FakeCard) -> None:
        super().__init__()
        self.card = card
        card.made.append(self)
        self.pairs = 0

    def prepare(self, gaussians: Gaussians) -> Any:
        self.card.check()
        return super().prepare(gaussians)

    def new_pool(self, page_gaussians: int, sh_degree: int) -> Any:
        return _Pool(super().new_pool(page_gaussians, sh_degree), self.card)

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        self.card.check(is_drawing=not _is_trial(camera))
        return super().render(scene, camera, settings, cancel)

    def render_pair(
        self,
        scene: Any,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        self.card.check(is_drawing=True)
        what = self._mine(scene)
        what = what[0] if isinstance(what, tuple) else what
        self.pairs += 1
        return super().render_pair(what, left, right, settings, cancel)


def _is_trial(camera: Camera) -> bool:
    return (camera.width, camera.height) == (SIDE_PX, SIDE_PX)


class FakeGpus:
    """The GPUs of a machine.

    Attributes:
        cards: By device.
        memory: Of each.
        support: What is found of them.
    """

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self.cards = {gpu.device: FakeCard() for gpu in gpus}
        self.memory = DeviceMemory(H200.memory_bytes, H200.memory_bytes)
        self.support = GpuSupport("fused", tuple(gpus))

    def find(self, engine: str) -> GpuSupport:
        """As ``find_support``."""
        return self.support

    def create(self, engine: EngineName, device: str = "", **how: Any) -> PagingRasterizer:
        """As ``create_rasterizer``."""
        if engine in GPU_ENGINES:
            return FakeGpuRasterizer(self.cards[device])
        return create_rasterizer(engine, **how)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
        """Have the viewer find them."""
        tell_once.cache_clear()
        monkeypatch.setattr("viewer.engines.find_support", self.find)
        monkeypatch.setattr("viewer.engines.create_rasterizer", self.create)
        monkeypatch.setattr("rendering.memory_cuda.device_memory", lambda device: self.memory)
        return self
