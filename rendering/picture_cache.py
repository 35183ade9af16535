"""Finished pictures, for views that are asked for again.

A camera at rest, several viewers at one pose, an export that repeats itself: the same request
costs nothing the second time. Two pictures are the same bytes if the same Gaussians were drawn
with the same camera and settings, so those three are the key (``Drawable.key``), and nothing
ever has to be invalidated.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from render_cache.byte_cache import ByteCache, CacheStats
from render_cache.reuse import NO_REUSE
from render_cache.view_key import ViewKey
from rendering.base import RasterImage, RasterSettings
from rendering.drawable import Drawable
from splat.camera import Camera


class PictureCache:
    """Pictures by what they show, in a budget of bytes.

    Args:
        budget_bytes: The most that all pictures together may take; 0 for none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._pictures: ByteCache[Hashable, RasterImage] = ByteCache(budget_bytes)

    def get(
        self, drawable: Drawable, camera: Camera, settings: RasterSettings
    ) -> RasterImage | None:
        """The picture, if it was drawn before and is still there."""
        key = _key(drawable, camera, settings)
        return None if key is None else self._pictures.get(key)

    def put(
        self, drawable: Drawable, camera: Camera, settings: RasterSettings, image: RasterImage
    ) -> None:
        """Keep a picture; its arrays can no longer be written to."""
        key = _key(drawable, camera, settings)
        if key is None:
            return
        arrays = image.arrays
        if self._pictures.put(key, image, sum(array.nbytes for array in arrays)):
            for array in arrays:
                array.flags.writeable = False

    def set_budget(self, budget_bytes: int) -> None:
        """Another budget, in force at once."""
        self._pictures.set_budget(budget_bytes)

    def clear(self) -> None:
        """Forget all pictures."""
        self._pictures.clear()

    def stats(self) -> CacheStats:
        """What is held, and how often it helped."""
        return self._pictures.stats()


def _key(drawable: Drawable, camera: Camera, settings: RasterSettings) -> Hashable | None:
    if drawable.key is None:
        return None
    # Any number of threads gives the same bytes, and none of these reuses another eye's splats.
    return drawable.key, ViewKey.of(camera), replace(settings, threads=0, reuse=NO_REUSE)
