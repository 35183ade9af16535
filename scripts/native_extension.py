"""Pytest plugin: test the native extension named by ``BELVEDERE_NATIVE_EXTENSION``.

It is loaded under its usual name when pytest loads the plugin, before any test or
conftest can import the installed one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

MODULE = "rendering.native._native"


def load_extension(path: str) -> None:
    """Make the extension module at ``path`` the one that ``rendering.native`` imports.

    Raises:
        RuntimeError: If the installed one was imported already, or it is no extension.
    """
    package_name, _, name = MODULE.rpartition(".")
    package = importlib.import_module(package_name)
    if MODULE in sys.modules:
        raise RuntimeError(f"{MODULE} was imported before it could be replaced")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    setattr(package, name, module)


load_extension(os.environ["BELVEDERE_NATIVE_EXTENSION"])
