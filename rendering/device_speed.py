"""How fast devices are, from the parts of frames that they drew. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rendering.base import RasterImage
from rendering.device import Device

KEPT = 0.9  # of all that was measured before, with every new part
STALE_S = 30.0
FEWEST = 3  # parts, before a speed counts: the first ones meet cold caches
TOLERANCE = 0.1


def work_of(images: Sequence[RasterImage]) -> float:
    """How much there was to draw, in a unit that means the same in every picture.

    Pixels do not: a band of sky would make its device look fast, and the sky be given to
    another one next. What takes the time is looking at Gaussians and blending them into
    tiles; engines that count neither are compared by pixels.
    """
    counted = sum(image.stats.gaussians + image.stats.tile_pairs for image in images)
    return float(counted or sum(image.alpha.size for image in images))


@dataclass(slots=True)
class _Measured:
    work: float
    seconds: float
    last_s: float
    parts: int = 0


class DeviceSpeeds:
    """Smoothed speeds, and the weights that schedules divide work by.

    Weights stay as they are until a speed has changed by more than a tenth: bands that move with
    every frame gain nothing. What was not confirmed for long is forgotten, so that a device that
    was slow once, and got no work since, is tried again.

    Args:
        devices: All there are.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        # One without a number of its own, such as a GPU, is guessed to be as fast as any.
        most = max((device.threads for device in devices), default=1)
        self._threads = {device.name: device.threads or max(1, most) for device in devices}
        self._measured: dict[str, _Measured] = {}
        self._weights = {name: float(threads) for name, threads in self._threads.items()}

    def drew(self, device: str, work: float, seconds: float, now_s: float) -> None:
        """A part is drawn."""
        if work <= 0 or seconds <= 0:
            return
        entry = self._measured.get(device)
        if entry is None or now_s - entry.last_s > STALE_S:
            entry = self._measured[device] = _Measured(0.0, 0.0, now_s)
        entry.work = KEPT * entry.work + work
        entry.seconds = KEPT * entry.seconds + seconds
        entry.last_s = now_s
        entry.parts += 1

    def weights(self, now_s: float) -> Mapping[str, float]:
        """By device, the fastest 1. One that was not measured is as fast as the others by thread.

        Without any measurement, weights are as the numbers of threads.
        """
        if len(self._weights) == 1:
            return dict.fromkeys(self._weights, 1.0)
        known = {
            name: entry.work / entry.seconds
            for name, entry in self._measured.items()
            if entry.parts >= FEWEST and now_s - entry.last_s <= STALE_S
        }
        threads = sum(self._threads[name] for name in known)
        of_a_thread = sum(known.values()) / threads if known else 1.0
        speeds = {name: known.get(name, of_a_thread * n) for name, n in self._threads.items()}
        fastest = max(speeds.values())
        new = {name: speed / fastest for name, speed in speeds.items()}
        if any(abs(new[name] - self._weights[name]) > TOLERANCE * new[name] for name in new):
            self._weights = new
        return self._weights
