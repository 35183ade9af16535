"""Pytest plugin: test the native extensions in the folder ``BELVEDERE_NATIVE_BUILD``.

They are loaded under their usual names when pytest loads the plugin, before any test or
conftest can import the installed ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

MODULES = (
    "rendering.native._native",
    "rendering.models.native._neural",
    "scene_store.native._store",
)


def load_extensions(folder: Path) -> None:
    """Make the extension modules built in ``folder`` the ones that are imported.

    Raises:
        RuntimeError: If one is not there, or the installed one was imported already.
    """
    for module in MODULES:
        name = module.rpartition(".")[2]
        found = sorted(folder.glob(f"{name}.*.so"))
        if not found:
            raise RuntimeError(f"no {name}.*.so in {folder}")
        _load(module, found[0])


def _load(module_name: str, path: Path) -> None:
    package_name, _, name = module_name.rpartition(".")
    package = importlib.import_module(package_name)
    if module_name in sys.modules:
        raise RuntimeError(f"{module_name} was imported before it could be replaced")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    setattr(package, name, module)


load_extensions(Path(os.environ["BELVEDERE_NATIVE_BUILD"]))
