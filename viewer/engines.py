"""The rasterizer that the settings name, imported only when it is wanted."""

from __future__ import annotations

from typing import Literal

from rendering.base import PagingRasterizer


def create_rasterizer(engine: Literal["native", "reference"]) -> PagingRasterizer:
    """The engine of ``RenderSettings.engine``.

    Raises:
        BackendUnavailable: If this machine or installation lacks what it needs.
    """
    if engine == "reference":
        from rendering.reference import ReferenceRasterizer

        return ReferenceRasterizer()
    from rendering.native.cpu import NativeRasterizer

    return NativeRasterizer()
