"""``belvedere info`` of neural scenes: one answer for scenes and their stores; what models say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.anchors_torch import AnchorConfig, OctreeConfig, random_net, write_folder
from tests.models.nerf_torch import networks, save_flexible
from viewer.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

NERF = "  - {path: field, transform: {translation: [4, 0, 2], rotation: [0, 0, 30], scale: 1.5}}"
SCENES = {
    "NeRFs": f"scenes:\n  - path: field\n{NERF}\n",
    "mixed": f"scenes:\n{NERF}\n  - path: town:2000\n    transform: {{rotation: [0, 0, 30]}}\n",
}


@pytest.fixture
def nerf(tmp_path: Path) -> Path:
    folder = tmp_path / "field"
    folder.mkdir()
    save_flexible(folder / "checkpoint1.ckpt", *networks("flexible"))
    return folder


def info(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main(["info", *map(str, words)]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(info(capsys, path, "--json"))
    return read


@pytest.mark.parametrize("name", ["alone", *SCENES])
def test_a_store_has_the_bounds_of_its_scene(
    name: str, nerf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = nerf
    if name in SCENES:
        scene = tmp_path / "scene.yaml"
        scene.write_text(SCENES[name])
    store = tmp_path / "scene.bvs"
    assert main(["build", str(scene), "-o", str(store)]) == 0
    told, stored = facts(capsys, scene), facts(capsys, store)
    # Of a store numbers are float32.
    for corner, again in zip(told["bounds"], stored["bounds"], strict=True):
        assert again == pytest.approx(corner, rel=1e-6)
    lo, hi = told["bounds"]
    if name == "alone":  # a quarter of near to far around the middle, not what a camera may see
        assert lo == pytest.approx([-1.0] * 3, abs=0.01)
        assert hi == pytest.approx([1.0] * 3, abs=0.01)
    if name == "NeRFs":
        assert hi[0] == pytest.approx(4 + 1.5 * 1.366, abs=0.15)
        assert hi[2] == pytest.approx(2 + 1.5, abs=0.02)
    assert told["model"] == stored["model"]
    assert told["model"]["background"] == [1.0, 1.0, 1.0]
    assert told["model"]["octree_levels"] is None


def test_gaussians_end_where_their_chunks_do(
    nerf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town, both = tmp_path / "town.yaml", tmp_path / "both.yaml"
    town.write_text("scenes:\n  - path: town:2000\n")
    both.write_text("scenes:\n  - path: field\n  - path: town:2000\n")
    alone = facts(capsys, town)["bounds"]
    assert facts(capsys, both)["bounds"] == [
        pytest.approx(corner, rel=1e-2, abs=0.5) for corner in alone
    ]


@pytest.mark.parametrize("levels", [4, None])
def test_an_octree_says_its_levels(
    levels: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = None if levels is None else OctreeConfig(levels, voxel_size=2.0, standard_dist=16.0)
    net = random_net(AnchorConfig(feat_dim=4, n_offsets=2, octree=tree), 60)
    folder = write_folder(net, tmp_path / "anchors")
    model = facts(capsys, folder)["model"]
    assert (model["octree_levels"], model["gaussians_per_anchor"]) == (levels, 2)
    assert ("4: 0, the coarsest, to 3 (bake --level)" in info(capsys, folder)) == (levels == 4)
