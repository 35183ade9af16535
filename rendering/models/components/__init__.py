"""The components that renderers of neural models are put together from."""

from __future__ import annotations

from rendering.models.components.contracts import (
    DONE,
    OPAQUE,
    UNIT_CUBE,
    Accumulators,
    Components,
    Domain,
    Evaluator,
    Marcher,
    Samples,
    Variant,
)
from rendering.models.components.registry import components_for

__all__ = [
    "DONE",
    "OPAQUE",
    "UNIT_CUBE",
    "Accumulators",
    "Components",
    "Domain",
    "Evaluator",
    "Marcher",
    "Samples",
    "Variant",
    "components_for",
]
