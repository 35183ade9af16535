"""What an error of CUDA, torch or Triton means: too little memory, a lost device, or none at all.

::

    out of memory                 → BudgetError          the engine goes on; so does the device
    no device, driver, or kernel  → BackendUnavailable   never, on this machine
      for it; memory never fits
    anything else that CUDA says  → DeviceLost           the context is gone with all in it

After an illegal access, a failed launch, an uncorrectable ECC error or a card that fell off the
bus every later call fails with the same error (CUDA calls it sticky), so what is not known to be
harmless counts as lost. Errors come late: a call reports what an earlier launch did. Texts are
looked at, for torch has one class for all of them (``torch.AcceleratorError``, and ``RuntimeError``
before it had that), and Triton raises plain ``RuntimeError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rendering.device import DeviceLost
from splat.errors import BackendUnavailable, BelvedereError, BudgetError, one_line

CPU_INSTEAD = "the CPU engine is used instead"

# Each in lower case; the first that is found tells. Sources: torch's c10/cuda and its lazy
# initialization, Triton's driver and ``triton.runtime.errors``, cudaGetErrorString.
_MEMORY = (
    "out of memory",  # torch.OutOfMemoryError, cudaErrorMemoryAllocation, Triton Error [CUDA]
    "can't allocate memory",  # of the host
    "cublas_status_alloc_failed",
    "nvml_success == r",  # torch asserts so where its allocator finds no memory
)
_NEVER = (
    "driver on your system is too old",
    "driver version is insufficient",
    "found no nvidia driver",
    "no cuda gpus are available",
    "no cuda-capable device is detected",
    "not compiled with cuda enabled",
    "invalid device ordinal",
    "unsupported display driver",
    "no kernel image is available",
    "unsupported toolchain",  # "the provided PTX was compiled with an unsupported toolchain"
    "device kernel image is invalid",
    "forward compatibility was attempted",
    "system not yet initialized",
    "busy or unavailable",  # another process has the card for itself
    "out of resource: ",  # triton.OutOfResources: shared memory, registers or threads of a kernel
    "0 active drivers",  # triton
    "cannot find a working triton installation",
    "failed to find c compiler",  # Triton compiles its launchers
)
_LOST = (
    "cuda error",  # "CUDA error: an illegal memory access was encountered" and all others
    "triton error [cuda]",
    "cuda driver error",
    "cuda runtime error",
    "cudnn_status_",
    "cublas_status_",
    "nvrtc error",
    "device-side assert",
)
_KINDS: tuple[tuple[tuple[str, ...], type[BudgetError | BackendUnavailable | DeviceLost]], ...] = (
    (_MEMORY, BudgetError),
    (_NEVER, BackendUnavailable),
    (_LOST, DeviceLost),
)
# AssertionError is what a torch without CUDA raises.
_FOREIGN = frozenset({"RuntimeError", "AssertionError", "OutOfResources"})


def fault_of(
    error: BaseException, device: str, doing: str
) -> BudgetError | BackendUnavailable | DeviceLost | None:
    """What an error means; None if it is none of CUDA's.

    Args:
        error: As it was raised.
        device: Such as ``cuda:0``.
        doing: What failed, for people: ``a frame of 1,000,000 Gaussians``.
    """
    if isinstance(error, BelvedereError | DeviceLost | MemoryError):
        return None
    if _FOREIGN.isdisjoint(base.__name__ for base in type(error).__mro__):
        return None
    said = _first_line(error)
    text = f"{type(error).__name__}: {error}".lower()
    kind = next((kind for marks, kind in _KINDS if any(mark in text for mark in marks)), None)
    if kind is BudgetError:
        return BudgetError(
            f"{device} has no memory for {doing}; use a smaller --device-budget, or end what else "
            "is on the card"
        )
    if kind is BackendUnavailable:
        return BackendUnavailable(f"{device} cannot be used: {said}; {CPU_INSTEAD}")
    return DeviceLost(f"{device} failed at {doing}: {said}") if kind is DeviceLost else None


@contextmanager
def faults_of(device: object, doing: str, *, in_use: bool = False) -> Iterator[None]:
    """Errors of CUDA in the block are raised as what they mean.

    Args:
        device: Where; its ``str`` is shown.
        doing: As of ``fault_of``.
        in_use: The device has work already: if it can never do it, that is as if it were lost,
            for then others do it, and whoever starts the device anew hears why it cannot be used.

    Raises:
        BudgetError: If memory ran out.
        BackendUnavailable: If the device can never do this, and is not in use.
        DeviceLost: If it is gone.
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error, str(device), doing)
        if fault is None:
            raise
        if in_use and isinstance(fault, BackendUnavailable):
            fault = DeviceLost(str(fault))
        try:
            raise fault from error
        finally:
            del fault  # a cycle, which would keep what the failing call held until it is collected


def _first_line(error: BaseException) -> str:
    """Of its text; the others tell developers of torch how to look for the cause."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0].rstrip(".") if lines else type(error).__name__)
