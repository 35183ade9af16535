"""How ``view`` comes to a picture of a large file, and what happens when it goes wrong."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.settings import Settings, StreamSettings
from rendering.base import RasterSettings
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.manifest import Profile
from splat.camera import Camera
from splat.errors import BudgetError
from tests.scenes import random_scene
from tests.viewer.test_serving import line_with, viewing
from tests.viewer.wire import camera_message, open_socket, unpacked
from viewer.background import Background
from viewer.opening import Ready, open_first
from viewer.scenes import TOWN_RADIUS, Progress, SceneChoice
from viewer.store_cache import StoreCache
from viewer.store_job import StoreJob

WAIT_S = 60.0
LARGE = StreamSettings(store_from=1000, host_budget=64 << 20, device_budget=64 << 20)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("stream: {store_from: 1000, device_budget: 64MiB}\n")
    return path


def silent(share: float, what: str) -> None:
    """Progress for nobody."""


@contextlib.contextmanager
def first(choice: SceneChoice, stream: StreamSettings = LARGE) -> Iterator[Ready]:
    with contextlib.ExitStack() as stack:
        ready = open_first(choice, Settings(stream=stream), stack, silent)
        stack.callback(ready.close)
        yield ready


def build(scene: Path) -> Path:
    """The store of a scene, in the cache."""
    path = StoreCache(1 << 30).path_of(str(scene.resolve()))
    path.parent.mkdir(parents=True, exist_ok=True)
    job = StoreJob(str(scene), path)
    assert job.done.wait(WAIT_S)
    assert job.error == ""
    return path


def test_a_large_file_is_looked_at_then_streamed_and_the_next_time_at_once(
    wall_ply: Path, config: Path, cache_home: Path
) -> None:
    with viewing(wall_ply, "--port", 0, "--config", config) as process:
        port = int(line_with(process, "Serving").split()[1].rsplit(":", 1)[1])
        assert "1,600 Gaussians" in line_with(process, "First look")
        with open_socket(port) as browser:  # it sees the scene while the store is built
            browser.send(camera_message())
            while b"BackgroundImage" not in unpacked(browser.recv(timeout=10)):
                pass
            store = Path(line_with(process, "Streaming ").split(" from ")[1].strip())
    assert store.parent == cache_home / "belvedere" / "stores"
    assert (store / "manifest.json").is_file()
    with viewing(wall_ply, "--port", 0, "--config", config) as process:
        assert "1,600 Gaussians" in line_with(process, "Ready")


def test_a_store_that_is_left_unfinished_is_told_of_and_continued(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = "town:700000"
    store = StoreCache(1).path_of(scene)
    partial = store.with_name(f"{store.name}.partial")
    with viewing(scene, "--port", 0, "--config", config) as process:
        line_with(process, "First look")
        deadline = time.monotonic() + WAIT_S
        while not (partial / "scratch" / "journal.json").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WAIT_S)
    stopped, told = rest.splitlines()
    assert (process.returncode, stopped) == (0, "Stopped.")
    assert f" in {partial}; the next view of Town continues it" in told
    monkeypatch.chdir(tmp_path)  # a town is the same everywhere
    report = build_store([scene], store, BuildOptions(rebuild_lod=True, replace=True))
    assert report.resumed


def test_of_a_build_that_has_hardly_begun_nothing_is_left(config: Path) -> None:
    with viewing("town:50e6", "--port", 0, "--config", config) as process:
        line_with(process, "First look")
        deadline = time.monotonic() + WAIT_S
        while not list(StoreCache(1).folder.glob("*.partial/scratch")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WAIT_S)
    assert rest == "Stopped.\n"
    assert list(StoreCache(1).folder.glob("*.partial")) == []


def test_without_a_place_for_the_store_the_scene_is_read_whole(
    wall_ply: Path, config: Path, cache_home: Path
) -> None:
    cache_home.write_text("a file where a folder should be")
    with viewing(wall_ply, "--port", 0, "--config", config) as process:
        line_with(process, "First look")
        said = line_with(process, "No store of")
        assert "reading all of it instead" in said and "Not a directory" in said
        assert process.poll() is None


def test_a_small_file_and_one_that_shall_have_no_store_are_read_whole(wall_ply: Path) -> None:
    for choice, stream in (
        (SceneChoice(wall_ply, 1), StreamSettings()),
        (SceneChoice(wall_ply, 1), replace(LARGE, store=False)),
        (SceneChoice(wall_ply, 1, lod=0), LARGE),
    ):
        with first(choice, stream) as ready:
            assert ready.store is None and ready.shown.stream is None
            assert len(ready.gaussians[0]) == 1600


def test_a_file_of_more_than_half_of_the_memory_is_streamed(
    wall_ply: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.opening.available_bytes", lambda: 2 * 1600 * 56)
    with first(SceneChoice(wall_ply, 1), StreamSettings()) as ready:
        assert ready.store is not None


@pytest.mark.parametrize(
    "over", [StreamSettings(device_budget=50_000), StreamSettings(host_budget=100_000)]
)
def test_a_file_of_more_than_the_user_allows_is_streamed(
    wall_ply: Path, over: StreamSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """1,600 Gaussians are 96 kB to draw, and 161 kB to read."""
    with first(SceneChoice(wall_ply, 1), over) as ready:
        assert ready.store is not None
        shown = 1600 if over.device_budget is None else 25_000 // 56
        assert ready.count <= shown, "the first look has its part of the budget"
    assert caplog.messages == []
    for stream, lod in ((replace(over, store=False), None), (over, 0)):
        with first(SceneChoice(wall_ply, 1, lod=lod), stream) as ready:
            assert ready.store is None and ready.shown.stream is None
        (said,) = caplog.messages
        assert "not kept" in said and "belvedere build" in said
        caplog.clear()


def test_a_streamed_sog_of_more_than_the_user_allows_is_streamed(data_dir: Path) -> None:
    path = data_dir / "playbot" / "lod-meta.json"
    with first(SceneChoice(path, 1), StreamSettings(host_budget=120 << 20)) as ready:
        stream = ready.shown.stream
        assert ready.store is None and stream is not None
        assert stream.least_budgets.host_bytes < stream.budgets.host_bytes < 120 << 20
    with first(SceneChoice(path, 1), StreamSettings(host_budget=64 << 20)) as ready:
        assert ready.store is not None, "its textures and one chunk would take more"


def test_a_large_streamed_sog_is_streamed_by_its_own_levels(data_dir: Path) -> None:
    path = data_dir / "playbot" / "lod-meta.json"
    with first(SceneChoice(path, 1), replace(LARGE, host_budget=256 << 20)) as ready:
        assert ready.store is None and ready.count == 500_000
        assert ready.shown.stream is not None
        assert "streamed SOG · 500,000 Gaussians" in ready.shown.facts
        assert ready.shown.stream.budgets.host_bytes < 160 << 20, "textures need their part"
    with first(SceneChoice(path, 1, lod=6), LARGE) as ready:
        assert ready.shown.stream is None and ready.count < 500_000


def test_a_large_town_is_looked_at_from_its_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.opening.SKETCH_COUNT", 5_000)
    choice = SceneChoice.of("town:200e6", 1)
    with first(choice, StreamSettings()) as ready:
        assert ready.store == StoreCache(1).path_of("town:200000000")
        assert ready.shown.title == "Town"
        assert "a first look: 5,000 of 200,000,000" in ready.shown.facts
        assert ready.shown.start.radius == TOWN_RADIUS
    assert StoreCache(1).path_of("town:3000000") != ready.store


def test_a_large_composition_is_streamed_like_a_file(wall_ply: Path, tmp_path: Path) -> None:
    path = tmp_path / "walls.yaml"
    path.write_text(
        f"scenes:\n  - path: {wall_ply}\n    grid: {{counts: [20, 1, 20], pitch: [3, 0, 3]}}\n"
    )
    with first(SceneChoice(path, 1)) as ready:
        assert ready.store is not None
        # As many as a second allows, which is up to the machine.
        assert re.search(r"a first look: [\d,]+ of 640,000 Gaussians", ready.shown.facts)


def test_a_store_in_the_cache_is_used_and_kept_while_it_is(wall_ply: Path) -> None:
    path = build(wall_ply)
    with first(SceneChoice(wall_ply, 1)) as ready:
        assert ready.shown.stream is not None
        assert ready.shown.title == "wall.ply"
        StoreCache(0).make_room(path.with_name("another.bvs"))
        assert path.exists()
    StoreCache(0).make_room(path.with_name("another.bvs"))
    assert not path.exists()


def test_a_damaged_store_in_the_cache_is_made_anew(wall_ply: Path) -> None:
    path = build(wall_ply)
    (path / "nodes.bin").write_bytes(b"damaged")
    with first(SceneChoice(wall_ply, 1)) as ready:
        assert ready.store == path
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOENT])
def test_a_store_that_cannot_be_read_just_now_is_kept(
    wall_ply: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = build(wall_ply)
    opened = os.open

    def failing(file: str | Path, *rest: Any, **more: Any) -> int:
        if Path(file).parent == path and Path(file).suffix in (".bin", ".json"):
            raise OSError(number, os.strerror(number))
        return opened(file, *rest, **more)

    monkeypatch.setattr(os, "open", failing)
    with first(SceneChoice(wall_ply, 1)) as ready:
        assert ready.store == path
    monkeypatch.undo()
    assert (path / "manifest.json").is_file()


def test_a_damaged_store_that_somebody_uses_is_left_to_them(wall_ply: Path) -> None:
    path = build(wall_ply)
    (path / "nodes.bin").write_bytes(b"damaged")
    with StoreCache(1).using(path), first(SceneChoice(wall_ply, 1)) as ready:
        assert ready.store == path
    assert path.exists()


def test_a_budget_too_small_for_a_store_is_an_error_of_the_user(wall_ply: Path) -> None:
    build(wall_ply)
    with (
        pytest.raises(BudgetError, match="raise --host-budget"),
        first(SceneChoice(wall_ply, 1), replace(LARGE, host_budget=1000)),
    ):
        pass


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.ply").write_bytes(b"ply\nnothing")
    job = StoreJob(str(tmp_path / "bad.ply"), tmp_path / "bad.bvs")
    assert job.done.wait(WAIT_S)
    assert "bad.ply" in job.error and "\n" not in job.error
    assert not (tmp_path / "bad.bvs").exists()


def test_a_job_that_is_ended_says_so_and_leaves_no_store(wall_ply: Path, tmp_path: Path) -> None:
    job = StoreJob(str(wall_ply), tmp_path / "wall.bvs")
    job.close()
    assert job.done.wait(WAIT_S)
    assert job.error and not (tmp_path / "wall.bvs").exists()


def test_work_behind_the_page_can_be_abandoned() -> None:
    disposed: list[int] = []

    def work(progress: Progress) -> int:
        while True:
            progress(0.5, "working")
            time.sleep(0.001)

    background = Background(work, disposed.append)
    assert background.close()
    finished = Background(lambda progress: 7, disposed.append)
    assert finished.done.wait(WAIT_S)
    assert finished.close() and disposed == [7]
    taken = Background(lambda progress: 8, disposed.append)
    assert taken.wait(silent) == 8
    assert taken.close() and disposed == [7]


def test_a_first_look_shows_the_scene(wall_ply: Path) -> None:
    with first(SceneChoice(wall_ply, 1)) as ready:
        start = ready.shown.start
        camera: Camera = start.camera(64, 48, 0.01)
        assert np.isfinite(camera.position).all()
        assert "a first look: 1,600 of 1,600" in ready.shown.facts


def test_chunks_and_finished_pictures_keep_to_one_device_budget(tmp_path: Path) -> None:
    """Views are asked for again and again, of a scene that does not fit."""
    ball = random_scene(5, 20_000, 1)
    write_ply(tmp_path / "ball.ply", [ball], len(ball), 1)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([tmp_path / "ball.ply"], tmp_path / "ball.bvs", options)
    budget = 2 << 20
    settings = Settings(stream=StreamSettings(device_budget=budget, fade_ms=0))
    choice = SceneChoice.of(str(tmp_path / "ball.bvs"), 0, None, None, 60.0)
    raster = RasterSettings(threads=1)
    with contextlib.ExitStack() as stack:
        ready = open_first(choice, settings, stack, silent)
        stack.callback(ready.close)
        stream, shares = ready.shown.stream, ready.shown.shares
        assert stream is not None and shares is not None
        assert shares.budgets.device_bytes == budget
        assert stream.budgets.device_bytes == budget - budget // 8
        most, hits = 0, 0
        for sequence in range(60):
            angle = sequence // 2 % 20 / 3
            eye = (5 * math.sin(angle), 0.0, 5 * math.cos(angle))
            camera = Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.8, width=96, height=64)
            request = FrameRequest("a", sequence, (camera,), raster, urgency=Urgency.STILL)
            ready.engine.submit(request).result(20)
            held = stream.stats().device_bytes + ready.engine.pictures.held_bytes
            assert held <= budget and shares.kept_bytes <= budget // 8
            most, hits = max(most, held), ready.engine.pictures.hits
            stream.wait_until_settled(5)
        assert hits > 0 and most > 0.8 * budget, "both are in use"
        shares.set_budgets(Budgets(shares.budgets.host_bytes, budget // 2))
        assert ready.engine.pictures.held_bytes <= budget // 16
