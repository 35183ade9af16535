"""A GPU driver for tests, which answers as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rendering.gpu_discovery import Gpu

WORDS = {
    100: (b"CUDA_ERROR_NO_DEVICE", b"no CUDA-capable device is detected"),
    999: (b"CUDA_ERROR_UNKNOWN", b"unknown error"),
}
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
H200 = Gpu(0, "NVIDIA H200", 150_000_000_000, (9, 0))
T4 = Gpu(1, "Tesla T4", 16_000_000_000, (7, 5))
P100 = Gpu(2, "Tesla P100", 16_000_000_000, (6, 0))


class FakeDriver:
    """What ``ctypes.CDLL`` would load.

    Args:
        gpus: That there are.
        version: Of CUDA, as the driver writes it.
        fails: By function, the error it answers with.
        fails_at: The same of single GPUs, by index.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu] = (),
        version: int = 13000,
        fails: dict[str, int] | None = None,
        fails_at: dict[int, dict[str, int]] | None = None,
    ) -> None:
        self._gpus, self._version, self._fails = gpus, version, fails or {}
        self._fails_at = fails_at or {}
        self.loaded: list[str] = []

    def __call__(self, name: str) -> FakeDriver:
        """As ``ctypes.CDLL``."""
        self.loaded.append(name)
        return self

    def cuInit(self, flags: int) -> int:
        return self._fails.get("cuInit", 0 if self._gpus else 100)

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self._version
        return self._fails.get("cuDriverGetVersion", 0)

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = len(self._gpus)
        return self._fails.get("cuDeviceGetCount", 0)

    def cuDeviceGet(self, out: Any, ordinal: int) -> int:
        out._obj.value = 7 + ordinal  # handles are not indices
        return self._answer("cuDeviceGet", ordinal)

    def cuDeviceGetName(self, buffer: Any, size: int, device: Any) -> int:
        name = self._of(device).name.encode()
        assert len(name) < size
        buffer.value = name
        return self._answer("cuDeviceGetName", int(device.value) - 7)

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:
        out._obj.value = self._of(device).memory_bytes
        return self._answer("cuDeviceTotalMem_v2", int(device.value) - 7)

    def cuDeviceGetAttribute(self, out: Any, which: int, device: Any) -> int:
        capability = self._of(device).capability
        out._obj.value = capability[(CAPABILITY_MAJOR, CAPABILITY_MINOR).index(which)]
        return self._answer("cuDeviceGetAttribute", int(device.value) - 7)

    def cuGetErrorName(self, code: int, out: Any) -> int:
        return self._tell(code, 0, out)

    def cuGetErrorString(self, code: int, out: Any) -> int:
        return self._tell(code, 1, out)

    def _answer(self, function: str, index: int) -> int:
        return {**self._fails, **self._fails_at.get(index, {})}.get(function, 0)

    def _of(self, device: Any) -> Gpu:
        return self._gpus[int(device.value) - 7]

    def _tell(self, code: int, which: int, out: Any) -> int:
        if code not in WORDS:
            return 1
        out._obj.value = WORDS[code][which]
        return 0
