"""Where the Gaussians of a scene are, for devices that draw a part of it each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import ALPHA_CUT
from rendering.depth_slabs import DepthMasses, DepthNeeds, spread
from scene_store.tree import LodTree
from splat.bounds import BoxesInView, ViewVolume
from splat.camera import Camera, CameraModel, Float64Array
from splat.gaussians import Float32Array, Gaussians

SAMPLES = 4096  # of a scene that has no chunks; borders between slabs lie where they are


@dataclass(frozen=True, slots=True, eq=False)
class SceneParts:
    """P boxes that hold all Gaussians of a scene, or a sample of P Gaussians of it.

    Attributes:
        gaussians: Of the whole scene.
        low, high: [P, 3] float32, corners of the boxes of the means, world units.
        max_scale: [P] float32, as of ``ViewVolume.may_see``.
        counts: [P] Gaussians in each; of a sample, any equal numbers.
        compose: From indices of boxes, ascending, to the scene of their Gaussians alone, in the
            order of the whole. None where only the whole can be drawn: engines skip by themselves
            what is out of a camera's range.
    """

    gaussians: int
    low: Float32Array
    high: Float32Array
    max_scale: Float32Array
    counts: NDArray[np.int64]
    compose: Callable[[NDArray[np.intp]], Any] | None = None

    @classmethod
    def sampled(cls, gaussians: Gaussians) -> SceneParts:
        """Of a scene in which neighbours need not follow each other; no reference is kept."""
        step = -(-len(gaussians) // SAMPLES) or 1
        rows = np.flatnonzero(gaussians.opacities[::step] >= ALPHA_CUT) * step
        means, scales = gaussians.means[rows], gaussians.scales[rows]
        return cls(
            len(gaussians),
            means,
            means,
            scales.max(axis=1, initial=0.0),
            np.ones(len(rows), np.int64),
        )

    @classmethod
    def of_chunks(
        cls,
        tree: LodTree,
        chunks: Sequence[int],
        compose: Callable[[NDArray[np.intp]], Any] | None,
    ) -> SceneParts:
        """Of some chunks of a tree."""
        counts = tree.count[chunks].astype(np.int64)
        return cls(
            int(counts.sum()),
            tree.lo[chunks],
            tree.hi[chunks],
            tree.max_scale[chunks],
            counts,
            compose,
        )

    def masses(self, camera: Camera) -> DepthMasses:
        """How many Gaussians the camera sees, by depth."""
        return spread(*self._intervals(camera))

    def needs(self, camera: Camera) -> DepthNeeds:
        """How much must be there for what the camera sees, by depth."""
        return DepthNeeds.of(*self._intervals(camera))

    def scene_for(self, camera: Camera, whole: Any) -> Any:
        """A scene that holds all that the camera sees, and not much more.

        Args:
            whole: The scene of all parts.
        """
        if self.compose is None:
            return whole
        seen = np.flatnonzero(self._seen_by(camera))
        return whole if len(seen) == len(self.counts) else self.compose(seen)

    def _intervals(self, camera: Camera) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Of boxes that the camera sees, the least and the largest depth, and how many Gaussians
        they hold."""
        seen = np.flatnonzero(self._seen_by(camera))
        near, far = self._depths(camera, seen)
        near, far = np.maximum(near, camera.near), np.minimum(far, camera.far)
        within = near <= far
        return near[within], far[within], self.counts[seen][within].astype(np.float64)

    def _seen_by(self, camera: Camera) -> NDArray[np.bool_]:
        return ViewVolume.of(camera).may_see(self.low, self.high, self.max_scale)

    def _depths(self, camera: Camera, which: NDArray[np.intp]) -> tuple[Float64Array, Float64Array]:
        """Least and largest depth in boxes, before near and far are applied."""
        boxes = BoxesInView.of(camera.position, self.low[which], self.high[which])
        if camera.model is CameraModel.FISHEYE:
            return boxes.distance(), boxes.farthest()
        middle, extent = boxes.along(camera.forward), boxes.extent_along(camera.forward)
        return middle - extent, middle + extent
