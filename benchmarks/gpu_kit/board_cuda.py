"""The device under test, as far as it is asked about itself; in a dry run, the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_kit.absent import Absent

SMALL, LARGE = (1 << 16, 64), (1 << 30, 8192)  # bytes copied, side of the matrices
_GIGA = 1e9
_REPEATS = 10


class Board:
    """A CUDA device, or the CPU in its place.

    Args:
        dry: The CPU.

    Raises:
        Absent: If there is no CUDA device.
    """

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = "cpu" if dry else "cuda:0"
        if not dry and not torch.cuda.is_available():
            raise Absent("there is no CUDA device, or no driver for it; --dry does without")

    def facts(self) -> dict[str, Any]:
        """What it is called, and how large it is."""
        if self.dry:
            return {"device": "none: this processor, by Triton's interpreter"}
        found = torch.cuda.get_device_properties(0)
        return {
            "device": found.name,
            "memory_gib": found.total_memory / 2**30,
            "multiprocessors": found.multi_processor_count,
            "capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
        }

    def wait(self) -> None:
        """Until it has nothing to do."""
        if not self.dry:
            torch.cuda.synchronize()

    def held_bytes(self) -> int:
        """Of its memory, by tensors of this process; 0 in a dry run."""
        return 0 if self.dry else torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        """The most that was held since ``forget_peak``; 0 in a dry run."""
        return 0 if self.dry else torch.cuda.max_memory_allocated()

    def forget_peak(self) -> None:
        """Begins to look for a peak anew."""
        if not self.dry:
            torch.cuda.reset_peak_memory_stats()

    def give_back(self) -> None:
        """What the allocator keeps for the next tensors, so that they begin from nothing."""
        if not self.dry:
            torch.cuda.empty_cache()

    def rates(self) -> dict[str, float]:
        """What it does in a second at best, of the simplest kind: the floors of all that is drawn.

        ``copy_gb_s``: bytes read and written by a copy; ``to_host_gb_s``, ``to_device_gb_s``:
        between pinned memory and the device; ``fp32_tflops``, ``tf32_tflops``: of products of
        square matrices.
        """
        size, side = SMALL if self.dry else LARGE
        there = torch.empty(size, dtype=torch.uint8, device=self.device)
        other = torch.empty_like(there)
        pinned = torch.empty(size // 4, dtype=torch.uint8, pin_memory=not self.dry)
        a, b = (torch.randn(side, side, device=self.device) for _ in range(2))
        out = torch.empty_like(a)
        part = there[: size // 4]
        rates = {
            "copy_gb_s": 2 * size / self._seconds(lambda: other.copy_(there)) / _GIGA,
            "to_device_gb_s": len(part) / self._seconds(lambda: part.copy_(pinned)) / _GIGA,
            "to_host_gb_s": len(part) / self._seconds(lambda: pinned.copy_(part)) / _GIGA,
        }
        before = torch.get_float32_matmul_precision()
        for name, precision in (("fp32_tflops", "highest"), ("tf32_tflops", "high")):
            torch.set_float32_matmul_precision(precision)
            seconds = self._seconds(lambda: torch.mm(a, b, out=out))
            rates[name] = 2 * side**3 / seconds / 1e12
        torch.set_float32_matmul_precision(before)
        return rates

    def _seconds(self, act: Callable[[], object]) -> float:
        """The best of some, on the device's own clock."""
        act()
        return min(self._once(act) for _ in range(_REPEATS))

    def _once(self, act: Callable[[], object]) -> float:
        if self.dry:
            began_s = time.perf_counter()
            act()
            return time.perf_counter() - began_s
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        act()
        end.record()
        end.synchronize()
        seconds: float = begin.elapsed_time(end) / 1e3
        return seconds
