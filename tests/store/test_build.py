"""Builds: what comes out, whatever the memory, the threads and the interruptions."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_store.build import BuildOptions, BuildProgress, Stage, build_store, estimate_build
from scene_store.build import builder as builder_module
from scene_store.build.builder import brief_notes, nodes_ahead
from scene_store.build.options import MIN_MEMORY_BYTES, suitable_page
from scene_store.build.own_levels import plan_own_levels
from scene_store.build.pyramid import Pyramid
from scene_store.build.rows import row_bytes
from scene_store.build.sources import JoinedSource, open_sources
from scene_store.compose import ComposedSource
from scene_store.formats import write_ply
from scene_store.loading import load_scene
from scene_store.manifest import Profile, StoreInfo
from scene_store.store import Store, open_store
from scene_store.store_folder import partial_folder
from scene_store.tree import LodTree
from splat.errors import (
    OutputError,
    SceneError,
    SceneFormatError,
    SettingsError,
)
from splat.gaussians import Gaussians
from tests.store.test_merge import random_gaussians
from viewer.build import build

PAGE = 1024
LOSSLESS = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=PAGE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PLY of 20,000 Gaussians with harmonics, unevenly spread, some of them broken."""
    path = tmp_path_factory.mktemp("scene") / "scene.ply"
    gaussians = random_gaussians(20_000, sh_degree=1, seed=1)
    gaussians.means[:13_000] *= 0.05
    gaussians.means[77] = np.nan
    gaussians.scales[5000] = np.inf
    gaussians.means[0] = (500.0, 0.0, 0.0)
    write_ply(path, [gaussians], len(gaussians), 1)
    return path


@pytest.fixture
def through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets builds sort through bucket files, however little there is."""
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: False)


def content(path: Path) -> dict[str, bytes]:
    """Bytes of a store's files by name."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def chunk(store: Store, node: int) -> Gaussians:
    encoded = store.read(node)
    assert encoded is not None
    return store.decode(node, encoded)


def rows(gaussians: Gaussians) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """One row of all values a Gaussian, in an order that depends on nothing else."""
    table = np.concatenate([array.reshape(len(gaussians), -1) for array in gaussians.arrays], 1)
    return table[np.lexsort(table.T[::-1])]


def test_the_leaves_are_the_scene(scene: Path, tmp_path: Path) -> None:
    report = build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    assert (report.gaussians, report.dropped) == (19_998, 2)
    with open_store(tmp_path / "s.bvs") as store:
        leaves = np.flatnonzero(store.tree.is_leaf)
        found = Gaussians.concatenate([chunk(store, int(node)) for node in leaves])
        assert store.meta.count == 19_998
        assert store.tree.max_scale.max() > 0
        assert len(store.tree) == report.nodes
    expected = load_scene(scene).gaussians
    assert np.array_equal(rows(found), rows(expected))


