"""``belvedere export`` over several devices: the same files, in order, in bounded memory."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from configs.settings import RenderSettings, StreamSettings
from rendering.base import CancelFlag, Outputs, RasterImage
from rendering.drawable import Drawable
from rendering.frame import FrameRequest
from rendering.streamed_scene import StreamedScene
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import RenderError
from tests import scenes
from tests.engine_devices import Chaos, Killed, Troubled
from viewer.camera_choice import CameraChoice
from viewer.cli import main
from viewer.drawing import prepared
from viewer.engines import create_rasterizer
from viewer.export import export
from viewer.export_targets import Targets
from viewer.eyes import EyesChoice
from viewer.frames_in_flight import in_order
from viewer.panoramas import Panorama
from viewer.scenes import SceneChoice, open_scene
from viewer.stereo_layouts import StereoLayout
from viewer.streams import open_stream

WAIT_S = 20.0
RENDER = RenderSettings(threads=1, near=0.01)
MEMORY = StreamSettings(host_budget=64 << 20, device_budget=64 << 20)
CAMERA = CameraChoice(position=(4.0, -2.0, -5.0), look_at=(0.0, 0.0, 0.0), width=161, height=90)
INSIDE = CameraChoice(position=(0.5, 0.0, 0.2), look_at=(1.0, 0.0, 0.0), height=64)
ODS = EyesChoice(panorama=Panorama.ODS)
EXACT = ("single", "eye-parallel", "alternate-frame", "tile-split", "pipelined")


@pytest.fixture(scope="module")
def ball_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    write_ply(path, [scenes.random_scene(3, 30_000, 1)], 30_000, 1)
    return path


@pytest.fixture(scope="module")
def ball_store(ball_ply: Path) -> Path:
    path = ball_ply.with_suffix(".bvs")
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([ball_ply], path, options)
    return path


def over(devices: int, schedule: str) -> RenderSettings:
    return replace(RENDER, devices=str(devices), schedule=schedule)


def files(
    scene: Path,
    folder: Path,
    render: RenderSettings,
    camera: CameraChoice = CAMERA,
    eyes: EyesChoice | None = None,
    layout: StereoLayout | None = None,
    **more: Any,
) -> dict[str, bytes]:
    """What an export writes, by name."""
    folder.mkdir()
    targets = Targets(folder / "c.png", folder / "z.npy", folder / "a.npy", layout=layout)
    choice = SceneChoice(scene, 1, up=(0, -1, 0))
    export(choice, camera, targets, render, stream=MEMORY, eyes=eyes or EyesChoice(), **more)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("schedule", EXACT)
@pytest.mark.parametrize("kind", ["ply", "bvs"])
def test_files_are_those_of_one_device(
    ball_ply: Path, ball_store: Path, tmp_path: Path, kind: str, schedule: str
) -> None:
    scene = ball_ply if kind == "ply" else ball_store
    for name, how in (
        ("one eye", {}),
        ("two eyes", {"layout": StereoLayout.SEPARATE}),
        ("around", {"layout": StereoLayout.TOP_BOTTOM, "eyes": ODS, "camera": INSIDE}),
    ):
        alone = files(scene, tmp_path / f"1 {name}", RENDER, **how)
        several = files(
            scene,
            tmp_path / f"3 {name}",
            over(3, schedule),
            **how,
        )
        assert len(alone) == (6 if name == "two eyes" else 3)
        assert several == alone, name


def test_shards_are_near(ball_store: Path, tmp_path: Path) -> None:
    for folder, render in (("1", RENDER), ("3", over(3, "shard"))):
        files(ball_store, tmp_path / folder, render)
    alone, several = (cv2.imread(str(tmp_path / f / "c.png")) for f in "13")
    assert alone is not None and several is not None
    assert np.abs(alone.astype(int) - several).max() <= 1
    assert (alone != several).mean() < 0.02
    alphas = [np.load(tmp_path / f / "a.npy") for f in "13"]
    assert np.abs(alphas[0] - alphas[1]).max() < 1.1e-4


def test_slices_are_drawn_by_all_devices_at_a_time(
    ball_ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, most, lock = [0], [0], threading.Lock()
    both = threading.Barrier(2, timeout=WAIT_S)

    class Counting(Troubled):
        def render(self, *args: Any, **named: Any) -> RasterImage:
            with lock:
                at_it[0] += 1
                most[0] = max(most[0], at_it[0])
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            try:
                return super().render(*args, **named)
            finally:
                with lock:
                    at_it[0] -= 1

    monkeypatch.setattr("viewer.engines.create_rasterizer", lambda *a, **k: Counting())
    how: dict[str, Any] = {"layout": StereoLayout.TOP_BOTTOM, "eyes": ODS, "camera": INSIDE}
    files(ball_ply, tmp_path / "2", over(2, "alternate-frame"), **how)
    assert most[0] == 2


def test_devices_that_fail_cost_no_slice(
    ball_ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"layout": StereoLayout.TOP_BOTTOM, "eyes": ODS, "camera": INSIDE}
    expected = files(ball_ply, tmp_path / "1", RENDER, **how)
    happened: list[int] = []

    def die_at_times(cancel: CancelFlag | None) -> None:
        happened.append(len(happened))
        if happened[-1] in (3, 8):
            raise Killed

    monkeypatch.setattr("viewer.engines.create_rasterizer", lambda *a, **k: Troubled(die_at_times))
    assert files(ball_ply, tmp_path / "3", over(3, "alternate-frame"), **how) == expected
    assert len(happened) > 8


def test_what_cannot_be_drawn_ends_the_export_and_leaves_no_file(
    ball_ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cancel: CancelFlag | None) -> None:
        raise ZeroDivisionError("bad tile")

    monkeypatch.setattr("viewer.engines.create_rasterizer", lambda *a, **k: Troubled(fail))
    with pytest.raises(RenderError, match="bad tile"):
        files(ball_ply, tmp_path / "2", over(2, "tile-split"))
    assert not list((tmp_path / "2").iterdir())


# In order, and not too many


class Work:
    """Futures that a test resolves."""

    def __init__(self) -> None:
        self.begun: dict[int, Future[int]] = {}

    def __call__(self, item: int) -> Future[int]:
        self.begun[item] = Future()
        return self.begun[item]


def test_results_come_in_order_and_only_so_many_are_begun() -> None:
    work = Work()
    results = in_order(work, range(9), 3)

    def finish() -> None:
        while len(work.begun) < 3:
            time.sleep(0.001)
        for item in (2, 1, 0):
            work.begun[item].set_result(10 * item)

    threading.Thread(target=finish).start()
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    # The one that was taken last may still be held; with it there are three.
    assert sorted(work.begun) == [0, 1, 2, 3, 4]


def test_whoever_stops_early_takes_back_what_is_not_begun() -> None:
    work = Work()
    results = in_order(work, range(9), 3)

    def finish() -> None:
        while 0 not in work.begun:
            time.sleep(0.001)
        work.begun[0].set_result(0)

    threading.Thread(target=finish).start()
    assert next(results) == 0
    results.close()
    assert sorted(work.begun) == [0, 1, 2]
    assert [work.begun[item].cancelled() for item in (1, 2)] == [True, True]


def test_an_error_is_told_in_its_turn() -> None:
    work = Work()
    results = in_order(work, range(9), 2)

    def finish() -> None:
        while len(work.begun) < 2:
            time.sleep(0.001)
        work.begun[1].set_exception(RenderError("no memory"))
        work.begun[0].set_result(5)

    threading.Thread(target=finish).start()
    assert next(results) == 5
    with pytest.raises(RenderError, match="no memory"):
        next(results)
    assert all(future.done() for future in work.begun.values())


def test_nothing_has_no_results() -> None:
    assert list(in_order(Work(), (), 2)) == []


# Streamed


def view(x: float) -> Camera:
    return Camera.look_at(
        (x, -1.0, -6.0), (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=97, height=70, near=0.01
    )


@pytest.fixture(scope="module")
def ring_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls around the origin."""
    folder = tmp_path_factory.mktemp("ring")
    balls = [scenes.random_scene(seed, 4_000, 0) for seed in range(9)]
    for number, ball in enumerate(balls):
        ball.means[:] += 25 * np.array(side(number), np.float32)
    write_ply(folder / "ring.ply", balls, sum(map(len, balls)), 0)
    options = BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    build_store([folder / "ring.ply"], folder / "ring.bvs", options)
    return folder / "ring.bvs"


