"""``belvedere info`` of a store: what its manifest says, and whether its files are all there."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.settings import Settings
from scene_store.chunks import never_cancelled
from scene_store.manifest import MANIFEST_FILE, Manifest
from scene_store.range_reader import RangeReadError, insist
from scene_store.scene import Vector3
from scene_store.statistics import likely_up
from scene_store.store import Store
from splat.errors import SceneError
from viewer.neural_info import NeuralFacts, bounds_of
from viewer.opening import cached_store, opens_in_parts
from viewer.scenes import SceneChoice
from viewer.store_check import check_bar, check_chunks, summary
from viewer.stream_info import StreamReport
from viewer.streams import open_chunk_source, overview
from viewer.text import byte_size, counted, vector_text

# Settings of a build that other rows of the table tell of.
_SAID_ABOVE = frozenset({"profile", "page_gaussians", "sh_degree"})


@dataclass(frozen=True, slots=True)
class StoreReport:
    """Facts about a store, ready to be printed. No chunk but the coarsest was read, unless all of
    them were checked.

    Attributes:
        place: The folder or address, for people.
        title: Its name.
        manifest: What it says of itself.
        lo, hi: World coordinates.
        up: The likely up direction.
        up_known: Whether the store says so itself.
        faults: What is wrong with its files, one sentence each.
        damaged: Chunks that are not as they were written, ascending; None if nobody looked.
        cached: Where it lies, if it was taken from the cache instead of the scene it is of.
        neural: Of a neural scene, what its model says.
    """

    place: str
    title: str
    manifest: Manifest
    lo: Vector3
    hi: Vector3
    up: Vector3
    up_known: bool
    faults: tuple[str, ...]
    damaged: tuple[int, ...] | None = None
    cached: Path | None = None
    neural: NeuralFacts | None = None

    def problems(self) -> list[str]:
        """What deserves attention, one sentence each; empty for a healthy store."""
        return list(self.faults)

    @property
    def failed_check(self) -> bool:
        """Whether all of it was read, and something is wrong."""
        return self.damaged is not None and bool(self.faults)

    def require_files(self) -> None:
        """See that nothing is wrong with its files.

        Raises:
            SceneError: Naming the first that is missing or of another size.
        """
        if not self.faults:
            return
        others = len(self.faults) - 1
        more = f" (and {others:,} more such)" if others else ""
        raise SceneError(f"{self.place}: {self.faults[0]}{more}")

    def to_json(self) -> str:
        """All of it as JSON, indented."""
        return json.dumps(self._plain(), indent=2, ensure_ascii=False)

    def print_table(self) -> None:
        """All of it for people, on the standard output."""
        console = Console(highlight=False, soft_wrap=False)
        console.print(self._facts())
        console.print(self._levels())
        for problem in self.problems():
            console.print(Text(f"! {problem}", style="yellow"))

    @property
    def _bytes(self) -> int:
        return sum(page.size_bytes for page in self.manifest.files)

    @property
    def _format(self) -> str:
        model = self.manifest.model
        what = f"({self.manifest.profile.value})" if model is None else f"of {model.format_name}"
        return f"Belvedere store {what}"

    def _plain(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "path": self.place,
            "format": "Belvedere store" if manifest.model is None else self._format,
            "profile": manifest.profile.value,
            "count": manifest.gaussians if manifest.model is None else manifest.model.count,
            "unit": "Gaussians" if manifest.model is None else manifest.model.unit,
            "sh_degree": manifest.sh_degree,
            "page_gaussians": manifest.page_gaussians,
            "chunks": manifest.nodes,
            "bytes": self._bytes,
            "bounds": [list(self.lo), list(self.hi)],
            "likely_up": list(self.up),
            "levels": [
                {
                    "chunks": level.chunks,
                    "gaussians": level.gaussians,
                    "bytes": level.geometry.size_bytes + (level.sh.size_bytes if level.sh else 0),
                }
                for level in manifest.levels
            ],
            "model": None if self.neural is None else self.neural.plain(),
            "sources": [source.path for source in manifest.info.sources],
            "settings": dict(manifest.info.settings),
            "notes": list(manifest.info.notes),
            "generator": manifest.generator,
            "damaged_chunks": None if self.damaged is None else list(self.damaged),
            "problems": self.problems(),
        }

    def _facts(self) -> Table:
        manifest, size = self.manifest, self._bytes
        each = size / max(1, manifest.gaussians)
        rows = [("Format", self._format)]
        if manifest.model is not None:
            rows += [
                (manifest.model.unit.capitalize(), f"{manifest.model.count:,}"),
                ("Files", byte_size(size)),
                ("Chunks", f"{manifest.nodes:,}"),
            ]
        else:
            rows += [
                ("Gaussians", f"{manifest.gaussians:,}"),
                ("SH degree", str(manifest.sh_degree)),
                ("Files", f"{byte_size(size)}, {each:.1f} bytes a Gaussian with all levels"),
                ("Chunks", f"{manifest.nodes:,} of at most {manifest.page_gaussians:,} Gaussians"),
            ]
        rows += [
            ("Bounds", " … ".join(vector_text(corner) for corner in (self.lo, self.hi))),
            (
                "Likely up",
                f"{vector_text(self.up)}, "
                + ("by the store" if self.up_known else "guessed from the shape"),
            ),
            *(() if self.neural is None else self.neural.rows()),
            *(("Built from", source.path) for source in manifest.info.sources),
            *(
                (name.replace("_", " ").capitalize(), value)
                for name, value in manifest.info.settings
                if name not in _SAID_ABOVE
            ),
            *(("Note", note) for note in manifest.info.notes),
        ]
        if self.damaged is not None:
            rows.append(("Checked", f"{counted(manifest.nodes, 'chunks')}: {self._verdict()}"))
        table = Table(title=self.title, title_justify="left", show_header=False, box=None)
        table.add_column(style="dim")
        table.add_column()
        for name, value in rows:
            table.add_row(name, value)
        return table

    def _verdict(self) -> str:
        count = len(self.damaged or ())
        if count == 0:
            return "all are whole"
        return f"{count:,} {'is' if count == 1 else 'are'} damaged"

    def _levels(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 1))
        table.add_column("Level of detail", style="dim")
        counted = "Gaussians" if self.manifest.model is None else "Rows"
        for name in ("Chunks", counted, "Bytes"):
            table.add_column(name, justify="right")
        for index, level in enumerate(self.manifest.levels):
            size = level.geometry.size_bytes + (level.sh.size_bytes if level.sh else 0)
            name = f"{index}" + (" (the originals)" if index == 0 else "")
            table.add_row(name, f"{level.chunks:,}", f"{level.gaussians:,}", byte_size(size))
        return table


def stream_report(choice: SceneChoice, *, check: bool = False) -> StoreReport | StreamReport:
    """Open a store and see whether its files are there; or a streamed SOG on a server.

    Args:
        choice: The scene.
        check: Whether to read every chunk of a store, with a bar on a terminal.

    Raises:
        SceneError: If it cannot be opened, or one level was asked for.
    """
    if check:  # what lies in a cache says nothing of the store
        choice = replace(choice, remote=replace(choice.remote, cache=None))
    if choice.lod is not None:
        raise SceneError(f"{choice.shown}: all its levels are told of; leave out --lod")
    with contextlib.closing(open_chunk_source(choice)) as store:
        if not isinstance(store, Store):
            return StreamReport.of(choice, store)
        up = choice.up or _up(store)
        faults, damaged = _faults_of(choice, store.manifest), None
        if check:
            with check_bar() as progress:
                found = check_chunks(store, progress)
            damaged = tuple(found)
            faults += summary(found)
        neural, manifest = NeuralFacts.of(store), store.manifest
        lo, hi = (manifest.lo, manifest.hi) if neural is None else bounds_of(store)
        return StoreReport(
            choice.shown if choice.path is None else str(choice.store_folder),
            choice.title,
            manifest,
            lo,
            hi,
            up,
            up == store.meta.up,
            tuple(faults),
            damaged,
            neural=neural,
        )


def cached_report(choice: SceneChoice, settings: Settings) -> StoreReport | None:
    """The store that ``view`` made of a large scene, as a report of that; None if it made none.

    Raises:
        SceneError: If the scene cannot be opened.
    """
    if not opens_in_parts(choice, settings):
        return None
    with contextlib.ExitStack() as kept:
        opened = cached_store(choice, settings, kept)
        if opened is None:
            return None
        opened.source.close()
        report = stream_report(replace(choice, path=opened.cached))
        assert isinstance(report, StoreReport)
        return replace(report, title=choice.title, cached=opened.cached)


def _up(store: Store) -> Vector3:
    return store.meta.up if store.meta.up is not None else likely_up(store.meta, overview(store))


def _faults_of(choice: SceneChoice, manifest: Manifest) -> list[str]:
    """What is wrong with which file, by its length alone."""
    if choice.address is not None:
        return _remote_faults(choice, manifest)
    return _faults(choice.store_folder, manifest)


def _remote_faults(choice: SceneChoice, manifest: Manifest) -> list[str]:
    """What the last byte of each file, which is asked for, tells of it."""
    from scene_store.remote.opening import open_folder

    assert choice.address is not None
    reader, _ = open_folder(choice.address, MANIFEST_FILE, replace(choice.remote, cache=None))
    faults = []
    with contextlib.closing(reader):
        for page in manifest.files:
            last = max(0, page.size_bytes - 1)
            try:
                insist(lambda: reader.read(page.name, last, 1, never_cancelled))  # noqa: B023
            except RangeReadError as error:
                faults.append(f"{page.name}: {error.problem}; copy the store there again")
    return faults


def _faults(folder: Path, manifest: Manifest) -> list[str]:
    faults = []
    for page in manifest.files:
        path = folder / page.name
        try:
            size = path.stat().st_size
        except OSError:
            faults.append(f"{page.name} is missing; copy or build the store again")
            continue
        if size != page.size_bytes:
            faults.append(
                f"{page.name} has {size:,} bytes instead of {page.size_bytes:,}; copy or build "
                f"the store again"
            )
    return faults