def test_the_tree_keeps_its_promises(scene: Path, tmp_path: Path) -> None:
    build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    with open_store(tmp_path / "s.bvs") as store:
        tree = store.tree
        assert len(tree.roots) == 1
        assert (tree.count <= PAGE).all()
        # All but the last few are well filled.
        assert np.mean(tree.count[tree.level == 0] >= 0.75 * PAGE) > 0.9
        inner = np.flatnonzero(~tree.is_leaf)
        assert (tree.child_count[inner] >= 2).all()
        assert (tree.error[inner] > 0).all()
        for node in inner.tolist():
            children = list(tree.children(node))
            total = int(tree.count[children].sum())
            assert tree.count[node] == min(PAGE, max(1, total // 4))
            assert (tree.level[children] == tree.level[node] - 1).all()
            assert (tree.lo[children] >= tree.lo[node]).all()
            assert (tree.hi[children] <= tree.hi[node]).all()
            assert (tree.max_scale[children] <= tree.max_scale[node]).all()
        for node in range(len(tree)):
            require_inside(tree, node, chunk(store, node))


def require_inside(tree: LodTree, node: int, gaussians: Gaussians) -> None:
    assert (gaussians.means >= tree.lo[node]).all() and (gaussians.means <= tree.hi[node]).all()
    assert gaussians.scales.max() <= tree.max_scale[node] * 1.0001


def test_boxes_of_leaves_are_compact(scene: Path, tmp_path: Path) -> None:
    build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    with open_store(tmp_path / "s.bvs") as store:
        leaves = np.flatnonzero(store.tree.is_leaf)
        sides = store.tree.hi[leaves] - store.tree.lo[leaves]
        whole = np.quantile(load_scene(scene).gaussians.means, [0.01, 0.99], axis=0)
    typical = np.median(np.sort(sides, axis=1)[:, 1:].prod(axis=1))
    extent = np.sort(whole[1] - whole[0])[1:].prod()
    assert typical < 6 * extent / len(leaves)


def test_memory_and_threads_change_nothing(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(page_gaussians=PAGE)
    build_store([scene], tmp_path / "a.bvs", replace(options, threads=1))
    build_store([scene], tmp_path / "b.bvs", replace(options, threads=5))
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: False)
    build_store([scene], tmp_path / "c.bvs", replace(options, checkpoint_s=0))
    # So little memory that buckets are dealt out again, and batches are written at once.
    monkeypatch.setattr("scene_store.build.partition._BUCKET_SHARE", 1e-3)
    monkeypatch.setattr("scene_store.build.partition._TOO_LARGE", 0.5)
    tight = replace(options, memory_bytes=MIN_MEMORY_BYTES)
    build_store([scene], tmp_path / "d.bvs", tight)
    first = content(tmp_path / "a.bvs")
    assert "geometry-00.bin" in first and "sh-00.bin" in first
    for other in "bcd":
        assert content(tmp_path / f"{other}.bvs") == first, other
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".bvs"] == []


class Stop(Exception):
    pass


def stopping(after: int) -> BuildProgress:
    """Progress that gives up after so many calls."""
    calls = itertools.count(1)

    def progress(stage: Stage, done: int, total: int) -> None:
        if next(calls) > after:
            raise Stop

    return progress


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("after", [1, 6, 16])
def test_a_build_that_was_stopped_is_continued(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_memory: bool,
    after: int,
) -> None:
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: in_memory)
    options = BuildOptions(page_gaussians=PAGE, checkpoint_s=0)
    build_store([scene], tmp_path / "whole.bvs", options)
    calls = stopping(after)
    with pytest.raises(Stop):
        build_store([scene], tmp_path / "s.bvs", options, calls)
    assert partial_folder(tmp_path / "s.bvs").is_dir() or after == 1  # nothing to continue
    assert not (tmp_path / "s.bvs").exists()
    with pytest.raises(SceneError):
        open_store(partial_folder(tmp_path / "s.bvs"))
    seen: list[Stage] = []
    report = build_store([scene], tmp_path / "s.bvs", options, lambda s, d, t: seen.append(s))
    assert content(tmp_path / "s.bvs") == content(tmp_path / "whole.bvs")
    assert not partial_folder(tmp_path / "s.bvs").exists()
    if after == 16 and not in_memory:
        assert report.resumed
        assert Stage.READ not in seen, "what was sorted is not sorted again"


BUILD = """
import sys
from scene_store.build import BuildOptions, build_store
from scene_store.build import builder
builder.fits_in_memory = lambda *args: False
build_store([sys.argv[1]], sys.argv[2], BuildOptions(page_gaussians=1024, checkpoint_s=0))
"""


def test_a_killed_build_leaves_no_store_and_is_continued(scene: Path, tmp_path: Path) -> None:
    options = BuildOptions(page_gaussians=PAGE)
    build_store([scene], tmp_path / "whole.bvs", options)
    rng = random.Random(3)
    command = [sys.executable, "-c", BUILD, str(scene), str(tmp_path / "s.bvs")]
    for _ in range(4):
        process = subprocess.Popen(command)
        journal = partial_folder(tmp_path / "s.bvs") / "scratch" / "journal.json"
        started = time.monotonic()
        while not journal.exists() and process.poll() is None:
            assert time.monotonic() - started < 60
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "s.bvs").exists():
            break
        with pytest.raises(SceneError):
            open_store(partial_folder(tmp_path / "s.bvs"))
    else:
        subprocess.run(command, check=True)
    assert content(tmp_path / "s.bvs") == content(tmp_path / "whole.bvs")


def test_a_source_that_changes_is_noticed(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    shutil.copy(scene, path)

    def touch(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.FINISH:
            os.utime(path, (1, 1))

    with pytest.raises(SceneError, match=r"scene\.ply: has changed"):
        build_store([path], tmp_path / "s.bvs", LOSSLESS, touch)
    assert not (tmp_path / "s.bvs").exists()
    # The interrupted build is of other files now; it is not thrown away unasked.
    with pytest.raises(OutputError, match=r"scene\.ply: has changed.*--overwrite"):
        build_store([path], tmp_path / "s.bvs", LOSSLESS)
    build_store([path], tmp_path / "s.bvs", replace(LOSSLESS, replace=True))


def test_a_disk_without_room_is_refused_at_once(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 << 10))
    with pytest.raises(OutputError, match=r"needs about [\d.]+ MB, .* 3\.07 kB free; free"):
        build_store([scene], tmp_path / "s.bvs", LOSSLESS)


def test_a_dry_run_warns_of_a_disk_without_room_as_the_build_does(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    through_files: None,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 << 10))
    said: list[str] = []
    build([str(scene)], tmp_path / "s.bvs", LOSSLESS, said.append, dry_run=True)
    with pytest.raises(OutputError) as refused:
        build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    assert len(said) == 1
    assert [record.getMessage() for record in caplog.records] == [f"warning: {refused.value}"]


