"""Which torch is installed, and what comes with it; told without loading any of it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from rendering.gpu_discovery import Version

FindSpec = Callable[[str], ModuleSpec | None]


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """An installation of torch.

    Attributes:
        version: Such as ``2.11.0+cu130``.
        cuda: The CUDA that it was built for; None if for none.
        rocm: Whether it was built for AMD's GPUs.
        triton: Whether Triton is there.
        gsplat: Whether gsplat is.
    """

    version: str
    cuda: Version | None = None
    rocm: bool = False
    triton: bool = False
    gsplat: bool = False

    @property
    def release(self) -> str:
        """The version without what it was built for."""
        return self.version.partition("+")[0]


def installed_torch(find: FindSpec = find_spec) -> TorchBuild | None:
    """The torch that an import would load; None if there is none.

    Args:
        find: Finds a module without loading it.
    """
    spec = _found(find, "torch")
    if spec is None or spec.origin is None:
        return None
    told = _constants(Path(spec.origin).with_name("version.py"))
    return TorchBuild(
        version=str(told.get("__version__") or "of unknown version"),
        cuda=parse_version(told.get("cuda")),
        rocm=bool(told.get("hip")),
        triton=_found(find, "triton") is not None,
        gsplat=_found(find, "gsplat") is not None,
    )


def parse_version(text: object) -> Version | None:
    """``12.8`` or ``13.0.1`` as major and minor; None of anything else."""
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])


def _found(find: FindSpec, module: str) -> ModuleSpec | None:
    try:
        return find(module)
    except (ImportError, ValueError):  # such as a module that was loaded without a spec
        return None


def _constants(path: Path) -> dict[str, object]:
    """What a module assigns to its names, as far as that is written out; it is not run."""
    try:
        tree = ast.parse(path.read_text("utf-8"), str(path))
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, object] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant):
            found.update({t.id: value.value for t in targets if isinstance(t, ast.Name)})
    return found
