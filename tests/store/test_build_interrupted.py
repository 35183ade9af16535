"""Builds that were interrupted: continued from any moment, or begun anew with a word."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scene_store import store_writer
from scene_store.build import BuildOptions, Stage, build_store
from scene_store.build import builder as builder_module
from scene_store.formats import write_ply
from scene_store.manifest import Profile
from scene_store.store import is_store
from scene_store.store_folder import partial_folder, scratch_folder
from splat.errors import OutputError, SceneFormatError
from tests.store.test_build import LOSSLESS, PAGE, Stop, content, stopping
from tests.store.test_merge import random_gaussians

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = BuildOptions(page_gaussians=PAGE, checkpoint_s=0)
COUNT = 12_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PLY of 12,000 Gaussians with harmonics."""
    path = tmp_path_factory.mktemp("scene") / "scene.ply"
    write_ply(path, [random_gaussians(COUNT, sh_degree=1, seed=1)], COUNT, 1)
    return path


@pytest.fixture(scope="module")
def expected(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that all these builds should end with."""
    path = tmp_path_factory.mktemp("expected") / "s.bvs"
    build_store([scene], path, OPTIONS)
    return content(path)


@pytest.fixture(autouse=True)
def through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorts through bucket files, however little there is."""
    monkeypatch.setattr(builder_module, "fits_in_memory", lambda *args: False)


@contextmanager
def full_at(name: str) -> Iterator[None]:
    """A disk that is full when a certain file is to be written."""
    write = store_writer._write_flushed

    def full(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "_write_flushed", full)
        yield


@pytest.mark.parametrize("name", ["nodes.bin", "manifest.json"])
def test_a_disk_that_is_full_in_the_last_second(
    scene: Path, tmp_path: Path, expected: dict[str, bytes], name: str
) -> None:
    path = tmp_path / "s.bvs"
    with full_at(name), pytest.raises(OutputError, match="No space left") as raised:
        build_store([scene], path, OPTIONS)
    kept = f"the same command continues the build from what is kept in {partial_folder(path)}"
    assert str(raised.value).endswith(f"; {kept}")
    assert not is_store(partial_folder(path))
    require_continued(scene, path, expected)


def test_a_disk_that_is_full_before_anything_is_worth_keeping(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builder_module, "deal_out", full)
    path = tmp_path / "s.bvs"
    with pytest.raises(OutputError, match=r"No space left .*; nothing was kept, the same"):
        build_store([scene], path, replace(OPTIONS, checkpoint_s=30.0))
    assert not partial_folder(path).exists()


def require_continued(scene: Path, path: Path, expected: dict[str, bytes]) -> None:
    seen = []
    report = build_store([scene], path, OPTIONS, lambda stage, done, total: seen.append(stage))
    assert report.resumed
    assert Stage.READ not in seen
    assert content(path) == expected
    assert not partial_folder(path).exists()


def test_a_name_that_is_taken_in_the_last_second(
    scene: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = tmp_path / "s.bvs"

    def taking(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.FINISH:
            path.mkdir()
            (path / "mine.txt").write_text("precious")

    with pytest.raises(OutputError, match=r"s\.bvs: exists and is not a store"):
        build_store([scene], path, OPTIONS, taking)
    assert [file.name for file in path.iterdir()] == ["mine.txt"]
    (path / "mine.txt").unlink()
    path.rmdir()
    require_continued(scene, path, expected)


def test_ctrl_c_in_the_last_second(
    scene: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "s.bvs", store_writer._write_flushed

    def interrupted(file: Path, data: bytes) -> None:
        write(file, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(store_writer, "_write_flushed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_store([scene], path, OPTIONS)
    monkeypatch.setattr(store_writer, "_write_flushed", write)
    require_continued(scene, path, expected)


KILLED = """
import os, signal, sys
from scene_store import store_folder, store_writer
from scene_store.build import BuildOptions, build_store, builder
builder.fits_in_memory = lambda *args: False
def kill(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
module, name = sys.argv[3].split(".")
setattr({"folder": store_folder, "writer": store_writer}[module], name, kill)
build_store([sys.argv[1]], sys.argv[2], BuildOptions(page_gaussians=1024, checkpoint_s=0))
"""


@pytest.mark.parametrize("at", ["writer._write_flushed", "folder._renameat2", "folder._tidy"])
def test_a_kill_in_the_last_second(
    scene: Path, tmp_path: Path, expected: dict[str, bytes], at: str
) -> None:
    path = tmp_path / "s.bvs"
    command = [sys.executable, "-c", KILLED, str(scene), str(path), at]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    if at != "folder._tidy":
        require_continued(scene, path, expected)
        return
    assert set(content_names(path)) > {"scratch", "lock"}
    with pytest.raises(OutputError, match="exists already"):
        build_store([scene], path, OPTIONS)
    assert content(path) == expected  # without what belonged to the build


def content_names(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()]


def interrupt(scene: Path, path: Path, options: BuildOptions = OPTIONS) -> None:
    with pytest.raises(Stop):
        build_store([scene], path, options, stopping(12))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5)


def edit_journal(scratch: Path, **changes: object) -> None:
    file = scratch / "journal.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "page cut": lambda scratch: cut(scratch.parent / "geometry-00.bin"),
    "page missing": lambda scratch: (scratch.parent / "geometry-00.bin").unlink(),
    "checkpoint cut": lambda scratch: cut(next(scratch.glob("checkpoint-*.npz"))),
    "checkpoint missing": lambda scratch: next(scratch.glob("checkpoint-*.npz")).unlink(),
    "bucket cut": lambda scratch: cut(next(scratch.glob("buckets-0/*.rows"))),
    "bucket missing": lambda scratch: next(scratch.glob("buckets-0/*.rows")).unlink(),
    "journal empty": lambda scratch: (scratch / "journal.json").write_text(""),
    "journal without sorted": lambda scratch: edit_journal(scratch, sorted={}),
    "journal with nonsense": lambda scratch: edit_journal(scratch, checkpoint=[1]),
    "journal of another release": lambda scratch: edit_journal(scratch, version=1),
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_continued_is_begun_anew_with_a_word(
    scene: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    damage: str,
    overwrite: bool,
) -> None:
    path = tmp_path / "s.bvs"
    interrupt(scene, path)
    DAMAGE[damage](scratch_folder(path))
    report = build_store([scene], path, replace(OPTIONS, replace=overwrite))
    assert not report.resumed
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "s.bvs: the interrupted build cannot be continued (" in said
    assert content(path) == expected


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"page_gaussians": 2048}, "has --page-gaussians 1024, not 2048"),
        ({"profile": Profile.LOSSLESS}, "has --profile compact, not lossless"),
        ({"sh_degree": 0}, "has --sh-degree 1, not 0"),
    ],
)
def test_other_options_do_not_throw_a_build_away(
    scene: Path, tmp_path: Path, expected: dict[str, bytes], other: dict[str, object], said: str
) -> None:
    path = tmp_path / "s.bvs"
    interrupt(scene, path)
    options = replace(OPTIONS, **other)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=rf"an unfinished build of it {said}; .*--overwrite"):
        build_store([scene], path, options)
    require_continued(scene, path, expected)
    interrupt(scene, tmp_path / "t.bvs")
    assert not build_store([scene], tmp_path / "t.bvs", replace(options, replace=True)).resumed


