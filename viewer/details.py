"""Coarser forms of a scene that is all in memory, for the pictures of a moving camera."""

from __future__ import annotations

import logging

from rendering.coarsen import coarsen
from rendering.engine import RenderEngine
from scene_store.memory import require_memory
from splat.errors import BelvedereError
from splat.gaussians import Gaussians

log = logging.getLogger(__name__)

# Moving pictures of larger scenes may be drawn from a third of the Gaussians, and so on.
COARSEN_FROM = 600_000
COARSEN_GROUP = 3


def add_details(engine: RenderEngine, scene: list[Gaussians]) -> None:
    """Let the engine draw large scenes coarsely while a camera moves.

    Where there is no memory for that, it says so and leaves the engine as it is.

    Args:
        engine: What draws the scene.
        scene: The one reference to the Gaussians in Morton order; it is taken out, so that
            each level is given up as soon as the next one is made.
    """
    gaussians = scene.pop()
    try:
        while len(gaussians) >= COARSEN_FROM:
            require_memory(
                "a coarser form of the scene",
                len(gaussians) // COARSEN_GROUP,
                gaussians.sh_degree,
                factor=1.0,
                remedy="close other programs",
            )
            gaussians = coarsen(gaussians, COARSEN_GROUP)
            engine.add_coarser(gaussians)
    except (BelvedereError, MemoryError) as error:
        log.warning(
            "pictures of a moving camera will be slow: %s", str(error) or "not enough memory"
        )
