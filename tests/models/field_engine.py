"""Pictures of fields as the engine of the CPU draws them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rendering.base import RasterSettings
from rendering.models.fields import FieldRasterizer
from rendering.native.cpu import NativeRasterizer
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import block_of
from splat.camera import Camera
from splat.fields import Field, FieldModel
from splat.rows import Rows


def drawn(fields: Sequence[Field], cameras: Sequence[Camera]) -> NDArray[np.float32]:
    """[N, 3] of all pixels of all cameras, over the fields' own background.

    Args:
        fields: Blocks of one scene, side by side.
    """
    rasterizer = FieldRasterizer(FieldModel((fields[0].kind,)), NativeRasterizer())
    rows = [block_rows(block_of(field, site)) for site, field in enumerate(fields)]
    scene = rasterizer.prepare(Rows.concatenate(rows))
    settings = RasterSettings(background=fields[0].background or (0.0, 0.0, 0.0))
    pictures = [rasterizer.render(scene, camera, settings).color for camera in cameras]
    return np.concatenate([color.reshape(-1, 3) for color in pictures if color is not None])
