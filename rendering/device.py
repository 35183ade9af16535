"""What draws: the devices of this machine, and virtual ones that divide its processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rendering.gpu_support import GpuSupport
from splat.cores import usable_cores
from splat.errors import BackendUnavailable, SettingsError

MAX_DEVICES = 64
HOST_MEMORY = "host"
GPU_PREFIX = "cuda:"
REMEDY = "use 1 for all of the processor, or a larger number to divide it"
GPU_WORDS = ("cuda", "gpu")
WORDS = "auto, cpu, a number, cuda, cuda:0, or several of cuda:N and cpu with commas between"


class DeviceLost(Exception):
    """A device is gone, with all that it was doing; another may do it, or this one started anew.

    Raised by rasterizers that can tell. It never reaches who asked for a frame.
    """


@dataclass(frozen=True, slots=True)
class Device:
    """Something that draws on its own.

    Attributes:
        name: Such as ``cpu:0`` or ``cuda:0``: schedules and timelines call it so.
        threads: Processor threads that it draws with at most; 0 for as many as a request says.
        memory: Devices with the same word here draw from the same form of a scene. One that a
            single device has is lost with it, but for the host's.
        title: What people call it; "" if it has no other name.

    Raises:
        ValueError: If the number of threads is below 0.
    """

    name: str
    threads: int = 0
    memory: str = HOST_MEMORY
    title: str = ""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"{self.name}: threads must be 0 or more, got {self.threads}")

    @property
    def is_gpu(self) -> bool:
        """Whether it is a graphics processor."""
        return self.name.startswith(GPU_PREFIX)

    def threads_for(self, wanted: int) -> int:
        """For a request that wants so many, 0 for all there are."""
        if not self.threads:
            return wanted
        return min(wanted, self.threads) if wanted else self.threads


def cpu_devices(
    count: int = 1, cores: int | None = None, *, own_memories: bool = False
) -> tuple[Device, ...]:
    """The processor as one device, or divided among several.

    One device uses what a request allows it. Several get an even share of the cores each, at
    least one thread: more devices than cores share cores, which is slower, but works.

    Args:
        count: Devices.
        cores: To divide; None for those that this process may use.
        own_memories: Have each of several devices hold what it draws by itself, as GPUs do, and
            lose it when it fails.

    Raises:
        SettingsError: If the count is out of range.
    """
    if not 1 <= count <= MAX_DEVICES:
        raise SettingsError(f"devices: {count} is not between 1 and {MAX_DEVICES}; {REMEDY}")
    if count == 1:
        return (Device("cpu:0"),)
    each, more = divmod(usable_cores() if cores is None else cores, count)
    names = [f"cpu:{i}" for i in range(count)]
    return tuple(
        Device(name, max(1, each + (i < more)), name if own_memories else HOST_MEMORY)
        for i, name in enumerate(names)
    )


def gpu_device(index: int, title: str = "") -> Device:
    """A graphics processor, which has a memory of its own."""
    name = f"{GPU_PREFIX}{index}"
    return Device(name, memory=name, title=title)


def parse_devices(
    text: str,
    cores: int | None = None,
    *,
    own_memories: bool = False,
    find_gpus: Callable[[], GpuSupport] | None = None,
) -> tuple[Device, ...]:
    """The devices of an option or a setting, in its order; see ``WORDS``.

    ``auto`` is the processor here: who knows of engines decides about GPUs.

    Args:
        text: The setting.
        cores, own_memories: As of ``cpu_devices``.
        find_gpus: Asked if GPUs are wanted; None if no engine is there that draws on them.

    Raises:
        SettingsError: If it is none of these.
        BackendUnavailable: If it asks for a GPU that is not there, or cannot be used.
    """
    words = [word.strip() for word in text.lower().split(",")]
    if words in (["auto"], ["cpu"]):
        return cpu_devices(1, cores)
    if len(words) == 1 and words[0].isascii() and words[0].isdigit():
        return cpu_devices(int(words[0]), cores, own_memories=own_memories)
    if all(word == "cpu" or _is_gpu_word(word) for word in words):
        return _mixed(text, words, cores, own_memories, find_gpus)
    raise SettingsError(f"devices: {text!r} names no devices; use {WORDS}")


def names_gpus(text: str) -> bool:
    """Whether a setting asks for a GPU."""
    return any(_is_gpu_word(word.strip()) for word in text.lower().split(","))


def _is_gpu_word(word: str) -> bool:
    kind, colon, index = word.partition(":")
    return kind in GPU_WORDS and (not colon or (index.isascii() and index.isdigit()))


def _mixed(
    text: str,
    words: list[str],
    cores: int | None,
    own_memories: bool,
    find_gpus: Callable[[], GpuSupport] | None,
) -> tuple[Device, ...]:
    """Devices that are listed; several that are ``cpu`` divide the cores."""
    count = words.count("cpu")
    processors = iter(cpu_devices(count, cores, own_memories=own_memories) if count else ())
    support = find_gpus() if find_gpus is not None and count < len(words) else None
    if support is not None and not support.gpus:
        raise BackendUnavailable(
            f"devices: {text}: no GPU can be used: {support.problem}; without --devices the "
            "processor draws"
        )
    devices: list[Device] = []
    for word in words:
        if word == "cpu":
            devices.append(next(processors))
        elif support is None:
            raise BackendUnavailable(f"devices: {word}: the engine draws on processors alone")
        else:
            index = word.partition(":")[2]
            found = support.require(int(index) if index else None)
            devices += [gpu_device(gpu.index, gpu.name) for gpu in found]
    if len({device.name for device in devices}) < len(devices):
        raise SettingsError(f"devices: {text!r} names a device twice")
    if len(devices) > MAX_DEVICES:
        raise SettingsError(f"devices: {len(devices)} are more than {MAX_DEVICES}")
    return tuple(devices)
