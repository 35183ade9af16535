"""What a store says of itself: ``manifest.json``, read first and written last.

Everything in it is checked before it is believed; ``docs/format.md`` has the rules.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from typing import Any

from scene_store.formats.json_fields import JsonObject, parse_json
from scene_store.outline import Outline
from scene_store.placement import unit_vector
from scene_store.scene import Vector3
from splat.errors import SceneFormatError
from splat.gaussians import MAX_SH_DEGREE

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
NODES_FILE = "nodes.bin"
FORMAT_NAME = "belvedere-store"
VERSION = 2
MODEL_VERSION = 3  # of stores of neural scenes: earlier releases must refuse them
MODEL_FILE = "model.bin"

DEFAULT_PAGE_GAUSSIANS = 16_384
PAGE_GRANULARITY = 1_024
MAX_PAGE_GAUSSIANS = 1 << 20
MAX_PAGE_ROWS = MAX_CHUNK_ROWS = 1 << 24  # of a neural scene
MAX_ROW_BYTES = 1 << 16
MAX_MODEL_BYTES = 1 << 30

MAX_MANIFEST_BYTES = 1 << 24
MAX_NODES = 1 << 22
MAX_LEVELS = 64
MAX_NOTES = 1_000
MAX_SOURCES = 10_000
MAX_TEXT = 4_096  # characters of a name, a value or a note

_BUILD_AGAIN = "it is incomplete or damaged: copy or build the store again"

# A bare name of a file: no separators, no drive, no "..", nothing hidden.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CHECKSUM = re.compile(rb'"crc32": "([0-9a-f]{8})"\s*\}\s*$')


class Profile(str, Enum):
    """How chunks are encoded: quantized, or to the bit, as the rows of neural scenes always are."""

    COMPACT = "compact"
    LOSSLESS = "lossless"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that a store was built from, as it was then.

    Attributes:
        path: As the user named it.
        size_bytes: Its length.
        modified_ns: When it was last changed, nanoseconds since 1970.
    """

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store is to remember of the scene beside its chunks.

    Attributes:
        up: The direction that is up, in the axes of the Gaussians; None if unknown.
        outline: Where the originals are; None if unknown.
        sources: What it was built from.
        settings: The build's settings, for people and for a later build to compare.
        notes: What a user should know, one line each.

    Raises:
        ValueError: If it is more than a manifest may hold.
    """

    up: Vector3 | None = None
    sources: tuple[SourceFile, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    outline: Outline | None = None

    def __post_init__(self) -> None:
        texts = [source.path for source in self.sources] + list(self.notes)
        texts += [text for setting in self.settings for text in setting]
        if len(self.sources) > MAX_SOURCES or len(self.notes) > MAX_NOTES:
            raise ValueError(f"more than {MAX_SOURCES:,} sources or {MAX_NOTES:,} notes")
        if any(len(text) > MAX_TEXT for text in texts):
            raise ValueError(f"a text of more than {MAX_TEXT:,} characters")


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of one stream of one level: its name in the store's folder, and its length."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Level:
    """One level of detail.

    Attributes:
        chunks: Nodes of this level.
        gaussians: Theirs together.
        geometry: The file of their geometry streams.
        sh: The file of their harmonics; None for degree 0.
    """

    chunks: int
    gaussians: int
    geometry: PageFile
    sh: PageFile | None


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Of a store of a neural scene, what gives its rows a meaning.

    Attributes:
        file: Of the model, as ``scene_store.neural_store`` writes it.
        crc: CRC-32 of its bytes.
        row_bytes: Of a row.
        format_name, unit, count: As of ``SceneMeta``.
    """

    file: PageFile
    crc: int
    row_bytes: int
    format_name: str
    unit: str
    count: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A store without its chunks and its tree.

    Attributes:
        profile: How chunks are encoded.
        sh_degree: 0 to 3, of every chunk.
        page_gaussians: Most Gaussians of a chunk; a multiple of ``PAGE_GRANULARITY``.
        lo, hi: The box of all means.
        levels: Level 0 (the originals) first; all that have chunks.
        nodes: How many the table has.
        nodes_file: Its file.
        nodes_crc: CRC-32 of its bytes.
        info: What else is known of the scene.
        generator: The program that wrote it.
        version: Of the format, 1 to ``VERSION``; ``MODEL_VERSION`` with a model.
        model: Of a neural scene, whose rows are counted where others count Gaussians; None of one
            of Gaussians.
    """

    profile: Profile
    sh_degree: int
    page_gaussians: int
    lo: Vector3
    hi: Vector3
    levels: tuple[Level, ...]
    nodes: int
    nodes_file: PageFile
    nodes_crc: int
    info: StoreInfo
    generator: str
    version: int = VERSION
    model: ModelPart | None = None

    @property
    def files(self) -> tuple[PageFile, ...]:
        """All files of the store but the manifest."""
        pages = [page for level in self.levels for page in (level.geometry, level.sh) if page]
        model = () if self.model is None else (self.model.file,)
        return (self.nodes_file, *model, *pages)

    @property
    def gaussians(self) -> int:
        """Gaussians of the original scene."""
        return self.levels[0].gaussians


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of ``manifest.json``, with its checksum."""
    info = manifest.info
    fields: dict[str, Any] = {
        "format": FORMAT_NAME,
        "version": manifest.version,
        "generator": manifest.generator,
        "profile": manifest.profile.value,
        "sh_degree": manifest.sh_degree,
        "page_gaussians": manifest.page_gaussians,
        "gaussians": manifest.gaussians,
        "bounds": {"lo": manifest.lo, "hi": manifest.hi},
        "up": info.up,
        "outline": info.outline.to_json() if info.outline is not None else None,
        "nodes": {
            "count": manifest.nodes,
            "file": manifest.nodes_file.name,
            "bytes": manifest.nodes_file.size_bytes,
            "crc32": f"{manifest.nodes_crc:08x}",
        },
        "levels": [
            {
                "chunks": level.chunks,
                "gaussians": level.gaussians,
                "geometry": _page_fields(level.geometry),
                "sh": _page_fields(level.sh),
            }
            for level in manifest.levels
        ],
        "sources": [
            {"path": s.path, "bytes": s.size_bytes, "modified_ns": s.modified_ns}
            for s in info.sources
        ],
        "settings": dict(info.settings),
        "notes": info.notes,
        **({} if manifest.model is None else {"model": _model_fields(manifest.model)}),
        "crc32": "00000000",
    }
    # Escaped to ASCII, so that names with half a surrogate pair can be written at all.
    text = (json.dumps(fields, indent=1) + "\n").encode("ascii")
    found = _CHECKSUM.search(text)
    assert found is not None  # it was written just above
    start, end = found.span(1)
    return text[:start] + f"{zlib.crc32(text):08x}".encode("ascii") + text[end:]


