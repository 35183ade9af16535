"""Level of detail: which chunks to draw, and which to fetch, for the cameras of one frame.

Pure: the same tree, cameras, residency and limits give the same answer, to the bit. One
best-first walk from the roots makes two cuts through the tree at once. The *ideal* cut is
what the limits allow, whatever is in memory; the *drawn* cut follows it as far as the chunks
are resident, so that a coarse parent stands in for children still on their way. What the walk
missed, in its own order, is the fetch queue.

Devices with memories of their own draw one cut, too: what one of them needs and lacks is drawn
coarsely by all (``select_in_pools``).

The next node to be refined is the one that gains most for each Gaussian that it adds: what it
loses of the picture, in squared pixels, over the growth of the cut. A limit of Gaussians is
so spent where it shows. Its projected error says whether a node is to be refined at all.

The walk is native (``native/src/select.cpp``); ``tests/store/slow_select.py`` is the same in
plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scene_store.native import _store
from scene_store.tree import LodTree
from splat.bounds import MAX_SIGMAS, ViewVolume
from splat.camera import Camera, CameraModel, Float64Array

_MODELS = tuple(CameraModel)
ChunkIndices = NDArray[np.int32]
MOST_POOLS = 64


@dataclass(frozen=True, slots=True)
class LodLimits:
    """Where the walk stops.

    Attributes:
        error_px: Nodes whose projected error is below this are good enough, pixels. 0 asks
            for the original Gaussians everywhere.
        max_gaussians: Neither cut has more, unless the roots alone do.
        max_pages: Pages of the device pool that all roots, both cuts and their ancestors may
            take together. At most the pool's, so that what is wanted always fits and nothing
            is fetched only to be thrown out again.
        page_gaussians: Gaussians of a page; a chunk takes whole pages.

    Raises:
        ValueError: If a limit is negative, or a page holds nothing.
    """

    error_px: float = 1.0
    max_gaussians: int = 2**62
    max_pages: int = 2**62
    page_gaussians: int = 16_384

    def __post_init__(self) -> None:
        if not self.error_px >= 0 or self.max_gaussians < 0 or self.max_pages < 0:
            raise ValueError("limits of the level of detail must not be negative")
        if self.page_gaussians < 1:
            raise ValueError("a page must hold at least one Gaussian")


@dataclass(frozen=True, slots=True)
class Foveation:
    """Less detail away from the view axis: scales are multiplied by a weight.

    Attributes:
        inner_rad: Up to this angle from the axis the weight is 1.
        outer_rad: From this angle on it is ``edge_weight``; linear in the cosine between.
        edge_weight: In (0, 1].

    Raises:
        ValueError: If they are not ``0 <= inner < outer <= π`` and ``0 < weight <= 1``.
    """

    inner_rad: float
    outer_rad: float
    edge_weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.inner_rad < self.outer_rad <= math.pi:
            raise ValueError("foveation needs 0 <= inner < outer <= π")
        if not 0 < self.edge_weight <= 1:
            raise ValueError("foveation needs a weight in (0, 1]")


@dataclass(frozen=True, slots=True, eq=False)
class LodCut:
    """What ``select_lod`` decided.

    Attributes:
        draw: [D] int32 ascending: a cut of the resident part of the tree, without what no
            camera sees. All of them are resident.
        want: [W] int32: visible and missing, in the order to fetch them: that of the walk,
            and of siblings the nearest first.
        touched: [T] int32 ascending: all that must stay or come for this view: both cuts and
            their ancestors (it contains ``draw`` and ``want``).
        culled: Nodes that the walk met and no camera sees.
        drawn_gaussians, ideal_gaussians: Sizes of the two cuts.
        error_px: Largest projected error of the drawn cut; 0 if it draws nothing.
        complete: Whether the drawn cut is the ideal one.
        needed_by: [T] uint64, of each that was touched the pools that need it: bit i for the i-th.
    """

    draw: ChunkIndices
    want: ChunkIndices
    touched: ChunkIndices
    culled: int
    drawn_gaussians: int
    ideal_gaussians: int
    error_px: float
    complete: bool
    needed_by: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def needed_in(self, pool: int) -> ChunkIndices:
        """Of what was touched, what a pool needs."""
        needed: ChunkIndices = self.touched[(self.needed_by >> np.uint64(pool)) & np.uint64(1) == 1]
        return needed


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The memory of devices that draw a part of a frame.

    Attributes:
        resident: [N] bool, closed under ancestors: what it holds.
        cameras: What its devices look through: it needs what these see of the cut, such as a slab
            of depth. None for all that the frame shows.
    """

    resident: NDArray[np.bool_]
    cameras: tuple[Camera, ...] | None = None


