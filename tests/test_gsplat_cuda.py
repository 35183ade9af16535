"""The gsplat engine on the CPU: gsplat's own wrappers run, over torch in the place of its CUDA code
(``tests.gsplat_torch``)."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import rendering.gsplat_frame as gsplat_frame
import rendering.gsplat_pages as gsplat_pages
from rendering.base import DILATION_PX2, Outputs, RasterSettings, ScenePart
from rendering.device import DeviceLost
from rendering.gsplat_cuda import GsplatRasterizer
from rendering.gsplat_frame import Stages
from rendering.reference import ReferenceRasterizer, edge_masks
from rendering.reference_project import project
from rendering.stopwatch_cuda import Stopwatch
from splat.camera import CameraModel
from splat.errors import BackendUnavailable, BudgetError
from splat.gaussians import Gaussians
from tests.gsplat_contract import (
    SETTINGS,
    GsplatContract,
    GsplatPaging,
    assert_close,
    assert_pictures_agree,
)
from tests.gsplat_torch import import_gsplat, wrapped_stages
from tests.rasterizer_contract import ALL
from tests.scenes import gaussians, orbit_camera, random_scene
from tests.test_import_rules import ROOT, imports_of

PINHOLE = CameraModel.PINHOLE
LOST = "CUDA error: an illegal memory access was encountered"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return wrapped_stages(monkeypatch)


@pytest.fixture
def rasterizer(stages: Stages) -> GsplatRasterizer:
    return GsplatRasterizer("cpu", stages)


class TestContract(GsplatContract):
    @pytest.fixture
    def rasterizer(self, stages: Stages) -> GsplatRasterizer:
        return GsplatRasterizer("cpu", stages)


class TestPaging(GsplatPaging):
    @pytest.fixture
    def rasterizer(self, stages: Stages) -> GsplatRasterizer:
        return GsplatRasterizer("cpu", stages)


# --- against the reference ---------------------------------------------------------------------


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("model", list(CameraModel))
def test_projects_as_the_reference(
    monkeypatch: pytest.MonkeyPatch, model: CameraModel, how: str
) -> None:
    """In double precision, so that what is left is what the adapter does."""
    rasterizer = GsplatRasterizer("cpu", wrapped_stages(monkeypatch, torch.float64))
    scene, view, settings = random_scene(1, 600), orbit_camera(model, 65, 47), SETTINGS[how]
    found = rasterizer.project(rasterizer.prepare(scene), view, settings)
    truth = project(ReferenceRasterizer().prepare(scene), view, settings)
    drawn = found.drawn[0]
    # Of those that it draws beyond the reference, none shows anything: a box has whole pixels.
    assert drawn[truth.index].all()
    assert int(drawn.sum()) < 1.3 * len(truth)
    assert found.colors is not None
    relative = 1e-5 if model is CameraModel.FISHEYE else 2e-6
    for ours, theirs in (
        (found.means2d, truth.means2d),
        (found.conics, truth.conics),
        (found.depths[..., None], truth.depths[:, None]),
        (found.opacities[..., None], truth.opacities[:, None]),
        (found.colors, truth.colors),
    ):
        rows = ours[0, truth.index].double()
        size = theirs.double().abs().amax(dim=1).clamp(min=0.5)
        assert float(((rows - theirs).abs().amax(dim=1) / size).max()) < relative


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("model", list(CameraModel))
def test_pictures_are_the_references(
    rasterizer: GsplatRasterizer, model: CameraModel, how: str
) -> None:
    scene, view = random_scene(1, 400), orbit_camera(model, 65, 47)
    assert_pictures_agree(rasterizer, scene, view, SETTINGS[how], 1e-5)


def test_pixels_at_the_stop_lose_less_than_a_tenth(rasterizer: GsplatRasterizer) -> None:
    scene, view = random_scene(2, 2000), orbit_camera(PINHOLE, 49, 33)
    stopped = assert_pictures_agree(rasterizer, scene, view, ALL, 1e-5)
    assert stopped.mean() > 0.05, "no pixel comes to the stop"


def test_weights_tints_and_degrees_of_pages(rasterizer: GsplatRasterizer) -> None:
    """Pages of any degree of harmonics in one list, as a reference draws them."""
    scene, view = random_scene(4, 300), orbit_camera(PINHOLE, 33, 29)
    low = replace(scene[slice(100, 200)], sh=scene.sh[100:200, :4])
    parts = [scene[slice(0, 100)], low, scene[slice(200, 300)]]

    def composed(engine: Any) -> Any:
        scenes = zip([engine.prepare(part) for part in parts], (1.0, 0.6, 0.3), strict=True)
        return engine.compose([ScenePart(part, weight) for part, weight in scenes])

    reference = ReferenceRasterizer()
    expected, image = (r.render(composed(r), view, ALL) for r in (reference, rasterizer))
    masks = edge_masks(composed(reference), view, ALL)
    safe = ~(masks.cut | masks.stop)
    assert_close(image, expected, safe, safe & ~masks.half, 1e-5)


def test_a_tint_takes_the_place_of_colours(rasterizer: GsplatRasterizer) -> None:
    parts = [rasterizer.prepare(random_scene(seed, 100)) for seed in (1, 2)]
    red = rasterizer.compose([ScenePart(p, tint=(1.0, 0.0, 0.0), tint_share=1.0) for p in parts])
    image = rasterizer.render(red, orbit_camera(PINHOLE, 33, 29))
    assert image.color is not None
    np.testing.assert_allclose(image.color[..., 0], image.alpha, atol=1e-5)
    assert not image.color[..., 1:].any()


def test_what_was_projected_is_composited_again(rasterizer: GsplatRasterizer) -> None:
    scene, view = rasterizer.prepare(random_scene(1, 200)), orbit_camera(PINHOLE, 33, 29)
    projected = rasterizer.project(scene, view, ALL)
    whole = rasterizer.render(scene, view, ALL)
    for _ in range(2):
        again = rasterizer.composite(projected, view, ALL)
        np.testing.assert_array_equal(again.color, whole.color)
        assert again.stats.visible == whole.stats.visible > 0


def test_a_compensation_of_part_of_the_dilation() -> None:
    """Of a covariance of 4, 1, 9 before it."""
    raw = torch.tensor([[4.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
    dilated = raw + DILATION_PX2 * torch.eye(2, dtype=torch.float64)
    inverse = dilated.inverse()
    conics = torch.stack([inverse[0, 0], inverse[0, 1], inverse[1, 1]])[None, None]
    kept = raw + 0.1 * torch.eye(2, dtype=torch.float64)
    expected = (kept.det() / dilated.det()).sqrt()
    found = gsplat_frame._compensation(conics, DILATION_PX2 - 0.1)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("most", [1, 256 * 3, 2**24])
def test_counts_and_medians_do_not_depend_on_how_they_are_listed(
    rasterizer: GsplatRasterizer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    scene, view = rasterizer.prepare(random_scene(1, 200)), orbit_camera(PINHOLE, 33, 70)
    whole = rasterizer.render(scene, view, ALL)
    monkeypatch.setattr(gsplat_frame, "MOST_BLENDED", most)
    image = rasterizer.render(scene, view, ALL)
    assert image.count is not None
    np.testing.assert_array_equal(image.count, whole.count)
    np.testing.assert_array_equal(image.median_depth, whole.median_depth)
    assert image.count.sum() > 100


def test_rows_are_grouped_by_what_they_may_blend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_frame, "MOST_BLENDED", 100 * gsplat_frame.TILE**2)
    starts = [0, 0, 40, 90, 300, 310, 310, 400]
    assert list(gsplat_frame._groups(starts)) == [(0, 90), (90, 300), (300, 400)]
    assert list(gsplat_frame._groups([0, 0, 0])) == []
    assert list(gsplat_frame._groups([0, 7])) == [(0, 7)]


# --- pages -------------------------------------------------------------------------------------


def test_pages_are_copied_together_once(rasterizer: GsplatRasterizer) -> None:
    pool = rasterizer.new_pool(256, 3)
    first, second = (pool.pack(random_scene(seed, 100)) for seed in (1, 2))
    gathered = gsplat_pages.Gathered()

    def columns(*pages: gsplat_pages.GsplatPage, weight: float = 1.0) -> gsplat_pages.Columns:
        return gathered.columns_of(rasterizer.compose([ScenePart(p, weight) for p in pages]))

    both = columns(first, second)
    assert len(both) == 200
    assert columns(first, second, weight=0.5) is both, "another look is not another copy"
    assert columns(first) is first.columns, "a page is not copied"
    assert columns(second, first) is not both
    torch.testing.assert_close(columns(second, first).means[:100], second.columns.means)
    before = columns(second, first)
    gathered.forget()
    assert columns(second, first) is not before


def test_pages_take_what_they_say(rasterizer: GsplatRasterizer) -> None:
    for degree in range(4):
        pool = rasterizer.new_pool(64, degree)
        page = pool.pack(random_scene(1, 64, degree))
        arrays = (getattr(page.columns, name) for name in gsplat_pages.Columns.__slots__)
        assert sum(array.nbytes for array in arrays) == pool.page_bytes


def test_a_page_that_finds_no_memory_takes_that_of_the_copy(
    rasterizer: GsplatRasterizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = rasterizer.new_pool(256, 0)
    pages = [pool.pack(random_scene(seed, 50, 0)) for seed in (1, 2)]
    view = orbit_camera(PINHOLE, 33, 17)
    rasterizer.render(rasterizer.compose([ScenePart(page) for page in pages]), view)
    make = gsplat_pages.Columns.of

    def crowded(gaussians: Gaussians, device: torch.device) -> gsplat_pages.Columns:
        if rasterizer._gathered._columns is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return make(gaussians, device)

    monkeypatch.setattr(gsplat_pages.Columns, "of", crowded)
    assert len(pool.pack(random_scene(3, 50, 0)).columns) == 50
    assert rasterizer._gathered._columns is None


def test_a_page_without_memory_is_a_budget_error(
    rasterizer: GsplatRasterizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(gaussians: Gaussians, device: torch.device) -> gsplat_pages.Columns:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(gsplat_pages.Columns, "of", full)
    with pytest.raises(BudgetError, match="no memory for 50 Gaussians"):
        rasterizer.prepare(random_scene(3, 50, 0))


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), BudgetError),
        (RuntimeError(LOST), DeviceLost),
        (RuntimeError("No CUDA GPUs are available"), DeviceLost),  # it has drawn: it is in use
        (RuntimeError("size of tensor a must match"), RuntimeError),
    ],
)
@pytest.mark.parametrize("stage", Stages.__slots__)
def test_errors_of_stages_say_what_they_mean(
    stages: Stages, stage: str, error: Exception, becomes: type[Exception]
) -> None:
    def fails(*args: Any, **how: Any) -> Any:
        raise error

    rasterizer = GsplatRasterizer("cpu", replace(stages, **{stage: fails}))
    prepared = rasterizer.prepare(random_scene(1, 50))
    with pytest.raises(becomes) as caught:
        rasterizer.render(prepared, orbit_camera(PINHOLE, 33, 17), ALL)
    assert caught.type is becomes


def test_more_pairs_than_gsplat_can_count_are_refused(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is asked for them: it would sort them, and count beyond its 32 bits."""

    def sorts(*args: Any, **how: Any) -> Any:
        raise AssertionError("it was asked")

    rasterizer = GsplatRasterizer("cpu", replace(stages, isect_tiles=sorts))
    monkeypatch.setattr(gsplat_frame, "MOST_PAIRS", 10)
    with pytest.raises(BudgetError, match=r"pairs .* draw fewer Gaussians"):
        rasterizer.render(rasterizer.prepare(random_scene(1, 50)), orbit_camera(PINHOLE, 33, 17))


