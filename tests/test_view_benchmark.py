"""The ``view`` benchmark: what it makes of a visit, and that it speaks the page's language."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import bare_client, chromium, drag, view, view_process
from benchmarks.report import record
from benchmarks.visit import ShownPicture, Visit, jpeg_size, motion_of
from splat.camera import look_at_viewmat
from splat.errors import BelvedereError, SceneNotFoundError
from tests.conftest import require_or_skip
from viewer.pose import rotation_from_quaternion

FULL = (640, 360)
SMALL = (160, 96)


def pictures(*at_s: float, size: tuple[int, int] = SMALL) -> tuple[ShownPicture, ...]:
    return tuple(ShownPicture(time_s, size) for time_s in at_s)


# Figures


def test_a_motion_in_figures() -> None:
    larger = pictures(10.7, size=(320, 176)) + pictures(11.0, size=(640, 352))
    visit = Visit(
        pictures=pictures(2.0, 3.0)  # before the motion
        + pictures(10.1, 10.3, 10.4)
        + larger
        + pictures(11.05)  # of the last pose, on its way when the motion ended
        + pictures(11.3, size=FULL),
        motions_s=(1.0, 10.0, 10.25, 10.5, 10.75, 11.0),
    )
    motion = motion_of(visit, since_s=9.0)
    assert motion.duration_s == pytest.approx(1.0)
    assert motion.poses_per_s == pytest.approx(5.0)
    assert motion.pictures_per_s == pytest.approx(5.0)
    assert motion.interval_ms.p50 == pytest.approx(200)  # of 100, 200, 100, 300, 300
    assert motion.interval_ms.low == pytest.approx(100)
    assert motion.interval_ms.p95 == pytest.approx(300)
    assert motion.moving_size == SMALL  # three of five
    assert motion.full_picture_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("shown", "motions_s", "words"),
    [
        (pictures(1.0, 2.0, 3.0), (), "did not move"),
        (pictures(1.0, 2.0, 3.0), (1.5,), "did not move"),
        (pictures(1.0, 1.5), (0.5, 2.0), "after"),
    ],
)
def test_a_visit_without_a_motion_has_no_figures(
    shown: tuple[ShownPicture, ...], motions_s: tuple[float, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        motion_of(Visit(shown, motions_s), since_s=0.0)


def test_a_motion_that_was_not_shown_is_one_long_interval() -> None:
    motion = motion_of(Visit(pictures(0.9) + pictures(3.0, size=FULL), (1.0, 2.5)), since_s=0.0)
    assert motion.pictures_per_s == 0 and motion.interval_ms.p95 == pytest.approx(1500)
    assert motion.full_picture_s == pytest.approx(0.5)


def test_rest_is_a_full_picture_and_silence() -> None:
    assert not Visit((), ()).rests(FULL, 9.0, 1.0)
    assert not Visit(pictures(1.0), ()).rests(FULL, 9.0, 1.0)
    sharp = Visit(pictures(1.0) + pictures(2.0, size=FULL), ())
    assert not sharp.rests(FULL, 2.5, 1.0)
    assert sharp.rests(FULL, 3.0, 1.0)


@pytest.mark.parametrize(
    ("first_s", "gap_s", "passed"), [(15.0, 0.1, True), (15.1, 0.1, False), (15.0, 0.11, False)]
)
def test_the_view_bars(first_s: float, gap_s: float, passed: bool) -> None:
    times = [1.0 + gap_s * i for i in range(101)]
    visit = Visit(pictures(*times) + pictures(99.0, size=FULL), (1.0, times[-1]))
    figures = view.ViewFigures.of("somebody", first_s, 2.0, motion_of(visit, 0.0))
    assert figures.pictures_per_s == pytest.approx(1 / gap_s, rel=0.02)
    assert figures.passed == passed
    row = record("view", figures, {"scene": "a", "gaussians": 1, "width": 2, "height": 3})
    assert json.loads(json.dumps(row)) == row
    cells = [next(iter(column.cells)) for column in view.table_of([row]).columns]
    assert cells[:2] == ["a", "somebody"] and cells[-1] == ("reached" if passed else "MISSED")


@pytest.mark.parametrize("quality", [40, 90])
@pytest.mark.parametrize("size", [(320, 176), (33, 1919)])
def test_the_size_of_a_jpeg_from_its_head(size: tuple[int, int], quality: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert jpeg_size(jpeg[:1024]) == size


@pytest.mark.parametrize(
    "head", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10"]
)
def test_what_is_no_jpeg_has_no_size(head: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        jpeg_size(head)


# The drag


def test_a_drag_begins_where_the_mouse_is_pressed_and_never_rests() -> None:
    offsets = np.array([drag.drag_offset(t, (1280, 720)) for t in np.arange(0, 6, 0.02)])
    assert np.allclose(offsets[0], 0)
    assert np.ptp(offsets, axis=0) == pytest.approx([256, 43.2], rel=0.01)
    assert np.linalg.norm(np.diff(offsets, axis=0), axis=1).min() > 0.4


UP = np.array([0.0, -1.0, 0.0])
EYE, TARGET = np.array([1.0, -2.0, -5.0]), np.array([1.0, 0.0, 0.0])


def test_a_drag_of_half_the_height_turns_half_way() -> None:
    assert np.allclose(drag.orbit(EYE, TARGET, UP, (0, 0), 720), EYE)
    assert np.allclose(drag.orbit(EYE, TARGET, UP, (360, 0), 720), (1, -2, 5))
    # To the right by a quarter turn: the scene turns right, the camera goes left.
    assert np.allclose(drag.orbit(EYE, TARGET, UP, (180, 0), 720), (-4, -2, 0))


def test_a_drag_down_looks_from_higher_up_and_never_over_the_top() -> None:
    higher = drag.orbit(EYE, TARGET, UP, (0, 20), 720)
    assert (higher - TARGET) @ UP > (EYE - TARGET) @ UP
    top = drag.orbit(EYE, TARGET, UP, (0, 700), 720)
    for place in (higher, top):
        assert np.linalg.norm(place - TARGET) == pytest.approx(np.linalg.norm(EYE - TARGET))
    assert np.allclose(top - TARGET, np.linalg.norm(EYE - TARGET) * UP, atol=0.01)


@pytest.mark.parametrize("place", [EYE, (0, -3, 7), (4, 0.1, 0), (1.0, -8.0, 0.01)])
def test_the_quaternion_told_is_that_of_the_camera(place: tuple[float, float, float]) -> None:
    told = drag.camera_quaternion(place, TARGET, UP)
    assert np.linalg.norm(told) == pytest.approx(1)
    viewmat = look_at_viewmat(place, TARGET, UP)
    assert np.allclose(rotation_from_quaternion(told), viewmat[:3, :3].T)


# The process


def test_the_words_that_open_a_scene(data_dir: Path, tmp_path: Path) -> None:
    assert view_process.scene_words("town-1.5M") == ["--gaussians", "1500000"]
    assert view_process.scene_words("park") == [str(data_dir / "park" / "lod-meta.json")]
    assert view_process.scene_words(str(tmp_path)) == [str(tmp_path)]
    with pytest.raises(SceneNotFoundError, match="none"):
        view_process.scene_words(str(tmp_path / "none.ply"))


def test_what_the_viewer_prints() -> None:
    serving = "Serving http://127.0.0.1:41234 (Ctrl-C to stop)\n"
    ready = "Ready: 4,249,286 Gaussians after 6.1 s\n"
    assert view_process.served_url(serving) == "http://127.0.0.1:41234"
    assert view_process.gaussian_count(ready) == 4_249_286
    assert view_process.served_url(ready) is None
    assert view_process.gaussian_count(serving) is None


def test_a_viewer_that_cannot_serve_is_an_error_in_its_own_words(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.ply", tmp_path / "broken.ply"
    with (
        closing(view_process.ViewProcess([str(missing)])) as process,
        pytest.raises(
            BelvedereError, match=r"serves nothing; it said: belvedere: error: .*missing"
        ),
    ):
        process.url(60)
    broken.write_bytes(b"ply\nformat nonsense\n")
    with pytest.raises(BelvedereError, match=r"it said: .*belvedere: error: .*broken"):
        view.run([str(broken)], visitors=[view.without_browser])


def test_a_page_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BelvedereError, match="cannot be visited"):
        bare_client.BareClient("http://127.0.0.1:9", FULL)


def test_the_town_stands_in_where_there_are_no_real_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BELVEDERE_DATA", str(tmp_path))
    assert view.usual_scenes() == ("town-2M",)
    (tmp_path / "park").mkdir()
    assert view.usual_scenes() == ("park",)


def test_without_a_browser_only_its_half_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chromium, "NAMES", ())
    monkeypatch.setattr(view, "_measure", lambda scene, *words: {"scene": scene, "passed": True})
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    left_out, measured = view.run(["town-20K"])
    assert left_out["passed"] is None and "make setup-browser" in left_out["skipped"]
    assert left_out["path"] == "browser" and measured["passed"]


def test_a_drag_that_moves_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Onlooker:
        name = "onlooker"

        def visit(self) -> Visit:
            return Visit(pictures(time.time() - 9, size=FULL), (1.0,))

        def wait(self, seconds: float) -> None:
            raise AssertionError("there is a picture at rest")

        def drag(self, seconds: float) -> None: ...

        def close(self) -> None: ...

    class Served:
        started_s = 0.0

        def __init__(self, words: list[str]) -> None: ...

        def url(self, timeout_s: float) -> str:
            return "http://127.0.0.1:9"

        def close(self) -> None: ...

        def require_running(self) -> None: ...

        def wait_whole(self, timeout_s: float) -> float:
            return 1.0

    monkeypatch.setattr(view, "ViewProcess", Served)
    monkeypatch.setattr(view, "MOTION_PATIENCE_S", 0.0)
    with pytest.raises(BelvedereError, match="640×360 may be too small"):
        view.run(["town-20K"], size=FULL, visitors=[lambda stack: lambda url, size: Onlooker()])


# The page's language, and a viewer that draws


def test_messages_of_other_kinds_are_no_pictures_and_want_no_answer() -> None:
    neutral = {"type": "BackgroundImageMessage", "format": "png", "rgb_data": b"..."}
    assert bare_client.picture_in(neutral) is None and bare_client.answer_to(neutral) is None
    request = {"type": "LocalStorageGetItemRequestMessage", "key": "a", "request_uuid": "7"}
    answer = bare_client.answer_to(request)
    assert answer is not None and answer["request_uuid"] == "7"
    camera = bare_client.PageCamera()
    assert camera.follow({"type": "SetCameraLookAtMessage", "look_at": [1, 2, 3]})
    assert camera.follow({"type": "SetCameraFovMessage", "fov": 0.5})
    assert not camera.follow(neutral)
    told = camera.message(FULL)
    assert (told["look_at"], told["fov"]) == ((1, 2, 3), 0.5)
    assert (told["image_width"], told["image_height"]) == FULL


@pytest.mark.parametrize(
    "prepare",
    [
        view.without_browser,
        pytest.param(
            view.in_browser,
            marks=[
                pytest.mark.browser,
                # Playwright closes its sockets when its process ends.
                pytest.mark.filterwarnings("ignore::ResourceWarning"),
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
            ],
        ),
    ],
)
def test_a_visit_from_the_command_to_the_picture_at_rest(prepare: view.Prepare) -> None:
    pytest.importorskip("rendering.native._native", reason="the native engine is not built")
    (row,) = view.run(["town-20K"], size=FULL, drag_s=2.0, visitors=[prepare])
    require_or_skip("skipped" not in row, row.get("skipped", ""))
    assert (row["scene"], row["gaussians"]) == ("town-20K", 20_000)
    assert (row["width"], row["height"]) == FULL
    assert 0 < row["moving_width"] <= FULL[0] and 0 < row["moving_height"] <= FULL[1]
    assert row["first_picture_s"] > 0 and row["full_picture_s"] > 0
    assert row["pictures_per_s"] >= 0 and row["poses_per_s"] > 0
    assert row["interval_ms_p50"] <= row["interval_ms_p95"]
