"""Builds that were interrupted while they read what does not fit into memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build import builder as builder_module
from scene_store.build.interrupted import begun_scenes
from scene_store.build.sources import JoinedSource, open_sources
from scene_store.formats import write_ply
from scene_store.sampling import checked_batches
from scene_store.store_folder import partial_folder, scratch_folder
from scene_store.town_source import TownSource
from splat.gaussians import Gaussians
from tests.store.test_build import Stop, content
from tests.store.test_merge import random_gaussians

ROOT = Path(__file__).resolve().parents[2]
BATCH = 1000
OPTIONS = BuildOptions(page_gaussians=1024, checkpoint_s=0, threads=1)


@pytest.fixture(autouse=True)
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorts through bucket files, and reads batch after batch, however little there is."""
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: False)
    monkeypatch.setattr("scene_store.sampling.BATCH_COUNT", BATCH)


def write_scene(path: Path, count: int = 6000, seed: int = 1) -> Path:
    gaussians = random_gaussians(count, sh_degree=1, seed=seed)
    gaussians.means[17] = np.nan
    write_ply(path, [gaussians], count, 1)
    return path


def ply(folder: Path) -> list[str]:
    return [str(write_scene(folder / "a.ply"))]


def two_plys(folder: Path) -> list[str]:
    return [str(write_scene(folder / "a.ply")), str(write_scene(folder / "b.ply", 3500, 2))]


def composition(folder: Path) -> list[str]:
    write_scene(folder / "a.ply", 1300)
    path = folder / "c.yaml"
    path.write_text(
        "scenes:\n"
        "  - {path: a.ply, grid: {counts: [2, 1, 2], pitch: [3, 0, 3]}}\n"
        "  - {path: a.ply, transform: {translation: [9, 0, 0]}}\n"
    )
    return [str(path)]


SCENES: dict[str, Callable[[Path], list[str]]] = {
    "a file": ply,
    "two files": two_plys,
    "a composition": composition,
    "a town": lambda folder: ["town:7000"],
}


