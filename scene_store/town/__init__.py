"""The procedural town: a place of any number of Gaussians, made by the project itself."""

from __future__ import annotations

from scene_store.town.generate import generate_town, town_batches
from scene_store.town.plan import TownPlan, plan_town

__all__ = ["TownPlan", "generate_town", "plan_town", "town_batches"]
