"""How far a build is, on the disk, so that a killed one can be continued.

``journal.json`` names everything else; it is replaced as a whole, after the files that it
names are written. What is not in it does not count.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene_store.build.dealing import Dealing
from scene_store.build.grid import MortonGrid
from scene_store.build.merging import BuiltNode, Content
from scene_store.build.node_log import NodeLog
from scene_store.build.pyramid import Pending
from scene_store.build.rows import from_rows, to_rows
from scene_store.chunks import EncodedChunk
from scene_store.store_writer import WriterState
from splat.atomic_file import atomic_file
from splat.gaussians import Float32Array

_JOURNAL_FILE = "journal.json"
# What a damaged journal or checkpoint raises while it is read.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    zipfile.BadZipFile,
    zlib.error,
)

_VERSION = 6  # grows whenever the same scene and options would give other bytes


@dataclass(frozen=True, slots=True)
class Sorted:
    """The state after the sources were read.

    Attributes:
        grid: Of the curve.
        counts: Usable Gaussians of the source and of each of its own levels, in the order of
            the plan.
        bucket_counts: Rows of each bucket, likewise; empty where all is in memory.
    """

    grid: MortonGrid
    counts: tuple[int, ...]
    bucket_counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state between two leaves.

    Attributes:
        consumed: Gaussians taken from each stream.
        writer: What is written.
        log: The nodes.
        waiting: Nodes without a parent yet, by level.
        sample: Of the originals taken (``OutlineSampler.rows``).
    """

    consumed: tuple[int, ...]
    writer: WriterState
    log: NodeLog
    waiting: tuple[tuple[Pending, ...], ...]
    sample: Float32Array


