"""PlayCanvas's streamed SOG: ``lod-meta.json``, a tree whose leaves point into SOG units.

Each leaf maps levels of detail (0 is the finest) to a range of Gaussians in one of the
files; a file holds one level. One level is read: at a leaf that lacks it, the nearest one
that is there. The environment (a far backdrop) belongs to every level.
Axes: x right, y down, z forward.

Source: https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/streamed-sog/.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scene_store.formats.json_fields import JsonObject, load_json
from scene_store.formats.side_files import beside, require_side_file
from scene_store.formats.sog import SogSource
from scene_store.formats.source import DOWNLOAD_AGAIN, FormatSource
from scene_store.scene import SceneMeta
from splat.errors import SceneError, SceneFormatError
from splat.gaussians import Gaussians

LOD_META_FILE = "lod-meta.json"
MAX_LEVELS = 64
ENVIRONMENT_KEY = "environment"


@dataclass(frozen=True, slots=True, order=True)
class GaussianRange:
    """Gaussians ``offset`` to ``offset + count`` of the file at index ``file``."""

    file: int
    offset: int
    count: int


class StreamedSogSource(FormatSource):
    """One level of detail of a streamed SOG; units are decoded one after the other."""

    def __init__(self, path: Path, lod: int | None = None) -> None:
        meta = JsonObject.of(path, load_json(path), "")
        levels = meta.integer("lodLevels", 1)
        names = meta.strings("filenames")
        if levels > MAX_LEVELS:
            raise meta.error(f"more than {MAX_LEVELS} levels", "lodLevels")
        if len(set(names)) < len(names):
            raise meta.error("the same file is named twice", "filenames")
        chosen = 0 if lod is None else lod
        if not 0 <= chosen < levels:
            raise SceneError(
                f"{path}: has the levels of detail 0 to {levels - 1}, not {chosen}; choose one"
            )
        leaves = [leaf for _, leaf in walk_leaves(meta.child("tree"), levels, len(names))]
        self._ranges = sorted(r for leaf in leaves if (r := _nearest_level(leaf, chosen)).count > 0)
        self._units = [beside(path, name) for name in names]
        environment = _environment(meta, path)
        used = sorted({r.file for r in self._ranges})
        degrees, notes = _check_units(path, self._units, self._ranges, used, names)
        if environment is not None:
            with SogSource(environment) as unit:
                self._units.append(environment)
                self._ranges.append(GaussianRange(len(self._units) - 1, 0, unit.meta.count))
                degrees.append(unit.meta.sh_degree)
        total = sum(r.count for r in self._ranges)
        if total == 0:
            raise meta.error("has no Gaussians at this level of detail", "tree")
        backdrop = self._ranges[-1].count if environment is not None else 0
        self.meta = SceneMeta(
            path=path,
            format_name="streamed SOG",
            count=total,
            sh_degree=max(degrees),
            up=(0.0, -1.0, 0.0),
            lod_counts=tuple(
                backdrop + sum(_nearest_level(leaf, level).count for leaf in leaves)
                for level in range(levels)
            ),
            notes=notes,
        )

    def _batches(self, max_count: int) -> Iterator[Gaussians]:
        files = list(dict.fromkeys(r.file for r in self._ranges))
        # The next unit's textures are decoded while this one's Gaussians are handed out.
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(_open_unit, self._units[files[0]])
            for index, file in enumerate(files):
                unit = upcoming.result()
                if index + 1 < len(files):
                    upcoming = pool.submit(_open_unit, self._units[files[index + 1]])
                with unit:
                    for r in _joined(self._ranges, file):
                        for start in range(r.offset, r.offset + r.count, max_count):
                            stop = min(start + max_count, r.offset + r.count)
                            yield unit.decode(start, stop)


def _open_unit(path: Path) -> SogSource:
    unit = SogSource(path)
    unit.load_textures()
    return unit


def _joined(ranges: list[GaussianRange], file: int) -> Iterator[GaussianRange]:
    """The ranges of one file in order, neighbours joined."""
    pending: GaussianRange | None = None
    for r in ranges:
        if r.file != file:
            continue
        if pending is not None and pending.offset + pending.count == r.offset:
            pending = GaussianRange(file, pending.offset, pending.count + r.count)
            continue
        if pending is not None:
            yield pending
        pending = r
    if pending is not None:
        yield pending


def walk_leaves(
    tree: JsonObject, levels: int, files: int
) -> Iterator[tuple[JsonObject, dict[int, GaussianRange]]]:
    """Every leaf and its ranges by level, checked; walked without recursion."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if "children" in node:
            children = node.items("children")
            pending += [
                JsonObject.of(node.path, child, "tree node") for child in reversed(children)
            ]
        if "lods" in node:
            lods = node.child("lods")
            leaf = {
                _level(lods, key, levels): _range(lods.child(key), files) for key in lods.fields
            }
            if leaf:
                yield node, leaf


def _level(lods: JsonObject, key: str, levels: int) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 4 and int(key) < levels):
        raise lods.error(f"level {key[:20]!r} is not one of 0 to {levels - 1}")
    return int(key)


def _range(entry: JsonObject, files: int) -> GaussianRange:
    file = entry.integer("file")
    if file >= files:
        raise entry.error(f"points to file {file}, but there are {files}", "file")
    return GaussianRange(file, entry.integer("offset"), entry.integer("count"))


def _nearest_level(leaf: dict[int, GaussianRange], level: int) -> GaussianRange:
    """The range at ``level``, or at the level nearest to it (the finer of two)."""
    return leaf[min(leaf, key=lambda candidate: (abs(candidate - level), candidate))]


def _environment(meta: JsonObject, path: Path) -> Path | None:
    name = meta.fields.get(ENVIRONMENT_KEY)
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise meta.error("needs a file name", ENVIRONMENT_KEY)
    require_side_file(path, name)
    return beside(path, name)


def _check_units(
    path: Path,
    units: list[Path],
    ranges: list[GaussianRange],
    used: list[int],
    names: tuple[str, ...],
) -> tuple[list[int], tuple[str, ...]]:
    """Opens every unit once: degrees of their harmonics, and notes.

    Raises:
        SceneFormatError: If a unit is missing or broken, or a leaf points outside it.
    """
    counts: dict[int, int] = {}
    degrees: list[int] = [0]
    notes: dict[str, None] = {}
    for file in used:
        require_side_file(path, names[file])
        with SogSource(units[file]) as unit:
            counts[file] = unit.meta.count
            degrees.append(unit.meta.sh_degree)
            notes.update(dict.fromkeys(unit.meta.notes))
    end: dict[int, int] = {}
    for r in ranges:
        if r.offset < end.get(r.file, 0) or r.offset + r.count > counts[r.file]:
            raise SceneFormatError(
                path,
                f"points to Gaussians {r.offset:,} to {r.offset + r.count:,} of "
                f"{names[r.file]!r}, which overlap others or are beyond its {counts[r.file]:,}",
                where="tree",
                remedy=DOWNLOAD_AGAIN,
            )
        end[r.file] = r.offset + r.count
    return degrees, tuple(notes)
