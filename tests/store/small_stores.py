"""Small stores for tests: a root over a few leaves of random Gaussians."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scene_store.manifest import Profile, StoreInfo
from scene_store.node_table import NODE_DTYPE, ChunkRef
from scene_store.page_codec import encode_chunk
from scene_store.store_writer import StoreWriter
from scene_store.tree import NO_PARENT, LodTree
from splat.gaussians import Gaussians
from tests import scenes

PAGE_GAUSSIANS = 1024
INFO = StoreInfo(up=(0.0, -1.0, 0.0), settings=(("page", "1024"),), notes=("a note",))


def sample_chunks(sh_degree: int = 1, leaves: int = 3) -> list[Gaussians]:
    """The chunks of a small tree, the root's first."""
    counts = [200, *(300 + 10 * leaf for leaf in range(leaves))]
    return [scenes.random_scene(seed, count, sh_degree) for seed, count in enumerate(counts)]


def sample_tree(chunks: list[Gaussians]) -> LodTree:
    """The first chunk is the parent of all others."""
    leaves = len(chunks) - 1
    lo = np.array([chunk.means.min(axis=0) for chunk in chunks])
    hi = np.array([chunk.means.max(axis=0) for chunk in chunks])
    lo[0], hi[0] = lo.min(axis=0), hi.max(axis=0)
    return LodTree(
        lo=lo,
        hi=hi,
        max_scale=np.full(1 + leaves, max(chunk.scales.max() for chunk in chunks), np.float32),
        error=np.array([0.5] + leaves * [0.0], np.float32),
        count=np.array([len(chunk) for chunk in chunks], np.int32),
        parent=np.array([NO_PARENT] + leaves * [0], np.int32),
        first_child=np.array([1] + leaves * [0], np.int32),
        child_count=np.array([leaves] + leaves * [0], np.int32),
        level=np.array([1] + leaves * [0], np.int32),
        loss=np.array([0.25] + leaves * [0.0], np.float32),
    )


def append_all(
    writer: StoreWriter, chunks: list[Gaussians], first: int = 1
) -> list[ChunkRef | None]:
    """Appends the leaves from ``first`` on, then the root; references in the tree's order."""
    refs: list[ChunkRef | None] = [None] * len(chunks)
    for node in [*range(first, len(chunks)), 0]:
        encoded = encode_chunk(chunks[node], writer.profile)
        refs[node] = writer.append(0 if node else 1, len(chunks[node]), encoded)
    return refs


def write_store(
    path: Path,
    chunks: list[Gaussians] | None = None,
    *,
    profile: Profile = Profile.LOSSLESS,
    replace: bool = False,
    info: StoreInfo = INFO,
) -> Path:
    """A finished store of these chunks."""
    chunks = sample_chunks() if chunks is None else chunks
    with StoreWriter(
        path,
        sh_degree=chunks[0].sh_degree,
        profile=profile,
        page_gaussians=PAGE_GAUSSIANS,
        replace=replace,
    ) as writer:
        refs = [ref for ref in append_all(writer, chunks) if ref is not None]
        writer.finish(sample_tree(chunks), refs, info)
    return path


def edit_manifest(store: Path, **changes: Any) -> None:
    """Changes fields (``nodes__count=3`` for a nested one, lists by index) and leaves the
    checksum out, as a person with an editor would."""
    path = store / "manifest.json"
    fields = json.loads(path.read_text("utf-8"))
    del fields["crc32"]
    for name, value in changes.items():
        *parents, last = (int(key) if key.isdigit() else key for key in name.split("__"))
        target = fields
        for key in parents:
            target = target[key]
        target[last] = value
    path.write_text(json.dumps(fields), "utf-8")


def edit_node(store: Path, node: int, **changes: float) -> None:
    """Changes fields of a record of the node table, and the table's checksum with it."""
    path = store / "nodes.bin"
    table = bytearray(path.read_bytes())
    records = np.frombuffer(table, NODE_DTYPE, offset=16)
    for name, value in changes.items():
        records[name][node] = value
    path.write_bytes(table)
    edit_manifest(store, nodes__crc32=f"{zlib.crc32(table):08x}")
