"""What a bake begins with: Gaussians of anchors, a level of detail at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rendering.base import RasterSettings
from rendering.models.anchors import anchor_rasterizer
from rendering.models.anchors_reference import level_shares
from rendering.models.bake_start import at_level, levels_of, start_of
from rendering.native.cpu import NativeRasterizer
from scene_store.chunks import NeuralSource
from scene_store.models import open_model
from splat.anchors import AnchorModel, LevelRule, OctreeLevels
from splat.camera import Camera
from splat.fields import FieldModel
from splat.rows import Rows
from tests.models.anchors_torch import ARCHITECTURES, random_net, write_folder
from tests.models.neural_source import SmallAnchors
from tests.models.test_anchors_to_gaussians import around

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

RULES = ["octree", "octree-floor", "octree-ceil", "octree-progressive"]


@pytest.fixture(scope="module", params=RULES)
def octree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an Octree-GS of four levels."""
    net = random_net(ARCHITECTURES[request.param], 160)
    return write_folder(net, tmp_path_factory.mktemp("octree") / "scene")


def model_of(source: NeuralSource) -> AnchorModel:
    assert isinstance(source.model, AnchorModel)
    return source.model


def rows_of(source: NeuralSource) -> Rows:
    """Of all leaves."""
    parts = []
    for chunk in np.flatnonzero(source.tree.is_leaf).tolist():
        encoded = source.read(chunk)
        assert encoded is not None
        rows = source.decode(chunk, encoded)
        assert isinstance(rows, Rows)
        parts.append(rows)
    return Rows.concatenate(parts)


def trainers_levels(
    levels: OctreeLevels, rows: Rows, source: NeuralSource, view: Camera, cap: int
) -> np.ndarray:
    """[A] whether ``set_anchor_mask_perlevel`` of Octree-GS's trainer draws an anchor, as it is
    written there but for torch, and [A] by what opacities are multiplied."""
    layout = model_of(source).layout
    own, extra = rows.data[:, layout.level_values].astype(np.float64).T
    means = rows.data[:, layout.means] + (levels.voxel_size / 2) / levels.fork ** own[:, None]
    dist = np.linalg.norm(means - view.position, axis=1)
    wanted = np.log2(levels.standard_dist / dist) / np.log2(levels.fork) + extra
    if levels.rule is LevelRule.PROGRESSIVE:
        wanted = np.clip(wanted + 1.0, 0.9999, cap + 0.9999)
        due = np.floor(wanted)
        blended: np.ndarray = np.where(own == due, wanted - due, 1.0) * (own <= due)
        return blended
    if levels.rule is LevelRule.ROUND:
        whole = np.round(wanted)
    else:
        whole = np.floor(wanted) if levels.rule is LevelRule.FLOOR else np.ceil(wanted)
    drawn: np.ndarray = own <= np.clip(whole, 0, cap)
    return drawn.astype(np.float64)


def test_a_level_is_what_the_trainer_draws_as_that_level(octree: Path) -> None:
    source = open_model(octree)
    model, rows = model_of(source), rows_of(source)
    assert model.levels is not None and levels_of(model) == 4
    standard = model.levels.standard_dist
    views = [around(1, distance=share * standard)[0] for share in (0.05, 0.3, 1.0, 3.0)]
    drawn = np.zeros((4, 4))
    for level in range(4):
        capped = model_of(at_level(source, level)).levels
        assert capped is not None
        for number, view in enumerate(views):
            layout = model.layout
            own = rows.data[:, layout.level_values]
            shares = level_shares(capped, rows.data[:, layout.means], own, view.position)
            expected = trainers_levels(model.levels, rows, source, view, level)
            np.testing.assert_allclose(shares, expected, atol=2e-5)
            drawn[level, number] = (shares > 0).sum()
    assert (np.diff(drawn, axis=0) >= 0).all() and (drawn[3] > drawn[0]).any()
    assert (np.diff(drawn[3]) <= 0).all() and drawn[3, 0] > drawn[3, 3], "fewer from afar"


def test_the_finest_level_is_the_scene_as_it_is(octree: Path) -> None:
    source = open_model(octree)
    assert model_of(at_level(source, 3)).levels == model_of(source).levels
    pictures = []
    for each in (source, at_level(source, 3), at_level(source, 0)):
        renderer = anchor_rasterizer(model_of(each), NativeRasterizer())
        scene = renderer.prepare(rows_of(each))
        color = renderer.render(scene, around(1, distance=3.0)[0], RasterSettings()).color
        assert color is not None
        pictures.append(color)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.allclose(pictures[0], pictures[2])


def test_a_coarser_level_has_fewer_gaussians_and_is_nearer_to_its_own_pictures(
    octree: Path,
) -> None:
    source = open_model(octree)
    near = around(12, distance=5.0)
    made = []
    for level in range(4):
        start = start_of(at_level(source, level), 1)
        assert start is not None
        made.append(start(near, lambda share, what: None))
    counts = [len(each) for each in made]
    assert counts == sorted(counts) and counts[0] < 0.5 * counts[3]

    engine, between = NativeRasterizer(), around(3, 0.25, distance=5.0)
    for level in (0, 3):
        each = at_level(source, level)
        renderer = anchor_rasterizer(model_of(each), engine)
        scene = renderer.prepare(rows_of(each))
        losses = []
        for gaussians in (made[0], made[3]):
            plain = engine.prepare(gaussians)
            loss = 0.0
            for view in between:
                truth, drawn = renderer.render(scene, view).color, engine.render(plain, view).color
                assert truth is not None and drawn is not None
                loss += float(np.square(truth - drawn).mean())
            losses.append(loss)
        assert (losses[0] < losses[1]) == (level == 0), level


@pytest.mark.parametrize("level", [-1, 4])
def test_there_is_no_level_beyond_the_finest(octree: Path, level: int) -> None:
    with pytest.raises(ValueError, match=f"level {level} of 4"):
        at_level(open_model(octree), level)


def test_anchors_without_levels_begin_as_what_they_stand_for() -> None:
    source, heard = SmallAnchors(), [0.0]
    assert levels_of(source.model) == 0
    start = start_of(source, 1)
    assert start is not None
    gaussians = start((), lambda share, what: heard.append(share))
    assert gaussians.sh_degree == 1 and heard == sorted(heard)
    means = np.concatenate([rows.data[:, :3] for rows in source.rows[1:]])
    assert np.abs(gaussians.means - gaussians.means.mean(0)).max() < 1.5 * np.ptp(means)
    assert 20 < len(gaussians) <= 2 * 64, "of the leaves alone"


def test_a_field_begins_with_its_pictures() -> None:
    source = SmallAnchors()
    source.model = FieldModel(("NeRF",))  # type: ignore[assignment]
    assert start_of(source, 2) is None and levels_of(source.model) == 0


def test_a_source_of_another_level_is_the_same_otherwise(octree: Path) -> None:
    source = open_model(octree)
    coarse = at_level(source, 1)
    assert isinstance(coarse, NeuralSource)
    assert coarse.tree is source.tree and coarse.row_bytes == source.row_bytes
    assert coarse.encoded_bytes(0) == source.encoded_bytes(0)
    assert np.array_equal(coarse.overview().means, source.overview().means)
    expected = replace(model_of(source).levels, levels=2)  # type: ignore[type-var]
    assert model_of(coarse).levels == expected
    coarse.close()
