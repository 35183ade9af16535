"""Scenes that are made for a request: of models whose Gaussians depend on who looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rendering.base import PagingRasterizer, ScenePart
from rendering.frame import FrameRequest


@runtime_checkable
class RequestRasterizer(PagingRasterizer, Protocol):
    """An engine that makes scenes of parts for a request, once for all that is drawn of it: bands,
    and both eyes."""

    def compose_for(self, parts: Sequence[ScenePart], request: FrameRequest) -> Any:
        """As ``compose``, for the cameras of a request. Others may draw it, too."""


def composed(
    rasterizer: PagingRasterizer, parts: Sequence[ScenePart], request: FrameRequest
) -> Any:
    """The parts as one scene for ``render``."""
    if isinstance(rasterizer, RequestRasterizer):
        return rasterizer.compose_for(parts, request)
    return rasterizer.compose(parts)
