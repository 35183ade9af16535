"""``belvedere info``: what is in a scene, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scene_store.memory import PEAK_FACTOR
from scene_store.scene import Scene, Vector3
from scene_store.statistics import SceneStatistics, likely_up, scene_statistics
from viewer.scenes import Progress, SceneChoice, open_scene
from viewer.text import byte_size, vector_text

SHOWN_PERCENTS = (0.0, 5.0, 50.0, 95.0, 100.0)


@dataclass(frozen=True, slots=True)
class SceneReport:
    """Facts about a scene, ready to be printed.

    Attributes:
        scene: What was read.
        statistics: What was measured.
        up: The likely up direction.
        title: The scene's name.
    """

    scene: Scene
    statistics: SceneStatistics
    up: Vector3
    title: str

    def to_json(self) -> str:
        """All of it as JSON, indented."""
        return json.dumps(self._plain(), indent=2, ensure_ascii=False)

    def print_table(self) -> None:
        """All of it for people, on the standard output."""
        console = Console(highlight=False, soft_wrap=False)
        console.print(self._facts())
        console.print(self._percentiles())
        for problem in self.problems():
            console.print(Text(f"! {problem}", style="yellow"))

    def problems(self) -> list[str]:
        """What deserves attention, one sentence each; empty for a healthy scene."""
        statistics, suspicious = self.statistics, self.statistics.suspicious
        counts = [
            ("not drawn: a value not finite, or a scale unusable", self.scene.dropped),
            ("larger than a quarter of the scene", suspicious.huge),
            ("needles, a thousand times longer than wide", suspicious.needles),
            ("too small to be seen", suspicious.vanishing),
            ("too transparent to be seen", statistics.invisible),
            ("glaring, a coefficient of the harmonics above 30", statistics.glaring),
        ]
        total = max(1, statistics.count + self.scene.dropped)
        return [
            f"{what}: {count:,} of {total:,} Gaussians ({100 * count / total:.2g} %)"
            for what, count in counts
            if count
        ]

    def _plain(self) -> dict[str, Any]:
        meta = self.scene.meta
        return {
            "path": str(meta.path),
            "format": meta.format_name,
            "source_count": meta.count,
            "lod_counts": list(meta.lod_counts),
            "dropped": self.scene.dropped,
            "training_cameras": len(meta.training_cameras),
            "likely_up": list(self.up),
            "format_up": None if meta.up is None else list(meta.up),
            "notes": list(meta.notes),
            "problems": self.problems(),
            **asdict(self.statistics),
        }

    def _facts(self) -> Table:
        meta, statistics = self.scene.meta, self.statistics
        known = "by the format" if self.up == meta.up else "guessed from the shape"
        rows = [
            ("Format", meta.format_name),
            ("Gaussians", f"{statistics.count:,}"),
            ("Levels of detail", ", ".join(f"{count:,}" for count in meta.lod_counts)),
            ("SH degree", str(statistics.sh_degree)),
            ("Memory", byte_size(statistics.memory_bytes)),
            ("Bounds", " … ".join(vector_text(corner) for corner in statistics.bounds)),
            (
                "Middle 98 %",
                " … ".join(vector_text(corner) for corner in statistics.robust_bounds),
            ),
            (
                "Likely up",
                f"{vector_text(self.up)}, "
                + ("by the training cameras" if meta.cameras else known),
            ),
            ("Training cameras", str(len(meta.training_cameras) or "")),
            *(("Note", note) for note in meta.notes),
        ]
        table = Table(title=self.title, title_justify="left", show_header=False, box=None)
        table.add_column(style="dim")
        table.add_column()
        for name, value in rows:
            if value:
                table.add_row(name, value)
        return table

    def _percentiles(self) -> Table:
        statistics = self.statistics
        columns = [statistics.percents.index(percent) for percent in SHOWN_PERCENTS]
        table = Table(box=None, padding=(0, 2, 0, 1))
        table.add_column("Percentile", style="dim")
        for column in columns:
            table.add_column(f"{statistics.percents[column]:g} %", justify="right")
        rows = {
            "x": statistics.position_percentiles[0],
            "y": statistics.position_percentiles[1],
            "z": statistics.position_percentiles[2],
            "Scale": statistics.scale_percentiles,
            "Opacity": statistics.opacity_percentiles,
        }
        for name, values in rows.items():
            table.add_row(name, *(f"{values[column]:.4g}" for column in columns))
        return table


def scene_report(choice: SceneChoice, progress: Progress = lambda share, what: None) -> SceneReport:
    """Read a scene and measure it.

    Args:
        choice: Which one.
        progress: Hears how far it is.

    Raises:
        SceneError: If it cannot be read.
    """
    opened = open_scene(choice, progress, memory_factor=PEAK_FACTOR)
    progress(1.0, "Measuring")
    gaussians = opened.scene.gaussians
    up = choice.up or likely_up(opened.scene.meta, gaussians)
    return SceneReport(opened.scene, scene_statistics(gaussians), up, opened.title)
