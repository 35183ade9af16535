"""The engine by the shard schedule: devices that draw slabs of depth, and lose no frame."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schedules import shipped_texts
from rendering.base import (
    TRANSMITTANCE_STOP,
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    ScenePart,
)
from rendering.device import cpu_devices
from rendering.device_health import FaultPolicy
from rendering.device_speed import FEWEST, DeviceSpeeds
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Order, Schedule, Shares, Split, SplitBy
from rendering.schedule_file import parse_schedule
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera, CameraModel
from splat.errors import RenderError, SettingsError
from splat.gaussians import Gaussians
from tests.engine_devices import WAIT_S, Chaos, Troubled, bytes_of, hang_until
from tests.scenes import orbit_camera, random_scene

SHARD = parse_schedule(shipped_texts()["shard"], "shard")
EYES_IN_SHARDS = Schedule("eyes in shards", split=(Split(SplitBy.EYE), Split(SplitBy.SHARD)))
FRAMES_IN_SHARDS = Schedule(
    "frames in shards",
    split=(Split(SplitBy.FRAME, 2), Split(SplitBy.SHARD)),
    shares=Shares.EQUAL,
)
SCHEDULES = (SHARD, EYES_IN_SHARDS, FRAMES_IN_SHARDS)
BALL = random_scene(3, 500, 1)
IN_LAYERS = RasterSettings((0.2, 0.9, 0.4), outputs=~Outputs.MEDIAN_DEPTH, threads=1)
# What ``rendering.layers`` declares: see tests/test_layers.py.
NEAR = 3.1 * TRANSMITTANCE_STOP


def ask(sequence: int, *cameras: Camera, client: str = "a", **wishes: Any) -> FrameRequest:
    return replace(FrameRequest(client, sequence, cameras, IN_LAYERS), **wishes)


def view(angle: float = 0.6, model: CameraModel = CameraModel.PINHOLE) -> Camera:
    return orbit_camera(model, 65, 131, angle)


def draw(engine: RenderEngine, request: FrameRequest) -> Frame:
    return engine.submit(request).result(WAIT_S)


def assert_near(
    images: tuple[RasterImage, ...], others: tuple[RasterImage, ...], farthest: float = 10.0
) -> None:
    assert len(images) == len(others)
    for image, other in zip(images, others, strict=True):
        for name in ("alpha", "color"):
            one, two = getattr(image, name), getattr(other, name)
            assert one.shape == two.shape
            assert np.abs(one - two).max() <= NEAR
        assert image.depth is not None and other.depth is not None
        assert np.abs(image.depth - other.depth).max() <= farthest * NEAR
        assert image.count is not None and other.count is not None
        going_on = other.alpha < 1 - 2 * TRANSMITTANCE_STOP
        assert np.array_equal(image.count[going_on], other.count[going_on])
        assert image.stats.tile_pairs == other.stats.tile_pairs, "each Gaussian once"
        assert image.stats.visible == other.stats.visible
        assert image.stats.gaussians == other.stats.gaussians


@contextmanager
def devices(count: int, schedule: Schedule = SHARD, **more: Any) -> Iterator[RenderEngine]:
    with RenderEngine(
        NativeRasterizer(), BALL, devices=cpu_devices(count, count), schedule=schedule, **more
    ) as engine:
        yield engine


def plain(request: FrameRequest, scene: Gaussians = BALL) -> tuple[RasterImage, ...]:
    rasterizer = NativeRasterizer()
    prepared = rasterizer.prepare(scene)
    return tuple(rasterizer.render(prepared, c, request.settings) for c in request.cameras)


def drew(frame: Frame) -> set[str]:
    return {part.device for part in frame.stats.parts if part.eyes}


@settings(max_examples=25)
@given(
    st.integers(1, 5),
    st.sampled_from(SCHEDULES),
    st.sampled_from(CameraModel),
    st.integers(1, 3),
    st.floats(-3, 3),
    st.lists(st.sampled_from([1.0, 0.5, 0.1]), min_size=5, max_size=5),
)
def test_composited_pictures_are_near_those_of_one_device(
    count: int,
    schedule: Schedule,
    model: CameraModel,
    eyes: int,
    angle: float,
    speeds: list[float],
) -> None:
    request = ask(1, *(view(angle + eye / 9, model) for eye in range(eyes)))
    with devices(count, schedule) as engine:
        for device, speed in zip(engine.devices, speeds, strict=False):
            for _ in range(FEWEST):
                engine._line.roster.speeds.drew(device.device.name, speed, 1.0, time.monotonic())
        for _ in range(2):  # the second time with what is known of the costs
            frame = draw(engine, request)
            assert_near(frame.images, plain(request))
            request = replace(request, sequence=request.sequence + 1)
        if schedule is SHARD:
            assert len(drew(frame)) == count


def test_one_device_alone_draws_the_same_bytes() -> None:
    request = ask(1, view())
    with devices(1) as engine:
        assert bytes_of(draw(engine, request).images) == bytes_of(plain(request))


def test_a_band_that_is_asked_for_is_drawn_in_layers() -> None:
    request = ask(1, view())
    request = replace(request, settings=replace(IN_LAYERS, rows=(32, 131)))
    with devices(3) as engine:
        frame = draw(engine, request)
    assert_near(frame.images, plain(request))
    rows = [part.rows for part in frame.stats.parts if part.eyes]
    assert rows == [((32, 131),)] * 3, "all of them, by every device"


def test_the_median_depth_of_all_is_not_in_the_layers_so_it_is_drawn_in_bands() -> None:
    request = ask(1, view(), view(0.8), settings=replace(IN_LAYERS, outputs=Outputs.ALL))
    for schedule in (SHARD, EYES_IN_SHARDS):
        with devices(4, schedule) as engine:
            frame = draw(engine, request)
        assert bytes_of(frame.images) == bytes_of(plain(request))
        assert len(drew(frame)) == 4


@pytest.mark.parametrize("scene", [Gaussians.empty(), random_scene(1, 1), random_scene(1, 2)])
def test_scenes_of_hardly_anything(scene: Gaussians) -> None:
    away = Camera.look_at((0, 0, -9), (0, 0, -20), (0, -1, 0), fov_y_rad=0.9, width=33, height=40)
    for camera in (view(), away):
        with RenderEngine(
            NativeRasterizer(), scene, devices=cpu_devices(3, 3), schedule=SHARD
        ) as engine:
            request = ask(1, camera)
            assert_near(draw(engine, request).images, plain(request, scene))


def test_gaussians_of_one_depth_are_not_divided() -> None:
    flat = random_scene(2, 200)
    flat.means[:, 2] = 1.5
    ahead = Camera.look_at((0, 0, -6), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=65, height=70)
    with RenderEngine(
        NativeRasterizer(), flat, devices=cpu_devices(3, 3), schedule=SHARD
    ) as engine:
        request = ask(1, ahead)
        assert_near(draw(engine, request).images, plain(request, flat))


def test_chunks_that_are_dealt_out_are_refused() -> None:
    dealt = Schedule("mine", split=(Split(SplitBy.SHARD, order=Order.DEALT),))
    with devices(2) as engine:
        with pytest.raises(SettingsError, match=r"mine deals out chunks .* use order: depth"):
            engine.set_schedule(dealt)
        assert engine.schedule is SHARD


class Costly(NativeRasterizer):
    """Says that Gaussians nearer than 4 units take 30 times as long."""

    def render(
        self,
        scene: Any,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        image = super().render(scene, camera, settings, cancel)
        near = (
            super().render(scene, replace(camera, far=min(camera.far, 4.0)), settings, cancel)
            if camera.near < 4.0
            else None
        )
        work = image.stats.visible + 29 * (near.stats.visible if near else 0)
        return replace(image, stats=replace(image.stats, stage_ms={"composite": float(work)}))


def test_slabs_are_cut_so_that_devices_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # How fast devices are seen to be depends on what else the machine does.
    monkeypatch.setattr(DeviceSpeeds, "weights", lambda speeds, now_s: defaultdict(lambda: 1.0))
    with RenderEngine(
        Costly(), BALL, devices=cpu_devices(2, 2), schedule=SHARD, new_rasterizer=lambda _: Costly()
    ) as engine:
        unevenness = []
        for sequence in range(12):
            frame = draw(engine, ask(sequence, view()))
            took = [dict(part.stages)["composite"] for part in frame.stats.parts if part.eyes]
            unevenness.append(max(took) / min(took))
            assert_near(frame.images, plain(ask(1, view())))
    assert unevenness[0] > 3 and unevenness[-1] < 1.3


# Streamed


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    ball = random_scene(5, 8_000, 1)
    write_ply(folder / "ball.ply", [ball], len(ball), 1)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


class Composing(NativeRasterizer):
    """Notes what it composes."""

    def __init__(self) -> None:
        super().__init__()
        self.composed: list[list[ScenePart]] = []

    def compose(self, parts: Any) -> Any:
        self.composed.append(list(parts))
        return super().compose(parts)


@contextmanager
def streamed(store: Path, rasterizer: NativeRasterizer) -> Iterator[StreamedScene]:
    budgets = Budgets(64 << 20, 64 << 20)
    scene = StreamedScene(open_store(store), rasterizer, budgets, StreamPolicy(fade_s=0.0))
    yield scene
    scene.close()


def complete(engine: RenderEngine, *cameras: Camera, first: int = 0, **wishes: Any) -> Frame:
    deadline_s = time.monotonic() + WAIT_S
    for sequence in range(first, first + 10_000):
        frame = draw(engine, ask(sequence, *cameras, **wishes))
        if frame.stats.stream is not None and frame.stats.stream.complete:
            return frame
        assert time.monotonic() < deadline_s, "it never was complete"
        time.sleep(0.002)
    raise AssertionError("it never was complete")


@pytest.mark.parametrize("model", CameraModel)
@pytest.mark.parametrize("count", [2, 4])
def test_streamed_pictures_are_near_those_of_one_device(
    ball_store: Path, model: CameraModel, count: int
) -> None:
    cameras = view(0.6, model), view(0.7, model)
    single = NativeRasterizer()
    with streamed(ball_store, single) as scene, RenderEngine(single, scene) as engine:
        expected = complete(engine, *cameras)
    for schedule in (SHARD, EYES_IN_SHARDS):
        rasterizer = Composing()
        with (
            streamed(ball_store, rasterizer) as scene,
            RenderEngine(
                rasterizer, scene, devices=cpu_devices(count, count), schedule=schedule
            ) as engine,
        ):
            frame = complete(engine, *cameras)
            wait_until_released(scene)
        assert_near(frame.images, expected.images)
        assert len(drew(frame)) == count


def wait_until_released(scene: StreamedScene) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while scene.stats().leased:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


@pytest.fixture(scope="module")
def street_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five balls in a row, away from the camera."""
    folder = tmp_path_factory.mktemp("street")
    balls = [random_scene(seed, 2_500, 0) for seed in range(5)]
    for number, ball in enumerate(balls):
        ball.means[:, 2] += 8 * number
    write_ply(folder / "street.ply", balls, sum(map(len, balls)), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "street.ply"], folder / "street.bvs", options)
    return folder / "street.bvs"


