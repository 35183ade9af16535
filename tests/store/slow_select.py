"""``scene_store.lod.select_lod`` once more, in Python and written to be read: its oracle.

Arithmetic is float64 with the operations in the native code's order, so the two must agree
to the bit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import Foveation, LodCut, LodLimits, Pool, focal_px
from scene_store.tree import NO_PARENT, LodTree
from splat.bounds import BoxesInView, ViewVolume
from splat.camera import Camera, CameraModel, Float64Array


def projected_scales(
    tree: LodTree, cameras: Sequence[Camera], foveation: Foveation | None = None
) -> Float64Array:
    """[N] pixels of a world unit at a node, the most over the cameras that may see it; -1: none."""
    largest = np.full(len(tree), -1.0)
    for camera in cameras:
        volume = ViewVolume.of(camera)
        boxes = BoxesInView.of(volume.position, tree.lo, tree.hi)
        scale = np.full(len(tree), focal_px(camera))
        if camera.model is not CameraModel.ORTHO:
            scale = scale / np.maximum(boxes.distance(), volume.near)
            if foveation is not None:
                scale = scale * weights(boxes, volume.rotation[2], foveation)
        seen = volume.may_see(tree.lo, tree.hi, tree.max_scale)
        largest = np.where(seen, np.maximum(largest, scale), largest)
    return largest


def weights(boxes: BoxesInView, axis: Float64Array, foveation: Foveation) -> Float64Array:
    """[N] weight at the point of each box's bounding sphere that is nearest to the axis."""
    distance, radius = boxes.centre_distance(), boxes.radius()
    around = distance <= radius
    safe = np.where(around, 1.0, distance)
    cosine = np.minimum(np.maximum(boxes.along(axis) / safe, -1.0), 1.0)
    sine = np.sqrt(1.0 - cosine * cosine)
    cap_sine = np.where(around, 0.0, radius / safe)
    cap_cosine = np.sqrt(1.0 - cap_sine * cap_sine)
    nearest = np.where(cosine >= cap_cosine, 1.0, cosine * cap_cosine + sine * cap_sine)
    inner, outer = math.cos(foveation.inner_rad), math.cos(foveation.outer_rad)
    share = np.minimum(np.maximum((nearest - outer) / (inner - outer), 0.0), 1.0)
    weight = foveation.edge_weight + (1.0 - foveation.edge_weight) * share
    return np.where(around, 1.0, weight)


def slow_select(
    tree: LodTree,
    cameras: Sequence[Camera],
    resident: NDArray[np.bool_],
    limits: LodLimits,
    *,
    lost: NDArray[np.bool_] | None = None,
    foveation: Foveation | None = None,
) -> LodCut:
    """See ``select_lod``."""
    return slow_select_in_pools(
        tree, cameras, [Pool(resident)], limits, lost=lost, foveation=foveation
    )


def slow_select_in_pools(
    tree: LodTree,
    cameras: Sequence[Camera],
    pools: Sequence[Pool],
    limits: LodLimits,
    *,
    lost: NDArray[np.bool_] | None = None,
    foveation: Foveation | None = None,
) -> LodCut:
    """See ``select_in_pools``."""
    gone = np.zeros(len(tree), np.bool_) if lost is None else lost
    scales = projected_scales(tree, cameras, foveation)
    walk = _Walk(tree, scales, [needs(tree, pool) for pool in pools], pools, gone, limits)
    walk.begin()
    while walk.refine_best():
        pass
    return walk.cut()


def needs(tree: LodTree, pool: Pool) -> NDArray[np.bool_]:
    """[N] what the devices of a pool may see, but for what is in nothing that they see."""
    if pool.cameras is None:
        return np.ones(len(tree), np.bool_)
    seen = np.zeros(len(tree), np.bool_)
    for camera in pool.cameras:
        seen |= ViewVolume.of(camera).may_see(tree.lo, tree.hi, tree.max_scale)
    for node, parent in enumerate(tree.parent.tolist()):
        seen[node] &= parent == NO_PARENT or seen[parent]
    return seen


