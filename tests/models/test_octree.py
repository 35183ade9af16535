"""Octree-GS folders: levels, what ``cfg_args`` alone tells, cuts that draw what the rule does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scene_store.lod import LodLimits, select_lod
from scene_store.models import anchor_tree, octree, scaffold
from scene_store.models.anchor_chunks import AnchorChunks
from scene_store.models.anchor_settings import read_settings
from scene_store.models.anchor_tree import exact_error_px
from splat.anchors import LevelRule, OctreeLevels
from splat.camera import Camera, CameraModel
from tests.models.anchors_torch import (
    ARCHITECTURES,
    LEVEL_RULES,
    SPLIT,
    UNITE,
    AnchorConfig,
    OctreeConfig,
    random_net,
    write_folder,
)
from tests.models.test_scaffold import (
    assert_model_is,
    assert_rows_are,
    opened,
    refused,
    rewritten,
)
from tests.scenes import camera

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

OCTREES = [name for name in ARCHITECTURES if name.startswith("octree")]
SMALL = AnchorConfig(
    feat_dim=4, n_offsets=2, octree=OctreeConfig(levels=4, voxel_size=2.0, standard_dist=16.0)
)


@pytest.mark.parametrize("name", OCTREES)
def test_a_folder_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    config = ARCHITECTURES[name]
    net = random_net(config, 60)
    for mode in (SPLIT, UNITE):
        folder = write_folder(net, tmp_path / mode, mode=mode)
        assert octree.recognizes(folder) and not scaffold.recognizes(folder)
        with opened(folder) as source:
            assert_model_is(source, net)
            assert_rows_are(source, net)
            tree = config.octree
            assert tree is not None
            assert source.model.levels == OctreeLevels(
                tree.levels,
                tree.standard_dist,
                float(tree.fork),
                LevelRule(tree.dist2level),
                tree.voxel_size,
            )
            assert source.model.name == "Octree-GS"


def test_without_cfg_args_defaults_are_taken_and_told(tmp_path: Path) -> None:
    folder = write_folder(random_net(ARCHITECTURES["octree-fork"], 20), tmp_path / "x")
    (folder / "cfg_args").unlink()
    source = opened(folder)
    assert source.model.levels is not None
    assert (source.model.levels.fork, source.model.levels.rule) == (2.0, LevelRule.ROUND)
    assert any("no cfg_args tells fork and dist2level" in note for note in source.meta.notes)


@pytest.mark.parametrize("level", [False, True])
def test_one_more_input_is_the_level_or_the_distance(tmp_path: Path, level: bool) -> None:
    dist = not level
    config = replace(
        SMALL, add_level=level, add_opacity_dist=dist, add_cov_dist=dist, add_color_dist=dist
    )
    net = random_net(config, 20)
    folder = write_folder(net, tmp_path / "x")
    assert_model_is(opened(folder), net)
    (folder / "cfg_args").unlink()
    source = opened(folder)
    assert not source.model.level_input and source.model.opacity_dist
    assert any("taken to know distances" in note for note in source.meta.notes)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_voxels_and_distances_that_make_no_sense_are_refused(
    tmp_path: Path, index: int, value: float
) -> None:
    folder = write_folder(random_net(SMALL, 20), tmp_path / "x")

    def spoil(table: NDArray[np.float32]) -> None:
        table[index, 5] = value

    rewritten(folder / "point_cloud/iteration_30000/point_cloud.ply", spoil)
    assert "info" in refused(folder)


def test_levels_beyond_all_are_left_out(tmp_path: Path) -> None:
    folder = write_folder(random_net(SMALL, 20), tmp_path / "x")

    def spoil(table: NDArray[np.float32]) -> None:
        table[7, 3] = 1e9
        table[8, 3] = -1
        table[9, 4] = 1e30

    rewritten(folder / "point_cloud/iteration_30000/point_cloud.ply", spoil)
    source = opened(folder)
    assert source.meta.count == 17 and source.model.levels is not None
    assert source.model.levels.levels == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Namespace(fork=0, dist2level='round')", "fork"),
        ("Namespace(fork='two', dist2level='round')", "fork"),
        ("Namespace(fork=2, dist2level='sideways')", "dist2level"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    folder = write_folder(random_net(SMALL, 20), tmp_path / "x")
    (folder / "cfg_args").write_text(text)
    assert problem in refused(folder)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("Namespace(fork=3, eval=True, odd=open('x'), dist2level='ceil')", {"fork": 3}),
        ("Namespace(fork=-2.5e0)", {"fork": -2.5}),
        ("Namespace(fork=[1])", {}),
        ("Namespace(**{'fork': 3})", {}),
        ("dict(fork=3)", {}),
        ("__import__('os').Namespace(fork=3)", {}),
        ("Namespace(fork=" + "(" * 5000 + "3" + ")" * 5000 + ")", {}),
        ("Namespace(fork=" + "-" * 60_000 + "3)", {}),
        ("Namespace(fork=3", {}),
        ("\x00", {}),
        ("", {}),
    ],
)
def test_settings_are_read_and_not_executed(
    tmp_path: Path, text: str, settings: dict[str, object]
) -> None:
    path = tmp_path / "cfg_args"
    path.write_text(text)
    assert read_settings(path, ("fork",)) == settings


def test_models_without_levels_and_ortho_cameras_ask_for_everything(tmp_path: Path) -> None:
    pinhole, ortho = camera(focal=1024.0), camera(CameraModel.ORTHO)
    model = opened(write_folder(random_net(SMALL, 20), tmp_path / "x")).model
    assert exact_error_px(model, [pinhole, camera(focal=3000.0)]) == 2.0
    assert exact_error_px(model, [pinhole, ortho]) == 0
    assert exact_error_px(replace(model, levels=None), [pinhole]) == 0
    assert exact_error_px(None, [pinhole]) == 0


# ---- Cuts ------------------------------------------------------------------------------------


def looking_at_the_middle(distance: float, focal: float) -> Camera:
    size = 64
    view = Camera.look_at(
        (distance, 0.3, 0.2), (0, 0, 0), (0, -1, 0), fov_y_rad=1, width=size, height=size
    )
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(viewmat=view.viewmat, K=intrinsics, width=size, height=size, near=0.01)


def places_in(source: AnchorChunks, chunks: NDArray[np.int32]) -> NDArray[np.uint32]:
    return np.concatenate([source._anchors.rows[chunk].places for chunk in chunks.tolist()])


@pytest.mark.parametrize("rule", LEVEL_RULES)
@pytest.mark.parametrize("focal", [20.0, 300.0, 5000.0])
def test_a_cut_has_every_anchor_that_the_rule_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, focal: float
) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 32)
    assert SMALL.octree is not None
    config = replace(SMALL, octree=replace(SMALL.octree, dist2level=rule, standard_dist=6.0))
    net = random_net(config, 2000)
    source = opened(write_folder(net, tmp_path / "x"))
    tree = source.tree
    sizes = set()
    for distance in (2.0, 7.0, 12.0, 30.0, 200.0):
        camera = looking_at_the_middle(distance, focal)
        error_px = exact_error_px(source.model, [camera])
        assert error_px > 0
        limits = LodLimits(error_px=error_px, page_gaussians=source.page_gaussians)
        cut = select_lod(tree, [camera], np.ones(len(tree), np.bool_), limits)
        held = places_in(source, cut.draw)
        assert len(np.unique(held)) == len(held)
        center = torch.from_numpy(np.linalg.inv(camera.viewmat)[:3, 3]).float()
        drawn, _ = net.level_of_detail(center)
        # The rule asks for anchors in all directions, a cut has those of the chunks in view.
        everything = select_lod(
            tree, [camera], np.ones(len(tree), np.bool_), LodLimits(error_px=0.0)
        )
        wanted = np.intersect1d(np.flatnonzero(drawn.numpy()), places_in(source, everything.draw))
        assert np.isin(wanted, held).all()
        sizes.add(len(held))
    assert len(sizes) > 2  # and not by holding everything always


def test_far_away_a_cut_is_little_more_than_what_the_rule_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 32)
    net = random_net(SMALL, 3000)
    source = opened(write_folder(net, tmp_path / "x"))
    camera = looking_at_the_middle(500.0, 2000.0)
    limits = LodLimits(error_px=exact_error_px(source.model, [camera]))
    cut = select_lod(source.tree, [camera], np.ones(len(source.tree), np.bool_), limits)
    held = places_in(source, cut.draw)
    assert (net.level.numpy()[held] == 0).mean() > 0.9
    assert cut.drawn_gaussians < 0.3 * source.meta.count


def test_nodes_hold_the_levels_of_their_leaves_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 32)
    net = random_net(SMALL, 1000)
    source = opened(write_folder(net, tmp_path / "x"))
    tree, level = source.tree, net.level.numpy()
    for node in range(len(tree)):
        own = set(source._anchors.rows[node].places.tolist())
        below = {
            place
            for child in tree.children(node)
            for place in source._anchors.rows[child].places.tolist()
        }
        if below:
            most = level.max() - tree.level[node]
            expected = {place for place in below if level[place] <= most}
            assert own == expected or (not expected and len(own) == 1 and own <= below)
    assert len(tree.roots) < len(np.flatnonzero(tree.is_leaf))


def test_an_octree_of_many_coarse_anchors_gets_stand_ins_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 32)
    monkeypatch.setattr(anchor_tree, "MOST_ROOT_ANCHORS", 100)
    net = random_net(SMALL, 2000)
    source = opened(write_folder(net, tmp_path / "x"))
    assert len(source.tree.roots) == 1
    # Where nothing is short, they are not drawn.
    resident = np.ones(len(source.tree), np.bool_)
    for distance in (5.0, 1000.0):
        camera = looking_at_the_middle(distance, 3000.0)
        limits = LodLimits(error_px=exact_error_px(source.model, [camera]))
        cut = select_lod(source.tree, [camera], resident, limits)
        assert all(source._anchors.rows[chunk].gains is None for chunk in cut.draw.tolist())
    few = select_lod(source.tree, [camera], resident, replace(limits, max_gaussians=100))
    assert any(source._anchors.rows[chunk].gains is not None for chunk in few.draw.tolist())
