"""The rasterizer that the settings name, imported only when it is wanted."""

from __future__ import annotations

from typing import Literal

from rendering.base import PagingRasterizer

# Beside the budgets of a streamed scene, which it is to stay small against.
STREAM_RECORD_BUDGET_BYTES = 160 << 20


def create_rasterizer(
    engine: Literal["native", "reference"], *, streamed: bool = False
) -> PagingRasterizer:
    """The engine of ``RenderSettings.engine``; with less memory a frame for a streamed scene.

    Raises:
        BackendUnavailable: If this machine or installation lacks what it needs.
    """
    if engine == "reference":
        from rendering.reference import ReferenceRasterizer

        return ReferenceRasterizer()
    from rendering.native.cpu import NativeRasterizer

    if streamed:
        return NativeRasterizer(record_budget_bytes=STREAM_RECORD_BUDGET_BYTES)
    return NativeRasterizer()