class Journal:
    """Reads and writes the state of a build.

    Args:
        folder: The store's scratch folder.
        identity: What is built, how and of what, as plain JSON; a journal of another build is
            not continued.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._state: dict[str, Any] = {
            "version": _VERSION,
            "identity": json.loads(json.dumps(identity)),
            "dealing": None,
            "sorted": None,
            "checkpoint": None,
        }

    @classmethod
    def found_in(cls, folder: Path) -> Journal | None:
        """The journal of whatever build is at work in this folder; it may change meanwhile."""
        journal = cls(folder, {})
        found = journal._read()
        if found.get("version") != _VERSION or found.get("sorted") is None:
            return None
        journal._state = found
        return journal

    @property
    def identity(self) -> dict[str, Any]:
        """What is built, how and of what."""
        identity: dict[str, Any] = self._state["identity"]
        return identity

    def exists(self) -> bool:
        """Whether anything was ever saved here."""
        return (self._folder / _JOURNAL_FILE).exists()

    def load(self) -> bool:
        """Whether there is a journal of this very build; it is then taken up."""
        found = self._read()
        if found.get("version") != _VERSION or found.get("identity") != self._state["identity"]:
            return False
        self._state = found
        return True

    def other_identity(self) -> dict[str, Any] | None:
        """Of the build that left its journal here, if there is one that can be read."""
        found = self._read()
        identity = found.get("identity")
        known = found.get("version") == _VERSION and isinstance(identity, dict)
        return identity if known else None

    @property
    def dealing(self) -> Dealing | None:
        """The state while the sources are read, if that takes so long."""
        state = self._state.get("dealing")
        if state is None:
            return None
        return Dealing(
            _grid(state["grid"]),
            tuple(state["limits"]),
            tuple(state["consumed"]),
            tuple(map(tuple, state["bucket_counts"])),
        )

    def save_dealing(self, state: Dealing) -> None:
        """Remembers how far the sources were read."""
        self._state["dealing"] = asdict(state)
        self._write()

    @property
    def sorted(self) -> Sorted | None:
        """The state after reading, if that was reached."""
        state = self._state["sorted"]
        if state is None:
            return None
        grid = _grid(state["grid"])
        return Sorted(grid, tuple(state["counts"]), tuple(map(tuple, state["bucket_counts"])))

    def save_sorted(self, state: Sorted) -> None:
        """Remembers that the sources were read."""
        self._state["dealing"] = None
        self._state["sorted"] = asdict(state)
        self._write()

    @property
    def consumed(self) -> tuple[int, ...]:
        """Gaussians taken from each stream at the last checkpoint; none if there is none."""
        state = self._state["checkpoint"]
        return () if state is None else tuple(map(int, state["consumed"]))

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, if there is one."""
        state = self._state["checkpoint"]
        if state is None:
            return None
        writer = WriterState(*(tuple(state["writer"][k]) for k in ("geometry_bytes", "sh_bytes")))
        with open(self._folder / state["file"], "rb") as file, np.load(file) as arrays:
            log = NodeLog.of({name: arrays[name] for name in ("refs", "numbers", "parents")})
            waiting, sample = _unpacked(arrays), arrays["sample"].reshape(-1, 4)
        return Checkpoint(tuple(state["consumed"]), writer, log, waiting, sample)

    def save_checkpoint(self, state: Checkpoint) -> None:
        """Remembers a point from which to continue; the one before is forgotten."""
        before = self._state["checkpoint"]
        name = f"checkpoint-{len(state.log):08d}.npz"
        with atomic_file(self._folder / name) as temporary, open(temporary, "wb") as file:
            arrays: dict[str, Any] = {**state.log.arrays(), **_packed(state.waiting)}
            arrays["sample"] = state.sample
            np.savez(file, **arrays)
        self._state["checkpoint"] = {
            "consumed": state.consumed,
            "writer": asdict(state.writer),
            "file": name,
        }
        self._write()
        if before is not None and before["file"] != name:
            (self._folder / before["file"]).unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads((self._folder / _JOURNAL_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        with atomic_file(self._folder / _JOURNAL_FILE) as temporary:
            temporary.write_text(json.dumps(self._state), "utf-8")


def _grid(state: dict[str, Any]) -> MortonGrid:
    return MortonGrid(tuple(state["corner"]), state["cells_per_unit"])


def _packed(waiting: Sequence[Sequence[Pending]]) -> dict[str, Any]:
    nodes = [(level, node) for level, nodes in enumerate(waiting) for node in nodes]
    arrays: dict[str, Any] = {
        "places": np.array([(level, n.index, n.count) for level, n in nodes], np.int64).reshape(
            -1, 3
        ),
        "codes": np.array([(n.first_code, n.last_code) for _, n in nodes], np.uint64).reshape(
            -1, 2
        ),
    }
    for at, (_, node) in enumerate(nodes):
        built = node.built.result()
        content = built.content
        arrays[f"rows_{at}"] = to_rows(content.gaussians, content.gaussians.sh_degree)
        arrays[f"sizes_{at}"] = content.sizes
        arrays[f"variances_{at}"] = content.variances
        arrays[f"numbers_{at}"] = built.numbers
        arrays[f"error_{at}"] = np.float64(content.error)
    return arrays


def _unpacked(arrays: Any) -> tuple[tuple[Pending, ...], ...]:
    levels: list[list[Pending]] = []
    places, codes = arrays["places"].tolist(), arrays["codes"].tolist()
    for at, ((level, index, count), (first, last)) in enumerate(zip(places, codes, strict=True)):
        content = Content(
            from_rows(arrays[f"rows_{at}"]),
            arrays[f"sizes_{at}"],
            arrays[f"variances_{at}"],
            float(arrays[f"error_{at}"]),
        )
        built: Future[BuiltNode] = Future()
        built.set_result(BuiltNode.of(content, EncodedChunk(()), arrays[f"numbers_{at}"]))
        while len(levels) <= level:
            levels.append([])
        levels[level].append(Pending(index, count, first, last, built))
    return tuple(tuple(level) for level in levels)
