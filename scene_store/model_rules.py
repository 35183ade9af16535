"""What streaming has to know of a scene's model, so that it need not know the model."""

from __future__ import annotations

from collections.abc import Sequence

from scene_store.chunks import Model
from scene_store.models.anchor_tree import exact_error_px
from scene_store.models.mixed_chunks import MixedModel
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.fields import FieldModel

FIELD_SCALE = 1 / 12


def enough_px(model: Model | None, cameras: Sequence[Camera]) -> float:
    """An error of a cut, pixels, below which its picture is that of all detail: more is read for
    nothing.

    Args:
        model: None of Gaussians.
        cameras: All views of a request.
    """
    return exact_error_px(model, cameras)


def first_scale(model: Model | None) -> float | None:
    """Of what takes long for each pixel, as fields do on a processor, the resolution to begin with,
    as a share of the full one, per side; None of others."""
    return FIELD_SCALE if isinstance(model, FieldModel | MixedModel) else None


def may_fade(model: Model | None) -> bool:
    """Whether a node and those below it may both be drawn, each in part, while one takes the place
    of the other. Not in an octree of anchors, where those above are among those below."""
    return not (isinstance(model, AnchorModel) and model.levels is not None)
