"""The town as Gaussians: all at once, or batch by batch in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from scene_store.town.backdrop import backdrop
from scene_store.town.cell import cell_parts
from scene_store.town.light import mirror_table, shade_map
from scene_store.town.plan import Cell, Quota, TownPlan, cell_at, plan_town
from scene_store.town.recipe import load_recipe
from scene_store.town.site import site_at
from scene_store.town.surfels import emit
from splat.gaussians import MAX_SH_DEGREE, SH_COUNT_OF_DEGREE, Gaussians

MAX_BATCH = 1 << 18
DEFAULT_SH_DEGREE = 2
DEFAULT_SEED = 7


def generate_town(
    gaussian_count: int,
    *,
    sh_degree: int = DEFAULT_SH_DEGREE,
    seed: int = DEFAULT_SEED,
    threads: int = 0,
) -> Gaussians:
    """A town of exactly ``gaussian_count`` Gaussians.

    World axes are those of a 3DGS PLY: x right, y down (up is (0, −1, 0)), z forward;
    metres; the ground is at y = 0 and the market square around the origin.

    Args:
        gaussian_count: At least ``plan.MIN_COUNT``.
        sh_degree: 0 to 3; degrees above 0 carry reflections in water and windows.
        seed: Another seed is another town around the same landmarks.
        threads: 0 for one a core. The result does not depend on it.

    Raises:
        ValueError: If the count or the degree is out of range.
    """
    bases = SH_COUNT_OF_DEGREE[_checked_degree(sh_degree)]
    shapes = ((3,), (4,), (3,), (), (bases, 3))
    plan = plan_town(gaussian_count, seed)
    out = Gaussians(*(np.empty((gaussian_count, *s), np.float32) for s in shapes))
    start = 0
    for batch in _batches(plan, sh_degree, threads):
        end = start + len(batch)
        for name in ("means", "quats", "scales", "opacities", "sh"):
            getattr(out, name)[start:end] = getattr(batch, name)
        start = end
    return out


def town_batches(
    gaussian_count: int,
    *,
    sh_degree: int = DEFAULT_SH_DEGREE,
    seed: int = DEFAULT_SEED,
    threads: int = 0,
) -> Iterator[Gaussians]:
    """The same Gaussians in the same order, at most ``MAX_BATCH`` at a time.

    The backdrop comes first, then the town's cells from the centre outwards. Memory stays
    bounded at any count: a few cells are in the making at once.

    Raises:
        ValueError: If the count or the degree is out of range.
    """
    plan = plan_town(gaussian_count, seed)
    return _batches(plan, _checked_degree(sh_degree), threads)


def _checked_degree(sh_degree: int) -> int:
    if not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ValueError(f"SH degree {sh_degree} is outside 0…{MAX_SH_DEGREE}")
    return sh_degree


def _batches(plan: TownPlan, sh_degree: int, threads: int) -> Iterator[Gaussians]:
    """Cells are made ahead by a pool and handed out in the plan's order."""
    mirror_table(sh_degree)  # made once, before the threads would each make their own
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads, thread_name_prefix="town") as pool:
        pending: deque[Future[Gaussians]] = deque([pool.submit(backdrop, plan, sh_degree)])
        quotas, taken = iter(plan.quotas), plan.cells
        while pending:
            while len(pending) < threads + 2 and (quota := next(quotas, None)) is not None:
                pending.append(pool.submit(_cell, plan, quota, taken, sh_degree))
            made = pending.popleft().result()
            for start in range(0, len(made), MAX_BATCH):
                yield made[start : start + MAX_BATCH]


def _cell(
    plan: TownPlan, quota: Quota, taken: frozenset[tuple[int, int]], sh_degree: int
) -> Gaussians:
    cell = quota.cell
    seed = plan.seed
    density = load_recipe().density[cell.kind.value]
    detail = (density * cell.area / max(1, quota.count)) ** 0.5
    ring = [(cell.i + di, cell.j + dj) for dj in (-1, 0, 1) for di in (-1, 0, 1)]
    around = tuple(site_at(i, j, seed) for i, j in ring)
    outside = tuple(cell_at(i, j, seed) for i, j in _edges(cell, taken))
    rng = np.random.Generator(
        np.random.SFC64([seed & 0x7FFFFFFF, cell.i & 0xFFFFFFFF, cell.j & 0xFFFFFFFF, 4])
    )
    table = cell_parts(cell, seed, detail, outside)
    return emit(table, quota.count, shade_map(cell, around), rng, sh_degree)


def _edges(cell: Cell, taken: frozenset[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The places around a cell that are open country and that it is the one to border.

    A corner may touch two cells of the town that each build it from their own side; only
    where both its neighbours are open too is the corner built on its own.
    """
    i, j = cell.i, cell.j
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            near = {(i + di, j), (i, j + dj)} if di and dj else set()
            if (i + di, j + dj) not in taken and not near & taken:
                yield i + di, j + dj