@dataclass(eq=False)
class _Walk:
    tree: LodTree
    scales: Float64Array
    needed: list[NDArray[np.bool_]]
    pools: Sequence[Pool]
    lost: NDArray[np.bool_]
    limits: LodLimits
    heap: list[tuple[float, int]] = field(default_factory=list)
    ideal: set[int] = field(default_factory=set)
    drawn: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    want: list[int] = field(default_factory=list)
    culled: int = 0
    full: set[int] = field(default_factory=set)

    def begin(self) -> None:
        roots = [int(root) for root in self.tree.roots if not self.lost[root]]
        self.pages = [self.pages_of(roots)] * len(self.pools)
        visible = self.seen(roots)
        self.culled = len(roots) - len(visible)
        self.meet(visible)
        self.drawn = {node for node in self.ideal if self.drawable(node)}

    def refine_best(self) -> bool:
        """Replaces the node that gains most by its children; False at the end."""
        if not self.heap:
            return False
        node = heapq.heappop(self.heap)[1]
        children = self.seen(list(self.tree.children(node)))
        self.culled += int(self.tree.child_count[node]) - len(children)
        if self.lost[children].any():
            return True
        if not self.fits(self.ideal, node, children):
            return False
        needing = [pool for pool, needed in enumerate(self.needed) if needed[children].any()]
        pages = [
            before + self.pages_of([child for child in children if needed[child]])
            for before, needed in zip(self.pages, self.needed, strict=True)
        ]
        over = {pool for pool in needing if pages[pool] > self.limits.max_pages}
        if over or not self.full.isdisjoint(needing):
            self.full |= over
            return len(self.full) < len(self.pools)
        self.pages = pages
        self.ideal.discard(node)
        self.meet(children)
        if (
            node in self.drawn
            and all(self.drawable(child) for child in children)
            and self.fits(self.drawn, node, children)
        ):
            self.drawn.discard(node)
            self.drawn.update(children)
        return True

    def meet(self, nodes: list[int]) -> None:
        self.ideal.update(nodes)
        self.touched.update(nodes)
        nearest = sorted(nodes, key=lambda node: (-self.scales[node], node))
        self.want += [node for node in nearest if not self.drawable(node)]
        for node in nodes:
            if self.tree.child_count[node] and self.error_px(node) >= self.limits.error_px:
                heapq.heappush(self.heap, (-self.gain(node), node))

    def drawable(self, node: int) -> bool:
        return all(
            pool.resident[node]
            for pool, needed in zip(self.pools, self.needed, strict=True)
            if needed[node]
        )

    def gain(self, node: int) -> float:
        """Squared pixels that are lost at the node, for each Gaussian that its children add."""
        children = self.seen(list(self.tree.children(node)))
        growth = self.size(set(children)) - self.size({node})
        scale = float(self.scales[node])
        return float(self.tree.loss[node]) * scale * scale / max(growth, 1)

    def error_px(self, node: int) -> float:
        return float(self.tree.error[node]) * float(self.scales[node])

    def seen(self, nodes: list[int]) -> list[int]:
        return [node for node in nodes if self.scales[node] >= 0]

    def fits(self, cut: set[int], node: int, children: list[int]) -> bool:
        before = self.size(cut)
        after = before - self.size({node}) + self.size(set(children))
        return after <= max(before, self.limits.max_gaussians)

    def size(self, nodes: set[int]) -> int:
        return sum(int(self.tree.count[node]) for node in nodes)

    def pages_of(self, nodes: list[int]) -> int:
        page = self.limits.page_gaussians
        return sum(-(-int(self.tree.count[node]) // page) for node in nodes)

    def cut(self) -> LodCut:
        return LodCut(
            draw=np.array(sorted(self.drawn), np.int32),
            want=np.array(self.want, np.int32),
            touched=np.array(sorted(self.touched), np.int32),
            culled=self.culled,
            drawn_gaussians=self.size(self.drawn),
            ideal_gaussians=self.size(self.ideal),
            error_px=max((self.error_px(node) for node in self.drawn), default=0.0),
            complete=self.drawn == self.ideal,
            needed_by=np.array(
                [
                    sum(1 << pool for pool, needed in enumerate(self.needed) if needed[node])
                    for node in sorted(self.touched)
                ],
                np.uint64,
            ),
        )