def interrupted(scenes: list[str], path: Path, read: int, options: BuildOptions = OPTIONS) -> None:
    """A build that was stopped when so many Gaussians were read."""

    def stopping(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.READ and done >= read:
            raise Stop

    with pytest.raises(Stop):
        build_store(scenes, path, options, stopping)
    assert begun_scenes(partial_folder(path))


def continued(scenes: list[str], path: Path, options: BuildOptions = OPTIONS) -> list[int]:
    """What the build says it has read, when it goes on."""
    heard: list[tuple[Stage, int]] = []
    report = build_store(
        scenes, path, options, lambda stage, done, total: heard.append((stage, done))
    )
    assert report.resumed
    assert Stage.SAMPLE not in [stage for stage, _ in heard], "it has looked around already"
    return [done for stage, done in heard if stage is Stage.READ]


@pytest.mark.parametrize("read", [1, 2600, 5000])
@pytest.mark.parametrize("kind", SCENES)
def test_reading_goes_on_where_it_was(tmp_path: Path, kind: str, read: int) -> None:
    scenes = SCENES[kind](tmp_path)
    expected = tmp_path / "expected.bvs"
    build_store(scenes, expected, OPTIONS)
    path = tmp_path / "s.bvs"
    interrupted(scenes, path, read)
    first, *_ = continued(scenes, path)
    assert first > read, "what was read is not read again"
    assert content(path) == content(expected)
    assert not partial_folder(path).exists()


def test_reading_goes_on_again_and_again(tmp_path: Path) -> None:
    scenes, path = two_plys(tmp_path), tmp_path / "s.bvs"
    for read in (1500, 3500, 5500, 7500):
        interrupted(scenes, path, read)
    continued(scenes, path, replace(OPTIONS, memory_bytes=64 << 20))
    build_store(scenes, tmp_path / "expected.bvs", OPTIONS)
    assert content(path) == content(tmp_path / "expected.bvs")


def coarser(streamed: Path, folder: Path, finest: int) -> Path:
    """A streamed SOG without the levels that are finer than ``finest``."""
    meta = json.loads((streamed / "lod-meta.json").read_text())
    meta["lodLevels"] -= finest

    def strip(node: dict[str, Any]) -> None:
        lods = node.get("lods", {})
        node["lods"] = {str(int(n) - finest): lods[n] for n in lods if int(n) >= finest}
        if not lods:
            del node["lods"]
        for child in node.get("children", ()):
            strip(child)

    strip(meta["tree"])
    folder.mkdir()
    for name in meta["filenames"]:
        (folder / Path(name).parent).symlink_to(streamed / Path(name).parent)
    path = folder / "lod-meta.json"
    path.write_text(json.dumps(meta))
    return path


def test_levels_of_its_own_are_gone_on_with(data_dir: Path, tmp_path: Path) -> None:
    originals = 125_000
    scenes = [str(coarser(data_dir / "playbot", tmp_path / "playbot", finest=2))]
    path, options = tmp_path / "s.bvs", BuildOptions(sh_degree=0, checkpoint_s=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene_store.sampling.BATCH_COUNT", 1 << 14)
        interrupted(scenes, path, originals + 10_000, options)
        first, *_ = continued(scenes, path, options)
        assert first > originals + 10_000
        build_store(scenes, tmp_path / "expected.bvs", options)
    assert content(path) == content(tmp_path / "expected.bvs")


def test_what_was_written_after_the_last_point_does_not_count(tmp_path: Path) -> None:
    scenes, path = ply(tmp_path), tmp_path / "s.bvs"
    interrupted(scenes, path, 3000)
    buckets = sorted(scratch_folder(path).glob("buckets-0/*.rows"))
    for file in buckets:
        with file.open("ab") as rows:
            rows.write(b"half a row")
    (buckets[0].parent / "511.rows").write_bytes(b"of no bucket")
    continued(scenes, path)
    build_store(scenes, tmp_path / "expected.bvs", OPTIONS)
    assert content(path) == content(tmp_path / "expected.bvs")


KILLED = """
import os, signal, sys
from scene_store import sampling
from scene_store.build import BuildOptions, build_store, builder
from scene_store.build.partition import Dealer
builder.fits_in_memory = lambda *args: False
sampling.BATCH_COUNT = 1000
write, left = Dealer._write, [4]
def killed(dealer):
    write(dealer)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Dealer._write = killed
options = BuildOptions(page_gaussians=1024, checkpoint_s=0, threads=1)
build_store([sys.argv[1]], sys.argv[2], options)
"""


def test_a_kill_between_writing_and_noting_it(tmp_path: Path) -> None:
    scenes, path = ply(tmp_path), tmp_path / "s.bvs"
    command = [sys.executable, "-c", KILLED, *scenes, str(path)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert continued(scenes, path)[0] == 4000, "the fourth batch was on the disk, but not noted"
    build_store(scenes, tmp_path / "expected.bvs", OPTIONS)
    assert content(path) == content(tmp_path / "expected.bvs")


def edit_dealing(scratch: Path, **changes: object) -> None:
    file = scratch / "journal.json"
    state = json.loads(file.read_text())
    state["dealing"] |= changes
    file.write_text(json.dumps(state))


def largest_bucket(scratch: Path) -> Path:
    return max(scratch.glob("buckets-0/*.rows"), key=lambda file: file.stat().st_size)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bucket cut": lambda scratch: os.truncate(largest_bucket(scratch), 5),
    "bucket missing": lambda scratch: largest_bucket(scratch).unlink(),
    "journal without counts": lambda scratch: edit_dealing(scratch, bucket_counts=[]),
    "journal of other buckets": lambda scratch: edit_dealing(scratch, limits=[1, 2, 3]),
    "journal with nonsense": lambda scratch: edit_dealing(scratch, consumed=[-1]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_gone_on_with_is_read_anew_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    scenes, path = ply(tmp_path), tmp_path / "s.bvs"
    interrupted(scenes, path, 3000)
    DAMAGE[damage](scratch_folder(path))
    assert not build_store(scenes, path, OPTIONS).resumed
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "s.bvs: the interrupted build cannot be continued (" in said
    build_store(scenes, tmp_path / "expected.bvs", OPTIONS)
    assert content(path) == content(tmp_path / "expected.bvs")


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 2600, 5199, 5999, 6000])
@pytest.mark.parametrize("kind", ["a file", "two files", "a composition", "a town"])
def test_a_source_begins_anywhere(tmp_path: Path, kind: str, start: int) -> None:
    with open_sources(SCENES[kind](tmp_path)) as source:
        assert isinstance(source, JoinedSource) == (kind == "two files")
        whole = Gaussians.concatenate(list(source.batches(BATCH)))
        heard: list[int] = []
        rest = list(checked_batches(source, heard.append, start))
    assert sum(map(len, rest)) == len(whole) - start
    if not rest:
        return
    assert heard[-1] == len(whole) and heard[0] == start + len(rest[0])
    expected = whole[start:]
    joined = Gaussians.concatenate(rest)
    for a, b in zip(joined.arrays, expected.arrays, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def test_cells_of_a_town_that_are_left_out_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from scene_store.town.workers import CellWorkers

    make, made = CellWorkers.make, []

    def noting(workers: CellWorkers, index: int) -> Gaussians:
        made.append(index)
        return make(workers, index)

    monkeypatch.setattr(CellWorkers, "make", noting)
    town = TownSource(50_000, 0)
    all_cells = len(list(town.batches(1 << 20))) - 1  # and the backdrop
    assert sorted(made) == list(range(all_cells))
    made.clear()
    assert sum(map(len, town.batches_from(49_000, 1 << 20))) == 1000
    assert made and min(made) > all_cells // 2
