"""What errors of CUDA mean, by the texts that torch, Triton and the driver give them."""

from __future__ import annotations

import pytest

from rendering.cuda_faults import fault_of, faults_of
from rendering.device import DeviceLost
from splat.errors import BackendUnavailable, BelvedereError, BudgetError, RenderCancelled

MORE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the"
    " stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
    "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)


# Classes of these names, for torch may be one without them, and Triton may not be there.
class AcceleratorError(RuntimeError):
    """As torch's."""


class OutOfMemoryError(RuntimeError):
    """As torch's."""


class OutOfResources(Exception):
    """As Triton's."""


MEMORY = [
    OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.78 GiB of"
        " which 1.19 GiB is free. Process 4711 has 5.11 GiB memory in use."
    ),
    RuntimeError("CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0; 8.00 GiB total)"),
    AcceleratorError("CUDA error: out of memory" + MORE),  # pinned host memory, too
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":830'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]
LOST = [
    AcceleratorError("CUDA error: an illegal memory access was encountered" + MORE),
    RuntimeError("CUDA error: an illegal memory access was encountered" + MORE),
    AcceleratorError("CUDA error: unspecified launch failure" + MORE),
    AcceleratorError("CUDA error: uncorrectable ECC error encountered" + MORE),
    AcceleratorError("CUDA error: the launch timed out and was terminated" + MORE),
    AcceleratorError("CUDA error: misaligned address" + MORE),
    AcceleratorError("CUDA error: device-side assert triggered" + MORE),
    AcceleratorError("CUDA error: unknown error" + MORE),  # fell off the bus
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: invalid argument"),
]
NEVER = [
    RuntimeError(
        "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
        " driver by downloading and installing a new version"
    ),
    RuntimeError(
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and"
        " installed a driver from http://www.nvidia.com/Download/index.aspx"
    ),
    RuntimeError("No CUDA GPUs are available"),
    AssertionError("Torch not compiled with CUDA enabled"),
    AcceleratorError("CUDA error: CUDA driver version is insufficient for CUDA runtime version"),
    AcceleratorError("CUDA error: no kernel image is available for execution on the device" + MORE),
    AcceleratorError("CUDA error: invalid device ordinal" + MORE),
    AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable" + MORE),
    RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable" + MORE),
    RuntimeError("0 active drivers ([]). There should only be one."),
    RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
    OutOfResources(
        "out of resource: shared memory, Required: 131072, Hardware limit: 101376. Reducing block"
        " sizes or `num_stages` may help."
    ),
]
OURS = [
    BudgetError("too little"),
    RenderCancelled("newer"),
    DeviceLost("gone"),
    MemoryError("CUDA out of memory"),
    RuntimeError("the loader is closed"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    AssertionError(),
    ValueError("CUDA error: of somebody's naming"),
    KeyError("CUDA error"),
]


def named(error: BaseException) -> str:
    return f"{type(error).__name__}-{str(error)[:50]}"


@pytest.mark.parametrize("error", MEMORY, ids=named)
def test_memory_that_runs_out(error: Exception) -> None:
    fault = fault_of(error, "cuda:1", "a frame of 5 Gaussians")
    assert isinstance(fault, BudgetError)
    assert "cuda:1 has no memory for a frame of 5 Gaussians" in str(fault)
    assert "--device-budget" in str(fault)


@pytest.mark.parametrize("error", LOST, ids=named)
def test_a_device_that_is_lost(error: Exception) -> None:
    fault = fault_of(error, "cuda:0", "a frame")
    assert isinstance(fault, DeviceLost)
    assert str(fault).startswith("cuda:0 failed at a frame: ")
    assert "\n" not in str(fault) and "stacktrace" not in str(fault)


@pytest.mark.parametrize("error", NEVER, ids=named)
def test_a_device_that_cannot_be_used(error: Exception) -> None:
    fault = fault_of(error, "cuda:0", "a frame")
    assert isinstance(fault, BackendUnavailable)
    assert "the CPU engine is used instead" in str(fault)
    assert "\n" not in str(fault)


@pytest.mark.parametrize("error", OURS, ids=named)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert fault_of(error, "cuda:0", "a frame") is None
    with pytest.raises(type(error)) as caught, faults_of("cuda:0", "a frame"):
        raise error
    assert caught.value is error


def test_torch_itself_is_understood() -> None:
    torch = pytest.importorskip("torch")
    fault = fault_of(torch.OutOfMemoryError("CUDA out of memory."), "cuda:0", "a frame")
    assert isinstance(fault, BudgetError)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="CPU engine"), faults_of("cuda:0", "it"):
            torch.zeros(1, device="cuda:0")


@pytest.mark.parametrize("in_use", [False, True])
def test_what_cannot_be_used_while_it_is_counts_as_lost(in_use: bool) -> None:
    expected: type[Exception] = DeviceLost if in_use else BackendUnavailable
    with pytest.raises(expected) as caught, faults_of("cuda:0", "a frame", in_use=in_use):
        raise NEVER[-1]
    assert caught.value.__cause__ is NEVER[-1]
    assert isinstance(caught.value, BelvedereError) is not in_use
