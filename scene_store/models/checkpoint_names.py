"""The names that a checkpoint of torch's begins with, by which models are told apart.

Trainers write a dictionary, and name what they trained first: a bounded look at the pickle's first
bytes is enough, of files of any size. Its texts are listed; no value is built of it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import pickletools
from collections.abc import Iterator
from pathlib import Path

from scene_store.formats.source import read_head
from scene_store.formats.zip_entries import ZIP_MAGIC, entries_of, entry_head
from splat.errors import SceneError

HEAD_BYTES = 1 << 16
MAX_STEPS = 1 << 14

_PICKLE = "data.pkl"
# Before torch 1.6: pickles of protocol 2, of a magic number, a version, the machine, the value.
_STREAM_MAGIC = b"\x80\x02"
_STREAM_PICKLES = 4
# What ``genops`` raises where the first bytes end, or of what is no pickle.
_BROKEN = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
    DeprecationWarning,  # an unknown escape; an error where warnings are
)


def names_in(path: Path) -> frozenset[str]:
    """The texts in the first 64 KiB of a checkpoint's pickle; none of what is no checkpoint.

    Keys of dictionaries, names of parameters, and whatever else is text there.
    """
    try:
        status = path.stat()
        return _names_in(path, status.st_ino, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, SceneError):
        return frozenset()


@functools.lru_cache(maxsize=16)  # all readers ask the same of a file
def _names_in(path: Path, *_state: int) -> frozenset[str]:
    start = read_head(path, len(ZIP_MAGIC))
    if start == ZIP_MAGIC:
        return frozenset(_texts(_pickle_of_zip(path), 1))
    if start.startswith(_STREAM_MAGIC):
        return frozenset(_texts(read_head(path, HEAD_BYTES), _STREAM_PICKLES))
    return frozenset()


def _pickle_of_zip(path: Path) -> bytes:
    entries = entries_of(path)
    places = [at for name, at in entries.items() if name.partition("/")[2] == _PICKLE]
    return entry_head(path, places[0], HEAD_BYTES) if len(places) == 1 else b""


def _texts(head: bytes, pickles: int) -> Iterator[str]:
    """Of so many pickles that follow each other, as far as they go."""
    file = io.BytesIO(head)
    steps = itertools.count()
    with contextlib.suppress(*_BROKEN):
        for _ in range(pickles):
            for _, argument, _ in pickletools.genops(file):
                if next(steps) == MAX_STEPS:
                    return
                if isinstance(argument, str):
                    yield argument
