"""The GPU engine out of memory, or on a device that is lost: what torch says, by injection."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest

# Before Triton is imported: kernels are made for the interpreter, or for a device.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

import torch

from rendering.base import RasterImage
from rendering.device import DeviceLost
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.fused_frame import FusedFrame
from splat.camera import CameraModel
from splat.errors import BudgetError
from tests.rasterizer_contract import ALL, bytes_of
from tests.scenes import orbit_camera, random_scene

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]
VIEW = orbit_camera(CameraModel.PINHOLE, 19, 70)
Draw = Callable[[FusedFrame], tuple[RasterImage, ...]]


def engine() -> FusedRasterizer:
    return FusedRasterizer("cpu", Tuning(tile=32, stride=4))


def injected(monkeypatch: pytest.MonkeyPatch, fails: Callable[[FusedFrame], None]) -> None:
    """``fails`` is called before every band."""
    draw: Draw = FusedFrame.draw

    def drawn(frame: FusedFrame) -> tuple[RasterImage, ...]:
        fails(frame)
        return draw(frame)

    monkeypatch.setattr(FusedFrame, "draw", drawn)


def rows_of(frame: Any) -> int:
    return int(frame._end - frame._first)


def test_out_of_memory_it_draws_the_same_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer = engine()
    scene = rasterizer.prepare(random_scene(3, 120))
    whole = rasterizer.render(scene, VIEW, ALL)
    assert whole.stats.parts == 1

    def short(frame: FusedFrame) -> None:
        if rows_of(frame) > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    injected(monkeypatch, short)
    banded = rasterizer.render(scene, VIEW, ALL)
    assert bytes_of(banded) == bytes_of(whole)
    assert banded.stats.parts == 3


def test_unused_pages_go_before_a_frame_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer = engine()
    scene, unused = (rasterizer.prepare(random_scene(seed, 60)) for seed in (1, 2))
    pool = rasterizer.new_pool(1024, 3)
    del unused
    pool.pack(random_scene(3, 9))
    held = rasterizer.held_bytes
    assert held > pool.page_bytes

    def short(frame: FusedFrame) -> None:
        if rasterizer.held_bytes == held:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    injected(monkeypatch, short)
    assert rasterizer.render(scene, VIEW).stats.parts == 1
    assert rasterizer.held_bytes < held


def test_too_little_for_anything_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer = engine()
    scene = rasterizer.prepare(random_scene(1, 60))

    def short(frame: FusedFrame) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    injected(monkeypatch, short)
    with pytest.raises(BudgetError, match="cpu has no memory for a frame of 60 Gaussians"):
        rasterizer.render(scene, VIEW)
    monkeypatch.undo()
    assert rasterizer.render(scene, VIEW).alpha.any()  # it can go on


def test_a_lost_device_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer = engine()
    scene = rasterizer.prepare(random_scene(1, 60))

    def lost(frame: FusedFrame) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    injected(monkeypatch, lost)
    with pytest.raises(DeviceLost, match=r"illegal memory access was encountered$"):
        rasterizer.render(scene, VIEW)


def test_what_a_scene_takes_is_known() -> None:
    rasterizer = engine()
    scene = rasterizer.prepare(random_scene(1, 1030))
    assert scene.nbytes == rasterizer.held_bytes > 0
