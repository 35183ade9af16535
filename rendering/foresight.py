"""What one viewer will need soon, as chunks to fetch ahead."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import ChunkIndices, LodLimits
from scene_store.prefetch import PosePredictor, pages_of, prefetch_chunks
from scene_store.tree import LodTree
from splat.camera import Camera

COARSE_OF_KEPT = 0.15  # pages of the coarsest levels, wherever one looks, by those in view


class Foresight:
    """Follows a camera and names the chunks that its predicted views need.

    They are worked out anew only when the prediction or the limits change: one selection for
    each predicted view, a good part of a frame's cost of choosing.

    Args:
        tree: Of the scene.
    """

    def __init__(self, tree: LodTree) -> None:
        self._tree = tree
        self._predictor = PosePredictor(_size(tree))
        self._worked_out: tuple[tuple[Camera, ...], LodLimits] | None = None

    def look(
        self,
        camera: Camera,
        now: float,
        latency_s: float,
        limits: LodLimits,
        resident: NDArray[np.bool_],
        lost: NDArray[np.bool_],
        kept: ChunkIndices,
    ) -> ChunkIndices | None:
        """The chunks for what comes after this view, most urgent first; None for no change.

        Args:
            camera: The newest view.
            now: Seconds of a clock that does not go back.
            latency_s: How long a chunk takes to come.
            limits: Of the view; ``max_pages`` is the pool's.
            resident, lost: [N] what is there, and what will never come.
            kept: What the present views of all clients keep.
        """
        self._predictor.observe(camera, now)
        views = self._predictor.predict(now, latency_s)
        last = self._worked_out
        if last is not None and last[0] is views and last[1] == limits:
            return None
        self._worked_out = views, limits
        kept_pages = int(pages_of(self._tree, limits.page_gaussians)[kept].sum())
        return prefetch_chunks(
            self._tree,
            views,
            resident,
            limits,
            kept,
            lost=lost,
            most_coarse=int(COARSE_OF_KEPT * kept_pages),
            view_pixels=camera.width * camera.height,
        )


def _size(tree: LodTree) -> float:
    """Diagonal of the scene's box."""
    lo, hi = tree.lo[tree.roots].min(axis=0), tree.hi[tree.roots].max(axis=0)
    return math.dist(lo.tolist(), hi.tolist())
