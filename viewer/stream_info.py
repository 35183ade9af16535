"""``belvedere info`` of a scene of chunks that is no store: what its description says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scene_store.chunks import ChunkSource
from scene_store.scene import SceneMeta, Vector3
from scene_store.statistics import likely_up
from viewer.neural_info import NeuralFacts, bounds_of
from viewer.scenes import SceneChoice
from viewer.streams import overview
from viewer.text import vector_text


@dataclass(frozen=True, slots=True)
class StreamReport:
    """Facts about a scene of which the coarsest chunks were read at most.

    Attributes:
        place: Its address, for people.
        title: Its name.
        meta: What its description says.
        chunks: By level, how many.
        lo, hi: World coordinates.
        up: The likely up direction.
        neural: Of a neural scene, what its model says.
    """

    place: str
    title: str
    meta: SceneMeta
    chunks: tuple[int, ...]
    lo: Vector3
    hi: Vector3
    up: Vector3
    neural: NeuralFacts | None

    @classmethod
    def of(cls, choice: SceneChoice, source: ChunkSource) -> StreamReport:
        """Of an open scene."""
        tree, meta = source.tree, source.meta
        up = choice.up or meta.up or likely_up(meta, overview(source))
        chunks = tuple(np.bincount(tree.level).tolist())
        facts = NeuralFacts.of(source)
        return cls(choice.shown, choice.title, meta, chunks, *bounds_of(source), up, facts)

    def to_json(self) -> str:
        """All of it as JSON, indented."""
        return json.dumps(self._plain(), indent=2, ensure_ascii=False)

    def print_table(self) -> None:
        """All of it for people, on the standard output."""
        console = Console(highlight=False, soft_wrap=False)
        console.print(self._facts())
        if self.meta.lod_counts:
            console.print(self._levels())

    def _plain(self) -> dict[str, Any]:
        meta = self.meta
        return {
            "path": self.place,
            "format": meta.format_name,
            "count": meta.count,
            "unit": meta.unit,
            "sh_degree": meta.sh_degree,
            "bounds": [list(self.lo), list(self.hi)],
            "likely_up": list(self.up),
            "format_up": None if meta.up is None else list(meta.up),
            "lod_counts": list(meta.lod_counts),
            "chunks": list(self.chunks),
            "model": None if self.neural is None else self.neural.plain(),
            "notes": list(meta.notes),
            "problems": [],
        }

    def _facts(self) -> Table:
        meta = self.meta
        known = "by the format" if self.up == meta.up else "guessed from the shape"
        rows = [
            ("Format", meta.format_name),
            (meta.unit.capitalize(), f"{meta.count:,}"),
            *([("SH degree", str(meta.sh_degree))] if meta.unit == "Gaussians" else []),
            ("Chunks", f"{sum(self.chunks):,}"),
            ("Bounds", " … ".join(vector_text(corner) for corner in (self.lo, self.hi))),
            ("Likely up", f"{vector_text(self.up)}, {known}"),
            *(() if self.neural is None else self.neural.rows()),
            *(("Note", note) for note in meta.notes),
        ]
        table = Table(title=self.title, title_justify="left", show_header=False, box=None)
        table.add_column(style="dim")
        table.add_column()
        for name, value in rows:
            table.add_row(name, value)
        return table

    def _levels(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 1))
        table.add_column("Level of detail", style="dim")
        for name in ("Chunks", "Gaussians"):
            table.add_column(name, justify="right")
        for level, (chunks, count) in enumerate(
            zip(self.chunks, self.meta.lod_counts, strict=False)
        ):
            table.add_row(f"{level}", f"{chunks:,}", f"{count:,}")
        return table
