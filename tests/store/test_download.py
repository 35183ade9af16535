"""One file on a server, here: downloaded once, within a budget, whatever the server does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scene_store.remote import download
from scene_store.remote.download import downloaded
from scene_store.remote.options import CacheOptions, RemoteOptions
from splat.errors import SceneError, SceneNotFoundError
from tests.store.http_server import RangeServer, answers, resets

MIB = 1 << 20
SIZE = 5 * MIB + 17


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    monkeypatch.setattr(download, "_PART_BYTES", MIB)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.ply").write_bytes(np.random.default_rng(1).bytes(SIZE))
    (folder / "b.ply").write_bytes(np.random.default_rng(2).bytes(SIZE))
    return RangeServer(folder)


def options(tmp_path: Path, budget: int = 100 * MIB) -> RemoteOptions:
    return RemoteOptions(cache=CacheOptions(tmp_path / "cache", budget))


def test_a_file_comes_in_parts_and_only_once(served: RangeServer, tmp_path: Path) -> None:
    heard: list[float] = []
    with served:
        address = f"{served.url}/a.ply?token=1"
        with downloaded(address, options(tmp_path), lambda s, what: heard.append(s)) as path:
            assert path.name == "a.ply"
            assert path.read_bytes() == (served.folder / "a.ply").read_bytes()
        asked = served.requests["a.ply"]
        assert asked >= 6 and heard == sorted(heard) and heard[-1] == 1.0
        with downloaded(f"{served.url}/a.ply?token=2", options(tmp_path)) as again:
            assert again == path
        assert served.requests["a.ply"] == asked + 1, "its version was asked for"


def test_another_version_is_another_file(served: RangeServer, tmp_path: Path) -> None:
    with served:
        with downloaded(f"{served.url}/a.ply", options(tmp_path)) as before:
            pass
        (served.folder / "a.ply").write_bytes(bytes(SIZE))
        served.etag = '"2"'
        with downloaded(f"{served.url}/a.ply", options(tmp_path)) as after:
            assert after != before and after.read_bytes() == bytes(SIZE)


def test_a_server_without_versions_is_asked_every_time(served: RangeServer, tmp_path: Path) -> None:
    served.etag = ""
    with served:
        for content in (b"one", b"two"):
            (served.folder / "a.ply").write_bytes(content)
            with downloaded(f"{served.url}/a.ply", options(tmp_path)) as path:
                assert path.read_bytes() == content


def test_a_server_without_ranges_will_do(served: RangeServer, tmp_path: Path) -> None:
    served.ranges = False
    with served, downloaded(f"{served.url}/a.ply", options(tmp_path)) as path:
        assert path.read_bytes() == (served.folder / "a.ply").read_bytes()


def test_passing_faults_pass(served: RangeServer, tmp_path: Path) -> None:
    served.faults["a.ply"] = [answers(503), resets, answers(503)]
    with served, downloaded(f"{served.url}/a.ply", options(tmp_path)) as path:
        assert path.read_bytes() == (served.folder / "a.ply").read_bytes()


def test_what_is_not_there_is_one_error_and_no_file(served: RangeServer, tmp_path: Path) -> None:
    with served:
        with (
            pytest.raises(SceneNotFoundError, match=r"no\.ply: is missing on the server"),
            downloaded(f"{served.url}/no.ply?token=hush", options(tmp_path)),
        ):
            pass
        served.faults["a.ply"] = [answers(403)]
        with (
            pytest.raises(SceneError, match="refuses access") as error,
            downloaded(f"{served.url}/a.ply?token=hush", options(tmp_path)),
        ):
            pass
    assert "hush" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.ply"))


def test_an_abandoned_download_leaves_no_file(served: RangeServer, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(share: float, what: str) -> None:
        if share > 0.2:
            raise Stopped

    with (
        served,
        pytest.raises(Stopped),
        downloaded(f"{served.url}/a.ply", options(tmp_path), stop),
    ):
        pass
    assert not list((tmp_path / "cache").rglob("*.ply"))


def test_the_budget_holds_and_what_is_in_use_stays(served: RangeServer, tmp_path: Path) -> None:
    small = options(tmp_path, SIZE + MIB)
    with served:
        with (
            downloaded(f"{served.url}/a.ply", small) as used,
            downloaded(f"{served.url}/b.ply", small),
        ):
            assert used.exists(), "somebody has it open"
        os.utime(used.parent, (1, 1))
        (served.folder / "c.ply").write_bytes(bytes(SIZE))
        with downloaded(f"{served.url}/c.ply", small) as path:
            assert path.exists() and not used.exists()
        with (
            pytest.raises(SceneError, match=r"has 5,242,897 bytes.* may keep 1,048,576; raise"),
            downloaded(f"{served.url}/c.ply", options(tmp_path / "new", MIB)),
        ):
            pass
