"""A scene by what people call it: a path, or the built-in town."""

from __future__ import annotations

import os

from scene_store.formats import open_scene
from scene_store.scene import SceneSource
from scene_store.town_source import TOWN_SH_DEGREE, TownSource, town_count


def open_named(name: str, *, lod: int | None = None, sh_degree: int | None = None) -> SceneSource:
    """Opens a file or folder of any format, ``town`` or ``town:N``.

    Args:
        name: A path that exists goes before the town.
        lod: Level of detail, 0 the finest, for the formats that have several.
        sh_degree: Highest degree that will be used: a town need not make more.

    Raises:
        SceneError: If there is no such scene, or it cannot be read.
    """
    count = None if os.path.exists(name) else town_count(name)
    if count is None:
        return open_scene(name, lod=lod)
    degree = TOWN_SH_DEGREE if sh_degree is None else min(sh_degree, TOWN_SH_DEGREE)
    return TownSource(count, degree)
