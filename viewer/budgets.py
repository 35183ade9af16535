"""How much memory a streamed scene may take, where the user did not say, and what for."""

from __future__ import annotations

from dataclasses import dataclass

from rendering.device_memory import (
    SCRATCH_BYTES_A_GAUSSIAN,
    DeviceMemory,
    device_budget_bytes,
    estimated_scratch_bytes,
)
from scene_store.ledger import Budgets
from scene_store.memory import DRAW_FACTOR, PEAK_FACTOR, WORKING_BYTES, gaussian_bytes
from splat.errors import BudgetError
from viewer.text import memory_size

# Of what is available; the rest is for pictures, browsers and everybody else.
USABLE_SHARE = 0.6
HOST_SHARE = 0.2  # of what is usable: encoded chunks are small, and the disk is near
MOST_HOST_BYTES = 4 << 30
# Of the device's budget, that finished pictures, and anchors kept decoded, may have at most.
PICTURES_SHARE = 1 / 8
DECODED_SHARE = 1 / 4
UNKNOWN_BYTES = 4 << 30  # taken to be available where the system does not tell


def choose_budgets(
    host: int | None,
    device: int | None,
    available: int | None,
    overhead: int = 0,
    memories: int = 1,
    gpu_bytes: int | None = None,
) -> Budgets:
    """The budgets of a scene: those of processors are host memory, those of GPUs are not.

    Args:
        host, device: The user's, bytes; None for a share of what is left.
        available: What the machine can still give (``scene_store.memory.available_bytes``);
            None if it does not tell.
        overhead: Host memory that reading the scene takes beside its chunks; the user's host
            budget includes it, what is returned does not.
        memories: In the host's, each with the device's budget.
        gpu_bytes: What the smallest GPU can give (``gpu_budget_bytes``); None without GPUs.

    Raises:
        BudgetError: If the user asks for more than there is, or for less than reading takes.
    """
    free = max(0, (UNKNOWN_BYTES if available is None else available) - overhead)
    _require_room(host, device, available, memories)
    _require_gpu_room(device, gpu_bytes)
    if host is not None and overhead:
        host = _without(overhead, host)
    usable = int(USABLE_SHARE * free)
    if host is None:
        share = min(MOST_HOST_BYTES, int(HOST_SHARE * usable))
        # A device budget near all there is leaves the host what it can.
        host = share if device is None else max(0, min(share, free - memories * device))
    if device is None and memories:
        # A host budget beyond its share comes out of the unused rest, as far as that goes.
        device = max(usable - host, (free - host) // 2, 0) // memories
    rooms = [room for room in (device, gpu_bytes) if room is not None]
    return Budgets(host, min(rooms, default=0))


def gpu_budget_bytes(
    memory: DeviceMemory, each_bytes: float, most_gaussians: int, pixels: int
) -> int:
    """What a GPU can give for chunks: the rest is for what frames have between their stages.

    Args:
        memory: Of the card, as it is now.
        each_bytes: Of a Gaussian that can be drawn.
        most_gaussians: That a frame draws at most.
        pixels: Of the largest picture.
    """
    enough = device_budget_bytes(memory, estimated_scratch_bytes(most_gaussians, pixels))
    # Where that leaves little, frames draw no more than what is in the memory.
    both = device_budget_bytes(memory, estimated_scratch_bytes(0, pixels))
    share = each_bytes / (each_bytes + SCRATCH_BYTES_A_GAUSSIAN)
    return max(enough, int(share * both))


def gpu_takes_whole(memory: DeviceMemory, count: int, each_bytes: float, pixels: int) -> bool:
    """Whether a GPU has room for all of a scene, and for frames that draw all of it.

    Args:
        memory: Of the card, as it is now.
        count: Gaussians of the scene.
        each_bytes, pixels: As of ``gpu_budget_bytes``.
    """
    takes = int(count * each_bytes) + estimated_scratch_bytes(count, pixels)
    return takes <= device_budget_bytes(memory, 0)


@dataclass(frozen=True, slots=True)
class KeptBytes:
    """Of each device's memory, what is for things that are kept to save work.

    Attributes:
        pictures: Finished ones.
        decoded: What anchors were decoded to.
    """

    pictures: int = 0
    decoded: int = 0

    def least(self, other: KeptBytes) -> KeptBytes:
        """Of each the smaller number."""
        return KeptBytes(min(self.pictures, other.pictures), min(self.decoded, other.decoded))


def kept_share(budgets: Budgets, most: KeptBytes, least: Budgets) -> KeptBytes:
    """Of the device's budget, what is for things that are kept; all else is for chunks.

    Args:
        budgets: Of a scene.
        most: That is to be kept at all (``render.picture_cache``, ``render.decoded_cache``).
        least: What chunks cannot do without; all others give way to that.
    """
    device = budgets.device_bytes
    room = max(0, device - least.device_bytes)
    pictures = min(most.pictures, int(PICTURES_SHARE * device), room)
    decoded = min(most.decoded, int(DECODED_SHARE * device), room - pictures)
    return KeptBytes(pictures, decoded)


def beside_kept(budgets: Budgets, kept: KeptBytes) -> Budgets:
    """What is left for chunks."""
    return Budgets(budgets.host_bytes, budgets.device_bytes - kept.pictures - kept.decoded)


def needs_of_whole(count: int, sh_degree: int, drawable_bytes: float) -> Budgets:
    """What a scene takes that is in memory as a whole, the most that its reading takes included.

    Args:
        count: Gaussians.
        sh_degree: Of their harmonics.
        drawable_bytes: Of one that can be drawn, on the device.
    """
    return Budgets(
        int(count * gaussian_bytes(sh_degree) * PEAK_FACTOR), int(count * drawable_bytes)
    )


def is_over(host: int | None, device: int | None, whole: Budgets) -> bool:
    """Whether a scene would take more than a budget that the user gave.

    Args:
        host, device: The user's, bytes; None where nothing was said, which nothing exceeds.
        whole: What all of the scene takes.
    """
    over_host = host is not None and whole.host_bytes > host
    return over_host or (device is not None and whole.device_bytes > device)


def unkept_line(
    shown: str, host: int | None, device: int | None, count: int, sh_degree: int
) -> str:
    """What a user should know whose budgets a scene will not keep, as it is read whole.

    Args:
        shown: The scene.
        host, device: The user's budgets; None where nothing was said.
        count, sh_degree: Of the scene.
    """
    takes = int(count * gaussian_bytes(sh_degree) * DRAW_FACTOR) + WORKING_BYTES
    return (
        f"{shown}: {_named(host, device)}: not kept, as the scene is read whole, which takes "
        f"about {memory_size(takes)}; belvedere build makes a store, which is drawn within them"
    )


def require_room(
    budgets: Budgets,
    available: int | None,
    held: int,
    memories: int = 1,
    gpu_bytes: int | None = None,
) -> None:
    """Refuses budgets that the machine cannot give.

    Args:
        budgets: Of a scene that is open.
        available: As in ``choose_budgets``.
        held: What the scene has taken already of the host's memory, bytes.
        memories: In the host's, each with the device's budget.
        gpu_bytes: What the smallest GPU could give when the scene was opened; None without GPUs.

    Raises:
        BudgetError: If the host's memory, or a GPU's, cannot hold that.
    """
    _require_gpu_room(budgets.device_bytes, gpu_bytes, "; the budgets stay as they were")
    asked = budgets.host_bytes + memories * budgets.device_bytes
    if available is None or asked <= available + held:
        return
    devices = (
        f" and {memory_size(budgets.device_bytes)} for {_the_device(memories)}" if memories else ""
    )
    raise BudgetError(
        f"{memory_size(budgets.host_bytes)} for the host{devices} are more than the "
        f"{memory_size(available + held)} that there are; the budgets stay as they were"
    )


def _without(overhead: int, host: int) -> int:
    if host <= overhead:
        raise BudgetError(
            f"--host-budget {memory_size(host)}: reading this scene takes "
            f"{memory_size(overhead)} of it beside the chunks; raise it"
        )
    return host - overhead


def _the_device(memories: int) -> str:
    return "the device" if memories == 1 else f"each of {memories} devices"


def _require_room(
    host: int | None, device: int | None, available: int | None, memories: int
) -> None:
    asked = (host or 0) + memories * (device or 0)
    if available is None or asked <= available:
        return
    if not memories:
        raise BudgetError(f"{_named(host, None)}: {memory_size(available)} are available; lower it")
    raise BudgetError(
        f"{_named(host, device)}: the processor draws from host memory, so "
        f"{'both' if memories == 1 else f'what {memories} devices take'} must fit into the "
        f"{memory_size(available)} that are available; lower them"
    )


def _require_gpu_room(device: int | None, gpu_bytes: int | None, then: str = "") -> None:
    if device is None or gpu_bytes is None or device <= gpu_bytes:
        return
    remedy = then or "; lower it, or end what else is on the card"
    raise BudgetError(
        f"--device-budget {memory_size(device)}: the GPU has {memory_size(gpu_bytes)} for a scene, "
        f"beside what frames take{remedy}"
    )


def _named(host: int | None, device: int | None) -> str:
    options = (("--host-budget", host), ("--device-budget", device))
    return " and ".join(f"{name} {memory_size(size)}" for name, size in options if size)
