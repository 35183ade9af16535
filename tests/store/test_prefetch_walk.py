"""Selection, residency and prediction together: a walk through a scene on a slow disk."""

from __future__ import annotations

import math

import numpy as np

from scene_store.ledger import Budgets
from scene_store.lod import LodLimits
from scene_store.prefetch import PosePredictor, prefetch_chunks
from scene_store.residency_stats import Tally
from scene_store.tree import LodTree
from splat.camera import Camera
from tests.store.forests import random_forest
from tests.store.simulated_loader import (
    PAGE_BYTES,
    PAGE_GAUSSIANS,
    SimulatedLoader,
    random_costs,
)

LATENCY_S = 0.15
FRAME_S = 1 / 30
TREE = random_forest(1, depth=5, branching=7, leaf_share=0.02)


def walker(tree: LodTree, seconds: float) -> Camera:
    """On a circle through the middle of the scene, looking ahead."""
    centre = ((tree.lo + tree.hi)[tree.is_leaf] / 2).mean(axis=0).astype(float)
    angle = 0.3 * seconds
    eye = centre + 15 * np.array([math.cos(angle), math.sin(angle), 0.1])
    ahead = eye + np.array([-math.sin(angle), math.cos(angle), -0.1])
    return Camera.look_at(eye, ahead, (0, 0, 1), fov_y_rad=1.0, width=160, height=120)


def walk(*, predicting: bool, frames: int = 150, warm_up: int = 60) -> tuple[Tally, int]:
    """What residency did, and how many frames were coarser than they could be, after warm-up."""
    costs = random_costs(TREE, 1)
    device = int(0.3 * costs.device.sum())
    loader = SimulatedLoader.open(TREE, costs, Budgets(10**6, device), max_loads=16)
    limits = LodLimits(error_px=0.5, max_pages=device // PAGE_BYTES, page_gaussians=PAGE_GAUSSIANS)
    predictor = PosePredictor(float(np.linalg.norm(TREE.hi[0] - TREE.lo[0])))
    started: dict[int, float] = {}
    coarse = 0
    before = Tally()
    for frame in range(frames):
        loader.now = frame * FRAME_S
        finish_what_is_due(loader, started)
        camera = walker(TREE, loader.now)
        cut = loader.cut([camera], limits)
        predicted = np.empty(0, np.int32)
        predictor.observe(camera, loader.now)
        if predicting:
            views = predictor.predict(loader.now, LATENCY_S)
            resident = loader.residency.resident
            predicted = prefetch_chunks(TREE, views, resident, limits, cut.touched)
        loader.carry_out(loader.residency.update(cut.want, cut.touched, predicted, loader.now))
        if frame == warm_up:
            before = loader.residency.stats().tally
        coarse += frame > warm_up and not cut.complete
    after = loader.residency.stats().tally
    return Tally(
        requests=after.requests - before.requests,
        device_hits=after.device_hits - before.device_hits,
        reads=after.reads,
    ), coarse


def finish_what_is_due(loader: SimulatedLoader, started: dict[int, float]) -> None:
    """Reads end when their latency is over; decoding takes no time."""
    while True:
        for chunk in loader.reading:
            started.setdefault(chunk, loader.now)
        due = [c for c in loader.reading if loader.now - started[c] >= LATENCY_S]
        if loader.decoding:
            loader.finish_decoding()
        elif due:
            del started[due[0]]
            loader.finish_read(loader.reading.index(due[0]))
        else:
            return


def test_a_walk_finds_nearly_everything_there_before_it_is_needed() -> None:
    tally, coarse_frames = walk(predicting=True)
    assert tally.requests > 50
    assert tally.device_hits >= 0.8 * tally.requests
    assert coarse_frames <= 10
    blind, coarse_frames = walk(predicting=False)
    assert blind.device_hits < 0.1 * blind.requests
    assert coarse_frames > 50
    assert tally.reads < 2 * blind.reads
