"""The rasterizer under test, with scenes opened and stores built once for all benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.options import Options
from benchmarks.report import Row, skipped
from benchmarks.scenes import PATH_NAMES, BenchmarkScene, Size, open_scene
from benchmarks.stores import StoreShelf
from benchmarks.subject import Advance, Subject
from rendering.native.cpu import NativeRasterizer
from splat.closing import Closing
from splat.errors import SceneNotFoundError

USUAL_SCENES = ("town-1M", "park")
DATA_REMEDY = "set BELVEDERE_DATA to the folder of real scenes"

Measure = Callable[[Subject[NativeRasterizer], Advance], Row | list[Row]]


class Workbench(Closing):
    """The native rasterizer, scenes opened and prepared once, and their stores.

    Args:
        size: Of pictures.
        work: Where stores stay; None for as long as this is open.

    Raises:
        BackendUnavailable: If the native engine is not built.
    """

    def __init__(self, size: Size, work: Path | None = None) -> None:
        self.rasterizer = NativeRasterizer()
        self._size = size
        self._work = work
        self._stores: StoreShelf | None = None
        self._scenes: dict[str, tuple[BenchmarkScene, Any]] = {}

    def scene(self, name: str) -> BenchmarkScene:
        """A scene by its name (``benchmarks.scenes``).

        Raises:
            SceneError: If it cannot be read.
            SettingsError: If the name makes no sense.
        """
        return self._prepared(name)[0]

    @property
    def stores(self) -> StoreShelf:
        """The stores of scenes."""
        if self._stores is None:
            self._stores = StoreShelf(self._work)
        return self._stores

    def close(self) -> None:
        """Removes the stores that need not stay."""
        if self._stores is not None:
            self._stores.close()

    def subject(self, scene: str, path: str) -> Subject[NativeRasterizer]:
        """A path through a scene, ready to be drawn. Raises as ``scene`` does."""
        opened, prepared = self._prepared(scene)
        return Subject(opened, opened.path(path), self.rasterizer, prepared, scene)

    def _prepared(self, name: str) -> tuple[BenchmarkScene, Any]:
        if name not in self._scenes:
            scene = open_scene(name, self._size)
            self._scenes[name] = scene, self.rasterizer.prepare(scene.gaussians)
        return self._scenes[name]

    def on_every_path(
        self,
        benchmark: str,
        measure: Measure,
        options: Options,
        progress: Progress,
        *,
        steps: int,
        scenes: Sequence[str] = USUAL_SCENES,
        paths: Sequence[str] = PATH_NAMES,
    ) -> list[Row]:
        """``measure`` on every scene and path that the options ask for.

        Args:
            steps: How often ``measure`` reports progress.
            scenes, paths: Those of a run that asked for none; a scene of these may be missing.
        """
        scenes, paths = options.scenes or scenes, options.paths or paths
        task = progress.add_task(benchmark, total=len(scenes) * len(paths) * steps)
        rows: list[Row] = []
        for scene in scenes:
            for path in paths:
                progress.update(task, description=f"{benchmark} {scene} {path}")
                try:
                    subject = self.subject(scene, path)
                except SceneNotFoundError as error:
                    if options.scenes is not None:
                        raise
                    rows.append(skipped(benchmark, scene, path, f"{error}; {DATA_REMEDY}"))
                else:
                    measured = measure(subject, partial(progress.advance, task))
                    rows += measured if isinstance(measured, list) else [measured]
        return rows
