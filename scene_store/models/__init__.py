"""Neural scenes as their trainers write them: one file here for each kind of model.

A module that reads one has::

    recognizes(path: Path) -> bool
        Whether a file or folder is of its kind: a look at a few bytes. A folder is looked at by
        the names that its trainer gives; a file alone may have any name.

and one of::

    read_field(path: Path, *, trust: bool = False) -> Field
    open_model(path: Path, *, trust: bool = False) -> NeuralScene
    open_blocks(path: Path, *, trust: bool = False, make_stand_in: ...) -> NeuralScene
        Of several fields, of which coarse forms are to be drawn while they come.

That is all: what is in this folder is found, and what it reads can be viewed, exported and
streamed. ``docs/adding-a-model.md`` walks through one.

Files are data from anywhere. Nothing in them is executed, unless somebody says that they are to be
trusted (``trust``); memory is bounded by the size of the file, whatever it claims.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from scene_store.chunks import NeuralSource
from scene_store.formats.source import DOWNLOAD_AGAIN
from splat.errors import SceneError, SceneFormatError

if TYPE_CHECKING:
    from scene_store.models.field_chunks import MakeStandIn

__all__ = ["find_reader", "is_model", "open_model", "readers"]


@functools.cache
def readers() -> tuple[ModuleType, ...]:
    """The modules that read a kind of model, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return tuple(module for module in modules if hasattr(module, "recognizes"))


def find_reader(path: Path) -> ModuleType | None:
    """The module that reads what is at a path; None if it is no model."""
    for module in readers():
        # No such file, or one that may not be looked at: whoever opens it will say so.
        with contextlib.suppress(SceneError, OSError, ValueError):
            if module.recognizes(path):
                return module
    return None


def is_model(path: Path) -> bool:
    """Whether a path holds a neural scene: a look at a few bytes."""
    return find_reader(path) is not None


def open_model(
    path: Path, *, trust: bool = False, make_stand_in: MakeStandIn | None = None
) -> NeuralSource:
    """The chunks of a neural scene.

    Args:
        path: A file or folder for which ``is_model`` holds.
        trust: Let what is in its files be executed, where reading is not enough.
        make_stand_in: Makes coarse forms of fields; without, a scene of several holds all of them.

    Raises:
        SceneFormatError: If it is damaged, or of a kind that cannot be drawn.
        SceneNotFoundError: If it cannot be read.
    """
    reader = find_reader(path)
    assert reader is not None, "ask is_model first"
    try:
        return _opened(reader, path, trust, make_stand_in)
    except ValueError as error:  # what the classes of scenes verify, and a reader did not
        raise SceneFormatError(path, str(error), remedy=DOWNLOAD_AGAIN) from error


def _opened(
    reader: ModuleType, path: Path, trust: bool, make_stand_in: MakeStandIn | None
) -> NeuralSource:
    if hasattr(reader, "open_model"):
        source: NeuralSource = reader.open_model(path, trust=trust).source
        return source
    if hasattr(reader, "open_blocks"):
        source = reader.open_blocks(path, trust=trust, make_stand_in=make_stand_in).source
        return source
    from scene_store.models.field_chunks import FieldChunks

    return FieldChunks.of_fields(path, [functools.partial(reader.read_field, path, trust=trust)])
