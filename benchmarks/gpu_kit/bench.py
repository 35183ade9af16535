"""What the steps of one process share: the device, scenes brought to it once, and engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.plan import Plan, Size
from benchmarks.report import Row
from rendering.base import RasterSettings

if TYPE_CHECKING:
    from benchmarks.gpu_kit.board_cuda import Board
    from rendering.base import Rasterizer
    from rendering.fused_cuda import FusedRasterizer
    from scene_store.build.memory_levels import MemoryChunks
    from splat.camera import Camera
    from splat.gaussians import Gaussians

Tell = Callable[[Row], None]


class Bench:
    """Heavy things are made at their first use: a step that needs none starts at once.

    Args:
        plan: What is measured.
        work: Folder of what was prepared.
        out: Folder of what is kept.
    """

    def __init__(self, plan: Plan, work: Path, out: Path) -> None:
        self.plan, self.work, self.out = plan, work, out
        self.limit_s = math.inf
        """After which the present step is ended."""
        self._prepared: dict[tuple[str, str], Any] = {}
        self._engines: dict[str, Any] = {}

    @cached_property
    def board(self) -> Board:
        """The device.

        Raises:
            Absent: If there is none.
        """
        from benchmarks.gpu_kit.board_cuda import Board  # loads torch

        return Board(self.plan.dry)

    def fused(self, variant: int = 0) -> FusedRasterizer:
        """Our own engine, as one of the plan's variants."""
        from rendering.fused_cuda import FusedRasterizer, Tuning

        name = f"fused {variant}"
        if name not in self._engines:
            tuning = Tuning(**self.plan.variants[variant].tuning)
            self._engines[name] = FusedRasterizer(self.board.device, tuning, ahead=False)
        engine: FusedRasterizer = self._engines[name]
        return engine

    def settings(self, variant: int = 0) -> RasterSettings:
        """How one of the plan's variants draws."""
        return moving_settings() if self.plan.variants[variant].moving else RasterSettings()

    def peer(self) -> Rasterizer:
        """gsplat.

        Raises:
            Absent: If it is not installed, does not work here, or is not compiled (yet).
        """
        from benchmarks.gpu_kit.peer import open_peer

        if "gsplat" not in self._engines:
            self._engines["gsplat"] = open_peer(self)
        engine: Rasterizer = self._engines["gsplat"]
        return engine

    def native(self) -> Rasterizer:
        """The CPU engine.

        Raises:
            Absent: If it is neither installed nor built.
        """
        from benchmarks.gpu_kit.native_build import is_found

        if "native" not in self._engines:
            if not is_found(self.work):
                raise Absent("the native engine is not there")
            from rendering.native.cpu import NativeRasterizer

            self._engines["native"] = NativeRasterizer()
        engine: Rasterizer = self._engines["native"]
        return engine

    def scene(self, name: str) -> Gaussians:
        """A scene that was prepared, mapped from the disk.

        Raises:
            Absent: If it was not.
        """
        from benchmarks.gpu_kit.materials import open_scene

        return open_scene(self.work, name)

    def prepared(self, rasterizer: Rasterizer, name: str) -> Any:
        """A scene as an engine draws it; variants of one engine share it."""
        key = rasterizer.name, name
        if key not in self._prepared:
            self._prepared[key] = rasterizer.prepare(self.scene(name))
        return self._prepared[key]

    def views(self, name: str, path: str, size: Size) -> tuple[Camera, ...]:
        """Cameras of a path of a scene, as many as are sampled."""
        from benchmarks.gpu_kit.materials import paths_of

        (found,) = (each for each in paths_of(name, size) if each.name == path)
        return found.spread(self.plan.sampling.views)

    def forget_scenes(self) -> None:
        """Leaves the device to who measures its memory."""
        self._prepared.clear()
        self.board.give_back()
        self.board.forget_peak()

    def levels(self, name: str) -> MemoryChunks:
        """The levels of detail of a scene.

        Raises:
            Absent: If they were not made, or the native engine is missing, which chooses of them.
        """
        self.native()
        from benchmarks.gpu_kit.materials import open_levels

        return open_levels(self.work, name)


def moving_settings() -> RasterSettings:
    """As the viewer draws while a camera moves."""
    from viewer.pacing import PacingPolicy

    return PacingPolicy().moving_settings(RasterSettings())
