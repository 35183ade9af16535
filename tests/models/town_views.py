"""Pictures of a block of the town for tests; benchmarks fit larger models to the same."""

from __future__ import annotations

from benchmarks.fitting.town_views import (
    TownBlock,
    Views,
    block_cameras,
    moved_camera,
    town_block,
    town_views,
)

__all__ = ["TownBlock", "Views", "block_cameras", "moved_camera", "town_block", "town_views"]
