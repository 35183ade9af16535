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
    """

    place: str
    title: str
    meta: SceneMeta
    chunks: tuple[int, ...]
    lo: Vector3
    hi: Vector3
    up: Vector3

    @classmethod
    def of(cls, choice: SceneChoice, source: ChunkSource) -> StreamReport:
        """Of an open scene."""
        tree, meta = source.tree, source.meta
        up = choice.up or meta.up or likely_up(meta, overview(source))
        lo, hi = tree.lo.min(axis=0).tolist(), tree.hi.max(axis=0).tolist()
        chunks = tuple(np.bincount(tree.level).tolist())
        return cls(
            choice.shown,
            choice.title,
            meta,
            chunks,
            (lo[0], lo[1], lo[2]),
            (hi[0], hi[1], hi[2]),
            up,
        )

    def to_json(self) -> str:
        """All of it as JSON, indented."""
        return json.dumps(self._plain(), indent=2, ensure_ascii=False)

    def print_table(self) -> None:
        """All of it for people, on the standard output."""
        console = Console(highlight=False, soft_wrap=False)
        console.print(self._facts())
        console.print(self._levels())

    def _plain(self) -> dict[str, Any]:
        meta = self.meta
        return {
            "path": self.place,
            "format": meta.format_name,
            "count": meta.count,
            "sh_degree": meta.sh_degree,
            "bounds": [list(self.lo), list(self.hi)],
            "likely_up": list(self.up),
            "format_up": None if meta.up is None else list(meta.up),
            "lod_counts": list(meta.lod_counts),
            "chunks": list(self.chunks),
            "notes": list(meta.notes),
            "problems": [],
        }

    def _facts(self) -> Table:
        meta = self.meta
        known = "by the format" if self.up == meta.up else "guessed from the shape"
        rows = [
            ("Format", meta.format_name),
            ("Gaussians", f"{meta.count:,}"),
            ("SH degree", str(meta.sh_degree)),
            ("Chunks", f"{sum(self.chunks):,}"),
            ("Bounds", " … ".join(vector_text(corner) for corner in (self.lo, self.hi))),
            ("Likely up", f"{vector_text(self.up)}, {known}"),
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