def _model_fields(model: ModelPart) -> dict[str, Any]:
    return {
        **(_page_fields(model.file) or {}),
        "crc32": f"{model.crc:08x}",
        "row_bytes": model.row_bytes,
        "format": model.format_name,
        "unit": model.unit,
        "count": model.count,
    }


def _page_fields(page: PageFile | None) -> dict[str, Any] | None:
    return None if page is None else {"file": page.name, "bytes": page.size_bytes}


def parse_manifest(path: str | PathLike[str], text: bytes) -> Manifest:
    """A manifest from the bytes of its file, every field checked.

    Raises:
        SceneFormatError: If it is not a manifest, is damaged, makes no sense, or needs a
            newer version of this program.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise SceneFormatError(
            path, f"is larger than {MAX_MANIFEST_BYTES:,} bytes", remedy=_BUILD_AGAIN
        )
    fields = JsonObject.of(path, parse_json(path, text, remedy=_BUILD_AGAIN), "", _BUILD_AGAIN)
    version = _version(fields)
    _require_checksum(fields, text)
    sh_degree = fields.integer("sh_degree")
    if sh_degree > MAX_SH_DEGREE:
        raise fields.error(f"degrees 0 to {MAX_SH_DEGREE} are supported", "sh_degree")
    is_neural = version == MODEL_VERSION
    page_gaussians = _page_size(fields, is_neural)
    nodes = fields.child("nodes")
    most = MAX_CHUNK_ROWS if is_neural else page_gaussians
    levels = _levels(fields, sh_degree, most)
    manifest = Manifest(
        profile=_profile(fields),
        sh_degree=sh_degree,
        page_gaussians=page_gaussians,
        lo=_vector(fields.child("bounds"), "lo"),
        hi=_vector(fields.child("bounds"), "hi"),
        levels=levels,
        nodes=nodes.integer("count", 1),
        nodes_file=_page_file(nodes),
        nodes_crc=_crc(nodes),
        info=_info(fields),
        generator=_string(fields, "generator"),
        version=version,
        model=_model(fields, sh_degree) if is_neural else None,
    )
    if manifest.nodes > MAX_NODES:
        raise nodes.error(f"more than {MAX_NODES:,} nodes", "count")
    if sum(level.chunks for level in levels) != manifest.nodes:
        raise nodes.error("the levels have another number of chunks", "count")
    if fields.integer("gaussians", 1) != manifest.gaussians:
        raise fields.error("level 0 has another number of Gaussians", "gaussians")
    _require_distinct(fields, manifest)
    return manifest


def _version(fields: JsonObject) -> int:
    if fields.fields.get("format") != FORMAT_NAME:
        raise fields.error("is not the manifest of a Belvedere store", "format")
    version = fields.integer("version", 1)
    if version > MODEL_VERSION:
        raise SceneFormatError(
            fields.path,
            f"is a store of format version {version}; this release reads up to version "
            f"{MODEL_VERSION}",
            remedy="install a newer Belvedere, or build the store again with this one",
        )
    return version


def _require_checksum(fields: JsonObject, text: bytes) -> None:
    """Without a checksum nothing is compared, so that a person may edit a manifest."""
    if "crc32" not in fields:
        return
    found = _CHECKSUM.search(text)
    if found is None:
        raise fields.error("needs to be the last field, of eight digits", "crc32")
    start, end = found.span(1)
    if zlib.crc32(text[:start] + b"00000000" + text[end:]) != int(found[1], 16):
        raise fields.error("the file was changed or damaged: the checksum differs", "crc32")


def _profile(fields: JsonObject) -> Profile:
    value = fields.fields.get("profile")
    if not isinstance(value, str) or value not in {profile.value for profile in Profile}:
        names = " and ".join(profile.value for profile in Profile)
        raise fields.error(f"only {names} are known", "profile")
    return Profile(value)


def _page_size(fields: JsonObject, is_neural: bool) -> int:
    if is_neural:
        size = fields.integer("page_gaussians", 1)
        if size > MAX_PAGE_ROWS:
            raise fields.error(f"needs at most {MAX_PAGE_ROWS:,} rows", "page_gaussians")
        return size
    size = fields.integer("page_gaussians", PAGE_GRANULARITY)
    if size > MAX_PAGE_GAUSSIANS or size % PAGE_GRANULARITY:
        raise fields.error(
            f"needs a multiple of {PAGE_GRANULARITY:,} up to {MAX_PAGE_GAUSSIANS:,}",
            "page_gaussians",
        )
    return size


def _model(fields: JsonObject, sh_degree: int) -> ModelPart:
    if sh_degree:
        raise fields.error("rows of a neural scene have no harmonics", "sh_degree")
    model = fields.child("model")
    file, row_bytes = _page_file(model), model.integer("row_bytes", 1)
    if file.size_bytes > MAX_MODEL_BYTES:
        raise model.error(f"needs at most {MAX_MODEL_BYTES:,} bytes", "bytes")
    if row_bytes > MAX_ROW_BYTES:
        raise model.error(f"needs at most {MAX_ROW_BYTES:,} bytes", "row_bytes")
    return ModelPart(
        file,
        _crc(model),
        row_bytes,
        _string(model, "format"),
        _string(model, "unit"),
        model.integer("count", 1),
    )


def _levels(fields: JsonObject, sh_degree: int, most_of_a_chunk: int) -> tuple[Level, ...]:
    items = fields.items("levels")
    if not 1 <= len(items) <= MAX_LEVELS:
        raise fields.error(f"needs 1 to {MAX_LEVELS} levels", "levels")
    levels = []
    for index, item in enumerate(items):
        level = JsonObject.of(fields.path, item, f"levels[{index}]", fields.remedy)
        chunks = level.integer("chunks", 1)
        gaussians = level.integer("gaussians", chunks)
        if gaussians > chunks * most_of_a_chunk:
            raise level.error("more Gaussians than its chunks can hold", "gaussians")
        sh = _page_file(level.child("sh")) if sh_degree else None
        levels.append(Level(chunks, gaussians, _page_file(level.child("geometry")), sh))
    return tuple(levels)


def _page_file(fields: JsonObject) -> PageFile:
    name = _string(fields, "file")
    if not _FILE_NAME.fullmatch(name):
        raise fields.error("needs the plain name of a file in this folder", "file")
    return PageFile(name, fields.integer("bytes"))


def _require_distinct(fields: JsonObject, manifest: Manifest) -> None:
    names = [MANIFEST_FILE, *(page.name for page in manifest.files)]
    if len(set(names)) < len(names):
        raise fields.error("names the same file twice", "levels")


def _crc(fields: JsonObject) -> int:
    text = _string(fields, "crc32")
    if not re.fullmatch("[0-9a-f]{8}", text):
        raise fields.error("needs eight hexadecimal digits", "crc32")
    return int(text, 16)


def _vector(fields: JsonObject, name: str) -> Vector3:
    x, y, z = fields.numbers(name, 3)
    return x, y, z


def _direction(fields: JsonObject, name: str) -> Vector3:
    """A unit vector, whatever length a person gave it."""
    direction = unit_vector(_vector(fields, name))
    if direction is None:
        raise fields.error("needs a direction, not 0 0 0", name)
    return direction


def _string(fields: JsonObject, name: str) -> str:
    value = fields.fields.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise fields.error("needs a short text", name)
    return value


def _info(fields: JsonObject) -> StoreInfo:
    sources = []
    for index, item in enumerate(fields.items("sources")):
        source = JsonObject.of(fields.path, item, f"sources[{index}]", fields.remedy)
        sources.append(
            SourceFile(
                _string(source, "path"), source.integer("bytes"), _integer(source, "modified_ns")
            )
        )
    settings = fields.child("settings")
    try:
        return StoreInfo(
            up=_direction(fields, "up") if "up" in fields else None,
            sources=tuple(sources),
            settings=tuple((name, _string(settings, name)) for name in settings.fields),
            notes=fields.strings("notes"),
            outline=_outline(fields),
        )
    except ValueError as error:
        raise fields.error(f"holds {error}") from None


def _outline(fields: JsonObject) -> Outline | None:
    """A hint for the first view, which is chosen from the chunks where it is of no use."""
    if "outline" not in fields:
        return None
    bounds = fields.child("bounds")
    try:
        corners = _vector(bounds, "lo"), _vector(bounds, "hi")
        return Outline.from_json(fields.child("outline"), corners)
    except SceneFormatError as error:
        log.info("ignored: %s", error)
        return None


def _integer(fields: JsonObject, name: str) -> int:
    """A whole number of either sign, of 64 bits: nanoseconds exceed what doubles hold."""
    value = fields.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise fields.error("needs a whole number", name)
    return value
