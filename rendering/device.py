"""What draws: the devices of this machine, and virtual ones that divide its processors."""

from __future__ import annotations

from dataclasses import dataclass

from splat.cores import usable_cores
from splat.errors import BackendUnavailable, SettingsError

MAX_DEVICES = 64
HOST_MEMORY = "host"
REMEDY = "use 1 for all of the processor, or a larger number to divide it"


class DeviceLost(Exception):
    """A device is gone, with all that it was doing; another may do it, or this one started anew.

    Raised by rasterizers that can tell. It never reaches who asked for a frame.
    """


@dataclass(frozen=True, slots=True)
class Device:
    """Something that draws on its own.

    Attributes:
        name: Such as ``cpu:0``: schedules and timelines call it so.
        threads: Processor threads that it draws with at most; 0 for as many as a request says.
        memory: Devices with the same word here draw from the same form of a scene. One that a
            single device has is lost with it, but for the host's.

    Raises:
        ValueError: If the number of threads is below 0.
    """

    name: str
    threads: int = 0
    memory: str = HOST_MEMORY

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"{self.name}: threads must be 0 or more, got {self.threads}")

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


def parse_devices(
    text: str, cores: int | None = None, *, own_memories: bool = False
) -> tuple[Device, ...]:
    """The devices of an option or a setting: ``auto``, ``cpu`` or a number of CPU devices.

    Args:
        text: The setting.
        cores, own_memories: As of ``cpu_devices``.

    Raises:
        SettingsError: If it is none of these.
        BackendUnavailable: If it asks for a GPU.
    """
    word = text.strip().lower()
    if word in ("auto", "cpu"):
        return cpu_devices(1, cores)
    if word.partition(":")[0] in ("cuda", "gpu"):
        raise BackendUnavailable(f"devices: there is no engine for {word} yet; {REMEDY}")
    if not word.isascii() or not word.isdigit():
        raise SettingsError(f"devices: {text!r} is no number of devices; {REMEDY}")
    return cpu_devices(int(word), cores, own_memories=own_memories)
