"""NVIDIA's GPUs, asked of their driver alone: quick, and without loading torch.

The driver's library is called by ``ctypes``. It heeds ``CUDA_VISIBLE_DEVICES`` by itself, so that
numbers here are those that torch uses.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

log = logging.getLogger(__name__)

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"

# Of NVIDIA's cuda.h.
_SUCCESS, _NO_DEVICE, _STUB_LIBRARY = 0, 100, 34
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256

Version = tuple[int, int]
"""Major and minor, of CUDA or of a compute capability."""


class Absence(Enum):
    """Why there is no GPU."""

    NO_DRIVER = auto()
    NO_GPU = auto()
    BROKEN = auto()  # there is a driver, and most likely a GPU, but it does not answer


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor.

    Attributes:
        index: As ``cuda:0`` has it.
        name: For people, such as ``NVIDIA H200``.
        memory_bytes: All that it has, whoever uses it.
        capability: Its compute capability.
    """

    index: int
    name: str
    memory_bytes: int
    capability: Version

    @property
    def device(self) -> str:
        """Its name as a device."""
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class DriverReport:
    """What the driver says.

    Attributes:
        gpus: Those that this process may use.
        cuda: The newest CUDA that the driver can run; None if it does not say.
        absence: Why there is none; None if there is one.
        problem: The same in words.
        silent: Of each GPU that is there and does not answer, a line on why. It is left out, and
            the others keep their indices.
    """

    gpus: tuple[Gpu, ...] = ()
    cuda: Version | None = None
    absence: Absence | None = None
    problem: str = ""
    silent: tuple[str, ...] = ()


def ask_driver(
    load: Callable[[str], Any] = ctypes.CDLL, environment: Mapping[str, str] = os.environ
) -> DriverReport:
    """Ask the driver of this machine; whatever it answers, nothing is raised. A GPU that is left
    out is told in the log.

    Args:
        load: Loads a shared library by its name.
        environment: Of the process.
    """
    try:
        driver = _Driver(load(LIBRARY))
    except OSError:
        return DriverReport(
            absence=Absence.NO_DRIVER, problem=f"there is no NVIDIA driver ({LIBRARY} is missing)"
        )
    try:
        report = driver.report()
        for line in report.silent:
            log.warning("%s; it is left out", line)
        return report
    except _Refused as refused:
        return _absent(refused, environment)
    except AttributeError as error:  # a library of that name, but of another kind
        return DriverReport(
            absence=Absence.BROKEN, problem=f"the NVIDIA driver cannot be asked: {error}"
        )


def _absent(refused: _Refused, environment: Mapping[str, str]) -> DriverReport:
    if refused.code == _STUB_LIBRARY:
        problem = f"there is no NVIDIA driver ({LIBRARY} is the stub of a CUDA toolkit)"
        return DriverReport(absence=Absence.NO_DRIVER, problem=problem)
    if refused.code != _NO_DEVICE:
        problem = f"the NVIDIA driver does not work: {refused}; nvidia-smi may tell more"
        return DriverReport(absence=Absence.BROKEN, problem=problem)
    visible = environment.get(VISIBLE_VARIABLE)
    hidden = "" if visible is None else f", of those that {VISIBLE_VARIABLE}={visible!r} leaves"
    return DriverReport(absence=Absence.NO_GPU, problem=f"the NVIDIA driver finds no GPU{hidden}")


class _Refused(Exception):
    """The driver answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Driver:
    """The few functions that are needed of the driver's library."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def report(self) -> DriverReport:
        """All GPUs that answer.

        Raises:
            _Refused: If it does not work, there are none, or none of them answers.
        """
        self._call("cuInit", 0)
        version, count = ctypes.c_int(), ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise _Refused(_NO_DEVICE, "no device")
        cuda = (version.value // 1000, version.value % 1000 // 10)
        gpus: list[Gpu] = []
        refusals: dict[int, _Refused] = {}
        for index in range(count.value):
            try:
                gpus.append(self._gpu(index))
            except _Refused as refused:
                refusals[index] = refused
        if not gpus:
            raise next(iter(refusals.values()))
        silent = [f"cuda:{index} does not answer: {why}" for index, why in refusals.items()]
        return DriverReport(tuple(gpus), cuda, silent=tuple(silent))

    def _gpu(self, index: int) -> Gpu:
        device, size = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._call("cuDeviceGetName", name, _NAME_BYTES, device)
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        major, minor = (
            self._attribute(which, device) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        )
        shown = name.value.decode("utf-8", "replace").strip() or f"GPU {index}"
        return Gpu(index, shown, size.value, (major, minor))

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self._library, function)(*arguments))
        if code != _SUCCESS:
            raise _Refused(code, f"{function}: {self._words(code)}")

    def _words(self, code: int) -> str:
        """The driver's own words for an error."""
        words = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            ask = getattr(self._library, function, None)
            if ask is not None and int(ask(code, ctypes.byref(text))) == _SUCCESS and text.value:
                words.append(text.value.decode("utf-8", "replace"))
        return ", ".join(words) or f"error {code}"
