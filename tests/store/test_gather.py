"""Records from all over a file, held against slices of its bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene_store.formats.source import FileBytes
from scene_store.native import _store
from splat.errors import SceneFormatError

CONTENT = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gather") / "file"
    path.write_bytes(CONTENT)
    return path


@given(data=st.data())
def test_records_are_the_bytes_at_their_places(path: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    places = st.integers(0, len(CONTENT) - size)
    starts = data.draw(st.lists(places, max_size=20))
    run = data.draw(st.integers(0, 6))  # records that follow each other
    starts += [start for start in range(0, run * size, size) if start + size <= len(CONTENT)]
    out = FileBytes(path).gather(np.array(starts, np.int64), size)
    assert out.shape == (len(starts), size)
    assert [row.tobytes() for row in out] == [CONTENT[at : at + size] for at in starts]


def test_a_file_that_ends_before_is_told(path: Path) -> None:
    with pytest.raises(SceneFormatError, match="became shorter"):
        FileBytes(path).gather(np.array([0, len(CONTENT) - 5]), 10)


def test_errors_of_the_system_are_passed_on(path: Path) -> None:
    out = np.empty((1, 4), np.uint8)
    assert _store.gather(-1, np.zeros(1, np.int64), out) == errno.EBADF
    with path.open("rb") as file:
        assert _store.gather(file.fileno(), np.array([-4], np.int64), out) == errno.EINVAL
        assert _store.gather(file.fileno(), np.array([len(CONTENT)], np.int64), out) == -1
        with pytest.raises(ValueError, match="a row for each"):
            _store.gather(file.fileno(), np.zeros(2, np.int64), out)
