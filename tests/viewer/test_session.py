"""A browser's session against a screen and a rasterizer that do as they are told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest

from rendering.base import Outputs
from rendering.engine import RenderEngine
from rendering.frame import Frame, FrameRequest
from splat.gaussians import Gaussians
from tests.fake_rasterizer import FakeRasterizer
from viewer.images import Mode, UInt8Array
from viewer.pacing import PacingPolicy
from viewer.pose import Pose
from viewer.session import STALE_S, Session, ViewOptions

WAIT_S = 10.0
POLICY = PacingPolicy(target_fps=200, refine_delay_s=0.05, max_side=256)
LOOKING = np.array([0.0, 1.0, 0.0, 0.0])  # a camera upright where y points down


def pose(x: float = 0.0, canvas: tuple[int, int] = (128, 64)) -> Pose:
    return Pose(LOOKING, np.array([x, 0.0, 1.0]), 1.0, canvas)


@dataclass
class FakeScreen:
    """Remembers what it is shown; acknowledges at once unless it is told to wait."""

    acknowledging: bool = True
    shown: list[tuple[UInt8Array, int]] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        with self.changed:
            self.shown.append((rgb, jpeg_quality))
            self.changed.notify_all()

    def acknowledge(self, on_done: Callable[[], None]) -> None:
        if self.acknowledging:
            on_done()
        else:
            self.waiting.append(on_done)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), f"after {len(self.shown)} pictures"

    @property
    def sharp(self) -> int:
        """How many full pictures were shown."""
        return sum(quality == POLICY.still_quality for _, quality in self.shown)

    def rests_at(self, x: float) -> bool:
        """Whether the last picture is a full one, taken from ``x``."""
        rgb, quality = self.shown[-1]
        return quality == POLICY.still_quality and int(rgb[0, 0, 0]) == round(255 * x)


@pytest.fixture
def rasterizer() -> FakeRasterizer:
    return FakeRasterizer()


@pytest.fixture
def engine(rasterizer: FakeRasterizer) -> Iterator[RenderEngine]:
    with RenderEngine(rasterizer, Gaussians.empty()) as engine:
        yield engine
        rasterizer.gate.set()


@pytest.fixture
def screen() -> FakeScreen:
    return FakeScreen()


@pytest.fixture
def session(engine: RenderEngine, screen: FakeScreen) -> Iterator[Session]:
    session = Session("test", engine, screen, POLICY, ViewOptions(near=0.1))
    session.start()
    yield session
    session.close()
    assert session.join(WAIT_S)


def test_a_resting_camera_is_drawn_quickly_then_sharply_then_no_more(
    session: Session, screen: FakeScreen
) -> None:
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)
    first, last = screen.shown[0], screen.shown[-1]
    assert first[1] == POLICY.moving_quality
    assert first[0].shape[1] < 128
    assert last[0].shape == (64, 128, 3)
    count = len(screen.shown)
    time.sleep(0.3)
    assert len(screen.shown) == count
    assert session.stats.still
    assert session.stats.shown == count


def test_nothing_is_drawn_before_there_is_a_pose(session: Session, screen: FakeScreen) -> None:
    session.set_options(ViewOptions(near=0.2))
    time.sleep(0.1)
    assert not screen.shown


def test_the_newest_pose_is_shown_in_the_end(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer
) -> None:
    for step in range(50):
        session.look(pose(x=step / 100))
        time.sleep(0.002)
    screen.wait_for(lambda: bool(screen.shown) and screen.rests_at(0.49))
    assert len(rasterizer.views) > 3, "pictures must be finished while the camera moves"


def test_no_second_picture_before_the_first_is_acknowledged(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer
) -> None:
    screen.acknowledging = False
    session.look(pose())
    screen.wait_for(lambda: len(screen.shown) == 1)
    for step in range(20):
        session.look(pose(x=step / 100))
        time.sleep(0.01)
    assert len(screen.shown) == 1
    assert len(rasterizer.views) <= 3, "at most one is made ahead"
    screen.acknowledging = True
    screen.waiting[0]()
    screen.wait_for(lambda: screen.rests_at(0.19))


def test_a_picture_that_waits_for_its_turn_follows_the_camera(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer, engine: RenderEngine
) -> None:
    rasterizer.gate.clear()
    busy = engine.submit(FrameRequest("other", 0, (pose().camera(9, 5, 0.1),)))
    rasterizer.wait_started()
    for step in range(20):
        session.look(pose(x=step / 100))
        time.sleep(0.01)
    rasterizer.gate.set()
    busy.result(WAIT_S)
    screen.wait_for(lambda: len(screen.shown) >= 1)
    first = screen.shown[0][0]
    assert abs(int(first[0, 0, 0]) - 255 * 0.19) <= 1, "not of where the camera was"
    assert session.stats.error == ""


def test_only_what_nobody_looks_at_any_more_has_a_deadline(
    engine: RenderEngine, session: Session, screen: FakeScreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FrameRequest] = []
    submit = engine.submit

    def noted(request: FrameRequest) -> Future[Frame]:
        asked.append(request)
        return submit(request)

    monkeypatch.setattr(engine, "submit", noted)
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)
    moving, still = asked
    assert moving.deadline_s == pytest.approx(moving.submitted_s + STALE_S, abs=0.5)
    assert still.deadline_s is None, "it is what is looked at, however late it comes"


def test_a_pose_that_makes_no_sense_while_a_picture_waits_hurts_nobody(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer, engine: RenderEngine
) -> None:
    rasterizer.gate.clear()
    busy = engine.submit(FrameRequest("other", 0, (pose().camera(9, 5, 0.1),)))
    rasterizer.wait_started()
    session.look(pose())
    time.sleep(0.03)
    session.look(Pose(np.zeros(4), np.zeros(3), 1.0, (64, 64)))
    time.sleep(0.03)
    assert "quaternion" in session.stats.error
    rasterizer.gate.set()
    busy.result(WAIT_S)
    session.look(pose(x=0.5))
    screen.wait_for(lambda: bool(screen.shown) and screen.rests_at(0.5))


def test_motion_interrupts_the_refinement(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer
) -> None:
    session.look(pose())
    screen.wait_for(lambda: len(screen.shown) == 1)
    rasterizer.gate.clear()
    while rasterizer.started.acquire(timeout=0.5):  # until the refinement hangs
        pass
    session.look(pose(x=0.5))
    rasterizer.wait_started()
    rasterizer.gate.set()
    screen.wait_for(lambda: screen.sharp == 1)
    assert [round(rgb[0, 0, 0] / 255, 1) for rgb, _ in screen.shown][1] == 0.5


def test_options_are_drawn_anew(
    session: Session, screen: FakeScreen, rasterizer: FakeRasterizer
) -> None:
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)
    session.set_options(ViewOptions(mode=Mode.COUNT, near=0.25, sh_degree=1, max_scale=0.5))
    screen.wait_for(lambda: screen.sharp == 2)
    assert rasterizer.settings[-1].outputs == Outputs.COUNT
    assert rasterizer.settings[-1].sh_degree == 1
    assert rasterizer.views[-1].near == 0.25
    assert screen.shown[-1][0].shape == (32, 64, 3)
    assert "Gaussians" in session.stats.legend


def test_unchanged_options_draw_nothing(session: Session, screen: FakeScreen) -> None:
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)
    count = len(screen.shown)
    session.set_options(session.options)
    time.sleep(0.1)
    assert len(screen.shown) == count


def test_a_failed_frame_is_reported_and_tried_again(
    session: Session,
    screen: FakeScreen,
    rasterizer: FakeRasterizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("viewer.session.RETRY_S", 0.05)
    failures = iter([ZeroDivisionError("bad tile")])

    def fail_once() -> None:
        for error in failures:
            raise error

    rasterizer.failure = fail_once
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)
    assert session.stats.error == ""


def test_failing_frames_are_said_once_and_tried_seldom_however_the_camera_moves(
    session: Session,
    screen: FakeScreen,
    rasterizer: FakeRasterizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("viewer.session.RETRY_S", 0.2)
    tried_at: list[float] = []

    def fail() -> None:
        tried_at.append(time.monotonic())
        raise MemoryError

    rasterizer.failure = fail
    step = 0
    while len(tried_at) < 3:
        session.look(pose(x=(step := step + 1) / 1000))
        time.sleep(0.005)
    assert min(np.diff(tried_at)) >= 0.2
    assert session.stats.error == "drawing failed: MemoryError"
    assert [record.getMessage() for record in caplog.records] == [
        "test: drawing failed: MemoryError"
    ]
    rasterizer.failure = lambda: None
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)


def test_an_impossible_pose_hurts_nobody(session: Session, screen: FakeScreen) -> None:
    session.look(Pose(np.zeros(4), np.zeros(3), 1.0, (64, 64)))
    time.sleep(0.1)
    assert "quaternion" in session.stats.error
    session.look(pose())
    screen.wait_for(lambda: screen.sharp == 1)


def test_a_closed_engine_ends_the_session(
    session: Session, engine: RenderEngine, screen: FakeScreen
) -> None:
    engine.close()
    session.look(pose())
    assert session.join(WAIT_S)


class FlakyScreen(FakeScreen):
    """Raises instead of showing, ``failures`` times."""

    failures = 0

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise OSError("gone\nfor now")
        super().show(rgb, jpeg_quality)


def test_a_fault_is_said_once_and_the_session_goes_on(
    engine: RenderEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewer.session.FIRST_BACKOFF_S", 0.01)
    screen = FlakyScreen()
    screen.failures = 3
    with caplog.at_level(logging.INFO):
        session = Session("flaky", engine, screen, POLICY, ViewOptions(near=0.1))
        session.start()
        session.look(pose(x=0.5))
        screen.wait_for(lambda: screen.sharp == 1)
    assert screen.rests_at(0.5)
    assert session.stats.error == ""
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == "flaky: unexpected OSError: gone for now"
    assert record.exc_info is None, "the traceback is for --debug"
    assert session._faults == 0, "the next one is met with a short pause again"
    session.close()
    assert session.join(WAIT_S)


def test_a_broken_session_hurts_no_other_and_says_so(engine: RenderEngine) -> None:
    broken_screen, healthy_screen = FlakyScreen(), FakeScreen()
    broken_screen.failures = 1_000_000
    broken = Session("broken", engine, broken_screen, POLICY, ViewOptions(near=0.1))
    healthy = Session("healthy", engine, healthy_screen, POLICY, ViewOptions(near=0.1))
    for session in (broken, healthy):
        session.start()
        session.look(pose())
    healthy_screen.wait_for(lambda: healthy_screen.sharp == 1)
    deadline = time.monotonic() + WAIT_S
    while "OSError" not in broken.stats.error:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for session in (broken, healthy):
        session.close()
        assert session.join(WAIT_S), "a pause after a fault ends when the session is closed"


def test_several_browsers_see_their_own_views(engine: RenderEngine) -> None:
    screens = [FakeScreen() for _ in range(4)]
    sessions = [
        Session(f"browser-{n}", engine, screen, POLICY, ViewOptions(near=0.1))
        for n, screen in enumerate(screens)
    ]
    for n, session in enumerate(sessions):
        session.start()
        session.look(pose(x=n / 4))
    for n, screen in enumerate(screens):
        screen.wait_for(lambda screen=screen: screen.sharp == 1)  # type: ignore[misc]
        assert screen.shown[-1][0][0, 0, 0] == round(255 * n / 4)
    for session in sessions:
        session.close()
        assert session.join(WAIT_S)
