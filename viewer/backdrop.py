"""What is behind a scene where nobody chose it."""

from __future__ import annotations

from dataclasses import replace

from configs.settings import RenderSettings, Rgb
from scene_store.chunks import Model, model_of
from scene_store.models.mixed_chunks import MixedModel
from splat.fields import FieldModel
from viewer.scenes import OpenedScene
from viewer.streams import OpenedStream


def backdrop_of(model: Model | None) -> Rgb | None:
    """RGB that a scene of nothing but radiance fields was trained before, if they agree; else None.

    Beside Gaussians or anchors, which were trained before another one, fields have no say.
    """
    if isinstance(model, FieldModel):
        return model.background
    if isinstance(model, MixedModel) and all(
        isinstance(part.model, FieldModel) for part in model.parts
    ):
        return model.background
    return None


def before_backdrop(render: RenderSettings, opened: OpenedScene | OpenedStream) -> RenderSettings:
    """The settings with the scene's own background, where it has one and nobody chose another."""
    if render.background is not None or not isinstance(opened, OpenedStream):
        return render
    return replace(render, background=backdrop_of(model_of(opened.source)))
