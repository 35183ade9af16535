"""Which variant computes a field's components."""

from __future__ import annotations

import importlib

from rendering.models.components.contracts import Components, Variant
from splat.errors import BackendUnavailable

_NATIVE_MODULE = "rendering.models.native._neural"


def components_for(
    device: str = "cpu", variant: Variant | None = None, threads: int = 0
) -> Components:
    """The components for a device.

    Args:
        device: ``cpu``, or torch's name of another device.
        variant: None for the fastest that the device has: native on the processor, torch on
            others (and on a processor without the native module).
        threads: Of native components; 0 for one a core.

    Raises:
        BackendUnavailable: If that variant is not to be had here.
    """
    chosen = variant or _fastest(device)
    if chosen is Variant.NATIVE:
        if device != "cpu":
            raise BackendUnavailable(f"native components run on the processor, not on {device}")
        from rendering.models.components.native import NativeComponents

        return NativeComponents(threads=threads)
    from rendering.models.components.torch_components import TorchComponents

    return TorchComponents(device, double=chosen is Variant.REFERENCE)


def _fastest(device: str) -> Variant:
    if device != "cpu":
        return Variant.TORCH
    try:
        importlib.import_module(_NATIVE_MODULE)
    except ImportError:  # not built, or built for another Python
        return Variant.TORCH
    return Variant.NATIVE