def test_other_scenes_do_not_throw_a_build_away(scene: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "s.bvs", tmp_path / "other.ply"
    write_ply(other, [random_gaussians(500, seed=2)], 500, 0)
    interrupt(scene, path)
    with pytest.raises(OutputError, match="an unfinished build of it is of other scenes"):
        build_store([other], path, LOSSLESS)
    assert partial_folder(path).is_dir()


def test_own_levels_are_an_option(data_dir: Path, tmp_path: Path) -> None:
    scene, path = data_dir / "playbot" / "lod-meta.json", tmp_path / "s.bvs"
    options = BuildOptions(sh_degree=0, checkpoint_s=0)
    with pytest.raises(Stop):
        build_store([scene], path, options, stopping(30))
    with pytest.raises(OutputError, match="was begun without --rebuild-lod"):
        build_store([scene], path, replace(options, rebuild_lod=True))


def test_a_bucket_that_is_cut_while_it_is_read(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Buckets so large that they are dealt out again.
    monkeypatch.setattr("scene_store.build.partition._BUCKET_SHARE", 1e-3)
    monkeypatch.setattr("scene_store.build.partition._TOO_LARGE", 0.5)
    path = tmp_path / "s.bvs"

    def cutting(stage: Stage, done: int, total: int) -> None:
        if stage is Stage.BUILD:
            for file in scratch_folder(path).glob("buckets-0/*.rows"):
                os.truncate(file, 4)

    with pytest.raises(SceneFormatError, match=r"\.rows: became shorter while it was read"):
        build_store([scene], path, OPTIONS, cutting)
