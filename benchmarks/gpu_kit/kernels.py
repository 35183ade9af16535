"""What Triton made of our kernels: registers, shared memory, spills."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.report import Row

PACKAGE = "rendering.fused_kernels"


def compiled_kernels() -> list[Row]:
    """Of every kernel of ours that was launched in this process; none in a dry run, whose kernels
    are interpreted."""
    return [row for function in _functions() for row in resources_of(function)]


def resources_of(function: Any) -> Iterator[Row]:
    """A row for each form in which a ``triton.JITFunction`` was compiled (Triton 3.6)."""
    for caches in getattr(function, "device_caches", {}).values():
        for kernel in caches[0].values():
            compiled = kernel.result() if hasattr(kernel, "result") else kernel
            yield {
                "kernel": compiled.metadata.name,
                "warps": compiled.metadata.num_warps,
                "registers": getattr(compiled, "n_regs", None),
                "spills": getattr(compiled, "n_spills", None),
                "shared_bytes": compiled.metadata.shared,
                "constants": _constants(compiled.src),
            }


def _functions() -> Iterable[Any]:
    package = importlib.import_module(PACKAGE)
    found = {}
    for info in pkgutil.iter_modules(package.__path__, f"{PACKAGE}."):
        for value in vars(importlib.import_module(info.name)).values():
            if hasattr(value, "device_caches"):
                found[id(value)] = value  # modules import each other's
    return found.values()


def _constants(source: Any) -> dict[str, Any]:
    """Compile-time arguments by name, but for those that are equal to one or none by chance."""
    names = source.fn.arg_names
    return {
        names[place[0]]: value
        for place, value in source.constants.items()
        if names[place[0]].isupper()
    }
