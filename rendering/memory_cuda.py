"""What CUDA says of a card's memory: the thin side of ``rendering.device_memory``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import torch

from rendering.device_memory import DeviceMemory, ScratchPeak

FRAMES_A_LOOK = 16  # peaks add up until they are looked at, which takes a while


def device_memory(device: str | torch.device) -> DeviceMemory:
    """Of a CUDA device, now; other processes on the card count."""
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(total, free, torch.cuda.memory_reserved(device))


def free_cached_blocks(device: torch.device) -> None:
    """Give back to the driver what torch keeps for later; nothing on the CPU. Of a lost device
    nothing comes back: who draws on it next says so."""
    if device.type == "cuda":
        with suppress(RuntimeError), torch.cuda.device(device):
            torch.cuda.empty_cache()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """In the block kernels are launched there; nothing on the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wait_for_device(device: torch.device) -> None:
    """Wait for what the calling thread launched, or until the device is known to be lost; nothing
    on the CPU."""
    if device.type == "cuda":
        with suppress(RuntimeError):
            torch.cuda.current_stream(device).synchronize()


class ScratchMeter:
    """Measures what frames take beside the pages.

    Args:
        device: Where they are drawn; nothing is measured on the CPU.
        held: Says what pages take, bytes.
    """

    def __init__(self, device: torch.device, held: Callable[[], int]) -> None:
        self._device, self._held = device, held
        self._lock = threading.Lock()
        self._frames = self._most_held = 0
        self._peak = ScratchPeak()

    @property
    def peak_bytes(self) -> int:
        """The most so far; 0 before the first frame."""
        return self._peak.bytes

    def frame_drawn(self) -> None:
        """Another frame is over."""
        if self._device.type != "cuda":
            return
        with self._lock:
            self._frames += 1
            # Pages may have gone since the peak: they are no scratch.
            self._most_held = max(self._most_held, self._held())
            if self._frames % FRAMES_A_LOOK == 1:
                peak = torch.cuda.max_memory_allocated(self._device)
                self._peak.observe(peak, self._most_held)
                torch.cuda.reset_peak_memory_stats(self._device)
                self._most_held = self._held()