def side(number: int) -> tuple[float, float, float]:
    return math.cos(0.7 * number), 0.0, math.sin(0.7 * number)


def around(number: int) -> Camera:
    """From the middle of the ring to one of its balls."""
    return Camera.look_at(
        (0, 0, 0), side(number), (0, -1, 0), fov_y_rad=0.25, width=70, height=70, near=0.01
    )


def drawn(store: Path, render: RenderSettings, stream: StreamSettings) -> list[bytes]:
    """Nine views of a store, two eyes each; no problem is told."""
    opened = open_stream(SceneChoice(store, 1))
    problems: list[str] = []
    views = [(around(number), around(number + 1)) for number in range(9)]
    with prepared(opened, render, stream, problems.append) as draw:
        images = [image for pair in draw.each(views, Outputs.ALL) for image in pair]
    assert not problems and len(images) == 18
    return [array.tobytes() for image in images for array in image.arrays]


def test_frames_wait_for_room_that_the_ones_before_take(
    ring_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory has room for hardly more than one view, each has all of it in its turn."""
    chunks: list[int] = []
    waited: list[bool] = []
    acquire = StreamedScene.acquire

    @contextlib.contextmanager
    def noting(scene: StreamedScene, request: FrameRequest) -> Iterator[Drawable]:
        with acquire(scene, request) as drawable:
            assert drawable.parts is not None and drawable.stream is not None
            mine = len(drawable.parts.counts)
            chunks.append(mine)
            waited.append(not drawable.stream.complete and scene.stats().leased > mine)
            yield drawable

    monkeypatch.setattr(StreamedScene, "acquire", noting)
    expected = drawn(ring_store, RENDER, MEMORY)
    assert not any(waited)
    rasterizer = create_rasterizer("native")
    with open_store(ring_store) as store:
        page_bytes = rasterizer.new_pool(store.page_gaussians, store.sh_degree).page_bytes
        assert max(chunks) < 0.7 * len(store.tree)
    room = replace(MEMORY, device_budget=int(1.9 * max(chunks) * page_bytes))
    assert drawn(ring_store, RENDER, room) == expected, "enough for one"
    monkeypatch.setattr(
        "viewer.engines.create_rasterizer", lambda *a, **k: Troubled(lambda _: time.sleep(0.01))
    )
    assert drawn(ring_store, over(3, "alternate-frame"), room) == expected
    assert any(waited)


def test_what_is_damaged_is_told_once_and_drawn_alike(damaged_store: Path, tmp_path: Path) -> None:
    told: list[list[str]] = []
    written = []
    for folder, render in (("1", RENDER), ("3", over(3, "tile-split"))):
        problems: list[str] = []
        written.append(files(damaged_store, tmp_path / folder, render, on_problem=problems.append))
        told.append(problems)
    assert written[0] == written[1]
    assert told[0] == told[1] and len(told[0]) == 1


def test_whoever_is_interrupted_amid_many_frames_does_not_wait_for_them(ball_store: Path) -> None:
    def draw_some() -> None:
        views = [(view(0.1 * i),) for i in range(500)]
        opened = open_stream(SceneChoice(ball_store, 1))
        with prepared(opened, over(3, "alternate-frame"), MEMORY, print) as draw:
            for number, _ in enumerate(draw.each(views, Outputs.COLOR)):
                if number == 3:
                    raise KeyboardInterrupt

    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        draw_some()
    assert time.monotonic() - began_s < 10


def test_chaos_among_devices_changes_no_byte(
    ring_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn(ring_store, RENDER, MEMORY)
    chaos = Chaos(5, share=0.1, hang_s=0.05)
    monkeypatch.setattr("viewer.engines.create_rasterizer", lambda *a, **k: Troubled(chaos))
    assert drawn(ring_store, over(3, "alternate-frame"), MEMORY) == expected
    assert len(chaos.happened) > 2


def test_a_scene_in_memory_is_drawn_in_flight(ball_ply: Path) -> None:
    opened = open_scene(SceneChoice(ball_ply, 1))
    views = [(view(0.3 * i),) for i in range(12)]
    results = []
    for render in (RENDER, over(2, "alternate-frame")):
        with prepared(opened, render, MEMORY, print) as draw:
            results.append([pair[0].alpha.tobytes() for pair in draw.each(views, Outputs.COLOR)])
    assert results[0] == results[1]


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "99x"], "99x"),
        (["--devices", "2", "--schedule", "nonsense.yaml"], "nonsense.yaml"),
    ],
)
def test_devices_that_are_none_are_told_before_the_scene_is_read(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "no_such.ply", "-o", str(tmp_path / "a.png"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "schedule"),
    [
        ([], "tile-split"),
        (["--panorama", "vr180", "--height", "64"], "tile-split"),
        (["--panorama", "ods", "--height", "64"], "alternate-frame"),
        (["--schedule", "single"], "single"),
    ],
)
def test_devices_are_used_well_where_nobody_says_how(
    ball_ply: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], schedule: str
) -> None:
    seen: list[RenderSettings] = []
    real: Callable[..., Any] = prepared

    def noting(opened: Any, render: RenderSettings, *more: Any, **also: Any) -> Any:
        seen.append(render)
        return real(opened, render, *more, **also)

    monkeypatch.setattr("viewer.export.prepared", noting)
    picture = str(tmp_path / "a.png")
    assert main(["export", str(ball_ply), "-o", picture, "--devices", "2", *words]) == 0
    assert [(render.devices, render.schedule) for render in seen] == [("2", schedule)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(
    ball_store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    program = "import sys; from viewer.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "export", str(ball_store), "-o",
               str(tmp_path / "a.png"), "--panorama", "ods", "--height", "8000", "--devices", "2",
               "--position", "0", "0", "0"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "Drawing slice" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(number)
    _, rest = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + number and "Traceback" not in said + rest
    assert not list(tmp_path.iterdir())
