"""The town as Gaussians: all at once, or batch by batch in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np

from scene_store.memory import PEAK_FACTOR, require_memory
from scene_store.town.backdrop import backdrop
from scene_store.town.plan import check_count, plan_town
from scene_store.town.workers import CellWorkers
from splat.cores import usable_cores
from splat.gaussians import MAX_SH_DEGREE, Gaussians

MAX_BATCH = 1 << 18
DEFAULT_SH_DEGREE = 2
DEFAULT_SEED = 7

# A smaller town is made before processes have started.
_ALONE_COUNT = 500_000
# Cells made ahead, so that none of the workers waits for the one that is handed out next.
_CELLS_AHEAD = 2

# A process with its cell, and the cells that wait; measured at most 155 MB and 55 MB.
_WORKER_BYTES = 220_000_000

Progress = Callable[[int, int], None]


def generate_town(
    gaussian_count: int,
    *,
    sh_degree: int = DEFAULT_SH_DEGREE,
    seed: int = DEFAULT_SEED,
    workers: int = 0,
    progress: Progress | None = None,
    memory_factor: float = PEAK_FACTOR,
) -> Gaussians:
    """A town of exactly ``gaussian_count`` Gaussians.

    World axes are those of a 3DGS PLY: x right, y down (up is (0, −1, 0)), z forward;
    metres; the ground is at y = 0 and the market square around the origin.

    Args:
        gaussian_count: ``plan.MIN_COUNT`` to ``plan.MAX_COUNT``.
        sh_degree: 0 to 3; degrees above 0 carry reflections in water and windows.
        seed: Another seed is another town around the same landmarks.
        workers: Processes that make it; 0 for one a core, 1 for this one alone. The result
            does not depend on it.
        progress: Called with the Gaussians made so far and their total.
        memory_factor: As in ``load_scene``.

    Raises:
        ValueError: If the count or the degree is out of range.
        BudgetError: If it cannot fit into this machine's memory.
    """
    batches = town_batches(gaussian_count, sh_degree=sh_degree, seed=seed, workers=workers)
    workers = _workers_of(gaussian_count, workers)
    require_memory(
        "the town",
        gaussian_count,
        sh_degree,
        factor=memory_factor,
        working_bytes=workers * _WORKER_BYTES,
        remedy="ask for fewer, or for a store of them, which belvedere build makes",
    )
    out = Gaussians.allocate(gaussian_count, sh_degree)
    done = 0
    for batch in batches:
        for array, values in zip(out.arrays, batch.arrays, strict=True):
            array[done : done + len(batch)] = values
        done += len(batch)
        if progress is not None:
            progress(done, gaussian_count)
    return out


def town_batches(
    gaussian_count: int,
    *,
    sh_degree: int = DEFAULT_SH_DEGREE,
    seed: int = DEFAULT_SEED,
    workers: int = 0,
    start: int = 0,
) -> Iterator[Gaussians]:
    """The same Gaussians in the same order, at most ``MAX_BATCH`` at a time.

    The backdrop comes first, then the town's cells from the centre outwards. Memory stays
    bounded at any count: a few cells are in the making at once.

    Args:
        gaussian_count, sh_degree, seed, workers: As in ``generate_town``.
        start: Gaussians that are left out at the beginning; their cells are not made.

    Raises:
        ValueError: If the count or the degree is out of range.
    """
    if not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ValueError(f"SH degree {sh_degree} is outside 0…{MAX_SH_DEGREE}")
    check_count(gaussian_count)
    workers = _workers_of(gaussian_count, workers)
    return _batches(gaussian_count, seed, sh_degree, workers, start)


def _workers_of(gaussian_count: int, asked: int) -> int:
    return 1 if gaussian_count < _ALONE_COUNT else asked or usable_cores()


def _batches(
    count: int, seed: int, sh_degree: int, workers: int, start: int
) -> Iterator[Gaussians]:
    """Cells are made ahead and handed out in the plan's order."""
    plan = plan_town(count, seed)
    # Of the backdrop and of each cell: what is left out of it.
    sizes = np.array([plan.backdrop, *(quota.count for quota in plan.quotas)])
    left_out = np.clip(start - (np.cumsum(sizes) - sizes), 0, sizes)
    backdrop_left_out, *cells_left_out = left_out.tolist()
    wanted = [i for i, quota in enumerate(plan.quotas) if cells_left_out[i] < quota.count]
    ahead = workers + _CELLS_AHEAD
    with (
        closing(CellWorkers(plan, sh_degree, workers)) as makers,
        ThreadPoolExecutor(workers, thread_name_prefix="town") as pool,
    ):
        indices, handed_out = iter(wanted), iter(wanted)
        pending = deque(pool.submit(makers.make, i) for i in islice(indices, ahead))
        try:
            if backdrop_left_out < plan.backdrop:
                yield from _parts(backdrop(plan, sh_degree)[backdrop_left_out:])
            while pending:
                made = pending.popleft().result()
                pending.extend(pool.submit(makers.make, i) for i in islice(indices, 1))
                yield from _parts(made[cells_left_out[next(handed_out)] :])
        finally:
            for cell in pending:  # where the town was given up
                cell.cancel()


def _parts(gaussians: Gaussians) -> Iterator[Gaussians]:
    for start in range(0, len(gaussians), MAX_BATCH):
        yield gaussians[start : start + MAX_BATCH]
