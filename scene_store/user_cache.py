"""The user's folder for what can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept between sessions; nothing is made there.

    ``belvedere/NAME`` in ``XDG_CACHE_HOME`` if that is absolute (as its specification wants),
    else in ``~/.cache``; for a user without a home in the folder for temporary files.

    Args:
        name: The kind: ``"ranges"``, ``"stores"``.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "belvedere" / name
    try:
        home = Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"belvedere-{os.getuid()}" / name
    return home / ".cache" / "belvedere" / name
