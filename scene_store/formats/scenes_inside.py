"""What could have been meant by a folder that is no scene: those inside it."""

from __future__ import annotations

import itertools
from pathlib import Path

from scene_store.formats.sog_meta import META_FILE
from scene_store.formats.streamed_sog import LOD_META_FILE
from scene_store.formats.training import newest_iteration

MOST_NAMED = 3
MOST_LOOKED_AT = 64  # folders of pictures have thousands of files

_SCENE_NAMES = (".ply", ".splat", ".ksplat", ".spz", ".sog", ".bvs")


def scenes_inside(folder: Path) -> list[str]:
    """Names of up to three scenes right in a folder, told by a look at a few bytes of each."""
    try:
        children = sorted(itertools.islice(folder.iterdir(), MOST_LOOKED_AT))
        found = (child.name for child in children if _may_be_scene(child))
        return list(itertools.islice(found, MOST_NAMED))
    except OSError:
        return []


def name_one(names: list[str]) -> str:
    """What to do, where such are inside."""
    if not names:
        return "name a scene file inside it"
    *first, last = names
    listed = f"{', '.join(first)} or {last}" if first else last
    return f"name a scene inside it, such as {listed}"


def _may_be_scene(path: Path) -> bool:
    from scene_store.models import is_model  # whose readers need the formats

    if path.suffix.lower() in _SCENE_NAMES:
        return True
    if path.is_dir() and (
        any((path / name).is_file() for name in (LOD_META_FILE, META_FILE))
        or newest_iteration(path) is not None
    ):
        return True
    return is_model(path)
