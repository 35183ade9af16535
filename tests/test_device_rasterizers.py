"""What devices draw with when they start anew, and who takes the place of a GPU that is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rendering.device import Device, DeviceLost, gpu_device
from rendering.device_rasterizers import MOST_REFUSALS, DeviceRasterizers
from rendering.native.cpu import NativeRasterizer
from tests.fake_gpu import FakeCard, FakeGpuRasterizer


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def supply(
    *devices: Device, fail: Callable[[], None] = lambda: None
) -> tuple[DeviceRasterizers, Clock]:
    clock, card = Clock(), FakeCard()

    def make(device: Device) -> FakeGpuRasterizer | NativeRasterizer:
        fail()
        return FakeGpuRasterizer(card) if device.is_gpu else NativeRasterizer()

    return DeviceRasterizers(devices, make, lambda _: NativeRasterizer(), clock), clock


def test_losses_that_lie_far_apart_are_forgiven() -> None:
    rasterizers, clock = supply(gpu_device(0))
    for _ in range(20):
        assert rasterizers(gpu_device(0)).name == "fused"
        clock.now_s += 31
    assert rasterizers(gpu_device(0)).name == "fused"
    assert rasterizers(gpu_device(0)).name == "native"
    clock.now_s += 1_000
    assert rasterizers(gpu_device(0)).name == "native", "for good"


def test_the_last_device_is_replaced_even_if_it_does_not_know_that_it_is() -> None:
    working = [True]

    def fail() -> None:
        if not working[0]:
            raise RuntimeError("no context")

    rasterizers, _ = supply(gpu_device(0), Device("cpu:0"), fail=fail)
    told: list[str] = []
    rasterizers.on_replaced(lambda device: told.append(device.name))
    working[0] = False
    for _ in range(MOST_REFUSALS - 1):
        with pytest.raises(DeviceLost, match=r"no context|lost before"):
            rasterizers(gpu_device(0))
    assert not told
    assert rasterizers(gpu_device(0)).name == "native"
    assert rasterizers(gpu_device(0)).name == "native"
    assert told == ["cuda:0"]


def test_each_memory_begins_with_one_rasterizer() -> None:
    devices = (Device("cpu:0"), gpu_device(0), Device("cpu:1"))
    rasterizers, _ = supply(*devices)
    assert set(rasterizers.by_memory) == {"host", "cuda:0"}
    assert rasterizers.first is rasterizers.by_memory["host"]
    assert rasterizers(devices[1]) is rasterizers.by_memory["cuda:0"]
    assert rasterizers(devices[2]) is not rasterizers.first
    assert rasterizers(devices[1]) is not rasterizers.by_memory["cuda:0"]
