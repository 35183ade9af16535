"""What a path holds, told by its content first and by its name second."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from scene_store.formats.compressed_ply import CompressedPlySource, is_compressed_ply
from scene_store.formats.json_fields import JsonObject, load_json
from scene_store.formats.ksplat import KsplatSource, looks_like_ksplat
from scene_store.formats.ply import PlySource
from scene_store.formats.ply_header import read_ply_header
from scene_store.formats.scenes_inside import name_one, scenes_inside
from scene_store.formats.sog import SogSource
from scene_store.formats.sog_meta import META_FILE
from scene_store.formats.source import FormatSource, read_head, require_only_lod
from scene_store.formats.splat import SplatSource, looks_like_splat
from scene_store.formats.spz import GZIP_MAGIC, MAGIC, SpzSource, is_spz
from scene_store.formats.streamed_sog import LOD_META_FILE, StreamedSogSource
from scene_store.formats.training import newest_iteration, open_training_folder
from scene_store.formats.unread import MODELS, unread_checkpoint
from scene_store.formats.zip_entries import entries_of
from splat.errors import SceneFormatError, SceneNotFoundError

Opener = Callable[[Path, "int | None"], FormatSource]

COMPOSED_SUFFIXES = (".yaml", ".yml")

SUPPORTED = (
    "3DGS .ply, .compressed.ply, .splat, .ksplat, .spz, .sog, meta.json, lod-meta.json, "
    "training folders, compositions of scenes (.yaml) and stores (.bvs) are read; of neural scenes "
    f"{MODELS} (docs/models.md)"
)
# Files of neural scenes by their names; whose content was not one of the models that are read.
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".th", ".tar", ".npz", ".msgpack", ".ingp")
_SCENES_KEY = re.compile(rb"^scenes\s*:", re.MULTILINE)
_MAX_CONFIGURATION = 1 << 20
_TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF"

# What people open by mistake, by how it begins.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer", "run 'git lfs pull' to get the file"),
    (b"<!DOCTYPE", "is a web page", "download the file that the page links to"),
    (b"<html", "is a web page", "download the file that the page links to"),
    (b"<?xml", "is an XML file", SUPPORTED),
    (b"glTF", "is a glTF binary", SUPPORTED),
    (b"RIFF", "is a single image or sound", "open the meta.json beside it"),
    (b"\x89PNG", "is an image", SUPPORTED),
    (b"\xff\xd8\xff", "is an image", SUPPORTED),
    (b"\x93NUMPY", "is a NumPy array", SUPPORTED),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard", "unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz", "unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive", "unpack it first"),
)


def open_scene(path: str | os.PathLike[str], *, lod: int | None = None) -> FormatSource:
    """Opens a scene of any supported format; nothing but its description is read yet.

    Args:
        path: A file or a folder.
        lod: Level of detail, 0 the finest, for the formats that have several.

    Raises:
        SceneNotFoundError: If there is nothing to read at ``path``.
        SceneFormatError: If it is broken or of an unknown kind.
        SceneError: If it has no such level of detail.
    """
    if not os.fspath(path):
        raise SceneNotFoundError("no scene was named: the path is empty")
    scene = Path(path)
    # Numbers beyond float32 become infinite without a warning; loading drops and counts them.
    with np.errstate(all="ignore"):
        if _is_folder(scene):
            return _open_folder(scene, lod)
        return _opener_of(scene)(scene, lod)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False  # reading its first bytes will say what is wrong


def _open_folder(folder: Path, lod: int | None) -> FormatSource:
    try:
        if (folder / LOD_META_FILE).is_file():
            return _named(StreamedSogSource(folder / LOD_META_FILE, lod), folder)
        if (folder / META_FILE).is_file():
            return _named(SogSource(folder / META_FILE, lod), folder)
        ply = newest_iteration(folder)
        is_store = ply is None and _holds_store(folder)
    except PermissionError:
        raise SceneNotFoundError(
            f"{folder}: cannot be read (permission denied); change its permissions"
        ) from None
    if ply is not None:
        return open_training_folder(folder, ply, lod)
    if is_store:
        raise SceneFormatError(
            folder,
            "is a store already",
            remedy="view or export it as it is, or name the scene that it was built from",
        )
    raise SceneFormatError(
        folder,
        f"is a folder without {LOD_META_FILE}, {META_FILE}, "
        f"point_cloud/iteration_*/point_cloud.ply or a checkpoint of a model that is read",
        remedy=name_one(scenes_inside(folder)),
    )


def _holds_store(folder: Path) -> bool:
    # Its own modules read JSON with this package's.
    from scene_store.manifest import FORMAT_NAME, MANIFEST_FILE

    path = folder / MANIFEST_FILE
    return path.is_file() and FORMAT_NAME.encode() in read_head(path, 1 << 10)


def _named(source: FormatSource, folder: Path) -> FormatSource:
    """The source, described by the folder that the user named."""
    source.meta = replace(source.meta, path=folder)
    return source


def _opener_of(path: Path) -> Opener:
    head = read_head(path, 64)
    is_named_checkpoint = path.suffix.lower() in _CHECKPOINTS
    if head.startswith(_TORCH_STREAM) or (head.startswith(b"PK") and _is_archive_of_arrays(path)):
        raise unread_checkpoint(path, head)
    if path.suffix.lower() in COMPOSED_SUFFIXES:  # text, without any signature
        return _open_composition
    if head.startswith((b"ply\n", b"ply\r")):
        return CompressedPlySource if is_compressed_ply(read_ply_header(path)) else PlySource
    if head.startswith((MAGIC, GZIP_MAGIC)) and not (is_named_checkpoint and not is_spz(path)):
        return SpzSource
    if head.startswith(b"PK") and not (is_named_checkpoint and META_FILE not in entries_of(path)):
        return SogSource
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _json_opener(path)
    for start, problem, remedy in _FOREIGN:
        if head.startswith(start):
            raise SceneFormatError(path, problem, remedy=remedy)
    if looks_like_ksplat(path):
        return KsplatSource
    if looks_like_splat(path):
        return SplatSource
    if is_named_checkpoint:
        raise unread_checkpoint(path, head)
    return _opener_of_name(path, head)


def _is_archive_of_arrays(path: Path) -> bool:
    """Whether a zip is of torch or numpy."""
    return any(name.endswith(("/data.pkl", ".npy")) for name in entries_of(path))


def _open_composition(path: Path, lod: int | None) -> FormatSource:
    # Its scenes are opened by this very module.
    from scene_store.compose import ComposedSource

    require_only_lod(path, lod)
    try:
        return ComposedSource(path)
    except SceneFormatError as error:
        if error.path == str(path) and _configures_model(path):
            raise SceneFormatError(
                path,
                "is no composition of scenes, but lies in the folder of a neural scene",
                remedy=f"name that: {path.parent}",
            ) from None
        raise


def _configures_model(path: Path) -> bool:
    """Whether a YAML file that is no composition belongs to the checkpoint beside it."""
    from scene_store.models import is_model  # whose readers need the formats

    is_composition = _SCENES_KEY.search(read_head(path, _MAX_CONFIGURATION)) is not None
    return not is_composition and is_model(path.parent)


def _json_opener(path: Path) -> Opener:
    value = load_json(path)
    if isinstance(value, dict):
        fields = JsonObject(path, value, "")
        if "lodLevels" in fields or "filenames" in fields:
            return StreamedSogSource
        if "means" in fields:
            return SogSource
    raise SceneFormatError(
        path,
        "is JSON, but neither a SOG meta.json nor a lod-meta.json",
        remedy=SUPPORTED,
    )


def _opener_of_name(path: Path, head: bytes) -> Opener:
    """The last resort, for a content without any signature: let its reader complain."""
    by_suffix: dict[str, Opener] = {
        ".ply": PlySource,
        ".splat": SplatSource,
        ".ksplat": KsplatSource,
        ".spz": SpzSource,
    }
    opener = by_suffix.get(path.suffix.lower())
    if opener is None:
        raise SceneFormatError(
            path,
            f"is of no known kind (it begins with {head[:8]!r})",
            where="byte 0",
            remedy=SUPPORTED,
        )
    return opener