@pytest.mark.parametrize("rows", [None, (32, 47)])
def test_pairs_are_counted_as_gsplat_does(
    rasterizer: GsplatRasterizer, rows: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of boxes beyond the image, and where it is asked for several parts of them."""
    how, view = RasterSettings(rows=rows), orbit_camera(PINHOLE, 65, 47)
    scene = rasterizer.prepare(random_scene(1, 300))
    projected = rasterizer.project(scene, view, how)
    found = rasterizer.composite(projected, view, how).stats.tile_pairs
    monkeypatch.setattr(gsplat_frame, "COUNTED_TOGETHER", 101)
    first, end = how.rows_of(view)
    columns, _, below = gsplat_frame._tile_counts(view.width, (first, end))
    assert found == gsplat_frame._count_pairs(projected, (columns, below), first) > 100


def test_pairs_beyond_32_bits_are_counted() -> None:
    """Half a million boxes of a 4K image, each of all of its tiles."""
    many = 500_000
    boxes = gsplat_frame.Projected(
        radii=torch.full((1, many, 2), 2**30, dtype=torch.int32),
        means2d=torch.zeros(1, many, 2),
        depths=torch.ones(1, many),
        conics=torch.empty(1, 0, 3),
        opacities=torch.empty(1, 0),
        colors=None,
    )
    pairs = many * 240 * 135
    assert gsplat_frame._count_pairs(boxes, (240, 135), 0) == pairs > 2**33
    with pytest.raises(BudgetError, match=f"{pairs:,} pairs"):
        gsplat_frame._require_countable(boxes, 3840, (0, 2160))


def test_boxes_of_merged_gaussians_reach_to_the_cut() -> None:
    radii = torch.tensor([[[34, 7], [34, 7], [0, 0], [34, 7]]], dtype=torch.int32)
    opacities = torch.tensor([[8.0, 0.7, 8.0, torch.nan]])
    widened = gsplat_frame._widened(radii, opacities)
    # sqrt(2 ln(8 · 255)) = 3.904 deviations, of 10.2 and 2.1 pixels at most.
    assert widened.tolist() == [[[40, 9], [34, 7], [0, 0], [34, 7]]]
    assert widened.dtype == torch.int32


# --- where it does not run ---------------------------------------------------------------------


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"CUDA device .* CPU engine is used instead"):
        GsplatRasterizer()
    with pytest.raises(BackendUnavailable, match="not on cpu"):
        GsplatRasterizer("cpu")


def test_a_device_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendUnavailable, match="no cuda:3"):
        GsplatRasterizer("cuda:3")


def test_gsplat_is_not_imported_before_it_is_needed() -> None:
    path = "rendering/gsplat_cuda.py"
    imports = list(imports_of(path, ast.parse((ROOT / path).read_text("utf-8"))))
    assert {item.at_load for item in imports if item.top == "gsplat"} == {False}


def test_the_stages_are_those_of_the_pinned_version() -> None:
    """Whoever moves the pin reads the differences in ``rendering.gsplat_cuda`` again."""
    assert import_gsplat("gsplat.version").__version__ == "1.5.3"


def test_a_giant_whose_box_no_integer_holds_is_drawn(rasterizer: GsplatRasterizer) -> None:
    view = orbit_camera(PINHOLE, 33, 17)
    image = rasterizer.render(
        rasterizer.prepare(gaussians((0, 0, 0), scales=3e7, opacities=4.0)), view, ALL
    )
    assert image.alpha.min() > 0.99
    assert image.count is not None and (image.count == 1).all()


def test_depth_alone_has_no_background(rasterizer: GsplatRasterizer) -> None:
    how = RasterSettings(outputs=Outputs.DEPTH | Outputs.COLOR, background=(1.0, 1.0, 1.0))
    scene, view = rasterizer.prepare(random_scene(1, 30)), orbit_camera(PINHOLE, 33, 17)
    image = rasterizer.render(scene, view, how)
    alone = rasterizer.render(scene, view, replace(how, outputs=Outputs.DEPTH))
    assert image.depth is not None and alone.depth is not None
    assert image.depth[image.alpha == 0].max(initial=0) == 0 < image.depth.max()
    np.testing.assert_allclose(image.depth, alone.depth, rtol=1e-6)


@pytest.mark.parametrize(("device", "calls"), [("cuda:0", ["record", "synchronize"]), ("cpu", [])])
def test_a_stopwatch_waits_for_its_stream(
    device: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    class Event:
        def record(self) -> None:
            did.append("record")

        def synchronize(self) -> None:
            did.append("synchronize")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    Stopwatch(torch.device(device)).wait()
    assert did == calls