ALONG = Camera.look_at((0, -1, -7), (0, 0, 20), (0, -1, 0), fov_y_rad=0.9, width=129, height=97)


def test_devices_draw_only_the_chunks_of_their_slabs(street_store: Path) -> None:
    """With the weights that they have in the whole, as they fade, and in the same order."""
    rasterizer, now_s = Composing(), [0.0]
    budgets, policy = Budgets(64 << 20, 64 << 20), StreamPolicy(fade_s=1.0)
    scene = StreamedScene(
        open_store(street_store), rasterizer, budgets, policy, clock=lambda: now_s[0]
    )
    with RenderEngine(rasterizer, scene, devices=cpu_devices(3, 3), schedule=SHARD) as engine:
        complete(engine, ALONG, max_error_px=60.0)
        complete(engine, ALONG, first=10_000)  # as it is before anything fades
        for sequence in range(20_000, 20_100):
            now_s[0] += 0.2 if sequence < 20_002 else 0.0
            rasterizer.composed.clear()
            frame = draw(engine, ask(sequence, ALONG))
            whole, *composed = rasterizer.composed
            # Where a device was kept waiting its slab is thin for some frames, and another's all.
            if sequence > 20_000 and len(composed) == 3:
                break
        expected = rasterizer.render(rasterizer.compose(whole), ALONG, IN_LAYERS)
    assert any(0.1 < part.weight < 0.9 for part in whole), "something fades"
    assert_near(frame.images, (expected,))
    places = {id(part): place for place, part in enumerate(whole)}
    shares = [[places[id(part)] for part in parts] for parts in composed]
    assert len(shares) == 3 and all(share == sorted(share) for share in shares)
    assert set().union(*shares) == set(places.values())
    assert sum(len(share) for share in shares) < 2.2 * len(whole), "not every device needs all"


