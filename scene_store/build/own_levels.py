"""Levels of detail that a source brings itself, and the tree's levels that they are put on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scene_store.build.pyramid import MERGE_RATIO

_CLOSE = 2.0  # times more or fewer than the tree would have


def plan_own_levels(lod_counts: Sequence[int]) -> dict[int, int]:
    """The source's level of detail for each level of the tree, from 1 upwards without gaps.

    A level of the tree has about a quarter of the Gaussians of the one below. It gets the
    source's level that is nearest to that, if it is near; what lies between is left out, and
    above the last match all levels are merged by the build.

    Args:
        lod_counts: Gaussians by the source's level of detail, finest first.
    """
    plan: dict[int, int] = {}
    finest = 0
    for level in range(1, len(lod_counts)):
        wanted = lod_counts[0] / MERGE_RATIO**level
        distance = {
            lod: abs(math.log(lod_counts[lod] / wanted))
            for lod in range(finest + 1, len(lod_counts))
            if lod_counts[lod] > 0
        }
        if not distance:
            break
        nearest = min(distance, key=lambda lod: distance[lod])
        if distance[nearest] > math.log(_CLOSE):
            break
        plan[level] = finest = nearest
    return plan
