"""``cfg_args`` of a trainer: the text of its ``argparse.Namespace``, read and never executed."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

from scene_store.formats.source import read_head
from splat.errors import SceneError

MAX_BYTES = 1 << 16

Setting = str | int | float | bool

_TOO_DEEP = (SyntaxError, ValueError, MemoryError, RecursionError)


def settings_near(ply: Path, names: Collection[str]) -> dict[str, Setting]:
    """Some settings of the trainer that wrote a ``point_cloud.ply``, where it left them.

    Only numbers, texts, and true or false are read; what is anything else, or missing, is left
    out.

    Args:
        ply: In ``FOLDER/point_cloud/iteration_N``, or beside ``cfg_args``.
        names: Which.
    """
    path = settings_file(ply)
    return {} if path is None else read_settings(path, names)


def settings_file(ply: Path) -> Path | None:
    """The ``cfg_args`` of a ``point_cloud.ply``; None if there is none."""
    folders = [ply.parent]
    if ply.parent.name.startswith("iteration_"):
        folders.append(ply.parent.parent.parent)
    files = (folder / "cfg_args" for folder in folders)
    return next((path for path in files if path.is_file()), None)


def read_settings(path: Path, names: Collection[str]) -> dict[str, Setting]:
    """Some settings of a ``cfg_args``, as ``settings_near``; none if it cannot be understood."""
    try:
        text = read_head(path, MAX_BYTES).decode("utf-8", "replace")
        tree = ast.parse(text.strip(), mode="eval").body
    except (*_TOO_DEEP, SceneError):
        return {}
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        return {}
    if tree.func.id != "Namespace":
        return {}
    found: dict[str, Setting] = {}
    for keyword in tree.keywords:
        if keyword.arg is not None and keyword.arg in names:
            try:
                value = ast.literal_eval(keyword.value)
            except _TOO_DEEP:
                continue
            if isinstance(value, Setting):
                found[keyword.arg] = value
    return found
