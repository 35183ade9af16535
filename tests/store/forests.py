"""Random trees, cameras and residencies for tests of selection and residency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_store.tree import NO_PARENT, LodTree
from splat.camera import Camera, CameraModel, look_at_viewmat


def random_forest(
    seed: int,
    *,
    roots: int = 1,
    depth: int = 4,
    branching: int = 4,
    max_count: int = 100,
    leaf_share: float = 0.15,
) -> LodTree:
    """A forest in breadth-first order whose boxes, scales and errors nest as the contract says.

    Boxes of children lie in their parent's. Some nodes above the last level are leaves;
    positions, errors and losses are multiples of a coarse step, so that ties are common.
    """
    random = np.random.default_rng(seed)
    side = 2.0 ** (depth + 1)
    parent = [NO_PARENT] * roots
    lo = [random.integers(-20, 20, 3).astype(float) for _ in range(roots)]
    hi = [corner + side for corner in lo]
    generation = [0] * roots
    first, children = [], []
    node = 0
    while node < len(parent):
        last = generation[node] == depth or (generation[node] > 0 and random.random() < leaf_share)
        size = 0 if last else int(random.integers(1, branching + 1))
        first.append(len(parent) if size else 0)
        children.append(size)
        for _ in range(size):
            corner = lo[node] + random.integers(0, 3, 3) * (hi[node] - lo[node]) / 4
            parent.append(node)
            lo.append(corner)
            hi.append(corner + (hi[node] - lo[node]) / 2)
            generation.append(generation[node] + 1)
        node += 1
    total = len(parent)
    step = np.array([2.0 ** (depth - g) for g in generation])
    leaf = np.array(children) == 0
    error = np.where(leaf, 0.0, 0.05 * step * random.integers(1, 3, total))
    for index in range(total - 1, 0, -1):
        if parent[index] != NO_PARENT:
            error[parent[index]] = max(error[parent[index]], error[index])
    return LodTree(
        lo=np.array(lo, np.float32),
        hi=np.array(hi, np.float32),
        max_scale=(0.02 * step).astype(np.float32),
        error=error.astype(np.float32),
        count=random.integers(1, max_count + 1, total).astype(np.int32),
        parent=np.array(parent, np.int32),
        first_child=np.array(first, np.int32),
        child_count=np.array(children, np.int32),
        level=np.array([depth - g for g in generation], np.int32),
        loss=np.where(leaf, 0.0, step**2 * random.integers(0, 4, total)).astype(np.float32),
    )


def random_view(seed: int, model: CameraModel = CameraModel.PINHOLE) -> Camera:
    """A camera in or around the forest, looking anywhere."""
    random = np.random.default_rng(seed)
    eye = random.integers(-60, 80, 3).astype(float)
    focal = {CameraModel.PINHOLE: 80.0, CameraModel.ORTHO: 3.0, CameraModel.FISHEYE: 50.0}[model]
    return Camera(
        viewmat=look_at_viewmat(eye, eye + random.normal(size=3), (0.0, 0.0, 1.0)),
        K=np.array([[focal, 0, 60], [0, 1.1 * focal, 41], [0, 0, 1]]),
        width=121,
        height=83,
        near=0.1,
        far=float(random.choice([60.0, np.inf])),
        model=model,
    )


def overview(tree: LodTree) -> Camera:
    """A camera that sees the whole tree from outside."""
    low, high = tree.lo.min(axis=0).astype(float), tree.hi.max(axis=0).astype(float)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2 + 1
    eye = centre - np.array([0, 2.5 * radius, 0])
    return Camera.look_at(eye, centre, (0, 0, 1), fov_y_rad=1.2, width=160, height=120)


def closed(tree: LodTree, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The chosen nodes whose ancestors are all chosen: what can be resident."""
    out: NDArray[np.bool_] = chosen.copy()
    for node in range(len(tree)):
        if tree.parent[node] != NO_PARENT:
            out[node] &= out[tree.parent[node]]
    return out


def leaves_below(tree: LodTree, node: int) -> list[int]:
    """The leaves of a node's subtree; the node itself if it is one."""
    waiting, leaves = [node], []
    while waiting:
        node = waiting.pop()
        below = tree.children(node)
        waiting.extend(below)
        if not below:
            leaves.append(node)
    return leaves
