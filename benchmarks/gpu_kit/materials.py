"""Scenes and their levels of detail as files: made once, by the CPU, for all processes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell
from benchmarks.gpu_kit.plan import Size
from benchmarks.scenes import CameraPath, park_paths, town_count, town_paths
from benchmarks.scenes import open_scene as open_named
from scene_store.tree import LodTree
from splat.errors import SceneNotFoundError
from splat.gaussians import Gaussians

if TYPE_CHECKING:
    from scene_store.build.memory_levels import MemoryChunks

COLUMNS = ("means", "quats", "scales", "opacities", "sh")


def make_scene(bench: Bench, tell: Tell, *, name: str) -> None:
    """A scene of ``benchmarks.scenes``.

    Raises:
        Absent: If its data are not here.
    """
    try:
        gaussians = open_named(name).gaussians[:: bench.plan.keep_one_in]
    except SceneNotFoundError as error:
        raise Absent(str(error)) from None
    _write(_folder(bench.work, name), dict(zip(COLUMNS, gaussians.arrays, strict=True)))
    tell({"table": "scenes", "scene": name, "gaussians": len(gaussians)})


def open_scene(work: Path, name: str) -> Gaussians:
    """As it was made, mapped.

    Raises:
        Absent: If it was not.
    """
    arrays = _read(_folder(work, name), f"the scene {name} could not be prepared")
    return Gaussians(*(arrays[column] for column in COLUMNS))


def make_levels(bench: Bench, tell: Tell, *, name: str) -> None:
    """The tree of levels of a scene that was made.

    Raises:
        Absent: If there is no native engine, or no scene.
    """
    bench.native()
    from scene_store.build.memory_levels import build_levels  # needs it

    chunks = build_levels(open_scene(bench.work, name), name, bench.plan.page_gaussians)
    columns = dict(zip(COLUMNS, chunks.gaussians.arrays, strict=True))
    tree = {f"tree_{field.name}": getattr(chunks.tree, field.name) for field in fields(LodTree)}
    page = {"page_gaussians": np.array(chunks.page_gaussians)}
    _write(_folder(bench.work, f"{name}-levels"), {**columns, **tree, **page})
    tell(
        {
            "table": "levels",
            "scene": name,
            "chunks": len(chunks.tree),
            "levels": int(chunks.tree.level.max()) + 1,
            "gaussians": len(chunks.gaussians),
        }
    )


def open_levels(work: Path, name: str) -> MemoryChunks:
    """As they were made, mapped.

    Raises:
        Absent: If they were not.
    """
    from scene_store.build.memory_levels import MemoryChunks  # needs the native engine

    arrays = _read(_folder(work, f"{name}-levels"), f"{name} has no levels of detail here")
    return MemoryChunks(
        name,
        LodTree(**{field.name: arrays[f"tree_{field.name}"] for field in fields(LodTree)}),
        Gaussians(*(arrays[column] for column in COLUMNS)),
        int(arrays["page_gaussians"]),
    )


def paths_of(name: str, size: Size) -> tuple[CameraPath, ...]:
    """Camera paths of a scene, for pictures of this size."""
    if town_count(name) is not None:
        return town_paths(size)
    if name == "park":
        return park_paths(size)
    return open_named(name, size).paths


def _folder(work: Path, name: str) -> Path:
    return work / "materials" / name.replace("/", "_")


def _write(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Under its name only when it is whole."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    partial.rename(folder)


def _read(folder: Path, problem: str) -> dict[str, NDArray[Any]]:
    if not folder.is_dir():
        raise Absent(problem)
    return {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
