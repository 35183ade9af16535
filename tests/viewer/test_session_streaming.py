"""A browser's session before a scene that comes piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from rendering.drawable import Drawable
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import FrameRequest, StreamStats
from rendering.tint import Tint
from tests.fake_rasterizer import FakeRasterizer
from tests.viewer.test_session import POLICY, WAIT_S, FakeScreen, pose
from viewer.pacing import REPEAT_S
from viewer.session import Session, ViewOptions


@dataclass
class ScriptedStream:
    """A scene that is as complete as the test says.

    Attributes:
        complete, fading: What the next frames show.
        requests: All frames asked for.
        forgotten: Clients that left.
    """

    complete: bool = False
    fading: bool = False
    detail_counts: tuple[int, ...] = (1000, 500)
    requests: list[FrameRequest] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Drawable]:
        self.requests.append(request)
        missing = 0 if self.complete else 1
        yield Drawable(10, StreamStats(self.complete, self.fading, missing, 0, 0.5, 3, (8, 2), 0.1))

    def forget(self, client: str) -> None:
        self.forgotten.append(client)

    def close(self) -> None:
        pass


@pytest.fixture
def scene() -> ScriptedStream:
    return ScriptedStream()


@pytest.fixture
def rasterizer() -> FakeRasterizer:
    return FakeRasterizer()


@pytest.fixture
def screen() -> FakeScreen:
    return FakeScreen()


@pytest.fixture
def session(
    scene: ScriptedStream, rasterizer: FakeRasterizer, screen: FakeScreen
) -> Iterator[Session]:
    with RenderEngine(rasterizer, scene) as engine:
        session = Session(
            "test", engine, screen, POLICY, ViewOptions(near=0.1), moving_error_px=1.5
        )
        session.start()
        yield session
        rasterizer.gate.set()
        session.close()
        assert session.join(WAIT_S)


def until_sharp(screen: FakeScreen, count: int = 1) -> None:
    screen.wait_for(lambda: screen.sharp >= count)
    time.sleep(0.02)


def test_a_moving_picture_may_lack_what_does_not_show_and_a_resting_one_not(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    scene.complete = True
    session.look(pose())
    until_sharp(screen)
    first, last = scene.requests[0], scene.requests[-1]
    assert first.max_error_px > 1.5 and first.settings.resolution < 1 and not first.preemptible
    assert (last.max_error_px, last.settings.resolution, last.preemptible) == (0.0, 1.0, True)
    assert session.stats.stream is not None and session.stats.stream.chunks == 3
    assert session.stats.settled


@pytest.mark.parametrize("option", ["tint", "frozen"])
def test_what_shows_how_it_is_drawn_redraws_a_resting_picture_as_it_is(
    session: Session, scene: ScriptedStream, screen: FakeScreen, option: str
) -> None:
    scene.complete = True
    session.look(pose())
    until_sharp(screen)
    count = len(scene.requests)
    for value in (Tint.REUSE, Tint.NONE) if option == "tint" else (pose(), None):
        session.set_options(replace(session.options, **{option: value}))  # type: ignore[arg-type]
        until_sharp(screen, screen.sharp + 1)
        last = scene.requests[-1]
        assert last.tint is value if option == "tint" else bool(last.frozen) == bool(value)
    fresh = scene.requests[count:]
    assert len(fresh) == 2, "once each"
    assert all(asked.max_error_px == 0 and asked.settings.resolution == 1 for asked in fresh)
    session.set_options(replace(session.options, near=0.2))
    until_sharp(screen, screen.sharp + 1)
    assert scene.requests[count + 2].max_error_px > 0, "anything else is shown quickly first"


@pytest.mark.parametrize(
    ("complete", "fading", "share"), [(False, False, 2 / 3), (True, True, 2 / 3), (True, False, 1)]
)
def test_who_will_ask_for_more_of_the_scene_is_reckoned_with(
    scene: ScriptedStream, rasterizer: FakeRasterizer, complete: bool, fading: bool, share: float
) -> None:
    scene.complete, scene.fading = complete, fading
    camera = pose().camera(8, 6, 0.1)
    with RenderEngine(rasterizer, scene, clock=lambda: 0.0) as engine:
        resting = FrameRequest("resting", 0, (camera,), urgency=Urgency.STILL, submitted_s=0.0)
        engine.submit(resting).result(WAIT_S)
        engine.submit(FrameRequest("moving", 0, (camera,), submitted_s=0.0)).result(WAIT_S)
        assert engine.share_of("moving") == pytest.approx(share)


def test_a_complete_picture_is_the_last_one(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    scene.complete = True
    session.look(pose())
    until_sharp(screen)
    count = len(scene.requests)
    for _ in range(10):
        session.arrived()
        time.sleep(0.02)
    time.sleep(2 * REPEAT_S)
    assert len(scene.requests) == count


def test_an_incomplete_picture_is_drawn_again_on_arrivals_but_not_often(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    session.look(pose())
    until_sharp(screen)
    assert session.stats.still and not session.stats.settled
    count, began_s = len(scene.requests), time.monotonic()
    time.sleep(2 * REPEAT_S)
    assert len(scene.requests) == count, "nothing came"
    while time.monotonic() - began_s < 6 * REPEAT_S:
        session.arrived()
        time.sleep(0.005)
    assert 1 <= len(scene.requests) - count <= 6
    scene.complete = True
    session.arrived()
    screen.wait_for(lambda: session.stats.settled)
    count = len(scene.requests)
    time.sleep(2 * REPEAT_S)
    assert len(scene.requests) == count


def test_a_fading_picture_is_drawn_until_it_is_not(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    scene.complete = scene.fading = True
    session.look(pose())
    until_sharp(screen, 3)
    scene.fading = False
    screen.wait_for(lambda: session.stats.settled)
    count = len(scene.requests)
    time.sleep(2 * REPEAT_S)
    assert len(scene.requests) == count


def test_another_scene_is_drawn_at_once(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    session.refresh()  # nobody looks yet
    time.sleep(0.05)
    assert not scene.requests
    scene.complete = True
    session.look(pose())
    until_sharp(screen)
    session.refresh()
    until_sharp(screen, 2)


def test_levels_and_a_frozen_view_are_asked_for(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    scene.complete = True
    session.look(pose(x=0.5))
    until_sharp(screen)
    session.set_options(ViewOptions(near=0.1, tint=Tint.LEVELS, frozen=pose(x=0.25)))
    until_sharp(screen, 2)
    request = scene.requests[-1]
    assert request.tint is Tint.LEVELS
    assert request.cameras[0].position[0] == pytest.approx(0.5)
    assert request.frozen[0].position[0] == pytest.approx(0.25)
    assert request.frozen[0].width == request.cameras[0].width


def test_a_browser_that_leaves_is_forgotten(
    session: Session, scene: ScriptedStream, screen: FakeScreen
) -> None:
    session.look(pose())
    until_sharp(screen)
    assert not scene.forgotten
    session.close()
    assert session.join(WAIT_S)
    assert scene.forgotten == ["test"]


def test_a_browser_that_leaves_is_forgotten_after_its_last_frame(
    session: Session, scene: ScriptedStream, screen: FakeScreen, rasterizer: FakeRasterizer
) -> None:
    rasterizer.gate.clear()
    session.look(pose())
    rasterizer.wait_started()
    session.close()
    assert session.join(WAIT_S)
    assert not scene.forgotten, "the frame still draws"
    rasterizer.gate.set()
    deadline = time.monotonic() + WAIT_S
    while scene.forgotten != ["test"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
