"""Streamed scenes on devices with memories of their own: one cut, and each has what it draws."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rendering.base import RasterSettings
from rendering.device_health import FaultPolicy
from rendering.elastic import ElasticPolicy
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest, StreamStats
from rendering.layers import LAYERED
from rendering.native.cpu import NativeRasterizer
from rendering.schedule import Schedule, SplitBy
from rendering.streamed_scene import StreamedScene, StreamPolicy, least_budgets
from scene_store import shared_chunks
from scene_store.build import BuildOptions, build_store
from scene_store.chunks import ChunkSource, EncodedChunk, never_cancelled
from scene_store.demands import Tier
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS, EYES, FRAMES, SINGLE, WAIT_S, bytes_of
from tests.own_memories import OwnDevices
from tests.scenes import random_scene
from tests.schedules import shipped
from tests.test_engine_faults import PATIENT, wait_until
from tests.test_engine_shards import SHARD, assert_near

AMPLE = Budgets(64 << 20, 64 << 20)
SETTINGS = RasterSettings(outputs=LAYERED, threads=1)
AT_ONCE = StreamPolicy(fade_s=0.0)
FARTHEST = 60.0  # of the street


@pytest.fixture(scope="module")
def street_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six balls in a row, away from the camera."""
    folder = tmp_path_factory.mktemp("street")
    balls = [random_scene(seed, 16_000, 0) for seed in range(6)]
    for number, ball in enumerate(balls):
        ball.means[:, 2] += 8 * number
    write_ply(folder / "street.ply", balls, sum(map(len, balls)), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "street.ply"], folder / "street.bvs", options)
    return folder / "street.bvs"


class CountedStore:
    """A store that counts, and holds the reads of leaves until a gate opens."""

    def __init__(self, path: Path) -> None:
        self.store = open_store(path)
        self.gate = threading.Event()
        self.gate.set()
        self.reads: Counter[int] = Counter()
        self.decodings: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.meta, self.tree = self.store.meta, self.store.tree
        self.sh_degree, self.page_gaussians = self.store.sh_degree, self.store.page_gaussians

    def encoded_bytes(self, chunk: int) -> int:
        return self.store.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        while self.tree.child_count[chunk] == 0 and not self.gate.wait(0.01):
            if cancelled():
                return None
        with self.lock:
            self.reads[chunk] += 1
        return self.store.read(chunk, cancelled)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        with self.lock:
            self.decodings[chunk] += 1
        return self.store.decode(chunk, encoded)

    def close(self) -> None:
        self.store.close()


def view(z: float = -7.0, x: float = 0.0) -> Camera:
    return Camera.look_at(
        (x, -1, z), (x, 0, z + 27), (0, -1, 0), fov_y_rad=0.9, width=97, height=131
    )


EYES_ALONG = (view(), view(x=0.1))


@contextmanager
def drawing(
    store: Path | ChunkSource,
    own: OwnDevices,
    schedule: Schedule,
    budgets: Budgets = AMPLE,
    *,
    policy: StreamPolicy = AT_ONCE,
    faults: FaultPolicy = PATIENT,
    most: Budgets | None = None,
    **more: Any,
) -> Iterator[tuple[RenderEngine, StreamedScene]]:
    """An engine, and what it draws; in the end no lease is left, and no memory ever held more
    pages than its budget, or ``most`` if that changes."""
    source = open_store(store) if isinstance(store, Path) else store
    scene = StreamedScene(source, own.rasterizers, budgets, policy)
    with RenderEngine(
        own.first,
        scene,
        devices=own.devices,
        schedule=schedule,
        new_rasterizer=own.new,
        faults=faults,
        **more,
    ) as engine:
        yield engine, scene
        wait_until(lambda: scene.stats().leased == 0)
    for meter in own.meters:
        assert meter.most * meter.page_bytes <= (most or budgets).device_bytes


