"""``belvedere info --check``: damage is found wherever it is, and named in a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.remote.options import RemoteOptions
from scene_store.store import open_store
from tests import scenes
from tests.store import http_server
from tests.store.http_server import RangeServer
from viewer.cli import main
from viewer.store_check import check_chunks, runs_text, summary


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Some thirty chunks with harmonics."""
    write_ply(tmp_path / "ball.ply", [scenes.random_scene(3, 20_000, 1)], 20_000, 1)
    path = tmp_path / "www" / "ball.bvs"
    path.parent.mkdir()
    build_store([tmp_path / "ball.ply"], path, BuildOptions(page_gaussians=1024, threads=1))
    return path


def flip(store: Path, chunks: Iterable[int], stream: str = "geometry") -> None:
    """A bit of each of these chunks."""
    with open_store(store) as opened:
        records = opened._records
    for chunk in chunks:
        level = int(records["level"][chunk])
        at = int(records[f"{stream}_offset"][chunk]) + int(records[f"{stream}_bytes"][chunk]) // 2
        path = store / f"{stream}-{level:02}.bin"
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)


def leaves(store: Path) -> list[int]:
    with open_store(store) as opened:
        found: list[int] = opened.tree.is_leaf.nonzero()[0].tolist()
    assert len(found) > 10
    return found


def checked(store: Path | str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    status = main(["info", "--json", "--check", str(store)])
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return status, report


def test_a_whole_store_is_said_to_be_whole(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = checked(store, capsys)
    assert (status, report["damaged_chunks"], report["problems"]) == (0, [], [])
    assert main(["info", "--check", str(store)]) == 0
    assert "all are whole" in capsys.readouterr().out


def test_damaged_chunks_are_named_by_file_and_the_status_is_one(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = leaves(store)
    flip(store, [first, first + 1, first + 2, first + 5])
    flip(store, [others[-1]], "sh")
    flip(store, [0])
    status, report = checked(store, capsys)
    assert status == 1
    assert report["damaged_chunks"] == [0, first, first + 1, first + 2, first + 5, others[-1]]
    problems = report["problems"]
    assert isinstance(problems, list) and len(problems) == 3
    root, geometry, sh = problems
    assert ": chunk 0 is damaged: the checksum of bytes 0 to " in root
    assert geometry.startswith(
        f"geometry-00.bin: 4 chunks ({first}–{first + 2}, {first + 5}); the first is damaged"
    )
    assert geometry.endswith("copy or build the store again")
    assert sh.startswith(f"sh-00.bin: chunk {others[-1]} is damaged")


def test_without_a_check_damage_is_not_looked_for(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(store, leaves(store))
    assert main(["info", "--json", str(store)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["damaged_chunks"] is None and report["problems"] == []


def test_a_missing_file_is_named_with_what_it_costs(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "sh-00.bin").unlink()
    status, report = checked(store, capsys)
    assert status == 1 and report["damaged_chunks"] == leaves(store)
    problems = report["problems"]
    assert isinstance(problems, list)
    missing, cost = problems
    assert missing == "sh-00.bin is missing; copy or build the store again"
    assert cost.startswith(f"sh-00.bin: {len(leaves(store))} chunks (")


def test_progress_goes_to_the_end_and_may_end_it(store: Path) -> None:
    heard: list[tuple[int, int]] = []
    with open_store(store) as opened:
        assert check_chunks(opened, lambda done, total: heard.append((done, total))) == {}
        total = sum(map(opened.encoded_bytes, range(len(opened.tree))))
        assert heard == sorted(heard) and heard[-1] == (total, total)

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            check_chunks(opened, interrupt)


def test_a_server_is_read_and_not_the_cache_and_its_hiccups_are_forgiven(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RangeServer(store.parent) as server:
        server.etag = ""
        scene = f"{server.url}/ball.bvs"
        server.faults["ball.bvs/geometry-00.bin"] = [
            http_server.answers(503),
            http_server.garbled,
        ]
        with open_store(scene, remote=RemoteOptions(cache=None)) as opened:
            assert check_chunks(opened) == {}
        assert server.faults["ball.bvs/geometry-00.bin"] == []
        server.etag = '"1"'
        picture = store.parent / "x.png"
        assert main(["export", scene, "-o", str(picture), "--width", "64"]) == 0
        capsys.readouterr()
        leaf = leaves(store)[3]
        flip(store, [leaf])
        status, report = checked(scene, capsys)
        assert (status, report["damaged_chunks"]) == (1, [leaf])


def test_other_scenes_have_no_checksums(
    store: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--check", str(store.parents[1] / "ball.ply")]) == 0
    assert "20,000" in capsys.readouterr().out
    assert "ball.ply has no checksums" in caplog.text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([5], "5"),
        ([1, 2], "1–2"),
        ([1, 2, 3, 7, 9, 10], "1–3, 7, 9–10"),
        (list(range(0, 40, 2)), "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, …"),
    ],
)
def test_runs_of_chunks_are_short_to_read(numbers: list[int], text: str) -> None:
    assert runs_text(numbers) == text


def test_nothing_wrong_is_no_line() -> None:
    assert summary({}) == []
