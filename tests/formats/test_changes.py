"""Files that somebody changes while they are read: an error, never a crash."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from scene_store.formats.source import FileBytes
from splat.errors import SceneFormatError, SceneNotFoundError
from tests.formats import encoders
from tests.formats.samples import random_gaussians

COUNT = 5000
SAMPLE = random_gaussians(COUNT, 1)
FILES = {
    "scene.ply": encoders.ply(SAMPLE),
    "scene.compressed.ply": encoders.compressed_ply(SAMPLE),
    "scene.splat": encoders.splat(SAMPLE),
    "scene.ksplat": encoders.ksplat(SAMPLE, 0),
}


@pytest.fixture(params=FILES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is read in pieces."""
    path = tmp_path / str(request.param)
    path.write_bytes(FILES[request.param])
    return path


def test_a_file_that_is_cut_is_named(scene: Path) -> None:
    with open_scene(scene) as source:
        batches = source.batches(COUNT // 2)
        next(batches)
        os.truncate(scene, scene.stat().st_size // 4)
        with pytest.raises(SceneFormatError, match=rf"{scene.name}: has changed while it was read"):
            next(batches)


def test_a_file_that_another_takes_the_place_of_is_named(scene: Path) -> None:
    with open_scene(scene) as source:
        batches = source.batches(COUNT // 2)
        next(batches)
        other = scene.with_name("other")
        other.write_bytes(FILES[scene.name])
        os.utime(other, (1, 1))
        other.replace(scene)
        with pytest.raises(SceneFormatError, match="has changed while it was read"):
            next(batches)
        scene.unlink()
        with pytest.raises(SceneNotFoundError, match="cannot be read"):
            next(source.batches(COUNT))


def test_a_file_that_is_cut_during_a_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    pieces = FileBytes(path).pieces(0, 100_000, 40_000)
    next(pieces)
    os.truncate(path, 50_000)
    with pytest.raises(SceneFormatError, match=r"file: became shorter while it was read; open it"):
        next(pieces)


def test_all_ways_to_read_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 5_000, np.uint8)
    path.write_bytes(content.tobytes())
    data = FileBytes(path)
    assert np.array_equal(data[:], content) and np.array_equal(data[4_000:9_000], content[4_000:])
    assert data[3:3].size == data[9_000:].size == 0
    pieces = [piece.copy() for piece in data.pieces(10, 4_990, 999)]
    assert [len(piece) for piece in pieces] == [999, 999, 999, 999, 984]
    assert np.array_equal(np.concatenate(pieces), content[10:4_990])
    assert data.stream(10, 4_990).read() == content[10:4_990].tobytes()
    records = data.records(5, 4_995, np.dtype([("a", "<u4"), ("b", "u1")]))
    assert len(records) == 998
    assert np.array_equal(records[7:9].view(np.uint8), content[40:50])
    blocks = np.concatenate([block.copy() for block in records.blocks(7, 900, 100)])
    assert np.array_equal(blocks.view(np.uint8), content[40:4_505])
