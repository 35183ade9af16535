"""What one viewer will need soon, as chunks to fetch ahead."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import ChunkIndices, LodLimits
from scene_store.prefetch import PosePredictor, coarse_levels, pages_of, prefetch_chunks
from scene_store.tree import LodTree
from splat.camera import Camera

# The base layer: pages of the coarsest levels, wherever one looks, of the pool's. While a camera
# moves it is no more than so much of what is in view, for what is read then keeps other things
# waiting; once a picture is final there is time for all of it.
BASE_OF_POOL = 0.12
BASE_OF_KEPT = 0.15


class Foresight:
    """Follows a camera and names the chunks that its predicted views need, and the base layer.

    They are worked out anew only when the prediction or the limits change: one selection for
    each predicted view, a good part of a frame's cost of choosing.

    Args:
        tree: Of the scene.
    """

    def __init__(self, tree: LodTree) -> None:
        self._tree = tree
        self._predictor = PosePredictor(_size(tree))
        self._base_pages = 0  # what was fetched once is not given up
        self._worked_out: tuple[tuple[Camera, ...], LodLimits, int] | None = None

    def observe(self, camera: Camera, now: float) -> bool:
        """The newest view; whether it is far from the one before, or the first.

        Args:
            camera: The view.
            now: Seconds of a clock that does not go back.
        """
        return self._predictor.observe(camera, now)

    def look(
        self,
        camera: Camera,
        now: float,
        latency_s: float,
        limits: LodLimits,
        resident: NDArray[np.bool_],
        lost: NDArray[np.bool_],
        kept: ChunkIndices,
        *,
        coming: tuple[Camera, ...] = (),
        final: bool = False,
    ) -> ChunkIndices | None:
        """The chunks for what comes after this view, most urgent first; None for no change.

        Args:
            camera: The newest view, as observed.
            now: Seconds of a clock that does not go back.
            latency_s: How long a chunk takes to come.
            limits: Of the view; ``max_pages`` is the pool's.
            resident, lost: [N] what is there, and what will never come.
            kept: What the present views of all clients keep.
            coming: The views that come next, if they are known; nothing is predicted then.
            final: Whether the view shows all there is, so that nothing else is waited for.
        """
        views = coming or self._predictor.predict(now, latency_s)
        pages = pages_of(self._tree, limits.page_gaussians)
        urgent_pages = min(
            int(BASE_OF_KEPT * pages[kept].sum()), int(BASE_OF_POOL * limits.max_pages)
        )
        wanted_pages = int(BASE_OF_POOL * limits.max_pages) if final else urgent_pages
        base_pages = max(self._base_pages, wanted_pages)
        key = views, limits, base_pages
        last = self._worked_out
        if last is not None and last[0] is views and last[1:] == key[1:]:
            return None
        self._base_pages, self._worked_out = base_pages, key
        return prefetch_chunks(
            self._tree,
            views,
            resident,
            limits,
            kept,
            base=coarse_levels(self._tree, base_pages, limits.page_gaussians),
            urgent=len(coarse_levels(self._tree, urgent_pages, limits.page_gaussians)),
            lost=lost,
            view_pixels=camera.width * camera.height,
        )


def _size(tree: LodTree) -> float:
    """Diagonal of the scene's box."""
    lo, hi = tree.lo[tree.roots].min(axis=0), tree.hi[tree.roots].max(axis=0)
    return math.dist(lo.tolist(), hi.tolist())