# Trouble

QUICK = FaultPolicy(
    first_pause_s=0.001, last_pause_s=0.01, faults=1_000_000, patience_s=0.08, closing_s=0.5
)


def test_a_device_that_is_killed_amid_a_layer_costs_no_frame() -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def hold(cancel: CancelFlag | None) -> None:
        started.release()
        hang_until(cancel, 0 if gate.is_set() else WAIT_S)

    second = Troubled(hold)
    with devices(3, new_rasterizer=lambda _: second) as engine:
        future = engine.submit(ask(1, view(), view(0.8)))
        assert started.acquire(timeout=WAIT_S) and started.acquire(timeout=WAIT_S)
        gate.set()
        engine.restart_device("cpu:1")
        engine.restart_device("cpu:2")
        assert_near(future.result(WAIT_S).images, plain(ask(1, view(), view(0.8))))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("schedule", [SHARD, FRAMES_IN_SHARDS])
def test_whatever_happens_the_pictures_are_the_right_ones(
    ball_store: Path, schedule: Schedule, seed: int
) -> None:
    chaos = Chaos(seed, share=0.12, hang_s=0.12)
    single = NativeRasterizer()
    cameras = view(), view(0.8)
    with streamed(ball_store, single) as scene, RenderEngine(single, scene) as engine:
        expected = complete(engine, *cameras)
    with (
        streamed(ball_store, Troubled()) as scene,
        RenderEngine(
            Troubled(chaos),
            scene,
            devices=cpu_devices(3, 3),
            schedule=schedule,
            new_rasterizer=lambda _: Troubled(chaos),
            faults=QUICK,
        ) as engine,
    ):
        drawn = 0
        for sequence in range(40):
            future = engine.submit(ask(sequence, *cameras))
            error = future.exception(WAIT_S)
            assert error is None or isinstance(error, RenderError)
            if error is None:
                frame = future.result()
                assert len(frame.images) == 2
                assert frame.stats.stream is not None
                if frame.stats.stream.complete:
                    assert_near(frame.images, expected.images)
                    drawn += 1
        chaos.over = True
        assert drawn > 15 and len(chaos.happened) > 8
        wait_until_released(scene)
