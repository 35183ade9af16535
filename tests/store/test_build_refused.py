"""Builds that cannot be: said in one line, before anything is done or lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scene_store.build import build_store, estimate_build
from scene_store.build.sources import Fingerprint
from scene_store.formats import write_ply
from scene_store.store_folder import partial_folder
from splat.errors import OutputError, SceneFormatError, SceneNotFoundError
from tests.store.test_build import LOSSLESS
from tests.store.test_merge import random_gaussians
from viewer.build import default_output


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PLY of 3,000 Gaussians."""
    path = tmp_path_factory.mktemp("scene") / "scene.ply"
    write_ply(path, [random_gaussians(3000, seed=1)], 3000, 0)
    return path


@pytest.mark.parametrize("build", [build_store, estimate_build])
def test_where_no_store_can_be(
    scene: Path, tmp_path: Path, build: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"the folder .*missing does not exist; create it"):
        build([scene], tmp_path / "missing" / "s.bvs")
    for name in ("", ".", "/", ".."):
        with pytest.raises(OutputError, match="is no name for a store"):
            build([scene], name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_what_others_wrote(scene: Path, tmp_path: Path) -> None:
    partial = partial_folder(tmp_path / "s.bvs")
    partial.mkdir()
    (partial / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="is not an unfinished store"):
        build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    assert [path.name for path in partial.iterdir()] == ["thesis.txt"]


def test_a_store_that_exists_may_be_replaced_on_request(scene: Path, tmp_path: Path) -> None:
    build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    with pytest.raises(OutputError, match=r"s\.bvs: exists already; .*--overwrite"):
        build_store([scene], tmp_path / "s.bvs", LOSSLESS)


def test_a_store_is_no_source(scene: Path, tmp_path: Path) -> None:
    build_store([scene], tmp_path / "s.bvs", LOSSLESS)
    with pytest.raises(SceneFormatError, match=r"s\.bvs: is a store already; view or export it"):
        build_store([tmp_path / "s.bvs"], tmp_path / "t.bvs", LOSSLESS)


def test_a_folder_that_may_not_be_searched(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden.bvs" / "a.ply"
    stat = os.stat

    def denied(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(hidden.parent)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr("os.stat", denied)
    with pytest.raises(SceneNotFoundError, match=r"a\.ply: cannot be read \(permission denied\)"):
        build_store([hidden], default_output(str(hidden)))
    assert Fingerprint.of([str(hidden)]).all_files == ()
