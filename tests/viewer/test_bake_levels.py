"""``belvedere bake --level``: which levels become which files, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scene_store.formats.ply import ply_bytes
from scene_store.loading import load_scene
from scene_store.store import open_store
from tests.models.anchors_torch import ARCHITECTURES, random_net, write_folder
from tests.models.test_anchors_to_gaussians import around
from viewer import bake as module
from viewer.bake_levels import Target, first_target, level_path
from viewer.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

QUICK = ["--views", "8", "--size", "48", "--rounds", "1", "--sh-degree", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def octree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an Octree-GS of four levels, with training cameras near by."""
    net = random_net(ARCHITECTURES["octree"], 120)
    folder = tmp_path_factory.mktemp("octree") / "park"
    return write_folder(net, folder, cameras=[*around(8, distance=6.0), *around(8, 0.3, 30.0)])


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = random_net(ARCHITECTURES["scaffold"], 40)
    return write_folder(net, tmp_path_factory.mktemp("scaffold") / "yard")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1, line
    return line


def test_all_levels_are_files_and_a_table_tells_of_their_loss(
    octree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "park.ply"
    assert main(["bake", str(octree), "-o", str(path), "--level", "all", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 4 + 1 + 4
    assert re.fullmatch(
        r"level +Gaussians +seconds +as converted  PSNR held out +worst  file", lines[8]
    )
    counts = []
    for level, line in enumerate(lines[9:]):
        found = re.fullmatch(
            rf" +{level} +([\d,]+) +[\d.]+ +([\d.]+) dB +([\d.]+) dB +([\d.]+) dB  (.+)", line
        )
        assert found is not None, line
        assert found[5] == str(tmp_path / f"park-level{level}.ply")
        counts.append(load_scene(Path(found[5])).gaussians)
        assert len(counts[-1]) == int(found[1].replace(",", ""))
        assert float(found[4]) <= float(found[3]) and float(found[2]) > 15
    sizes = [len(each) for each in counts]
    assert sizes == sorted(sizes) and sizes[0] < 0.7 * sizes[3]
    assert not path.exists()


def test_one_level_is_the_file_that_was_named(
    octree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "coarse.bvs"
    assert main(["bake", str(octree), "-o", str(path), "--level", "0", *QUICK]) == 0
    with open_store(path) as store:
        coarse = store.meta.count
    assert len(capsys.readouterr().out.splitlines()) == 2, "no table of one"
    monkeypatch.chdir(tmp_path)
    assert main(["bake", str(octree), "--level", "1", *QUICK]) == 0
    assert len(load_scene(tmp_path / "park-level1.ply").gaussians) > coarse
    assert main(["bake", str(octree), *QUICK]) == 0
    assert len(load_scene(tmp_path / "park.ply").gaussians) > coarse


def test_names() -> None:
    path = Path("a/scene.bvs")
    assert level_path(path, 2) == Path("a/scene-level2.bvs")
    assert first_target(path, None, named=False) == Target(path, None)
    assert first_target(path, "all", named=True) == Target(level_path(path, 0), 0)
    assert first_target(path, 3, named=True) == Target(path, 3)
    assert first_target(path, 3, named=False) == Target(level_path(path, 3), 3)


@pytest.mark.parametrize("level", ["0", "all"])
def test_a_scene_without_levels_is_told_to_have_none(
    scaffold: Path, level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ply"
    assert main(["bake", str(scaffold), "-o", str(path), "--level", level, *QUICK]) == 2
    line = said(capsys)
    assert f"{scaffold}: --level chooses one of the levels of an Octree-GS" in line
    assert "Scaffold-GS; leave it out" in line and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("level", "part"),
    [
        ("4", "--level: expected 0 to 3, the finest of "),
        ("-1", "--level: expected 0 to 31, got -1"),
        ("fine", "--level: 'fine' is neither a whole number nor the word all"),
    ],
)
def test_levels_that_there_are_not(
    level: str, part: str, octree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bake", str(octree), "-o", str(tmp_path / "a.ply"), "--level", level, *QUICK]
    assert main(words) == 2
    assert part in said(capsys)


def test_all_files_are_known_to_be_possible_before_the_first_is_made(
    octree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "bake_opened", lambda *_: pytest.fail("was begun"))
    (tmp_path / "a-level2.bvs").mkdir()
    (tmp_path / "a-level2.bvs" / "manifest.json").write_text("{}")
    words = ["bake", str(octree), "-o", str(tmp_path / "a.bvs"), "--level", "all", *QUICK]
    assert main(words) == 2
    assert "a-level2.bvs" in said(capsys)


def test_what_cannot_be_written_is_named_as_the_user_did(
    octree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.png"
    assert main(["bake", str(octree), "-o", str(path), "--level", "all", *QUICK]) == 2
    assert f"error: {path}: cannot write '.png'" in said(capsys)


def test_the_disk_is_to_hold_all_levels(
    octree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It holds one of them, and two, but not four."""
    monkeypatch.setattr(module, "bake_opened", lambda *_: pytest.fail("was begun"))
    monkeypatch.setattr(module, "free_bytes", lambda path: 3 * ply_bytes(10_000, 0))
    path = tmp_path / "a.ply"
    words = ["bake", str(octree), "-o", str(path), *QUICK, "--gaussians", "10k"]
    assert main([*words, "--level", "all"]) == 2
    assert f"{path}: 10,000 Gaussians in each of 4 files may take " in said(capsys)
    with pytest.raises(pytest.fail.Exception, match="was begun"):
        main([*words, "--level", "3"])