def test_a_disk_that_fills_up_is_reported(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_files: None
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("scene_store.build.partition.Dealer._write", full)
        with pytest.raises(OutputError, match=r"s\.bvs: cannot write: No space left.*free some"):
            build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    build_store([scene], tmp_path / "s.bvs", LOSSLESS)


def test_several_scenes_become_one(scene: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ply"
    write_ply(other, [random_gaussians(3000, seed=2)], 3000, 0)
    build_store([scene, other], tmp_path / "s.bvs", LOSSLESS)
    with open_store(tmp_path / "s.bvs") as store:
        assert store.meta.count == 19_998 + 3000
        assert store.sh_degree == 1


def test_harmonics_can_be_left_out(scene: Path, tmp_path: Path) -> None:
    build_store([scene], tmp_path / "s.bvs", replace(LOSSLESS, sh_degree=0))
    with open_store(tmp_path / "s.bvs") as store:
        assert store.sh_degree == 0
        assert any("degree 0" in note for note in store.meta.notes)


def test_the_town_is_a_scene(tmp_path: Path) -> None:
    options = BuildOptions(page_gaussians=PAGE, sh_degree=0)
    report = build_store(["town:20k"], tmp_path / "town.bvs", options)
    assert report.gaussians == 20_000
    with pytest.raises(SceneError, match="town:2M"):
        build_store(["town:many"], tmp_path / "t.bvs", options)


def test_a_small_scene_is_a_single_chunk(tmp_path: Path) -> None:
    path = tmp_path / "one.ply"
    write_ply(path, [random_gaussians(5, seed=3)], 5, 0)
    report = build_store([path], tmp_path / "s.bvs", LOSSLESS)
    assert (report.nodes, report.levels) == (1, 1)


@pytest.mark.parametrize("count", [PAGE, PAGE + 1, 2 * PAGE, 9 * PAGE + 5, 20 * PAGE])
def test_sizes_around_pages(tmp_path: Path, count: int) -> None:
    path = tmp_path / "scene.ply"
    write_ply(path, [random_gaussians(count, seed=count)], count, 0)
    report = build_store([path], tmp_path / "s.bvs", LOSSLESS)
    assert report.gaussians == count
    with open_store(tmp_path / "s.bvs") as store:
        assert len(store.tree.roots) == 1


def test_all_in_one_place(tmp_path: Path, through_files: None) -> None:
    gaussians = random_gaussians(5000, seed=4)
    gaussians.means[:] = 7.0
    path = tmp_path / "scene.ply"
    write_ply(path, [gaussians], 5000, 0)
    build_store([path], tmp_path / "s.bvs", LOSSLESS)
    with open_store(tmp_path / "s.bvs") as store:
        assert store.meta.count == 5000


def test_a_scene_of_nothing_usable_is_refused(tmp_path: Path) -> None:
    gaussians = random_gaussians(10, seed=5)
    gaussians.means[:] = np.nan
    path = tmp_path / "scene.ply"
    write_ply(path, [gaussians], 10, 0)
    with pytest.raises(SceneFormatError, match="none that can be drawn"):
        build_store([path], tmp_path / "s.bvs", LOSSLESS)
    assert list(tmp_path.iterdir()) == [path], "there is nothing to continue"


def test_a_store_may_be_built_beside_what_it_is_made_of(
    data_dir: Path, tmp_path: Path, through_files: None
) -> None:
    shutil.copytree(data_dir / "logo_sog1", tmp_path / "logo")
    options = BuildOptions(checkpoint_s=0)
    out = tmp_path / "logo" / "s.bvs"
    with pytest.raises(Stop):
        build_store([tmp_path / "logo"], out, options, stopping(60))
    assert build_store([tmp_path / "logo"], out, options).resumed


def test_an_estimate_is_near_and_writes_nothing(scene: Path, tmp_path: Path) -> None:
    options = BuildOptions(page_gaussians=PAGE)
    estimate = estimate_build([scene], tmp_path / "s.bvs", options)
    assert list(tmp_path.iterdir()) == []
    report = build_store([scene], tmp_path / "s.bvs", options)
    assert estimate.gaussians == 20_000
    assert estimate.store_bytes == pytest.approx(report.store_bytes, rel=0.25)


def test_an_estimate_is_not_of_the_backdrop_that_comes_first(tmp_path: Path) -> None:
    """A town begins with one, and its levels merge less well than a wall's."""
    estimate = estimate_build(["town:150000"], tmp_path / "s.bvs")
    report = build_store(["town:150000"], tmp_path / "s.bvs")
    assert estimate.store_bytes == pytest.approx(report.store_bytes, rel=0.1)


def test_an_estimate_of_a_capture_is_near(data_dir: Path, tmp_path: Path) -> None:
    scene = data_dir / "truck.splat"
    estimate = estimate_build([scene], tmp_path / "s.bvs")
    report = build_store([scene], tmp_path / "s.bvs")
    assert estimate.store_bytes == pytest.approx(report.store_bytes, rel=0.1)


def test_chunks_grow_with_the_scene() -> None:
    assert suitable_page(5) == suitable_page(4_249_286) == 1024
    assert suitable_page(51_000_000) == 2048
    assert suitable_page(200_000_000) == 8192
    assert suitable_page(10**15) == 1 << 20


def test_a_build_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_store.build.options.usable_cores", lambda: 4)
    assert [BuildOptions(threads=n).workers for n in (0, 5, 16, 100_000_000)] == [4, 5, 16, 16]
    page = row_bytes(3) * 65_536
    assert nodes_ahead(64, 2 << 30, row_bytes(0) * 1024) == 256
    assert nodes_ahead(64, 1 << 30, page) * page <= (1 << 30) // 4
    assert nodes_ahead(64, MIN_MEMORY_BYTES, page) == 1


def test_what_is_built_ahead_is_bounded(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = []

    class Watched(Pyramid):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            ahead.append(args[5])

    monkeypatch.setattr(builder_module, "Pyramid", Watched)
    options = BuildOptions(page_gaussians=1 << 20, memory_bytes=MIN_MEMORY_BYTES, threads=8)
    build_store([scene], tmp_path / "s.bvs", options)
    assert ahead == [1]


def test_compositions_keep_a_share_of_the_memory(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(f"scenes: [{{path: {scene}}}]")
    with open_sources([str(path), str(scene), str(path)], cache_bytes=1000) as joined:
        assert isinstance(joined, JoinedSource)
        parts = joined._sources
        assert [p.cache_bytes for p in parts if isinstance(p, ComposedSource)] == [500, 500]


def test_too_many_scenes_are_refused_at_once(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at most 10,000 scenes, not 10,001"):
        build_store(10_001 * [tmp_path / "missing.ply"], tmp_path / "s.bvs")


def test_notes_are_cut_to_what_a_store_holds() -> None:
    assert brief_notes(("a", "b")) == ("a", "b")
    notes = brief_notes([*(f"note {i}" for i in range(1500)), "n" * 5000])
    assert len(StoreInfo(notes=notes).notes) == 1000
    assert notes[0] == "502 more notes were left out"
    assert notes[1] == "note 502" and notes[-1] == "n" * 4095 + "…"


def test_options_that_make_no_sense() -> None:
    with pytest.raises(SettingsError, match="1,024"):
        BuildOptions(page_gaussians=1000)
    with pytest.raises(SettingsError, match="SH degree"):
        BuildOptions(sh_degree=4)
    with pytest.raises(SettingsError, match="memory"):
        BuildOptions(memory_bytes=1)
    with pytest.raises(SettingsError, match="threads"):
        BuildOptions(threads=-1)


def test_which_levels_a_source_brings() -> None:
    park = (4_249_286, 2_974_500, 1_699_714, 764_871, 212_464)
    assert plan_own_levels(park) == {1: 3, 2: 4}
    assert plan_own_levels((1000, 500, 250, 125, 62)) == {1: 2, 2: 4}
    assert plan_own_levels((1000,)) == {}
    assert plan_own_levels((1000, 990, 980)) == {}


def test_own_levels_are_kept(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "playbot" / "lod-meta.json"
    options = BuildOptions(sh_degree=0, page_gaussians=16_384)
    build_store([path], tmp_path / "own.bvs", options)
    build_store([path], tmp_path / "merged.bvs", replace(options, rebuild_lod=True))
    plan = plan_own_levels(load_counts(path))
    assert plan
    with open_store(tmp_path / "own.bvs") as own, open_store(tmp_path / "merged.bvs") as merged:
        for level, lod in plan.items():
            if level > own.tree.level.max():
                break
            here = own.tree.level == level
            assert own.tree.count[here].sum() == pytest.approx(load_counts(path)[lod], rel=0.1)
        assert (
            own.tree.count[own.tree.is_leaf].sum() == merged.tree.count[merged.tree.is_leaf].sum()
        )
        # A merged chunk has opacities above 1 somewhere. The source's own are as they were,
        # but where they are too many for a page.
        assert min(loudest(own)) <= 1.01 < min(loudest(merged))


def loudest(store: Store) -> list[float]:
    """Of each chunk of level 1 the largest opacity."""
    nodes = np.flatnonzero(store.tree.level == 1).tolist()
    return [float(chunk(store, node).opacities.max()) for node in nodes]


def load_counts(path: Path) -> tuple[int, ...]:
    from scene_store.formats import open_scene

    with open_scene(path) as source:
        return source.meta.lod_counts