class Asking:
    """One client of an engine."""

    def __init__(self, engine: RenderEngine, name: str = "a", **wishes: Any) -> None:
        self.engine, self.name, self.wishes, self.sequence = engine, name, wishes, 0

    def request(self, *cameras: Camera) -> FrameRequest:
        self.sequence += 1
        request = FrameRequest(self.name, self.sequence, cameras or EYES_ALONG, SETTINGS)
        return replace(request, **self.wishes)

    def draw(self, *cameras: Camera) -> Frame:
        return self.engine.submit(self.request(*cameras)).result(WAIT_S)

    def complete(self, *cameras: Camera) -> Frame:
        deadline_s = time.monotonic() + WAIT_S
        while True:
            frame = self.draw(*cameras)
            if stream(frame).complete and not stream(frame).fading:
                return frame
            assert time.monotonic() < deadline_s, f"it never was complete: {stream(frame)}"
            time.sleep(0.002)


def stream(frame: Frame) -> StreamStats:
    assert frame.stats.stream is not None
    return frame.stats.stream


def drew(frame: Frame) -> set[str]:
    return {part.device for part in frame.stats.parts if part.eyes}


@pytest.fixture(scope="module")
def expected(street_store: Path) -> Frame:
    """By one device, with everything there."""
    rasterizer = NativeRasterizer()
    scene = StreamedScene(open_store(street_store), rasterizer, AMPLE, AT_ONCE)
    with RenderEngine(rasterizer, scene) as engine:
        return Asking(engine).complete()


def assert_right(schedule: Schedule, frame: Frame, expected: Frame) -> None:
    if schedule.has(SplitBy.SHARD):
        assert_near(frame.images, expected.images, FARTHEST)
    else:
        assert bytes_of(frame.images) == bytes_of(expected.images)


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("count", [2, 3])
def test_every_schedule_draws_what_one_device_draws(
    street_store: Path, expected: Frame, name: str, count: int
) -> None:
    schedule = shipped()[name]
    with drawing(street_store, OwnDevices(count), schedule) as (engine, _):
        client = Asking(engine)
        for _ in range(count + 1):
            assert_right(schedule, client.complete(), expected)


