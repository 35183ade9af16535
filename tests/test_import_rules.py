"""Who may import whom (``CONTRIBUTING.md``), read from the sources with ``ast``.

``splat ← {scene_store, render_cache} ← rendering ← viewer ← app``, and the heavy
libraries stay where they belong, so that a room can be read, tested and replaced alone
and ``belvedere export`` starts without loading torch or viser.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Room → the other rooms it may import.
ALLOWED: Mapping[str, frozenset[str]] = {
    "splat": frozenset(),
    "configs": frozenset({"splat"}),
    "assets": frozenset({"splat"}),
    "scene_store": frozenset({"assets", "splat"}),
    "render_cache": frozenset({"splat"}),
    "rendering": frozenset({"render_cache", "scene_store", "splat"}),
    "viewer": frozenset(
        {"assets", "benchmarks", "configs", "render_cache", "rendering", "scene_store", "splat"}
    ),
    "app": frozenset({"viewer"}),
}
# Whoever starts the command line waits for what it imports.
CLI_MODULE = "viewer.cli"
LAZY_LIBRARIES = frozenset({"gsplat", "torch", "triton", "viser"})
CUDA_FILE_STEMS = frozenset({"device", "transfer", "worker"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, absolute.

    Attributes:
        module: Dotted name; for ``from a import b`` both ``a`` and ``a.b`` are listed.
        line: Where.
        at_load: Whether merely importing the file imports it (not inside a function,
            not under ``TYPE_CHECKING``).
    """

    module: str
    line: int
    at_load: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def violations(sources: Mapping[str, str]) -> list[str]:
    """Every broken rule of a set of files, given as path from the root → source text."""
    trees = {path: ast.parse(text, path) for path, text in sources.items()}
    imports = {path: list(imports_of(path, tree)) for path, tree in trees.items()}
    found = [line for path in sources for line in _room_violations(path, imports[path])]
    for path, tree in trees.items():
        stem = PurePosixPath(path).stem
        if not (stem.endswith("_cuda") or stem in CUDA_FILE_STEMS):
            found += [
                f"{path}:{line}: torch.cuda belongs in *_cuda, {', '.join(sorted(CUDA_FILE_STEMS))}"
                for line in cuda_uses(tree, imports[path])
            ]
    return found + _cli_violations(imports)


def _room_violations(path: str, imports: list[Import]) -> Iterator[str]:
    room = PurePosixPath(path).parts[0].removesuffix(".py")
    if room not in ALLOWED:
        yield f"{path}: no import rule for the package {room!r}: add it to ALLOWED"
        return
    reported: set[tuple[str, int]] = set()
    for item in imports:
        if (item.top, item.line) in reported:
            continue
        reported.add((item.top, item.line))
        ours = item.top in ALLOWED or item.top == "benchmarks"
        if ours and item.top != room and item.top not in ALLOWED[room]:
            yield f"{path}:{item.line}: {room} must not import {item.top}"
        if item.top == "tests":
            yield f"{path}:{item.line}: nothing imports the tests"
        if item.top == "viser" and room != "viewer":
            yield f"{path}:{item.line}: only viewer imports viser"
        if item.top == "gsplat" and path != "rendering/gsplat_cuda.py":
            yield f"{path}:{item.line}: only rendering/gsplat_cuda.py imports gsplat"


def _cli_violations(imports: Mapping[str, list[Import]]) -> list[str]:
    """Lazy libraries that loading the command line would load, with the file at fault."""
    path_of = {_module_name(path): path for path in imports}
    waiting = list(_with_parents(CLI_MODULE))
    seen: set[str] = set()
    found = []
    while waiting:
        module = waiting.pop()
        if module in seen or module not in path_of:
            continue
        seen.add(module)
        for item in imports[path_of[module]]:
            if not item.at_load:
                continue
            waiting.extend(_with_parents(item.module))
            if item.module in LAZY_LIBRARIES:
                found.append(
                    f"{path_of[module]}:{item.line}: {item.module} is loaded by {CLI_MODULE};"
                    " import it inside the function that needs it"
                )
    return found


def imports_of(path: str, tree: ast.Module) -> Iterator[Import]:
    """All imports of a file, relative ones made absolute."""
    package = _module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node, at_load in _walk(tree, at_load=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                for module in _with_parents(alias.name):
                    yield Import(module, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(parts + ([node.module] if node.module else []))
            for module in _with_parents(base):
                yield Import(module, node.lineno, at_load)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, at_load)


def cuda_uses(tree: ast.Module, imports: list[Import]) -> list[int]:
    """Lines that touch ``torch.cuda``, by import or by attribute."""
    lines = {item.line for item in imports if f"{item.module}.".startswith("torch.cuda.")}
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "torch"
    }
    lines |= {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "cuda"
        and isinstance(node.value, ast.Name)
        and node.value.id in names
    }
    return sorted(lines)


