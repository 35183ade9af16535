"""Which GPUs can draw, and what is missing where none can: the rules, and what is asked for them.

A GPU needs a driver as new as the CUDA that torch was built for (by major version: within one,
NVIDIA's drivers run what newer minor versions built), a torch built for CUDA, and what its engine
draws with. Whatever else may be in the way, a picture at the start tells (``gpu_trial``).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rendering.gpu_discovery import Absence, DriverReport, Gpu, Version, ask_driver
from rendering.torch_build import TorchBuild, installed_torch
from splat.errors import BackendUnavailable

GPU_ENGINES = ("fused", "gsplat")
# Triton 3.6 says 8.0, and compiles our kernels for 7.0, too, with products by plain arithmetic.
LEAST_CAPABILITY: Version = (7, 0)
INTERPRETER_VARIABLE = "TRITON_INTERPRET"


@dataclass(frozen=True, slots=True)
class GpuSupport:
    """What an engine finds on a machine.

    Attributes:
        engine: Of ``GPU_ENGINES``.
        gpus: Those that it can draw on.
        refused: Those that it cannot.
        problem: What is missing, and what to do; "" if nothing is.
        is_surprising: Whether somebody who has a GPU should hear of the problem.
    """

    engine: str
    gpus: tuple[Gpu, ...] = ()
    refused: tuple[Gpu, ...] = ()
    problem: str = ""
    is_surprising: bool = False

    @property
    def error(self) -> BackendUnavailable:
        """For who asked for it."""
        return BackendUnavailable(
            f"engine {self.engine}: no GPU can be used: {self.problem}; without --engine and "
            "--devices the processor draws"
        )

    def require(self, index: int | None = None) -> tuple[Gpu, ...]:
        """All GPUs, or the one of an index.

        Raises:
            BackendUnavailable: If there are none, or that one cannot be used.
        """
        if not self.gpus:
            raise self.error
        if index is None:
            return self.gpus
        for gpu in self.gpus:
            if gpu.index == index:
                return (gpu,)
        for gpu in self.refused:
            if gpu.index == index:
                raise BackendUnavailable(f"devices: {gpu.device}: {_too_old([gpu])}")
        there = ", ".join(gpu.device for gpu in self.gpus)
        raise BackendUnavailable(f"devices: there is no cuda:{index}; use {there}")


def support_of(
    driver: DriverReport, torch: TorchBuild | None, engine: str, *, interpreted: bool = False
) -> GpuSupport:
    """What an engine can use. Pure.

    Args:
        driver: What the driver says.
        torch: What is installed.
        engine: Of ``GPU_ENGINES``.
        interpreted: Whether Triton's interpreter would run the kernels.
    """
    if not driver.gpus:
        surprising = driver.absence is Absence.BROKEN
        return GpuSupport(engine, problem=driver.problem, is_surprising=surprising)
    able = tuple(gpu for gpu in driver.gpus if gpu.capability >= LEAST_CAPABILITY)
    refused = tuple(gpu for gpu in driver.gpus if gpu not in able)
    if not able:
        return GpuSupport(engine, (), refused, _too_old(refused), is_surprising=True)
    problem = _missing(driver, torch, engine, interpreted)
    if problem:
        found = f"{named(able)} found, but {problem}"
        return GpuSupport(engine, (), refused, found, is_surprising=True)
    return GpuSupport(engine, able, refused)


def find_support(engine: str) -> GpuSupport:
    """``support_of`` this machine."""
    interpreted = os.environ.get(INTERPRETER_VARIABLE) == "1"
    driver = _driver()
    torch = _torch() if driver.gpus else None
    return support_of(driver, torch, engine, interpreted=interpreted)


def named(gpus: Sequence[Gpu]) -> str:
    """The names of GPUs, each once: ``2 × NVIDIA H200``."""
    names = [gpu.name for gpu in gpus]
    each = dict.fromkeys(names)
    return ", ".join(f"{names.count(n)} × {n}" if names.count(n) > 1 else n for n in each)


def _python() -> str:
    """What runs this, as it may be typed."""
    python = Path(sys.executable)
    here = Path.cwd()
    return str(python.relative_to(here) if python.is_relative_to(here) else python)


def _missing(driver: DriverReport, torch: TorchBuild | None, engine: str, interpreted: bool) -> str:
    if torch is None:
        return "torch is not installed; pip install torch"
    if torch.cuda is None:
        kind = "a build for ROCm" if torch.rocm else "a CPU build"
        return (
            f"torch {torch.version} is {kind}; PIP_FIND_LINKS= {_python()} -m pip install "
            f"--force-reinstall torch=={torch.release} brings the one for CUDA on Linux"
        )
    if driver.cuda is not None and driver.cuda[0] < torch.cuda[0]:
        return (
            f"its driver runs CUDA up to {_dotted(driver.cuda)}, and torch {torch.version} is for "
            f"CUDA {_dotted(torch.cuda)}; update the driver, or install a torch for CUDA "
            f"{driver.cuda[0]}"
        )
    if engine == "gsplat":
        return "" if torch.gsplat else "gsplat is not installed; pip install gsplat"
    if not torch.triton:
        return "Triton is not installed; pip install triton"
    if interpreted:
        return f"{INTERPRETER_VARIABLE}=1 has its kernels interpreted; unset it"
    return ""


def _too_old(gpus: Sequence[Gpu]) -> str:
    capability = _dotted(max(gpu.capability for gpu in gpus))
    return (
        f"{named(gpus)} has compute capability {capability}, and {_dotted(LEAST_CAPABILITY)} is "
        "needed"
    )


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


@functools.cache
def _driver() -> DriverReport:
    return ask_driver()


@functools.cache
def _torch() -> TorchBuild | None:
    return installed_torch()
