"""Who does a job that its own device has no memory for."""

from __future__ import annotations

import threading

import pytest

from rendering.base import CancelFlag, Rasterizer
from rendering.crew import Crew
from rendering.device import Device, cpu_devices
from rendering.job import Job
from splat.errors import BelvedereError
from tests.fake_rasterizer import FakeRasterizer

WAIT_S = 10.0


class OnlyFor(Job):
    """A job that one device alone can do."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.ended, self.by = name, threading.Event(), ""

    def fits(self, device: Device) -> bool:
        return device.name == self.name

    def run(self, rasterizer: Rasterizer, device: Device, cancel: CancelFlag | None) -> None:
        self.by = device.name

    def done(self, outcome: object, device: Device, seconds: float) -> None:
        self.ended.set()

    def failed(self, error: BelvedereError, seconds: float) -> None:
        raise AssertionError(str(error))


@pytest.mark.parametrize("own", ["cpu:0", "cpu:1", "cpu:2"])
def test_a_job_that_waited_for_a_device_that_cannot_do_it_is_done_by_another(own: str) -> None:
    devices = cpu_devices(3, 3)
    crew = Crew(
        devices,
        [FakeRasterizer() for _ in devices],
        lambda device: FakeRasterizer(),
        lambda name: None,
        lambda device: None,
    )
    crew.start()
    try:
        for turn in range(60):
            job = OnlyFor(f"cpu:{turn % 3}")
            with crew.lock:
                crew.post(job, own)
            assert job.ended.wait(WAIT_S), f"nobody did job {turn}"
            assert job.by == job.name
    finally:
        crew.stop(WAIT_S)
