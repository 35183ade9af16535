"""A build that goes on, seen from outside: what is finished, and a sketch of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build.unfinished import UnfinishedStore, finished_gaussians
from scene_store.chunks import Provisional
from scene_store.formats.ply import write_ply
from scene_store.range_reader import FolderReader
from scene_store.sketch import Sketch, sketch_scene
from scene_store.store import open_store
from splat.errors import ChunkReadError, SceneError
from splat.gaussians import Gaussians
from tests import scenes

COUNT = 40_000
OPTIONS = BuildOptions(page_gaussians=1024, threads=1, checkpoint_s=0.0)


class _Stopped(Exception):
    """A build that was interrupted."""


@pytest.fixture(scope="module")
def ball_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_ply(path, [scenes.random_scene(3, COUNT, 1)], COUNT, 1)
    return path


@pytest.fixture(scope="module")
def sketch(ball_ply: Path) -> Sketch:
    return sketch_scene(str(ball_ply), 6_000, 5.0)


@pytest.fixture
def half_built(ball_ply: Path, tmp_path: Path) -> Path:
    """The store to be of a build that stopped when half of the leaves were there."""

    def stop(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.BUILD and done > total // 2:
            raise _Stopped

    path = tmp_path / "ball.bvs"
    with pytest.raises(_Stopped):
        build_store([ball_ply], path, OPTIONS, stop)
    return path


def leaves(store: UnfinishedStore) -> Iterator[Gaussians]:
    for chunk in np.flatnonzero(store.tree.is_leaf).tolist():
        encoded = store.read(chunk)
        assert encoded is not None and encoded.nbytes == store.encoded_bytes(chunk)
        yield store.decode(chunk, encoded)


def test_before_anything_is_finished_there_is_the_sketch(sketch: Sketch, tmp_path: Path) -> None:
    with closing(UnfinishedStore(tmp_path / "no.bvs", sketch)) as store:
        assert (store.finished, store.share, store.meta.count) == (0, 0.0, COUNT)
        assert sum(map(len, leaves(store))) == len(sketch.gaussians)
        assert len(store.tree.roots) == 1
        assert isinstance(store, Provisional), "the panel tells it from a store"


def test_what_is_finished_takes_the_place_of_its_part_of_the_sketch(
    half_built: Path, sketch: Sketch, ball_ply: Path
) -> None:
    with closing(UnfinishedStore(half_built, sketch)) as store:
        finished = store.finished
        assert 0.3 * COUNT < finished < 0.7 * COUNT
        assert store.share == pytest.approx(finished / COUNT)
        assert len(store.tree.roots) == 1 and store.tree.level.max() >= 2
        total = sum(map(len, leaves(store)))
    rest = total - finished
    expected = len(sketch.gaussians) * (1 - finished / COUNT)
    assert rest == pytest.approx(expected, rel=0.2)
    build_store([ball_ply], half_built, OPTIONS)  # looking at it did no harm
    with open_store(half_built) as whole:
        assert whole.meta.count == COUNT


def test_the_finished_part_is_that_of_the_store(
    half_built: Path, sketch: Sketch, ball_ply: Path
) -> None:
    with closing(UnfinishedStore(half_built, sketch)) as store:
        begun = [g.means for g in leaves(store)]
    build_store([ball_ply], half_built, OPTIONS)
    with open_store(half_built) as whole:
        chunks = np.flatnonzero(whole.tree.is_leaf).tolist()
        decoded = [whole.decode(chunk, whole.read(chunk)) for chunk in chunks]  # type: ignore[arg-type]
    known = {g.means.tobytes() for g in decoded}
    assert sum(means.tobytes() in known for means in begun) >= 15


def test_it_can_be_read_after_the_store_got_its_name(
    half_built: Path, sketch: Sketch, ball_ply: Path
) -> None:
    with closing(UnfinishedStore(half_built, sketch)) as store:
        build_store([ball_ply], half_built, OPTIONS)
        assert sum(map(len, leaves(store))) > COUNT // 2


def test_a_page_file_that_is_gone_is_one_error(half_built: Path, sketch: Sketch) -> None:
    for file in half_built.with_name("ball.bvs.partial").glob("*.bin"):
        file.unlink()
    with pytest.raises(SceneError, match="is missing"):
        UnfinishedStore(half_built, sketch)


@pytest.mark.parametrize("error", [MemoryError(), SceneError("nothing"), KeyboardInterrupt()])
def test_whatever_goes_wrong_its_files_are_closed(
    half_built: Path, sketch: Sketch, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    closed: list[str] = []

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(UnfinishedStore, "_open_files", failing)
    monkeypatch.setattr(FolderReader, "close", lambda reader: closed.append("it"))
    with pytest.raises(type(error)):
        UnfinishedStore(half_built, sketch)
    assert len(closed) == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_none(half_built: Path, sketch: Sketch, share: float) -> None:
    (file,) = half_built.with_name("ball.bvs.partial").glob("**/checkpoint-*.npz")
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with closing(UnfinishedStore(half_built, sketch)) as store:
        assert store.finished == 0 and sum(map(len, leaves(store))) == len(sketch.gaussians)


def test_how_much_is_finished_is_told_without_reading_it(half_built: Path, sketch: Sketch) -> None:
    with closing(UnfinishedStore(half_built, sketch)) as store:
        finished = store.finished
    for file in half_built.with_name("ball.bvs.partial").glob("**/checkpoint-*.npz"):
        file.unlink()
    assert finished_gaussians(half_built) == finished > 0
    assert finished_gaussians(half_built.with_name("other.bvs")) == 0
    journal = half_built.with_name("ball.bvs.partial") / "scratch" / "journal.json"
    text = json.loads(journal.read_text())
    damaged: tuple[object, ...] = (7, {}, {"consumed": None}, {"consumed": []}, {"consumed": ["x"]})
    for wrong in damaged:
        journal.write_text(json.dumps({**text, "checkpoint": wrong}))
        assert finished_gaussians(half_built) == 0


def test_damaged_bytes_are_found(half_built: Path, sketch: Sketch) -> None:
    page = half_built.with_name("ball.bvs.partial") / "geometry-00.bin"
    data = bytearray(page.read_bytes())
    data[100] ^= 0xFF
    page.write_bytes(bytes(data))
    with (
        closing(UnfinishedStore(half_built, sketch)) as store,
        pytest.raises(ChunkReadError, match="checksum"),
    ):
        list(leaves(store))