def _walk(node: ast.AST, at_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below, each with whether it runs when the file is loaded."""
    for child in ast.iter_child_nodes(node):
        runs = at_load and not isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        )
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield statement, False
                yield from _walk(statement, False)
            for statement in child.orelse:
                yield statement, runs
                yield from _walk(statement, runs)
            continue
        yield child, runs
        yield from _walk(child, runs)


def _module_name(path: str) -> str:
    parts = list(PurePosixPath(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _with_parents(module: str) -> list[str]:
    """``a.b.c`` as ``a``, ``a.b``, ``a.b.c``: importing the last imports all of them."""
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def project_sources() -> dict[str, str]:
    """The project's own packages, without tests, benchmarks, scripts and examples."""
    paths = [ROOT / "app.py"]
    for room in ALLOWED:
        paths += sorted((ROOT / room).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in paths}


def test_the_project_keeps_its_import_rules() -> None:
    assert violations(project_sources()) == []


def test_every_shipped_package_has_a_rule() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "benchmarks"} <= set(ALLOWED)


def test_loading_the_command_line_loads_no_heavy_library() -> None:
    code = f"import sys, {CLI_MODULE}; print(*sorted({set(LAZY_LIBRARIES)} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


BROKEN = {
    "upwards": ("splat/camera.py", "import scene_store.scene", "splat must not import scene_store"),
    "from upwards": (
        "scene_store/lod.py",
        "from rendering.base import Rasterizer",
        "scene_store must not import rendering",
    ),
    "cache to store": (
        "render_cache/projection.py",
        "def f():\n    from scene_store import scene",
        "render_cache/projection.py:2: render_cache must not import scene_store",
    ),
    "only for types": (
        "splat/bounds.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import viewer.cli",
        "splat must not import viewer",
    ),
    "relative": (
        "splat/a/b.py",
        "from ...rendering import base",
        "splat must not import rendering",
    ),
    "viser": ("rendering/engine.py", "import viser", "only viewer imports viser"),
    "viser part": ("scene_store/a.py", "from viser import transforms", "only viewer imports viser"),
    "gsplat": ("rendering/worker.py", "import gsplat.cuda", "only rendering/gsplat_cuda.py"),
    "cuda attribute": ("rendering/base.py", "import torch\ntorch.cuda.synchronize()", "torch.cuda"),
    "cuda alias": ("rendering/a.py", "import torch as th\nx = th.cuda", "a.py:2: torch.cuda"),
    "cuda import": ("rendering/a.py", "from torch import cuda", "torch.cuda"),
    "cuda module": ("rendering/a.py", "from torch.cuda import Stream", "torch.cuda"),
    "torch in cli": ("viewer/cli.py", "import torch", "torch is loaded by viewer.cli"),
    "viser in package": ("viewer/__init__.py", "import viser", "viser is loaded by viewer.cli"),
    "tests": ("viewer/cli.py", "from tests.fake import Fake", "nothing imports the tests"),
    "benchmarks": ("rendering/a.py", "import benchmarks", "rendering must not import benchmarks"),
    "unknown room": ("attic/a.py", "", "no import rule for the package 'attic'"),
}


@pytest.mark.parametrize(("path", "source", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_found(path: str, source: str, message: str) -> None:
    found = violations({path: source})
    assert len(found) == 1
    assert message in found[0]


def test_a_lazy_library_is_found_behind_other_modules() -> None:
    sources = {
        "viewer/__init__.py": "",
        "viewer/cli.py": "from rendering import engine",
        "rendering/__init__.py": "",
        "rendering/engine.py": "try:\n    from .reference import A\nexcept ImportError: ...",
        "rendering/reference.py": "class A:\n    import torch",
    }
    (found,) = violations(sources)
    assert found.startswith("rendering/reference.py:2: torch is loaded by viewer.cli")


ALLOWED_SOURCES = {
    "viewer/cli.py": "def view():\n    import viser, torch\n    from rendering import reference",
    "viewer/server.py": "import viser",
    "rendering/reference.py": "import torch\nfrom splat.camera import Camera",
    "rendering/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    "rendering/gsplat_cuda.py": "import torch, gsplat\ntorch.cuda.synchronize()",
    "rendering/device.py": "from torch import cuda",
    "rendering/frame.py": "cuda = object()\nclass torch:\n    pass\nx = cuda.cuda",
    "scene_store/scene.py": "from . import lod\nfrom splat import camera",
    "app.py": "from viewer.cli import main",
}


def test_what_the_rules_allow_is_not_reported() -> None:
    assert violations(ALLOWED_SOURCES) == []
