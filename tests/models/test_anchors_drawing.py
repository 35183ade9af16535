"""Drawing anchors with an engine: the contracts of engines, and what a request decodes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.psnr import psnr_db
from benchmarks.streaming import color_of
from render_cache.derived_rule import DerivedLimits, FrameCosts
from render_cache.reuse import ReuseLimits
from rendering.base import PairRasterizer, RasterImage, RasterSettings, ScenePart
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.frame_scenes import composed
from rendering.models.anchor_reuse import ReuseChoices
from rendering.models.anchors import AnchorRasterizer, anchor_rasterizer
from rendering.models.anchors_reference import decode_anchors
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from rendering.reference import ReferenceRasterizer
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from splat.rows import Rows
from splat.stereo import StereoRig
from tests.models.anchor_scenes import random_anchors
from tests.models.anchors_torch import ARCHITECTURES
from tests.models.gaussian_anchors import GaussiansAsAnchors
from tests.paging_contract import PagingContract
from tests.rasterizer_contract import RasterizerContract, bytes_of

PAGE_ROWS = 16
NO_CACHE = DerivedLimits(budget_bytes=0)


class TestPaging(PagingContract):
    # Opacities of anchors are below 1.
    test_opacities_above_one_have_flat_tops = None  # type: ignore[assignment]
    test_a_far_reaching_opacity_is_seen_from_outside_the_image = None  # type: ignore[assignment]

    @pytest.fixture
    def rasterizer(self) -> Any:
        return GaussiansAsAnchors()


class TestDrawing(RasterizerContract):
    tolerance = 2e-4
    depth_tolerance = 1e-5
    # Colours of anchors are in [0, 1] and have no harmonics.
    test_spherical_harmonics = None  # type: ignore[assignment]
    test_colors_below_zero_are_black_and_above_one_stay = None  # type: ignore[assignment]

    @pytest.fixture
    def rasterizer(self) -> Any:
        return GaussiansAsAnchors()


def view(x: float = 0.0, z: float = -9.0, width: int = 70, height: int = 50) -> Camera:
    """From outside of the cube of ``random_anchors``, not all of which it sees."""
    return Camera.look_at(
        (x, 1, z), (0.5 + x, 0, z + 9), (0, -1, 0), fov_y_rad=0.7, width=width, height=height
    )


def request(
    *cameras: Camera,
    client: str = "a",
    sequence: int = 0,
    urgency: Urgency = Urgency.STILL,
    rate_hz: float = 30.0,
) -> FrameRequest:
    return FrameRequest(client, sequence, cameras, urgency=urgency, rate_hz=rate_hz)


class Pages:
    """A scene in pages, drawn for requests."""

    def __init__(self, model: AnchorModel, rows: Rows, **options: Any) -> None:
        self.rasterizer = anchor_rasterizer(model, NativeRasterizer(), **options)
        self.pool = self.rasterizer.new_pool(PAGE_ROWS, 0)
        cell = np.floor(rows.data[:, :3] / 2.0).astype(int)  # neighbours share pages
        rows = rows[np.lexsort(cell.T)]
        places = [(i, min(PAGE_ROWS, len(rows) - i)) for i in range(0, len(rows), PAGE_ROWS)]
        pages = self.pool.pack_many(rows, np.array(places, np.int64))
        self.parts = [ScenePart(page) for page in pages]

    def draw(self, asked: FrameRequest, settings: RasterSettings = RasterSettings()) -> RasterImage:
        scene = composed(self.rasterizer, self.parts, asked)
        return self.rasterizer.render(scene, asked.cameras[0], settings)

    def decodes(self) -> _Counted:
        return _Counted(self.rasterizer)


class _Counted:
    """How many anchors were decoded meanwhile."""

    def __init__(self, rasterizer: AnchorRasterizer) -> None:
        self.work: Any = rasterizer._work
        self.anchors = 0
        self.pages = 0

    def __enter__(self) -> _Counted:
        inner = self.work._packed

        def counting(pages: Any, views: Any, threads: int) -> Any:
            for page, chosen in pages:
                self.anchors += page.count if chosen is None else len(chosen)
                self.pages += 1
            return inner(pages, views, threads)

        self.work._packed = counting
        return self

    def __exit__(self, *_: object) -> None:
        del self.work._packed


def plain(
    model: AnchorModel, rows: Rows, center: np.ndarray, cameras: Sequence[Camera]
) -> list[np.ndarray]:
    """Pictures of all anchors decoded by the reference, for a point."""
    engine = NativeRasterizer()
    scene = engine.prepare(decode_anchors(model, rows, center).gaussians())
    drawn = [engine.render(scene, camera).color for camera in cameras]
    return [image for image in drawn if image is not None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_picture_is_that_of_the_equations(architecture: str) -> None:
    model, rows = random_anchors(architecture, 300)
    pages, camera = Pages(model, rows), view()
    drawn = pages.draw(request(camera)).color
    (truth,) = plain(model, rows, camera.position, [camera])
    assert drawn is not None and psnr_db(drawn, truth) >= 50
    whole = pages.rasterizer.render(pages.rasterizer.prepare(rows), camera).color
    assert whole is not None and whole.tobytes() == drawn.tobytes()


def test_another_engine_draws_the_same() -> None:
    model, rows = random_anchors("scaffold-small", 40)
    engines: tuple[Any, ...] = NativeRasterizer(), ReferenceRasterizer()
    rasterizers = [anchor_rasterizer(model, engine) for engine in engines]
    drawn = [
        color_of(each.render(each.prepare(rows), view(width=33, height=20))) for each in rasterizers
    ]
    assert psnr_db(*drawn) >= 60
    assert [each.name for each in rasterizers] == ["native", "reference"]


def test_culling_changes_no_byte() -> None:
    """All anchors decoded and drawn, against those that may be seen."""
    model, rows = random_anchors("scaffold", 400)
    pages, camera = Pages(model, rows), view(3.0, -4.0)
    with pages.decodes() as counted:
        drawn = pages.draw(request(camera))
    assert 0 < counted.anchors < 0.8 * len(rows)
    work: Any = pages.rasterizer._work
    engine, decoder = pages.rasterizer.engine, work._decoder
    out = Gaussians.allocate(len(rows) * 10, 0)
    page = pages.rasterizer.new_pool(400, 0).pack(rows)
    count = decoder.decode(page, None, camera.position, 0.0, out)
    everything = engine.render(engine.prepare(out[:count]), camera)
    assert bytes_of(drawn) == bytes_of(everything)


def test_pages_in_memory_may_lie_anywhere_and_threads_be_any() -> None:
    model, rows = random_anchors("octree-progressive", 300)
    first, camera = Pages(model, rows), view()
    expected = bytes_of(first.draw(request(camera)))
    other = Pages(model, rows)
    backwards = other.pool.pack_many(rows[::-1], np.array([[0, 10]], np.int64))  # in the way
    for threads in (1, 2, 3):
        drawn = other.draw(request(camera, sequence=threads), RasterSettings(threads=threads))
        assert bytes_of(drawn) == expected
    assert len(backwards) == 1


def test_bands_are_rows_of_the_whole_and_decoded_once() -> None:
    model, rows = random_anchors("scaffold", 200)
    pages, camera = Pages(model, rows, limits=NO_CACHE), view(height=80)
    asked = request(camera)
    scene = composed(pages.rasterizer, pages.parts, asked)
    with pages.decodes() as counted, ThreadPoolExecutor(3) as threads:
        bands = list(
            threads.map(
                lambda rows: pages.rasterizer.render(scene, camera, RasterSettings(rows=rows)),
                [(0, 32), (32, 64), (64, 80)],
            )
        )
    assert counted.pages <= len(pages.parts)
    whole = pages.rasterizer.render(scene, camera)
    joined = RasterImage.stack(bands, whole.stats)
    assert bytes_of(joined) == bytes_of(whole)


def test_two_eyes_are_decoded_once_for_the_middle() -> None:
    model, rows = random_anchors("scaffold-dist", 300)
    pages, middle = Pages(model, rows, limits=NO_CACHE), view()
    eyes = StereoRig(0.4).eyes(middle)
    scene = composed(pages.rasterizer, pages.parts, request(*eyes))
    with pages.decodes() as counted:
        drawn = [pages.rasterizer.render(scene, eye).color for eye in eyes]
    assert counted.pages <= len(pages.parts)
    for image, truth in zip(drawn, plain(model, rows, middle.position, eyes), strict=True):
        assert image is not None and psnr_db(image, truth) >= 50


def test_a_pair_is_what_two_pictures_are() -> None:
    model, rows = random_anchors("scaffold", 300)
    pages, eyes = Pages(model, rows), StereoRig(0.1).eyes(view())
    assert isinstance(pages.rasterizer, PairRasterizer)
    scene = composed(pages.rasterizer, pages.parts, request(*eyes))
    left, right = (pages.rasterizer.render(scene, eye) for eye in eyes)
    near = RasterSettings(reuse=ReuseLimits(0.05, 0.01))
    with pages.decodes() as counted:
        pair = pages.rasterizer.render_pair(scene, *eyes, near)
    assert counted.pages == 0
    assert bytes_of(pair[0]) == bytes_of(left)
    assert psnr_db(color_of(pair[1]), color_of(right)) >= 50
    # Nobody knows of a request: decoded for the middle all the same.
    alone = pages.rasterizer.compose(pages.parts)
    assert bytes_of(pages.rasterizer.render_pair(alone, *eyes, near)[0]) == bytes_of(left)


def test_an_engine_of_single_pictures_draws_no_pairs() -> None:
    class Single:
        name = "single"

        def __init__(self) -> None:
            inner = NativeRasterizer()
            for method in ("prepare", "new_pool", "compose", "new_cancel_flag", "render"):
                setattr(self, method, getattr(inner, method))

    model, _ = random_anchors("scaffold", 50)
    single: Any = Single()
    rasterizer = renderer_of(model, single)
    assert not isinstance(rasterizer, PairRasterizer)
    assert rasterizer.render(rasterizer.compose([]), view()).alpha.max() == 0


def test_weights_and_tints_reach_the_gaussians() -> None:
    model, rows = random_anchors("scaffold", 150)
    pages, camera = Pages(model, rows), view()
    drawn = pages.draw(request(camera))
    for part in pages.parts:
        assert part.weight == 1.0
    pages.parts = [replace(part, weight=0.25) for part in pages.parts]
    thin = pages.draw(request(camera, sequence=1))
    gaussians = decode_anchors(model, rows, camera.position).gaussians()
    engine = NativeRasterizer()
    weighted = replace(gaussians, opacities=gaussians.opacities * np.float32(0.25))
    expected = engine.render(engine.prepare(weighted), camera)
    np.testing.assert_allclose(thin.alpha, expected.alpha, atol=1e-3)
    assert thin.alpha.max() < drawn.alpha.max()
    pages.parts = [ScenePart(p.scene, tint=(0, 1, 0), tint_share=1.0) for p in pages.parts]
    green = pages.draw(request(camera, sequence=2), RasterSettings(background=(0, 1, 0))).color
    assert green is not None
    np.testing.assert_allclose(green, np.broadcast_to([0, 1, 0], green.shape), atol=1e-5)


def test_a_cancelled_frame_ends_and_the_next_one_is_whole() -> None:
    model, rows = random_anchors("scaffold", 200)
    pages, camera = Pages(model, rows), view()
    scene = composed(pages.rasterizer, pages.parts, request(camera))
    flag = pages.rasterizer.new_cancel_flag()
    flag.set()
    with pytest.raises(RenderCancelled):
        pages.rasterizer.render(scene, camera, cancel=flag)
    expected = Pages(model, rows).draw(request(camera))
    assert bytes_of(pages.rasterizer.render(scene, camera)) == bytes_of(expected)


@pytest.mark.parametrize("for_request", [True, False])
def test_who_waits_for_another_s_decoding_can_be_cancelled(for_request: bool) -> None:
    model, rows = random_anchors("scaffold", 200)
    pages, camera = Pages(model, rows), view()
    rasterizer = pages.rasterizer
    scene = rasterizer.compose(pages.parts)
    if for_request:
        scene = composed(rasterizer, pages.parts, request(camera))
    begun, go_on = threading.Event(), threading.Event()
    decoded: list[int] = []
    work: Any = rasterizer._work
    inner = work._packed

    def waiting(pages: Any, views: Any, threads: int) -> Any:
        begun.set()
        decoded.extend(page.number for page, _ in pages)
        assert go_on.wait(30)
        return inner(pages, views, threads)

    work._packed = waiting
    flag = rasterizer.new_cancel_flag()
    with ThreadPoolExecutor(3) as threads:
        try:
            first = threads.submit(rasterizer.render, scene, camera)
            assert begun.wait(30)
            second = threads.submit(rasterizer.render, scene, camera, RasterSettings(), flag)
            third = threads.submit(rasterizer.render, scene, camera)
            flag.set()
            with pytest.raises(RenderCancelled):
                second.result(30)
            assert not first.done()
        finally:
            go_on.set()
        assert bytes_of(first.result(30)) == bytes_of(third.result(30))
    assert len(decoded) == len(set(decoded))


def test_a_pool_counts_bytes_and_refuses_strangers() -> None:
    model, rows = random_anchors("scaffold", 100)
    pool = anchor_rasterizer(model, NativeRasterizer()).new_pool(PAGE_ROWS, 0)
    page = pool.pack(rows[:PAGE_ROWS])
    assert pool.page_bytes == page.data.nbytes + page.spheres.nbytes
    assert pool.pages_in_use == 1
    for senseless in (rows, Gaussians.empty(), Rows(rows.data[:5, :-1]), Rows(rows.data[:5] > 0)):
        with pytest.raises(ValueError, match=r"anchors|rows of float32"):
            pool.pack(senseless)
    for place in ([90, 11], [-1, 5], [101, 0]):
        with pytest.raises(ValueError, match="beyond the arrays"):
            pool.pack_many(rows, np.array([place], np.int64))
    del page
    gc.collect()
    assert pool.pages_in_use == 0
    with pytest.raises(ValueError, match="at least one"):
        anchor_rasterizer(model, NativeRasterizer()).new_pool(0, 0)


# --- What frames reuse of each other -----------------------------------------------------------


def walk(count: int, step: float = 0.02) -> list[Camera]:
    return [view(step * i) for i in range(count)]


def test_without_depth_the_cache_changes_no_byte() -> None:
    model, rows = random_anchors("scaffold-dist", 300)
    bare = Pages(model, rows, limits=NO_CACHE)
    caching = Pages(model, rows, limits=DerivedLimits(depth=0))
    for number, camera in enumerate(camera for camera in walk(5) for _ in range(2)):
        asked = request(camera, sequence=number, urgency=Urgency.MOVING, rate_hz=1e6)
        assert bytes_of(caching.draw(asked)) == bytes_of(bare.draw(asked))
    assert caching.rasterizer.cache_stats().hits > 0


def test_moving_frames_reuse_and_rest_is_exact() -> None:
    model, rows = random_anchors("scaffold", 400)
    limits = DerivedLimits(depth=4, angle_rad=0.5, distance_ratio=0.5)
    pages, bare = Pages(model, rows, limits=limits), Pages(model, rows, limits=NO_CACHE)
    decoded = []
    cameras = walk(16)
    for number, camera in enumerate(cameras):
        asked = request(camera, sequence=number, urgency=Urgency.MOVING, rate_hz=1e6)
        with pages.decodes() as counted:
            moving = pages.draw(asked)
        decoded.append(counted.pages)
        exact = bare.draw(asked)
        assert psnr_db(color_of(moving), color_of(exact)) > 30
    # The first frame and the one that learns of it are exact; then pages have their turns.
    later = decoded[8:]
    assert sum(later) <= 0.35 * len(later) * decoded[0]
    assert max(later) <= 0.6 * decoded[0]
    at_rest = pages.draw(request(cameras[-1], sequence=99))
    assert bytes_of(at_rest) == bytes_of(bare.draw(request(cameras[-1])))


def test_devices_reuse_alike_whatever_each_of_them_takes() -> None:
    """Bands of a picture that two devices draw have no seam: each would draw the same whole."""
    model, rows = random_anchors("scaffold", 400)
    limits = DerivedLimits(depth=6, angle_rad=0.5, distance_ratio=0.5)
    shared = ReuseChoices()
    first = Pages(model, rows, limits=limits, choices=shared)
    first.pool.pack(rows[:1])  # pages of other devices have whichever numbers
    devices = [first, Pages(model, rows, limits=limits, choices=shared)]
    depths, decoded = [], []
    for number, camera in enumerate(walk(14)):
        asked = request(camera, sequence=number, urgency=Urgency.MOVING, rate_hz=90.0)
        drawn = []
        with devices[0].decodes() as counted:
            for device, decode_ms in zip(devices, (30.0, 2.0), strict=True):  # one slow, one fast
                scene = composed(device.rasterizer, device.parts, asked)
                drawn.append(bytes_of(device.rasterizer.render(scene, camera)))
                depths.append(scene.views.derived.reuse.depth)
                known = device.rasterizer._frames._clients["a"]
                known.costs, known.views.seen = FrameCosts(decode_ms, 5.0), 0  # nothing to learn
        decoded.append(counted.pages)
        assert drawn[0] == drawn[1]
    assert depths[-2:] == [4, 4]  # 5 + 30 / 5 are 11 ms
    assert sum(decoded[6:]) < 0.5 * 8 * decoded[0]


def test_turning_about_a_point_decodes_no_page_twice_but_for_what_was_cut() -> None:
    model, rows = random_anchors("scaffold", 400)
    pages, bare = Pages(model, rows), Pages(model, rows, limits=NO_CACHE)
    turns = [
        Camera.look_at((0, 0, 0), (np.sin(a), 0, np.cos(a)), (0, -1, 0), fov_y_rad=0.9, width=40,
                       height=30)
        for a in np.linspace(0, 6, 13)
    ]  # fmt: skip
    for number, camera in enumerate([*turns, *turns]):
        with pages.decodes() as counted:
            drawn = pages.draw(request(camera, sequence=number))
        assert bytes_of(drawn) == bytes_of(bare.draw(request(camera)))
        if number >= len(turns):
            assert counted.pages == 0


def test_clients_share_what_they_see_from_the_same_point() -> None:
    model, rows = random_anchors("scaffold", 200)
    pages = Pages(model, rows)
    first = pages.draw(request(view(), client="a"))
    with pages.decodes() as counted:
        second = pages.draw(request(view(), client="b"))
    assert counted.pages == 0
    assert bytes_of(first) == bytes_of(second)


def test_the_cache_stays_within_its_budget_and_forgets_pages_that_are_gone() -> None:
    model, rows = random_anchors("scaffold", 400)
    budget = 3 << 18
    pages = Pages(model, rows, limits=DerivedLimits(budget_bytes=budget))
    bare = Pages(model, rows, limits=NO_CACHE)
    for number, camera in enumerate(walk(6, 0.5)):
        drawn = pages.draw(request(camera, sequence=number))
        assert bytes_of(drawn) == bytes_of(bare.draw(request(camera)))
        assert 0 < pages.rasterizer.cache_stats().held_bytes <= budget
    pages.parts = []
    gc.collect()
    assert pages.rasterizer.cache_stats().entries == 0
    pages.rasterizer.limits = DerivedLimits(budget_bytes=0)
    assert pages.rasterizer.limits.budget_bytes == 0
