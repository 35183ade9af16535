"""What draws the chunks of which model: the one place that knows."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from render_cache.derived_rule import DEFAULT_LIMITS, DerivedLimits
from rendering.base import PagingRasterizer
from scene_store.chunks import Model
from scene_store.models.mixed_chunks import MixedModel
from splat.anchors import AnchorModel
from splat.errors import SettingsError
from splat.fields import FieldModel, PagedFieldModel

if TYPE_CHECKING:
    from rendering.models.anchor_reuse import ReuseChoices
    from rendering.models.decoded_room import MemoryRoom

# By the model's class, the module and what makes the renderer: imported when such a scene is drawn.
_RENDERERS: dict[type[Any], tuple[str, str]] = {
    AnchorModel: ("rendering.models.anchors", "anchor_rasterizer"),
    FieldModel: ("rendering.models.fields", "FieldRasterizer"),
    PagedFieldModel: ("rendering.models.fields", "FieldRasterizer"),
    MixedModel: ("rendering.models.mixed", "MixedRasterizer"),
}


@dataclass(frozen=True, slots=True)
class ModelWishes:
    """What a user may want of a renderer; each takes what concerns it.

    Attributes:
        limits: Of decoded anchors that are drawn again.
        appearance: The training picture whose look anchors have; None for the mean of all. In a
            scene of several, those that have no looks are as they are.
        choices: Of how far decoded anchors are drawn again, to be shared by all devices; None if
            there is but one.
        room: For decoded anchors in the device's memory, shared by all who keep some there; None
            for what ``limits`` says.
    """

    limits: DerivedLimits = DEFAULT_LIMITS
    appearance: int | None = None
    choices: ReuseChoices | None = None
    room: MemoryRoom | None = None

    def within(self, part: Model | None) -> ModelWishes:
        """For a part of a scene of several."""
        has_looks = isinstance(part, AnchorModel) and part.appearances is not None
        return self if has_looks else replace(self, appearance=None)


def renderer_of(
    model: Model | None, engine: PagingRasterizer, wishes: ModelWishes = ModelWishes()
) -> PagingRasterizer:
    """What draws a scene on a device: the engine itself if it is one of Gaussians, else a renderer
    of the model that has the engine draw what becomes of it.

    Args:
        model: What the scene's chunks share; None for Gaussians.
        engine: Of the device.
        wishes: The user's.

    Raises:
        SettingsError: If the model cannot be drawn so.
    """
    if model is None:
        return engine
    module, name = _RENDERERS[type(model)]
    make = getattr(importlib.import_module(module), name)
    options: dict[str, Any] = {}
    if isinstance(model, AnchorModel):
        _require_appearance(model, wishes.appearance)
        options = {
            "limits": wishes.limits,
            "appearance": wishes.appearance,
            "choices": wishes.choices,
            "room": wishes.room,
        }
    elif isinstance(model, MixedModel):
        options = {"wishes": wishes}
    renderer: PagingRasterizer = make(model, engine, **options)
    return renderer


def anchor_parts(model: Model | None) -> int:
    """In how many parts of a scene anchors are decoded, each by a renderer of its own."""
    parts = [part.model for part in model.parts] if isinstance(model, MixedModel) else [model]
    return sum(isinstance(part, AnchorModel) for part in parts)


def _require_appearance(model: AnchorModel, appearance: int | None) -> None:
    there = 0 if model.appearances is None else len(model.appearances)
    if appearance is not None and appearance >= there:
        has = f"{there} of them, counted from 0" if there else "none"
        raise SettingsError(f"render.appearance: {appearance}, but the scene has {has}")