@pytest.mark.parametrize("schedule", [BANDS, EYES, FRAMES])
def test_chunks_are_read_and_decoded_once_for_all_memories(
    street_store: Path, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far one memory is behind another one, as what is kept between them has room."""
    monkeypatch.setattr(shared_chunks, "HELD_CHUNKS", 1000)
    source, own = CountedStore(street_store), OwnDevices(2)
    with drawing(source, own, schedule) as (engine, scene):
        client = Asking(engine)
        for _ in range(3):
            client.complete()
        assert scene.wait_until_settled(WAIT_S)
        first, second = (scene._memories[name].loader.stats() for name in scene.memories)
    assert first.chunks == second.chunks
    drawn_once = len(source.decodings)
    assert drawn_once > 100
    assert source.decodings.total() == drawn_once
    assert source.reads.total() == drawn_once
    assert own.packed("cpu:0") == own.packed("cpu:1") > 0


@pytest.mark.parametrize("schedule", [BANDS, EYES, FRAMES, SHARD])
def test_no_frame_shows_what_one_of_its_memories_lacks(
    street_store: Path, expected: Frame, schedule: Schedule
) -> None:
    """And none has a hole meanwhile: coarse chunks stand in."""
    source = CountedStore(street_store)
    source.gate.clear()
    covered = expected.images[0].alpha > 0.9
    with drawing(source, OwnDevices(2), schedule) as (engine, scene):
        client = Asking(engine)
        wait_until(lambda: bool(client.draw().images[0].alpha.any()))
        assert scene.wait_until_settled(0.2) is False
        for _ in range(4):
            coarse = client.draw()
            assert not stream(coarse).complete and stream(coarse).missing
            assert coarse.images[0].alpha[covered].min() > 0.5
        source.gate.set()
        assert_right(schedule, client.complete(), expected)


def test_what_one_memory_has_alone_is_not_drawn_by_two(street_store: Path) -> None:
    own = OwnDevices(2)
    with drawing(street_store, own, SINGLE) as (engine, scene):
        client = Asking(engine)
        fine = client.complete()
        held = [scene._memories[name].loader.stats().device_bytes for name in scene.memories]
        assert held[0] > 3 * held[1], "the second device has the coarsest chunks"
        assert {memory.held_bytes for memory in engine.memories} == set(held)
        assert all(m.budget_bytes == AMPLE.device_bytes for m in engine.memories)
        engine.set_schedule(BANDS)
        errors = []
        for _ in range(1000):
            frame = client.draw()
            errors.append(stream(frame).error_px)
            assert bytes_of(frame.images) == bytes_of(fine.images)
            if drew(frame) == {"cpu:0", "cpu:1"}:
                break
            assert drew(frame) == {"cpu:0"}, "the other one loads what is drawn"
            time.sleep(0.002)
        assert drew(frame) == {"cpu:0", "cpu:1"} and set(errors) == {0.0}


def test_a_device_that_joins_makes_no_picture_coarser(street_store: Path) -> None:
    own = OwnDevices(2)
    policy = ElasticPolicy(target_fps=2000, most=2, grow_after=3, shrink_after=1000)
    with drawing(street_store, own, BANDS, elastic=policy) as (engine, _):
        client = Asking(engine, rate_hz=2000)
        fine = client.complete()
        for _ in range(2000):
            frame = client.draw()
            assert stream(frame).complete
            assert bytes_of(frame.images) == bytes_of(fine.images)
            if len(drew(frame)) == 2:
                break
        assert len(drew(frame)) == 2
        assert own.packed("cpu:1") > 0


def test_budgets_are_each_memorys_and_the_hosts_is_for_all(street_store: Path) -> None:
    own = OwnDevices(3)
    with open_store(street_store) as store:
        alone = least_budgets(store, NativeRasterizer())
        together = least_budgets(store, own.rasterizers)
    assert together == Budgets(3 * alone.host_bytes, alone.device_bytes)
    with drawing(street_store, own, BANDS, together, most=AMPLE) as (engine, scene):
        assert scene.least_budgets == together == scene.budgets
        assert scene.stats().budgets == Budgets(together.host_bytes, 3 * together.device_bytes)
        client = Asking(engine)
        client.complete()
        scene.set_budgets(AMPLE)
        before = client.complete()
        wait_until(lambda: scene.stats().device_bytes > 3 * together.device_bytes)
        for small in (
            replace(AMPLE, host_bytes=together.host_bytes - 1),
            replace(AMPLE, device_bytes=together.device_bytes - 1),
        ):
            with pytest.raises(BudgetError, match=r"too small for this scene in 3 memories"):
                scene.set_budgets(small)
        assert scene.budgets == AMPLE
        assert bytes_of(client.complete().images) == bytes_of(before.images)
        scene.set_budgets(together)
        wait_until(lambda: scene.stats().device_bytes <= 3 * together.device_bytes)
        assert scene.stats().host_bytes <= together.host_bytes


def test_chunks_fade_alike_in_all_memories(street_store: Path) -> None:
    """The pictures on the way are those of a single memory, too."""
    frames: list[list[bytes]] = []
    for own, schedule in ((OwnDevices(2), BANDS), (OwnDevices(2), SINGLE)):
        now_s = [0.0]
        scene = StreamedScene(
            open_store(street_store),
            own.rasterizers,
            AMPLE,
            StreamPolicy(fade_s=1.0),
            clock=lambda now_s=now_s: now_s[0],  # type: ignore[misc]
        )
        with RenderEngine(
            own.first, scene, devices=own.devices, schedule=schedule, new_rasterizer=own.new
        ) as engine:
            client = Asking(engine, max_error_px=60.0)
            client.complete()
            client.wishes = {}
            now_s[0] += 2.0
            wait_until(lambda: stream(client.draw()).complete)  # noqa: B023
            pictures = []
            for _ in range(3):
                now_s[0] += 0.3
                frame = client.draw()
                assert stream(frame).fading
                pictures += bytes_of(frame.images)
            frames.append(pictures)
    assert frames[0] == frames[1]


def test_many_clients_share_memories(street_store: Path, expected: Frame) -> None:
    with drawing(street_store, OwnDevices(2), BANDS) as (engine, scene):
        done: list[str] = []

        def look(name: str) -> None:
            client = Asking(engine, name)
            client.complete(view(x=0.4))
            assert bytes_of(client.complete().images) == bytes_of(expected.images)
            done.append(name)

        threads = [threading.Thread(target=look, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert sorted(done) == ["a", "b", "c"]
        for name in "abc":
            engine.forget(name)
        assert scene.drawn_chunks("a") == ()


def test_what_was_read_and_decoded_is_told_by_lanes_of_each_memory(street_store: Path) -> None:
    lanes: set[str] = set()
    with drawing(street_store, OwnDevices(2), BANDS) as (engine, scene):
        scene.set_on_work(lambda lane, *_: lanes.add(lane))
        Asking(engine).complete()
    assert {lane for lane in lanes if lane.startswith("decoding")} == {"decoding:0", "decoding:1"}


# Slabs


def held_bytes(scene: StreamedScene) -> list[int]:
    return [scene.held_bytes(memory)[0] for memory in scene.memories]


def scene_bytes(store: Path) -> int:
    """Of all chunks on a device."""
    with open_store(store) as chunks:
        pages = -(-chunks.tree.count // chunks.page_gaussians)
    return int(pages.sum()) * NativeRasterizer().new_pool(1024, 0).page_bytes


def test_memories_of_slabs_add_up(street_store: Path, expected: Frame) -> None:
    """What no device could draw alone with its budget, two draw together."""
    tight = Budgets(AMPLE.host_bytes, int(0.72 * scene_bytes(street_store)))
    with drawing(street_store, OwnDevices(1), SINGLE, tight) as (engine, _):
        alone = Asking(engine).complete()
        assert stream(alone).error_px > 0, "it does not fit"
    own = OwnDevices(2)
    with drawing(street_store, own, SHARD, tight) as (engine, scene):
        client = Asking(engine)
        frame = client.complete()
        assert stream(frame).error_px == 0
        assert_near(frame.images, expected.images, FARTHEST)
        for _ in range(100):  # a slab may be empty for a while, if its device was kept waiting
            if drew(frame) == {"cpu:0", "cpu:1"}:
                break
            frame = client.complete()
        assert drew(frame) == {"cpu:0", "cpu:1"} and stream(frame).error_px == 0
        held = held_bytes(scene)
        assert max(held) <= tight.device_bytes
        assert sum(held) > scene_bytes(street_store), (
            "everything, and what is on both sides of the border"
        )
        engine.set_schedule(BANDS)
        whole = client.draw()
        assert stream(whole).error_px > 0, "every device needs all of it"


def test_a_device_holds_little_more_than_its_slab(street_store: Path) -> None:
    tight = Budgets(AMPLE.host_bytes, int(0.6 * scene_bytes(street_store)))
    with drawing(street_store, OwnDevices(3), SHARD, tight) as (engine, scene):
        Asking(engine).complete(view())
        residencies = [memory.loader._residency for memory in scene._memories.values()]
        chunks = [
            {c for c in range(len(scene.source.tree)) if residency.tier(c) is Tier.VISIBLE}
            for residency in residencies
        ]
        tree = scene.source.tree
        middle = 0.5 * (tree.lo + tree.hi)[:, 2]
        leaves = [np.array([c for c in mine if tree.is_leaf[c]]) for mine in chunks]
    depths = [float(np.median(middle[mine])) for mine in leaves]
    assert depths == sorted(depths)
    everything = set().union(*chunks)
    assert all(len(mine) < 0.75 * len(everything) for mine in chunks)


def test_a_walk_loads_little_more_than_for_one_device(street_store: Path) -> None:
    """What changes sides on the way, once; and a camera that hesitates loads hardly anything."""
    uploaded: dict[str, int] = {}
    share = scene_bytes(street_store) * 0.72
    for own, schedule, memory in ((OwnDevices(1), SINGLE, 2.0), (OwnDevices(2), SHARD, 1.0)):
        budgets = Budgets(AMPLE.host_bytes, int(memory * share))
        with drawing(street_store, own, schedule, budgets) as (engine, _):
            client = Asking(engine)
            for z in np.linspace(-7, 20, 30):
                client.complete(view(float(z)))
            uploaded[schedule.name] = own.packed()
            if schedule is SHARD:
                for turn in range(20):
                    client.complete(view(20.0 + 0.3 * (turn % 2)))
                again = own.packed()
                assert again < 1.15 * uploaded[schedule.name]
    assert uploaded["shard"] < 2.2 * uploaded["single"]
