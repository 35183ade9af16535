"""``belvedere export`` for two eyes, from the command line to the pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import pytest

from configs.settings import RenderSettings, StreamSettings
from rendering.base import Outputs, RasterSettings
from rendering.frame import FrameRequest
from rendering.streamed_scene import StreamedScene
from scene_store.build import BuildOptions, build_store
from scene_store.formats.ply import write_ply
from scene_store.manifest import Profile
from scene_store.store import open_store
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.stereo import HUMAN_IPD, StereoRig
from tests import scenes
from tests.viewer.conftest import blobs
from viewer.camera_choice import CameraChoice
from viewer.cli import main
from viewer.drawing import Draw, Images, Views
from viewer.engines import create_rasterizer
from viewer.export import export
from viewer.export_targets import Targets
from viewer.eyes import EyesChoice, distance_ahead, levelled
from viewer.panoramas import Panorama
from viewer.scenes import SceneChoice
from viewer.stereo_layouts import StereoLayout

# A blob at the origin, seen from 5 units with a focal length of 100 pixels by eyes that are 0.4
# units apart: its pictures are 8 pixels apart.
WIDTH, HEIGHT, DISTANCE, IPD, PARALLAX = 60, 40, 5.0, 0.4, 8.0
VIEW = ["--position", "0", "0", "-5", "--look-at", "0", "0", "0", "--up", "0", "-1", "0"]
FLAT = [*VIEW, "--width", "60", "--height", "40", "--fov", "22.6199", "--ipd", "0.4"]


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """One white blob at the origin."""
    path = tmp_path / "scene" / "blob.ply"
    path.parent.mkdir()
    write_ply(path, [blobs([(0, 0, 0)], [(1.0, 1.0, 1.0)], opacity=0.95)], 1, 0)
    return path


def drawn(scene: Path, target: Path, *words: str) -> np.ndarray:
    """[H, W, 3] RGB as ``belvedere export`` writes it."""
    assert main(["export", str(scene), "-o", str(target), *words]) == 0
    return read(target)


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return picture[..., ::-1].astype(np.float64)


def column(picture: np.ndarray) -> float:
    """Of the centre of what is bright."""
    weight = picture.reshape(*picture.shape[:2], -1).sum(axis=2)
    return float((weight * (np.arange(weight.shape[1]) + 0.5)).sum() / weight.sum())


def row(picture: np.ndarray) -> float:
    return column(picture.swapaxes(0, 1))


def test_the_left_eye_is_beside_the_right_one(blob: Path, tmp_path: Path) -> None:
    picture = drawn(blob, tmp_path / "a.png", *FLAT, "--stereo", "side-by-side")
    assert picture.shape == (HEIGHT, 2 * WIDTH, 3)
    left, right = picture[:, :WIDTH], picture[:, WIDTH:]
    assert column(left) == pytest.approx(WIDTH / 2 + PARALLAX / 2, abs=0.05)
    assert column(right) == pytest.approx(WIDTH / 2 - PARALLAX / 2, abs=0.05)


def test_the_left_eye_is_above_the_right_one(blob: Path, tmp_path: Path) -> None:
    picture = drawn(blob, tmp_path / "a.png", *FLAT, "--stereo", "top-bottom")
    assert picture.shape == (2 * HEIGHT, WIDTH, 3)
    assert column(picture[:HEIGHT]) - column(picture[HEIGHT:]) == pytest.approx(PARALLAX, abs=0.1)


@pytest.mark.parametrize(
    ("convergence", "parallax"),
    [("parallel", PARALLAX), ("5", 0.0), ("2.5", -PARALLAX), ("1e9", PARALLAX)],
)
def test_eyes_converge_where_they_are_told(
    blob: Path, tmp_path: Path, convergence: str, parallax: float
) -> None:
    words = [*FLAT, "--stereo", "side-by-side", "--convergence", convergence]
    picture = drawn(blob, tmp_path / "a.png", *words)
    assert column(picture[:, :WIDTH]) - column(picture[:, WIDTH:]) == pytest.approx(
        parallax, abs=0.1
    )


def test_an_anaglyph_converges_on_what_is_in_the_middle(blob: Path, tmp_path: Path) -> None:
    picture = drawn(blob, tmp_path / "a.png", *FLAT, "--stereo", "anaglyph")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert column(picture[..., :1]) == pytest.approx(column(picture[..., 1:]), abs=0.1)
    words = [*FLAT, "--stereo", "anaglyph", "--convergence", "parallel"]
    apart = drawn(blob, tmp_path / "b.png", *words)
    assert column(apart[..., :1]) - column(apart[..., 1:]) == pytest.approx(PARALLAX, abs=0.3)
    # Where nothing is, there is nothing to converge on.
    away = [*FLAT, "--look-at", "0", "0", "-6", "--stereo", "anaglyph"]
    nothing = drawn(blob, tmp_path / "c.png", *away)
    assert nothing.max() == 0


@pytest.mark.parametrize(("far_there", "distance"), [(True, 9.0), (False, 3.0)])
def test_the_middle_is_measured_by_the_median(far_there: bool, distance: float) -> None:
    """A thing in front of a wall is not what most of the middle shows."""
    rasterizer = create_rasterizer("native")
    white = [(1.0, 1.0, 1.0)]
    thing = blobs([(0.1, 0.0, 3.0)], white, scale=0.05, opacity=0.99)
    wall = blobs([(0.0, 0.0, 9.0)], white, scale=6.0, opacity=0.99)
    scene = rasterizer.prepare(Gaussians.concatenate([thing, wall]) if far_there else thing)

    class Drawing(Draw):
        def each(self, views: Views, outputs: Outputs) -> Iterator[Images]:
            settings = RasterSettings(outputs=outputs)
            for cameras in views:
                yield tuple(rasterizer.render(scene, one, settings) for one in cameras)

    ahead = Camera.look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), fov_y_rad=0.6, width=900, height=700)
    assert distance_ahead(Drawing(), ahead) == pytest.approx(distance)
    behind = Camera.look_at((0, 0, 0), (0, 0, -1), (0, -1, 0), fov_y_rad=0.6, width=9, height=7)
    assert distance_ahead(Drawing(), behind) == np.inf


def test_two_files_are_named_after_their_eyes(
    blob: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--stereo", "separate", "--depth", str(tmp_path / "z.d.exr"), "--alpha",
             str(tmp_path / "o.npy")]  # fmt: skip
    assert main(["export", str(blob), "-o", str(tmp_path / "a.png"), *FLAT, *words]) == 0
    names = ["a.left.png", "a.right.png", "z.d.left.exr", "z.d.right.exr", "o.left.npy",
             "o.right.npy"]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "scene"])
    eyes = [read(tmp_path / name) for name in names[:2]]
    assert column(eyes[0]) - column(eyes[1]) == pytest.approx(PARALLAX, abs=0.1)
    for picture, depth, alpha in zip(eyes, names[2:4], names[4:], strict=True):
        z = OpenEXR.File(str(tmp_path / depth)).channels()["Z"].pixels
        opacity = np.load(tmp_path / alpha)
        assert z[opacity > 0] == pytest.approx(DISTANCE, abs=1e-3)
        assert column(opacity[..., None]) == pytest.approx(column(picture), abs=0.1)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("side-by-side", (HEIGHT, 2 * WIDTH)), ("top-bottom", (2 * HEIGHT, WIDTH))],
)
def test_depth_and_opacity_are_laid_out_as_the_picture(
    blob: Path, tmp_path: Path, layout: str, shape: tuple[int, int]
) -> None:
    depth, alpha = tmp_path / "z.npy", tmp_path / "o.png"
    words = ["--stereo", layout, "--depth", str(depth), "--alpha", str(alpha)]
    picture = drawn(blob, tmp_path / "a.png", *FLAT, *words)
    z, grey = np.load(depth), read(alpha)
    assert z.shape == shape and grey.shape == picture.shape == (*shape, 3)
    assert z[grey[..., 0] > 0] == pytest.approx(DISTANCE, abs=1e-3)
    assert np.abs(grey - picture).max() <= 1, "white on black is its own opacity"


def test_both_eyes_have_one_scale_of_depth(tmp_path: Path) -> None:
    """What is near for the left eye alone makes the rest far for both of them."""
    scene = tmp_path / "two.ply"
    places = [(0.0, 0.0, 0.0), (-1.04, 0.0, -2.0)]
    write_ply(scene, [blobs(places, [(1.0, 1.0, 1.0)] * 2, scale=0.05, opacity=0.99)], 2, 0)
    words = [*FLAT, "--stereo", "side-by-side", "--mode", "depth"]
    picture = drawn(scene, tmp_path / "a.png", *words)
    left, right = picture[HEIGHT // 2, :WIDTH], picture[HEIGHT // 2, WIDTH:]
    assert left[:10].max() > 100 and right[:10].max() == 0, "the near one"
    for eye, offset in ((left, PARALLAX / 2), (right, -PARALLAX / 2)):
        red, _, blue = eye[int(WIDTH / 2 + offset)]
        assert blue > red, "far is blue, which begins dark"


# Both or neither


@pytest.mark.parametrize("eye", ["left", "right"])
def test_one_file_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, eye: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"a.{eye}.png").mkdir()
    words = ["export", "no_such.ply", "-o", str(tmp_path / "a.png"), "--stereo", "separate"]
    assert main(words) == 2
    assert f"a.{eye}.png: cannot write: is a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{eye}.png"]


def test_both_files_are_written_or_neither(
    blob: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flush, flushed = os.fsync, []

    def full(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 2:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    words = ["-o", str(tmp_path / "a.png"), *FLAT, "--stereo", "separate"]
    assert main(["export", str(blob), *words]) == 2
    assert "cannot write: No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_links_to_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.left.png").symlink_to(tmp_path / "a.right.png")
    words = ["export", "no_such.ply", "-o", str(tmp_path / "a.png"), "--stereo", "separate"]
    assert main(words) == 2
    assert "a.left.png and a.right.png are the same file" in capsys.readouterr().err


# What makes no sense


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--ipd", "0.1"], "--ipd: is for two eyes; add --stereo"),
        (["--convergence", "3"], "--convergence: is for two eyes; add --stereo"),
        (["--stereo", "separate", "--ipd", "0"], "--ipd: expected 1e-09 to 1e+09, got 0"),
        (["--stereo", "separate", "--ipd", "-1"], "--ipd: expected"),
        (["--stereo", "separate", "--ipd", "nan"], "--ipd: 'nan' is not a number"),
        (["--stereo", "anaglyph", "--convergence", "0"], "--convergence: expected 1e-09"),
        (["--stereo", "anaglyph", "--convergence", "-2"], "--convergence: expected 1e-09"),
        (["--stereo", "anaglyph", "--convergence", "far"], "neither a number nor the word"),
        (["--stereo", "anaglyph", "--depth", "z.exr"], "--depth: an anaglyph mixes both eyes"),
        (["--stereo", "anaglyph", "--alpha", "o.exr"], "--alpha: an anaglyph mixes both eyes"),
        (["--stereo", "anaglyph", "--mode", "depth"], "--mode depth: red-cyan glasses"),
        (["--panorama", "ods", "--convergence", "3"], "--convergence: the eyes of a panorama"),
        (["--panorama", "ods", "--convergence", "parallel"], "--convergence: the eyes of"),
        (["--panorama", "ods", "--width", "64"], "--width: a panorama has its own field"),
        (["--panorama", "vr180", "--fov", "60"], "--fov: a panorama has its own field"),
        (["--panorama", "vr180", "--fov-x", "60"], "--fov-x: a panorama has its own field"),
        (["--panorama", "vr180", "--height", "0"], "--height: expected 1 to 13100, got 0"),
        (["--panorama", "vr180", "--height", "13101"], "--height: expected 1 to 13100"),
        (["--panorama", "ods", "--downscale-factor", "0.1"], "--height: expected 1 to 13100"),
        (["--panorama", "ods", "--downscale-factor", "0"], "--downscale-factor: expected 0.01"),
        (["--panorama", "ods", "--stereo", "anaglyph", "--depth", "z.exr"], "--depth: an anagl"),
        (["--panorama", "ods", "--height", "9000", "-o", "a.webp"], "18000×18000 pixels does not"),
        (["--stereo", "side-by-side", "--width", "8192", "-o", "a.webp"], "16384×4608 pixels does"),
        (["--stereo", "cross-eyed"], "--stereo"),
    ],
)
def test_impossible_choices_are_refused_before_the_scene_is_read(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["export", "no_such.ply", "-o", "x.png", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1
    assert problem in line
    assert list(tmp_path.iterdir()) == []


# Panoramas


PLACES = {"ahead": (0.0, 0.0), "right": (90.0, 0.0), "behind": (170.0, 0.0), "above": (0.0, 40.0)}


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """Blobs 4 units around the origin: red ahead, green at the right, blue behind, white above."""
    angles = np.radians(list(PLACES.values()))
    x = np.sin(angles[:, 0]) * np.cos(angles[:, 1])
    z = np.cos(angles[:, 0]) * np.cos(angles[:, 1])
    means = 4 * np.stack([x, -np.sin(angles[:, 1]), z], axis=1)
    colors = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)]
    path = tmp_path / "scene" / "around.ply"
    path.parent.mkdir()
    write_ply(path, [blobs([tuple(mean) for mean in means], colors)], len(means), 0)
    return path


# Looking down: what a panorama shows is level all the same.
HEAD = ["--position", "0", "0", "0", "--look-at", "0", "2", "3", "--up", "0", "-1", "0",
        "--ipd", "0.4", "--near", "0.1", "--height", "90"]  # fmt: skip
ODS_PARALLAX = 2 * np.degrees(np.arcsin(0.2 / 4))


def test_ods_is_all_around_and_upright(around: Path, tmp_path: Path) -> None:
    picture = drawn(around, tmp_path / "o.png", *HEAD, "--panorama", "ods")
    assert picture.shape == (180, 180, 3)
    left, right = picture[:90] - picture[:90].min(), picture[90:]
    middle = slice(40, 50)
    for channel, name in enumerate(("ahead", "right", "behind")):
        one_color = [eye[middle, :, channel : channel + 1] for eye in (left, right)]
        seen = [2.0 * column(eye) - 180 for eye in one_color]  # two degrees a pixel
        assert np.mean(seen) == pytest.approx(PLACES[name][0], abs=1.0), name
        assert seen[0] - seen[1] == pytest.approx(ODS_PARALLAX, abs=0.5)
    above = left[:40].min(axis=2, keepdims=True)
    assert row(above) == pytest.approx((90 - 40) / 2, abs=0.6)


def test_vr180_is_the_half_ahead(around: Path, tmp_path: Path) -> None:
    picture = drawn(around, tmp_path / "o.png", *HEAD, "--panorama", "vr180")
    assert picture.shape == (90, 180, 3)
    left, right = picture[:, :90], picture[:, 90:]
    red = [column(eye[40:50, :, :1]) for eye in (left, right)]
    assert red[0] - red[1] == pytest.approx(2 * np.degrees(np.arctan(0.2 / 4)) / 2, abs=0.1)
    assert np.mean(red) == pytest.approx(45, abs=0.1)
    green = left[40:50, :, 1] - left[40:50, :, 0]
    assert green[:, -3:].max() > 50, "at the right edge"
    assert green[:, :-8].max() < 10
    assert left[..., 2][40:50].max() < 10, "nothing of what is behind"


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--panorama", "ods", "--stereo", "side-by-side"], (90, 360)),
        (["--panorama", "vr180", "--stereo", "top-bottom"], (180, 90)),
        (["--panorama", "vr180", "--stereo", "anaglyph"], (90, 90)),
        (["--panorama", "vr180", "--downscale-factor", "2"], (45, 90)),
    ],
)
def test_panoramas_in_other_layouts(
    around: Path, tmp_path: Path, words: list[str], shape: tuple[int, int]
) -> None:
    assert drawn(around, tmp_path / "o.png", *HEAD, *words).shape == (*shape, 3)


def test_a_panorama_has_depths_and_separate_files(around: Path, tmp_path: Path) -> None:
    words = ["--panorama", "ods", "--stereo", "separate", "--depth", str(tmp_path / "z.npy")]
    assert main(["export", str(around), "-o", str(tmp_path / "o.png"), *HEAD, *words]) == 0
    for eye in ("left", "right"):
        depth = np.load(tmp_path / f"z.{eye}.npy")
        assert depth.shape == read(tmp_path / f"o.{eye}.png").shape[:2] == (90, 180)
        # The eyes of a slice are in one place, at most 0.06 nearer than those of its last column.
        assert depth[depth > 0] == pytest.approx(4.0, abs=0.08)
        assert (depth > 0).mean() > 0.002


def test_progress_tells_of_slices(
    around: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[float, str]] = []
    eyes = EyesChoice(panorama=Panorama.ODS)
    export(
        SceneChoice(around, 1), CameraChoice(height=64),
        Targets(tmp_path / "o.png", layout=StereoLayout.TOP_BOTTOM), RenderSettings(threads=1),
        progress=lambda share, what: steps.append((share, what)), eyes=eyes,
    )  # fmt: skip
    slices = [step for step in steps if "slice" in step[1]]
    assert (1.0, "Drawing 128×64 pixels for each eye") in steps
    assert slices == [(done / 8, f"Drawing slice {done + 1} of 8") for done in range(8)]


@pytest.mark.parametrize(
    ("looks_at", "ahead"),
    [
        ((0.0, 0.7, 1.0), (0, 0, 1)),
        ((1.0, -5.0, 0.0), (1, 0, 0)),
        ((0.0, 1.0, 0.0), None),  # straight down
        ((0.0, -1.0, 0.0), None),  # straight up
    ],
)
def test_a_head_is_level(looks_at: tuple[float, ...], ahead: tuple[float, ...] | None) -> None:
    camera = Camera.look_at((0, 0, 0), looks_at, (0, -1, 0), fov_y_rad=1.0, width=9, height=7)
    level = levelled(camera, np.array([0.0, -1.0, 0.0]))
    np.testing.assert_allclose(level.viewmat[1, :3], [0, 1, 0], atol=1e-12)
    assert np.array_equal(level.position, camera.position)
    if ahead is None:  # what was at the picture's top is ahead, or behind of who looked up
        ahead = tuple(np.sign(looks_at[1]) * -camera.viewmat[1, :3])
    np.testing.assert_allclose(level.forward, ahead, atol=1e-12)


# Streamed scenes


@pytest.fixture(scope="module")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    ply, store = folder / "ball.ply", folder / "ball.bvs"
    write_ply(ply, [scenes.random_scene(3, 20_000, 1)], 20_000, 1)
    build_store(
        [ply], store, BuildOptions(profile=Profile.LOSSLESS, page_gaussians=1024, threads=1)
    )
    return store


BALL = ["--position", "4", "-2", "-5", "--look-at", "0", "0", "0", "--near", "0.01"]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[FrameRequest]:
    """All frames that streamed scenes are asked for."""
    asked: list[FrameRequest] = []
    acquire = StreamedScene.acquire

    def recorded(scene: StreamedScene, request: FrameRequest) -> Any:
        asked.append(request)
        return acquire(scene, request)

    monkeypatch.setattr(StreamedScene, "acquire", recorded)
    return asked


def test_both_eyes_of_a_streamed_scene_are_those_of_the_whole_one(
    ball_store: Path, tmp_path: Path, requests: list[FrameRequest]
) -> None:
    with open_store(ball_store) as store:
        leaves = np.flatnonzero(store.tree.is_leaf).tolist()
        chunks = [store.decode(leaf, encoded) for leaf in leaves if (encoded := store.read(leaf))]
    rasterizer = create_rasterizer("native")
    scene = rasterizer.prepare(Gaussians.concatenate(chunks))
    image = export(
        SceneChoice(ball_store, 1),
        CameraChoice((4.0, -2.0, -5.0), (0.0, 0.0, 0.0), width=81, height=60),
        Targets(tmp_path / "b.png", layout=StereoLayout.SIDE_BY_SIDE),
        RenderSettings(threads=1, near=0.01),
        stream=StreamSettings(host_budget=64 << 20, device_budget=64 << 20),
        eyes=EyesChoice(ipd=0.3, convergence=6.0),
    )
    eyes = requests[-1].cameras
    assert {len(request.cameras) for request in requests} == {2}
    assert eyes[1].position - eyes[0].position == pytest.approx(0.3 * eyes[0].viewmat[0, :3])
    for eye, rows in zip(eyes, (slice(0, 60), slice(60, 120)), strict=True):
        whole = rasterizer.render(scene, eye, RasterSettings(threads=1))
        assert whole.color is not None and image.color is not None
        assert np.array_equal(whole.color, image.color[rows])
        assert np.array_equal(whole.alpha, image.alpha[rows])
        assert np.ptp(whole.color) > 0.5


def test_a_streamed_panorama_is_opened_once_and_reads_ahead(
    ball_store: Path, tmp_path: Path, requests: list[FrameRequest]
) -> None:
    drawn(ball_store, tmp_path / "b.png", *BALL, "--panorama", "ods", "--height", "64")
    rig = StereoRig(HUMAN_IPD)
    assert {len(request.cameras) for request in requests} == {2}
    coming = {id(request.cameras[0]): len(request.coming) for request in requests}
    assert list(coming.values()) == [4, 4, 4, 4, 3, 2, 1, 0]
    first, second = requests[0], next(r for r in requests if r.cameras != requests[0].cameras)
    assert first.coming[0] is second.cameras[0]
    distance = np.linalg.norm(first.cameras[1].position - first.cameras[0].position)
    assert distance == pytest.approx(rig.ipd)


def test_a_panorama_limited_by_memory_is_coarser_and_says_so_once(
    ball_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*BALL, "--panorama", "ods", "--height", "64"]
    fine = drawn(ball_store, tmp_path / "f.png", *words)
    with caplog.at_level(logging.WARNING):
        coarse = drawn(ball_store, tmp_path / "c.png", *words, "--device-budget", "1MiB")
    (said,) = caplog.messages
    assert "as memory allows; raise --device-budget" in said
    assert fine.shape == coarse.shape and 0.1 < np.abs(fine - coarse).mean() < 40


def test_what_is_damaged_is_told_once(
    ball_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "damaged.bvs"
    damaged.mkdir()
    for file in ball_store.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    data = bytearray((damaged / "geometry-00.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "geometry-00.bin").write_bytes(data)
    target = tmp_path / "d.png"
    words = ["-o", str(target), *BALL, "--stereo", "separate", "--width", "81"]
    assert main(["export", str(damaged), *words]) == 1
    assert caplog.messages[-1].count("coarser than it should be") == 1
    assert "d.left.png: coarser" in caplog.messages[-1]
    assert read(tmp_path / "d.right.png").shape == (46, 81, 3)
