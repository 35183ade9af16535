"""Trees, hedges and what else grows."""

from __future__ import annotations

import numpy as np

from scene_store.town.kit import Finish, Kit
from scene_store.town.site import Tree

BARK = (0.33, 0.27, 0.21)


def build_tree(kit: Kit, tree: Tree) -> None:
    """A trunk, some branches, and a crown of several clusters of leaves."""
    rng = np.random.default_rng(tree.seed)
    leaf = kit.recipe.pick("leaf", rng)[0]
    foot = np.array([tree.x, 0.0, tree.z], np.float32)
    if rng.random() < 0.12 and tree.height > 8.0:
        _poplar(kit, tree, rng, foot)
        return
    trunk = 0.30 * tree.height
    fork = foot - np.array([rng.normal(0, 0.1), trunk, rng.normal(0, 0.1)], np.float32)
    girth = 0.022 * tree.height
    kit.parts.strut(foot, fork, girth, BARK)
    clusters = 9 if kit.finish is Finish.FULL else 4
    middle = tree.height - 0.95 * tree.crown
    k = np.arange(clusters)
    angle = k * 2.399963 + rng.uniform(0, 6.28)
    level = (k + 0.5) / clusters
    ring = tree.crown * 0.60 * np.sqrt(1.0 - (1.5 * level - 0.55) ** 2)
    center = np.stack(
        [
            tree.x + ring * np.cos(angle),
            -(middle + (level - 0.5) * 1.05 * tree.crown + rng.normal(0, 0.05, clusters)),
            tree.z + ring * np.sin(angle),
        ],
        axis=1,
    )
    size = tree.crown * rng.uniform(0.46, 0.62, (clusters, 1)) * (1.0, 0.82, 1.0)
    shade = rng.normal(1.0, 0.07, (clusters, 1))
    kit.parts.blob(center, size, leaf * shade * (0.88 + 0.2 * level[:, None]))
    if kit.finish >= Finish.PLAIN:
        some = center[::2] + np.array([0.0, 0.25 * tree.crown, 0.0])
        kit.parts.strut(fork, some, 0.4 * girth, BARK)


def _poplar(kit: Kit, tree: Tree, rng: np.random.Generator, foot: np.ndarray) -> None:
    leaf = kit.recipe.pick("leaf", rng)[0] * np.float32(0.92)
    kit.parts.strut(foot, foot - (0.0, 0.25 * tree.height, 0.0), 0.2, BARK)
    levels = np.linspace(0.22, 0.88, 6)
    width = 0.13 * tree.height * np.sqrt(np.clip(1.15 - levels, 0.1, 1.0))
    center = np.stack(
        [
            tree.x + rng.normal(0, 0.15, 6),
            -levels * tree.height,
            tree.z + rng.normal(0, 0.15, 6),
        ],
        axis=1,
    )
    size = np.stack([width, np.full(6, 0.12 * tree.height), width], axis=1)
    kit.parts.blob(center, size, leaf)


def build_hedge(kit: Kit, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A clipped hedge between two plan points, a metre high."""
    a, b = np.array(start), np.array(end)
    count = max(1, int(np.linalg.norm(b - a) / 1.1))
    middle = a + (np.arange(count)[:, None] + 0.5) / count * (b - a)
    center = np.stack([middle[:, 0], np.full(count, -0.5), middle[:, 1]], axis=1)
    kit.parts.blob(center, (0.7, 0.6, 0.7), kit.colors("leaf", 1)[0] * 0.8)


def build_flowerbed(kit: Kit, x: float, z: float, radius: float) -> None:
    """A round bed: low green with blossom on top."""
    kit.parts.blob((x, -0.12, z), (radius, 0.25, radius), kit.color("leaf") * 0.8)
    count = 7
    angle = np.arange(count) * 2.399963
    ring = radius * np.sqrt((np.arange(count) + 0.5) / count)
    center = np.stack(
        [x + ring * np.cos(angle), np.full(count, -0.32), z + ring * np.sin(angle)], axis=1
    )
    kit.parts.blob(center, (0.32 * radius, 0.14, 0.32 * radius), kit.colors("flower", count))
