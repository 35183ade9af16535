"""The procedural town: a place of any number of Gaussians, made by the project itself."""

from __future__ import annotations

from scene_store.town.generate import generate_town, town_batches
from scene_store.town.plan import TownPlan, plan_town
from scene_store.town.views import TOWN_START_VIEW, TOWN_UP, TOWN_VIEWS

__all__ = [
    "TOWN_START_VIEW",
    "TOWN_UP",
    "TOWN_VIEWS",
    "TownPlan",
    "generate_town",
    "plan_town",
    "town_batches",
]
