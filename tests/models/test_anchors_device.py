"""Anchors decoded by the GPU's kernel under Triton's interpreter: equations and contract."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before Triton is imported: kernels are made for the interpreter, or for a device.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from benchmarks.psnr import psnr_db
from render_cache.derived_rule import DerivedLimits
from render_cache.reuse import ReuseLimits
from rendering.base import Outputs, RasterSettings, ScenePart
from rendering.frame import FrameRequest
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.fused_pages import DevicePage, FusedPagePool
from rendering.models.anchor_pages import AnchorPool
from rendering.models.anchor_work import LEAST_OPACITY
from rendering.models.anchors import anchor_rasterizer
from rendering.models.anchors_device import (
    DEFAULT_TUNING,
    DecoderTuning,
    DeviceAnchorPage,
    DeviceAnchorPool,
    DeviceDecoder,
    can_decode,
    header_of,
    room_for,
)
from rendering.models.anchors_device_drawing import DeviceAnchorRasterizer
from rendering.models.anchors_reference import appearance_of, decode_anchors
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from rendering.page_packing import GEOMETRY_ROWS, HEADER_WORDS
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import model_of
from scene_store.models import open_model
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from splat.networks import Layer, Mlp
from splat.rows import Rows
from splat.stereo import StereoRig
from tests.fused_memory import spoil_new_memory
from tests.models.anchor_scenes import random_anchors
from tests.models.anchors_torch import ARCHITECTURES, random_net, write_folder
from tests.models.model_contract import AMPLE

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]
CENTER = np.array([1.0, 2.0, -6.0])
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def _spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_new_memory(monkeypatch)


@pytest.fixture
def engine() -> FusedRasterizer:
    return FusedRasterizer("cpu", Tuning(tile=32, stride=4, half_colors=False))


def pages_of(
    engine: FusedRasterizer, model: AnchorModel, rows: Rows, page_rows: int
) -> list[DeviceAnchorPage]:
    pool = DeviceAnchorPool(page_rows, model.layout, deque(), engine)
    firsts = range(0, len(rows), page_rows)
    places = np.array([[first, min(page_rows, len(rows) - first)] for first in firsts], np.int64)
    return pool.pack_many(rows, places)  # type: ignore[return-value]


def decoded(
    engine: FusedRasterizer,
    model: AnchorModel,
    rows: Rows,
    center: np.ndarray = CENTER,
    *,
    page_rows: int = 64,
    least: float = 0.0,
    appearance: int | None = None,
    tuning: DecoderTuning = DEFAULT_TUNING,
) -> tuple[Gaussians, list[DevicePage]]:
    """What can be seen, by anchor and then by number; and the pages that hold it."""
    offsets = model.layout.offsets
    pages = pages_of(engine, model, rows, page_rows)
    blank = engine.new_pool(page_rows * offsets, 0).blank([p.count * offsets for p in pages])
    decoder = DeviceDecoder(model, appearance, engine, tuning)
    decoder.decode(list(zip(pages, blank, strict=True)), center, least)
    parts = [gaussians_in(page, offsets) for page in blank]
    return Gaussians.concatenate(parts), blank


def gaussians_in(page: DevicePage, offsets: int) -> Gaussians:
    words = page.words.numpy()[HEADER_WORDS : HEADER_WORDS + GEOMETRY_ROWS * page.room]
    geometry = words.reshape(GEOMETRY_ROWS, page.room)[:, : page.count]
    by_anchor = geometry.reshape(GEOMETRY_ROWS, offsets, -1).transpose(2, 1, 0)
    table = by_anchor.reshape(-1, GEOMETRY_ROWS)
    assert np.isfinite(np.delete(table, 10, axis=1)).all()
    table = table[np.isfinite(table[:, 10])]
    return Gaussians(
        means=table[:, 0:3].copy(),
        quats=table[:, 3:7].copy(),
        scales=table[:, 7:10].copy(),
        opacities=np.exp2(table[:, 10]),
        sh=table[:, None, 11:14].copy(),
    )


def assert_close(found: Gaussians, expected: Gaussians) -> None:
    assert len(found) == len(expected) > 0
    for values, truth in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(values, truth, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_is_the_reference(architecture: str, engine: FusedRasterizer) -> None:
    model, rows = random_anchors(architecture, 3 * DEFAULT_TUNING.block + 7)
    assert can_decode(model)
    found, _ = decoded(engine, model, rows)
    assert_close(found, decode_anchors(model, rows, CENTER).gaussians())


def test_the_size_of_a_block_changes_nothing(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("octree-progressive", 71)
    found, _ = decoded(engine, model, rows, tuning=DecoderTuning(block=32, warps=8))
    assert_close(found, decode_anchors(model, rows, CENTER).gaussians())


def test_decoding_is_timed(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-small", 20)
    decoder = DeviceDecoder(model, None, engine)
    (page,) = pages_of(engine, model, rows, 32)
    (blank,) = engine.new_pool(96, 0).blank([60])
    assert decoder.decode([(page, blank)], CENTER, 0.0) > 0.0
    assert decoder.decode([], CENTER, 0.0) == 0.0


def test_appearances_and_faint_ones(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-appearance", 40)
    look = appearance_of(model, 3)
    found, _ = decoded(engine, model, rows, least=0.2, appearance=3)
    truth = decode_anchors(model, rows, CENTER, look).gaussians(0.2)
    assert_close(found, truth)


def test_far_from_the_origin_directions_keep_their_digits(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-dist", 40)
    far = np.array([65536.0, -32768.0, 16384.0])  # exact in float32
    data = rows.data.copy()
    data[:, :3] = np.round(data[:, :3] * 64) / 64 + far
    found, _ = decoded(engine, model, Rows(data), CENTER + far + 1e-4)
    truth = decode_anchors(model, Rows(data), CENTER + far + 1e-4).gaussians()
    assert len(found) == len(truth)
    np.testing.assert_allclose(found.sh, truth.sh, atol=CLOSE)


@pytest.mark.parametrize("distance", [3.0, 27.0, 81.0])
def test_levels_come_with_the_camera(distance: float, engine: FusedRasterizer) -> None:
    for architecture in ("octree-ceil", "octree-progressive"):
        model, rows = random_anchors(architecture, 80)
        center = np.array([0.3, distance, 0.1])
        truth = decode_anchors(model, rows, center).gaussians()
        assert_close(decoded(engine, model, rows, center)[0], truth)


def test_headers_hold_all_gaussians(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("octree", 100)
    _, blank = decoded(engine, model, rows)
    for page in blank:
        words = page.words.numpy()
        its = gaussians_in(page, model.layout.offsets)
        assert (its.means >= words[0:3]).all() and (its.means <= words[3:6]).all()
        assert its.scales.max() <= words[6]
        assert not words[7:HEADER_WORDS].any()


def test_pages_of_rows_are_what_host_pages_are(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold", 70)
    there = pages_of(engine, model, rows, 32)
    here = AnchorPool(32, model.layout, deque()).pack_many(
        rows, np.array([[0, 32], [32, 32], [64, 6]], np.int64)
    )
    for one, other in zip(there, here, strict=True):
        assert one.count == other.count
        assert np.array_equal(one.spheres, other.spheres)
        assert np.array_equal(header_of(one), header_of(other))
        columns = one.rows.words.numpy()[: model.layout.width * one.rows.room]
        columns = columns.reshape(model.layout.width, one.rows.room)
        assert np.array_equal(columns[:, : one.count].T, other.data)


def test_pages_that_move_are_decoded_the_same(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-small", 64)
    pool = DeviceAnchorPool(16, model.layout, deque(), engine)
    places = np.array([[first, 16] for first in range(0, 64, 16)], np.int64)
    pages: list[Any] = pool.pack_many(rows, places)
    del pages[:3]
    pool.limit(pool.page_bytes)
    moved = pool.moved(pages) if pool.is_loose() else {}
    decoder = DeviceDecoder(model, None, engine)
    offsets = model.layout.offsets
    expected = decode_anchors(model, rows[48:], CENTER).gaussians()
    for page in (*pages, *moved.values()):
        (blank,) = engine.new_pool(16 * offsets, 0).blank([page.count * offsets])
        decoder.decode([(page, blank)], CENTER, 0.0)
        assert_close(gaussians_in(blank, offsets), expected)
    assert all(page.number not in {p.number for p in pages} for page in moved.values())


# Drawing


def camera() -> Camera:
    return Camera.look_at((1, 2, -18), (0, 0, 0), (0, -1, 0), fov_y_rad=0.7, width=48, height=40)


EXACT = RasterSettings((0.1, 0.2, 0.3), outputs=~Outputs.MEDIAN_DEPTH)


@pytest.mark.parametrize("architecture", ["scaffold-small", "octree-progressive"])
def test_pictures_are_those_of_the_processor(architecture: str, engine: FusedRasterizer) -> None:
    model, rows = random_anchors(architecture, 40)
    device = anchor_rasterizer(model, engine)
    assert isinstance(device, DeviceAnchorRasterizer)
    host = anchor_rasterizer(model, NativeRasterizer())
    found = device.render(device.prepare(rows), camera(), EXACT)
    truth = host.render(host.prepare(rows), camera(), EXACT)
    assert truth.color is not None and found.color is not None and truth.alpha.max() > 0.5
    assert psnr_db(found.color, truth.color) > 60
    assert found.stats.gaussians == truth.stats.gaussians
    assert found.stats.stage_ms["decode"] > 0


def test_two_eyes_are_decoded_once(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-small", 40)
    device = anchor_rasterizer(model, engine)
    assert isinstance(device, DeviceAnchorRasterizer)
    pair = replace(EXACT, reuse=ReuseLimits())
    left, right = StereoRig(0.1).eyes(camera())
    request = FrameRequest("a", 1, (left, right), pair)
    pool = device.new_pool(16, 0)
    firsts = np.arange(0, 40, 16, dtype=np.int64)
    places = np.stack([firsts, np.minimum(16, 40 - firsts)], axis=1)
    parts = [ScenePart(page) for page in pool.pack_many(rows, places)]
    scene = device.compose_for(parts, request)
    first, _ = device.render_pair(scene, left, right, pair)
    assert first.color is not None
    again = device.render(scene, left, EXACT)
    assert again.stats.stage_ms["decode"] == 0
    middle = 0.5 * (left.position + right.position)
    truth = decode_anchors(model, rows, middle).gaussians(LEAST_OPACITY)
    engine_picture = engine.render(engine.prepare(truth), left, EXACT)
    assert engine_picture.color is not None
    assert psnr_db(first.color, engine_picture.color) > 50


def test_moving_pictures_reuse_what_is_on_the_device(engine: FusedRasterizer) -> None:
    model, rows = random_anchors("scaffold-small", 48)
    limits = DerivedLimits()
    device = anchor_rasterizer(model, engine, limits=limits)
    pool = device.new_pool(16, 0)
    places = np.array([[0, 16], [16, 16], [32, 16]], np.int64)
    parts = [ScenePart(page) for page in pool.pack_many(rows, places)]
    for sequence in range(3):
        request = FrameRequest("a", sequence, (camera(),), EXACT)
        device.render(device.compose_for(parts, request), camera(), EXACT)
    stats = device.cache_stats()
    assert stats.hits >= 6 and stats.held_bytes > 0


def test_a_scene_streams_to_the_device(engine: FusedRasterizer, tmp_path: Path) -> None:
    net = random_net(ARCHITECTURES["scaffold-small"], 60)
    source = open_model(write_folder(net, tmp_path / "scaffold"))
    renderer = renderer_of(model_of(source), engine)
    assert isinstance(renderer, DeviceAnchorRasterizer)
    scene = StreamedScene(source, renderer, AMPLE, StreamPolicy(fade_s=0.0))
    try:
        (memory,) = scene._memories.values()
        for sequence in range(100):
            with scene.acquire(FrameRequest("a", sequence, (camera(),), EXACT)) as drawable:
                assert drawable.stream is not None
                if drawable.stream.complete:
                    image = renderer.render(drawable.scene, camera(), EXACT)
                    break
            memory.loader.wait_until_settled(10.0)
        assert float(image.alpha.max()) > 0.5
        assert engine.held_bytes > 0
    finally:
        scene.close()


def test_other_networks_are_decoded_by_the_processor(engine: FusedRasterizer) -> None:
    model, _ = random_anchors("scaffold-small", 4)
    still = Mlp(
        model.covariance_mlp.inputs,
        (Layer(np.zeros((21, model.covariance_mlp.inputs), np.float32), np.zeros(21, np.float32)),),
    )
    other = replace(model, covariance_mlp=still)
    assert not can_decode(other)
    assert not isinstance(anchor_rasterizer(other, engine), DeviceAnchorRasterizer)


def test_memory_that_nobody_uses_goes_first(
    engine: FusedRasterizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = random_anchors("scaffold-small", 30)
    device = anchor_rasterizer(model, engine)
    scene = device.prepare(rows)
    refused: list[Any] = []
    trimmed: list[int] = []
    blank, trim = FusedPagePool.blank, engine.memory.trim

    def trimming() -> None:
        trimmed.append(1)
        trim()

    def once(self: FusedPagePool, counts: list[int]) -> list[DevicePage]:
        if not refused:
            refused.append(counts)
            raise BudgetError("no memory")
        return blank(self, counts)

    monkeypatch.setattr(FusedPagePool, "blank", once)
    monkeypatch.setattr(engine.memory, "trim", trimming)
    assert float(device.render(scene, camera(), EXACT).alpha.max()) > 0.5
    assert refused and trimmed == [1]


@pytest.mark.parametrize(
    ("count", "room"), [(1, 1), (30, 32), (2048, 2048), (2049, 4096), (10240, 10240)]
)
def test_pages_are_not_much_larger_than_they_must_be(count: int, room: int) -> None:
    assert room_for(count) == room