def select_lod(
    tree: LodTree,
    cameras: Sequence[Camera],
    resident: NDArray[np.bool_],
    limits: LodLimits = LodLimits(),
    *,
    lost: NDArray[np.bool_] | None = None,
    foveation: Foveation | None = None,
) -> LodCut:
    """Choose one cut for all cameras of a request: two eyes must see the same one.

    A node's scale is ``f / max(distance of camera and box, near)``, pixels of a world unit, f
    the larger focal length (without the distance for an ortho camera), the largest over the
    cameras that see it. Its projected error is ``error · scale``, its gain ``loss · scale² /
    max(growth, 1)``, growth the Gaussians of its visible children less its own. Ties go to the
    lower index.

    Args:
        tree: N nodes.
        cameras: All views of the request.
        resident: [N] bool, closed under ancestors: what can be drawn at once.
        limits: Where to stop.
        lost: [N] bool: chunks that will never come (damaged). A node with a visible child
            among them is not refined; a lost root is left out.
        foveation: Weight of scales by the angle from each camera's axis.
    """
    return select_in_pools(tree, cameras, (Pool(resident),), limits, lost=lost, foveation=foveation)


def select_in_pools(
    tree: LodTree,
    cameras: Sequence[Camera],
    pools: Sequence[Pool],
    limits: LodLimits = LodLimits(),
    *,
    lost: NDArray[np.bool_] | None = None,
    foveation: Foveation | None = None,
) -> LodCut:
    """Choose one cut for all devices of a frame, whatever memory they have.

    As ``select_lod``, but a node can be drawn if it is in every pool that needs it, and is wanted
    if it is not. Pages are counted in each pool by itself, all roots in each. Where a pool has no
    room for a node's children, the node stays, and so do others that need that pool;
    refinement goes on where it does not.

    Args:
        pools: 1 to ``MOST_POOLS``, each of ``limits.max_pages``.
    """
    gone = np.zeros(len(tree), np.bool_) if lost is None else lost
    if any(flags.shape != (len(tree),) for flags in (gone, *(pool.resident for pool in pools))):
        raise ValueError("residency must say one thing for each node of the tree")
    views = [(place, camera) for place, pool in enumerate(pools) for camera in pool.cameras or ()]
    if any(pool.cameras == () for pool in pools):
        raise ValueError("a pool of devices that see nothing is none")
    return LodCut(
        *_store.select(
            tree.lo,
            tree.hi,
            tree.max_scale,
            tree.error,
            tree.loss,
            tree.count,
            tree.first_child,
            tree.child_count,
            len(tree.roots),
            np.stack([pool.resident for pool in pools]),
            np.ascontiguousarray(gone, np.bool_),
            pack_views(cameras, foveation),
            MAX_SIGMAS,
            limits.error_px,
            min(limits.max_gaussians, 2**62),
            np.full(len(pools), min(limits.max_pages, 2**62), np.int64),
            limits.page_gaussians,
            pack_views([camera for _, camera in views], None),
            np.array([place for place, _ in views], np.int32),
        )
    )


def focal_px(camera: Camera) -> float:
    """Pixels per radian (pinhole, fisheye; at the axis) or world unit (ortho), the larger."""
    return max(float(camera.K[0, 0]), float(camera.K[1, 1]))


def pack_views(cameras: Sequence[Camera], foveation: Foveation | None) -> Float64Array:
    """[C, 55] float64: all that the walk needs of each camera, as ``View`` in select.cpp."""
    rows = [_pack_view(camera, foveation) for camera in cameras]
    return np.array(rows, np.float64).reshape(len(rows), 55)


def _pack_view(camera: Camera, foveation: Foveation | None) -> Float64Array:
    volume = ViewVolume.of(camera)
    fovea = (1.0, -1.0, 1.0)  # no weight other than one
    if foveation is not None and camera.model is not CameraModel.ORTHO:
        inner, outer = math.cos(foveation.inner_rad), math.cos(foveation.outer_rad)
        fovea = (inner, outer, foveation.edge_weight)
    return np.concatenate(
        [
            [_MODELS.index(volume.model)],
            volume.position,
            volume.rotation.ravel(),
            [volume.near, volume.far, volume.position_slack],
            volume.planes.ravel(),
            volume.rect,
            [volume.rect_radius, focal_px(camera)],
            fovea,
        ]
    )
