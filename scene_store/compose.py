"""Scenes composed of others: a YAML file of what stands where, read as one scene.

::

    up: [0, -1, 0]                    # optional
    scenes:
      - path: park/lod-meta.json      # relative to this file; any format, or town:N
        lod: 0                        # optional, for formats that have several
        transform:                    # optional, each part too
          translation: [0, 0, 0]
          rotation: [0, 90, 0]        # degrees about x, then y, then z; or wxyz
          scale: 1.5
        grid:                         # optional: copies at equal distances
          counts: [4, 1, 3]
          pitch: [55, 0, 25]
        instances:                    # optional: copies anywhere
          - translation: [10, 0, 0]
          - {rotation: [0, 180, 0], scale: 2}
      - blocks: [west.ingp, east.ingp]  # in the place of a path: fields of one world, side by side
        border: 0.5                   # optional: over which they are blended, units of that world

An instance is the scene with ``transform``, moved to a place of the grid, with the instance's
own transform around all of it: the grid of a composed scene can itself be turned.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import yaml

from scene_store.formats.detect import COMPOSED_SUFFIXES
from scene_store.formats.source import FormatSource, read_head
from scene_store.memory import available_bytes, gaussian_bytes
from scene_store.named_scene import open_named
from scene_store.placement import (
    IDENTITY,
    Placement,
    Quaternion,
    Vector3,
    quaternion_of_euler,
    unit_vector,
)
from scene_store.remote.address import is_remote
from scene_store.sampling import SAMPLES, full_sample, without_first
from scene_store.scene import SceneMeta, SceneSource
from splat.errors import SceneFormatError, SceneNotFoundError, one_line
from splat.gaussians import Float32Array, Gaussians
from splat.text import counted

_MAX_BYTES = 1 << 20
_MAX_INSTANCES = 1_000_000
_MAX_NUMBER = 1e9
_CACHE_BYTES = 1 << 30
_NO_GRID = ((1, 1, 1), (0.0, 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Placements(Sequence[Placement]):
    """The places of all copies of a scene, each made when it is asked for.

    Attributes:
        own: Applied first.
        counts, pitch: Of the grid, cells and world units; z runs fastest.
        around: Applied last, to all of the grid.
    """

    own: Placement
    counts: tuple[int, int, int]
    pitch: Vector3
    around: tuple[Placement, ...]

    def __len__(self) -> int:
        return len(self.around) * math.prod(self.counts)

    @overload
    def __getitem__(self, index: int) -> Placement: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Placement, ...]: ...

    def __getitem__(self, index: int | slice) -> Placement | tuple[Placement, ...]:
        """The placements in order: the grid of the first instance, of the next, and so on."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        instance, cell = divmod(index % len(self), math.prod(self.counts))
        _, rows, columns = self.counts
        place = (cell // (rows * columns), cell // columns % rows, cell % columns)
        x, y, z = (step * at for step, at in zip(self.pitch, place, strict=True))
        return self.around[instance].after(Placement((x, y, z))).after(self.own)


@dataclass(frozen=True, slots=True)
class Part:
    """One scene of a composition.

    Attributes:
        name: What to open: a path, or ``town:N``; of blocks the first.
        lod: Level of detail; None for the finest.
        placements: Of each copy.
        blocks: Radiance fields of one world, if it is made of such.
        border: Over which blocks are blended where they overlap, units of their world.
    """

    name: str
    lod: int | None
    placements: Placements
    blocks: tuple[str, ...] = ()
    border: float = 0.0


@dataclass(frozen=True, slots=True)
class Composition:
    """What a YAML file says.

    Attributes:
        path: The file.
        parts: In its order.
        up: The direction that is up, where it says so.
    """

    path: Path
    parts: tuple[Part, ...]
    up: Vector3 | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The scenes that it is made of, each once."""
        names = (name for part in self.parts for name in (part.blocks or (part.name,)))
        return tuple(dict.fromkeys(names))


def read_composition(path: Path) -> Composition:
    """Parses and checks a composition; opens none of its scenes.

    Raises:
        SceneNotFoundError: If there is no such file.
        SceneFormatError: If it is not a composition; unknown keys are errors.
    """
    text = read_head(path, _MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise SceneFormatError(path, f"is larger than {_MAX_BYTES:,} bytes")
    try:
        # A loader's anchors could still expand without bound; a composition needs none.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise SceneFormatError(path, "uses YAML aliases", remedy="write the values out")
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else None
        problem, remedy = "is not valid YAML", None
        if isinstance(error, _RepeatedKeyError):
            problem = str(error.problem)
        elif isinstance(error, yaml.MarkedYAMLError) and error.problem:
            problem += f": {one_line(error.problem)}"
            remedy = "check brackets, quotes and indentation up to there"
        raise SceneFormatError(path, problem, where=where, remedy=remedy) from None
    return _Fields(path, "", values).composition()


class ComposedSource(FormatSource):
    """The Gaussians of a composition, instance after instance.

    A part with several copies is decoded once if it fits into the cache, else for each.

    Args:
        path: The YAML file.
        cache_bytes: Memory that decoded Gaussians may be kept in; None for a quarter of what is
            available, at most 1 GiB.

    Attributes:
        cache_bytes: The same; may be changed.

    Raises:
        SceneError: If it or one of its scenes cannot be read.
    """

    def __init__(self, path: Path, *, cache_bytes: int | None = None) -> None:
        self.composition = read_composition(path)
        self.cache_bytes = _suitable_cache() if cache_bytes is None else cache_bytes
        metas = [
            _found_meta(path, index, part) for index, part in enumerate(self.composition.parts)
        ]
        counts = [
            meta.count * len(part.placements)
            for meta, part in zip(metas, self.composition.parts, strict=True)
        ]
        self._metas = metas
        instances = sum(len(part.placements) for part in self.composition.parts)
        placed_ups = [
            None if meta.up is None else part.placements[0].turned(meta.up)
            for meta, part in zip(metas, self.composition.parts, strict=True)
        ]
        ups = {up for up in placed_ups if up is not None}
        notes = dict.fromkeys(note for meta in metas for note in meta.notes)
        if self.composition.up is None and len(ups) > 1:
            notes["its scenes disagree about what is up"] = None
        self.meta = SceneMeta(
            path=path,
            format_name=f"composition of {counted(instances, 'scenes')}",
            count=sum(counts),
            sh_degree=max(meta.sh_degree for meta in metas),
            up=self.composition.up if self.composition.up is not None else placed_ups[0],
            notes=tuple(notes),
        )

    def sample_means(self) -> Float32Array:
        """Means of all instances, about as dense as their Gaussians."""
        parts = []
        for part, meta in zip(self.composition.parts, self._metas, strict=True):
            with _open(part) as source:
                sample = full_sample(source)
            share = SAMPLES * meta.count / max(1, self.meta.count)
            step = max(1, int(len(sample) / max(1.0, share)))
            # Another offset for each: where instances are many, one has few of the samples.
            # Where they are very many, some have none.
            copies = len(part.placements)
            for index in range(0, copies, max(1, int(1.0 / max(share, 1.0 / copies)))):
                chosen = sample[index % step :: step]
                parts.append(part.placements[index].points(chosen).astype(np.float32))
        return np.concatenate(parts)

    def sketch(self, count: int, time_s: float) -> Gaussians:
        """See ``sketch.Sketchable``: of each part one sketch, for all of its copies."""
        from scene_store.sketch import grown, sketch_scene  # which opens compositions, too

        parts = []
        for part, meta in zip(self.composition.parts, self._metas, strict=True):
            copies = len(part.placements)
            share = meta.count * copies / max(1, self.meta.count)
            wanted = max(1, int(share * count / copies))
            chosen = sketch_scene(part.name, wanted, share * time_s, lod=part.lod).gaussians
            if len(chosen) > wanted:  # the coarsest level of detail may have more
                step = -(-len(chosen) // wanted)
                chosen = grown(chosen[::step], 1.0 / step)
            parts += [placement.of(chosen) for placement in part.placements]
        return Gaussians.concatenate(parts)

    def batches_from(self, start: int, max_count: int) -> Iterator[Gaussians]:
        """See ``sampling.Skippable``: copies are skipped, not what is in one."""
        for part, meta in zip(self.composition.parts, self._metas, strict=True):
            copies = len(part.placements)
            skipped = min(copies, start // max(1, meta.count))
            start -= skipped * meta.count
            if skipped < copies:
                copied = self._copies(part, meta, range(skipped, copies), max_count)
                yield from without_first(start, copied)
                start = 0

    def _batches(self, max_count: int) -> Iterator[Gaussians]:
        return self.batches_from(0, max_count)

    def _copies(
        self, part: Part, meta: SceneMeta, wanted: range, max_count: int
    ) -> Iterator[Gaussians]:
        placements = (part.placements[index] for index in wanted)
        if len(wanted) > 1 and _bytes_of(meta) <= self.cache_bytes:
            with _open(part) as source:
                decoded = list(source.batches(max_count))
            for placement in placements:
                yield from map(placement.of, decoded)
            return
        for placement in placements:
            with _open(part) as source:
                yield from map(placement.of, source.batches(max_count))


def _open(part: Part) -> SceneSource:
    return open_named(part.name, lod=part.lod)


def _meta_of(part: Part) -> SceneMeta:
    with _open(part) as source:
        return source.meta


def _found_meta(path: Path, index: int, part: Part) -> SceneMeta:
    """The same; of a scene that is not there, the entry that names it is told."""
    try:
        return _meta_of(part)
    except SceneNotFoundError as error:
        raise SceneNotFoundError(f"{path}: scenes[{index}].path: {error}") from None


def _plain(path: Path) -> str:
    """The path without its ``..``, unless one of them leads out of a link to elsewhere."""
    plain = os.path.normpath(path)
    try:
        leads_elsewhere = not os.path.samefile(plain, path)
    except (OSError, ValueError):
        leads_elsewhere = os.path.exists(path)
    return str(path) if leads_elsewhere else plain


def _suitable_cache() -> int:
    available = available_bytes()
    return _CACHE_BYTES if available is None else min(_CACHE_BYTES, available // 4)


def _bytes_of(meta: SceneMeta) -> int:
    return meta.count * gaussian_bytes(meta.sh_degree)


class _RepeatedKeyError(yaml.constructor.ConstructorError):
    """A key that a mapping has twice."""


class _Loader(yaml.SafeLoader):
    """A safe loader of plain values as YAML 1.2 writes them, 1e-3 among them; no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See ``SafeConstructor``."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"has the key {key.value!r:.40} twice"
                    raise _RepeatedKeyError(None, None, problem, key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Without the octal and sexagesimal numbers of YAML 1.1."""
        return int(node.value)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """A value of the file and where it is, for the errors."""

    path: Path
    place: str
    value: Any

    def error(self, problem: str) -> SceneFormatError:
        return SceneFormatError(self.path, problem, where=self.place or None)

    def composition(self) -> Composition:
        fields = self._section({"scenes", "up"})
        scenes = fields["scenes"]._items() if "scenes" in fields else []
        if not scenes:
            raise self.error("needs a list 'scenes' of at least one scene")
        up = fields["up"]._vector() if "up" in fields else None
        if up is not None and (up := unit_vector(up)) is None:
            raise fields["up"].error("0 0 0 is no direction")
        parts = []
        instances = 0
        for scene in scenes:
            parts.append(scene._part())
            instances += len(parts[-1].placements)
            if instances > _MAX_INSTANCES:
                raise scene.error(f"brings the instances to more than {_MAX_INSTANCES:,}")
        return Composition(self.path, tuple(parts), up)

    def _part(self) -> Part:
        known = {"path", "blocks", "border", "lod", "transform", "grid", "instances"}
        fields = self._section(known)
        if ("path" in fields) == ("blocks" in fields):
            raise self.error("needs a 'path'" if "path" not in fields else "has path and blocks")
        own = fields["transform"]._placement() if "transform" in fields else Placement()
        counts, pitch = fields["grid"]._grid() if "grid" in fields else _NO_GRID
        around = [Placement()]
        if "instances" in fields:
            around = [item._placement() for item in fields["instances"]._items()]
            if not around:
                raise fields["instances"].error("names no instance")
        placements = Placements(own, counts, pitch, tuple(around))
        lod = fields["lod"]._whole(0) if "lod" in fields else None
        if "path" in fields:
            if "border" in fields:
                raise fields["border"].error("is for blocks")
            return Part(fields["path"]._scene_name(), lod, placements)
        return self._blocks(fields, placements)

    def _blocks(self, fields: dict[str, _Fields], placements: Placements) -> Part:
        if "lod" in fields:
            raise fields["lod"].error("fields have no levels of detail to choose from")
        names = tuple(item._scene_name() for item in fields["blocks"]._items())
        if not names:
            raise fields["blocks"].error("names no block")
        border = fields["border"]._number() if "border" in fields else 0.0
        if border < 0:
            raise fields["border"].error("a border is not below 0")
        return Part(names[0], None, placements, names, border)

    def _scene_name(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error("needs the name of a scene")
        name = self.value
        if is_remote(name):
            raise self.error("names a remote address; download it first")
        is_town = name == "town" or name.startswith("town:")
        beside = self.path.parent / name
        if beside.suffix.lower() in COMPOSED_SUFFIXES:
            raise self.error("names another composition; list its scenes here")
        return name if is_town and not beside.exists() else _plain(beside)

    def _placement(self) -> Placement:
        fields = self._section({"translation", "rotation", "scale"})
        scale = fields["scale"]._number() if "scale" in fields else 1.0
        if scale <= 0:
            raise fields["scale"].error("a scale is above 0")
        return Placement(
            fields["translation"]._vector() if "translation" in fields else (0.0, 0.0, 0.0),
            fields["rotation"]._rotation() if "rotation" in fields else IDENTITY,
            scale,
        )

    def _rotation(self) -> Quaternion:
        numbers = [item._number() for item in self._items()]
        if len(numbers) == 3:
            return quaternion_of_euler((numbers[0], numbers[1], numbers[2]))
        length = math.sqrt(sum(number * number for number in numbers))
        if len(numbers) != 4 or length == 0:
            raise self.error("needs three angles in degrees, or a quaternion wxyz")
        w, x, y, z = (number / length for number in numbers)
        return w, x, y, z

    def _grid(self) -> tuple[tuple[int, int, int], Vector3]:
        fields = self._section({"counts", "pitch"})
        if set(fields) != {"counts", "pitch"}:
            raise self.error("needs 'counts' and 'pitch', three numbers each")
        counts = [item._whole(1) for item in fields["counts"]._items()]
        if len(counts) != 3 or math.prod(counts) > _MAX_INSTANCES:
            raise fields["counts"].error(
                f"needs three numbers with a product of at most {_MAX_INSTANCES:,}"
            )
        return (counts[0], counts[1], counts[2]), fields["pitch"]._vector()

    def _vector(self) -> Vector3:
        numbers = [item._number() for item in self._items()]
        if len(numbers) != 3:
            raise self.error("needs three numbers")
        return numbers[0], numbers[1], numbers[2]

    def _number(self) -> float:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"needs a number, not {value!r:.40}")
        if not abs(value) <= _MAX_NUMBER:
            raise self.error(f"needs a number of at most {_MAX_NUMBER:g}")
        return float(value)

    def _whole(self, least: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            raise self.error(f"needs a whole number of at least {least}")
        return self.value

    def _items(self) -> Sequence[_Fields]:
        if not isinstance(self.value, list):
            raise self.error("needs a list")
        return [
            _Fields(self.path, f"{self.place}[{index}]", item)
            for index, item in enumerate(self.value)
        ]

    def _section(self, known: set[str]) -> dict[str, _Fields]:
        if not isinstance(self.value, Mapping):
            raise self.error(f"needs keys of {', '.join(sorted(known))}")
        out = {}
        for key, item in self.value.items():
            place = f"{self.place}.{key}" if self.place else str(key)
            if key not in known:
                raise SceneFormatError(
                    self.path,
                    "unknown key",
                    where=place,
                    remedy=f"use {', '.join(sorted(known))}",
                )
            out[key] = _Fields(self.path, place, item)
        return out
