"""From a path or an address to a scene that can be streamed as it is."""

from __future__ import annotations

import os
from pathlib import Path

from scene_store.chunks import ChunkSource
from scene_store.formats.streamed_sog import LOD_META_FILE
from scene_store.manifest import MANIFEST_FILE
from scene_store.remote.address import Address, is_remote
from scene_store.remote.options import RemoteOptions
from scene_store.store import is_store, open_store
from scene_store.streamed_sog_chunks import open_streamed_sog
from splat.errors import SceneFormatError, SceneNotFoundError, SceneUnreachableError


def can_stream(path: str | os.PathLike[str]) -> bool:
    """Whether ``open_chunks`` is the way to open it: a look at what is there, not a check.
    Every address is, as nothing is asked of a server."""
    return is_remote(os.fspath(path)) or is_store(path) or _is_streamed_sog(Path(path))


def open_chunks(
    path: str | os.PathLike[str], *, remote: RemoteOptions | None = None
) -> ChunkSource:
    """Opens a store or a streamed SOG, local or remote.

    Args:
        path: A folder, its ``manifest.json`` or ``lod-meta.json``, or the address of one.
        remote: How to deal with servers; the defaults if None.

    Raises:
        SceneNotFoundError: If there is neither.
        SceneUnreachableError: If its server cannot be reached just now.
        SceneFormatError: If it is broken, or a scene that cannot be streamed as it is.
    """
    text = os.fspath(path)
    if is_remote(text):
        return _open_remote(text, remote)
    if is_store(path):
        return open_store(path)
    if _is_streamed_sog(Path(path)):
        return open_streamed_sog(path)
    if not os.path.exists(path):
        raise SceneNotFoundError(f"{text}: no such file or folder; check the spelling")
    raise SceneFormatError(
        path, "is neither a store nor a streamed SOG", remedy="build a store from it"
    )


def _is_streamed_sog(path: Path) -> bool:
    return path.name == LOD_META_FILE or os.path.isfile(path / LOD_META_FILE)


def _open_remote(text: str, remote: RemoteOptions | None) -> ChunkSource:
    """By what is named; of a folder, the files that tell are looked for in turn. A server that
    does not answer is not asked for the next one."""
    name = Address.of(text).path.rpartition("/")[2]
    if name == LOD_META_FILE:
        return open_streamed_sog(text, remote=remote)
    try:
        return open_store(text, remote=remote)
    except SceneUnreachableError:
        raise
    except SceneNotFoundError as error:
        if name == MANIFEST_FILE:
            raise
        missing = error
    try:
        return open_streamed_sog(text, remote=remote)
    except SceneUnreachableError:
        raise
    except SceneNotFoundError:
        raise missing from None
