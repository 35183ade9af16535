"""``nodes.bin``: the tree and where each chunk lies, as records of fixed size.

Not JSON, so that opening a scene of hundreds of millions of Gaussians reads two megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_store.manifest import MODEL_VERSION, VERSION
from scene_store.tree import NO_PARENT, LodTree
from splat.errors import SceneError

MAGIC = b"BVSNODES"
_HEADER_BYTES = 16  # magic, nodes, bytes of a record


def _record(*middle: tuple[str, str]) -> np.dtype[np.void]:
    """One record, little-endian, without gaps; both offsets are aligned."""
    return np.dtype(
        [
            ("lo", "<f4", 3),
            ("hi", "<f4", 3),
            ("max_scale", "<f4"),
            ("error", "<f4"),
            ("count", "<u4"),
            ("first_child", "<u4"),
            *middle,
            ("geometry_offset", "<u8"),
            ("geometry_bytes", "<u4"),
            ("geometry_crc", "<u4"),
            ("sh_offset", "<u8"),
            ("sh_bytes", "<u4"),
            ("sh_crc", "<u4"),
        ]
    )


NODE_DTYPE = _record(("child_count", "<u2"), ("level", "<u2"), ("loss", "<f4"))
_DTYPE_OF_VERSION = {
    1: _record(("child_count", "<u4"), ("level", "<u4")),
    2: NODE_DTYPE,
    MODEL_VERSION: NODE_DTYPE,
}
MAX_CHILDREN = 65_535

NodeRecords = NDArray[np.void]


class ChunkRef(NamedTuple):
    """Where a chunk lies in the page files of its level; plain integers, fit for a journal.

    Attributes:
        level: 0 for original Gaussians.
        gaussians: How many it holds.
        geometry_offset, geometry_bytes, geometry_crc: Range in ``geometry-LL.bin``, and the
            CRC-32 of its bytes.
        sh_offset, sh_bytes, sh_crc: The same in ``sh-LL.bin``; zeros for degree 0.
    """

    level: int
    gaussians: int
    geometry_offset: int
    geometry_bytes: int
    geometry_crc: int
    sh_offset: int
    sh_bytes: int
    sh_crc: int


def table_bytes(nodes: int) -> int:
    """Size of the table of so many nodes."""
    return _HEADER_BYTES + nodes * NODE_DTYPE.itemsize


def encode_nodes(tree: LodTree, refs: Sequence[ChunkRef]) -> bytes:
    """The table of a tree and the chunk of each of its nodes.

    Raises:
        ValueError: If they do not belong together.
    """
    if len(refs) != len(tree):
        raise ValueError(f"{len(tree)} nodes have {len(refs)} chunks")
    places = np.array(refs, np.uint64).reshape(len(refs), len(ChunkRef._fields))
    records = np.zeros(len(tree), NODE_DTYPE)
    for name, column in zip(ChunkRef._fields, places.T, strict=True):
        records["count" if name == "gaussians" else name] = column
    for name in ("count", "level"):
        if not np.array_equal(records[name], getattr(tree, name)):
            raise ValueError(f"nodes and their chunks differ in {name}")
    if int(tree.child_count.max()) > MAX_CHILDREN:
        raise ValueError(f"a node has more than {MAX_CHILDREN:,} children")
    for name in ("lo", "hi", "max_scale", "error", "loss", "first_child", "child_count"):
        records[name] = getattr(tree, name)
    header = MAGIC + np.array([len(tree), NODE_DTYPE.itemsize], "<u4").tobytes()
    return header + records.tobytes()


def decode_nodes(table: bytes, nodes: int, version: int = VERSION) -> tuple[LodTree, NodeRecords]:
    """The tree and the records of a table of ``table_bytes(nodes)`` bytes.

    Args:
        version: Of the format; the first one has no losses.

    Raises:
        SceneError: If it is not such a table, or not a forest in breadth-first order.
    """
    size, record_bytes = np.frombuffer(table, "<u4", 2, offset=len(MAGIC)).tolist()
    if table[: len(MAGIC)] != MAGIC:
        raise SceneError("is not a node table")
    if (size, record_bytes) != (nodes, NODE_DTYPE.itemsize):
        raise SceneError(f"holds {size} records of {record_bytes} bytes")
    dtype = _DTYPE_OF_VERSION[version]
    records: NodeRecords = np.frombuffer(table, dtype, nodes, offset=_HEADER_BYTES)
    for name in ("count", "first_child", "child_count", "level"):
        if int(records[name].max()) >= 1 << 31:
            raise SceneError(f"holds a number of {name.replace('_', ' ')} that makes no sense")
    losses = {} if version == 1 else {"loss": records["loss"]}
    tree = LodTree(
        lo=records["lo"],
        hi=records["hi"],
        max_scale=records["max_scale"],
        error=records["error"],
        count=records["count"],
        parent=_parents(records["child_count"]),
        first_child=records["first_child"],
        child_count=records["child_count"],
        level=records["level"],
        **losses,
    )
    return tree, records


def _parents(child_count: NDArray[Any]) -> NDArray[np.int32]:
    """Breadth first, so the children of each inner node follow those of the one before."""
    counts = child_count.astype(np.int64)
    roots = len(counts) - int(counts.sum())
    if roots < 1:
        raise SceneError("names more children than it has nodes")
    inner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.concatenate([np.full(roots, NO_PARENT, np.int32), inner])
