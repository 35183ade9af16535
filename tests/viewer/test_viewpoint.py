"""Where a browser stands, told and heard with the delay of a wire."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import viser.transforms as tf
from numpy.typing import NDArray

from splat.camera import Camera
from tests.viewer.conftest import checkered_wall
from viewer.page_camera import GRACE_S
from viewer.pose import Pose
from viewer.start_view import StartView, choose_start_view
from viewer.viewpoint import Viewpoint

START = choose_start_view(checkered_wall(12), up=(0, -1, 0))
CANVAS, NARROW = (640, 480), (240, 480)
STATE = ("position", "look_at", "up_direction", "fov")


class Handle:
    """viser's handle of a camera: what it is given goes to the page, unless it has it already."""

    position: NDArray[np.float64]
    look_at: NDArray[np.float64]
    up_direction: NDArray[np.float64]
    fov: NDArray[np.float64]
    sent: dict[str, Any]
    interruption: Callable[[], None] | None = None

    def __init__(self, sent: dict[str, Any]) -> None:
        self.hear(
            {
                "position": np.array([3.0, 3.0, 3.0]),
                "look_at": np.zeros(3),
                "up_direction": np.array([0.0, 0.0, 1.0]),
                "fov": 1.3,
            },
            CANVAS,
        )
        self.__dict__["sent"] = sent

    def hear(self, state: dict[str, Any], canvas: tuple[int, int]) -> None:
        """A message of the page; without thought."""
        self.__dict__.update({name: np.array(value) for name, value in state.items()})
        self.__dict__["image_width"], self.__dict__["image_height"] = canvas

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in STATE
        if name == "look_at" and self.interruption is not None:
            self.interruption()
        before = self.__dict__[name]
        if np.allclose(before, value):
            return
        self.__dict__[name] = np.array(value, float)
        if name == "position":
            self.look_at = self.look_at + (value - before)
        self.sent[name] = self.__dict__[name]

    @property
    def wxyz(self) -> Any:
        forward = self.look_at - self.position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, self.up_direction)
        right /= np.linalg.norm(right)
        matrix = np.stack([right, np.cross(forward, right), forward], axis=1)
        return tf.SO3.from_matrix(matrix).wxyz


class Page:
    """A page at the other end of a wire."""

    def __init__(self, start: StartView = START) -> None:
        self.now_s = 100.0
        self.canvas = CANVAS
        self.sent: dict[str, Any] = {}
        self.owed: list[Callable[[], None]] = []
        self.poses: list[Pose] = []
        self.handle = Handle(self.sent)
        self.state = {name: self.handle.__dict__[name] for name in STATE}
        client = cast(Any, self)
        self.viewpoint = Viewpoint(
            client, start, self.owed.append, self.poses.append, lambda: self.now_s
        )
        self.viewpoint.reset()
        self.obey()
        self.say()

    @property
    def camera(self) -> Handle:
        return self.handle

    def atomic(self) -> Any:
        return nullcontext()

    def obey(self) -> None:
        """All that was sent arrives."""
        self.state = {**self.state, **self.sent}
        self.sent.clear()
        for confirm in self.owed[:]:
            confirm()
        self.owed.clear()

    def say(self, state: dict[str, Any] | None = None, **changes: Any) -> None:
        """What the page says arrives; what it says now, or has said before."""
        if state is None:
            state = self.state = {**self.state, **changes}
        self.handle.hear(state, self.canvas)
        self.viewpoint.look()

    def resize(self, canvas: tuple[int, int]) -> None:
        self.canvas = canvas
        self.say()
        self.obey()
        self.say()

    def settle(self) -> None:
        """Time passes, and the page says where it is in the end."""
        self.obey()
        self.say()
        self.now_s += GRACE_S + 0.1
        self.viewpoint.update()

    @property
    def place(self) -> tuple[Any, Any]:
        """Where the page is and what it looks at, in world coordinates."""
        space = self.viewpoint.space
        return space.to_world(self.state["position"]), space.to_world(self.state["look_at"])


def close(value: Any) -> Any:
    return pytest.approx(value, abs=1e-4 * START.radius)


TRAINING = Camera.look_at((3, 0, 2), (0, 0, 0), (0, -1, 0), fov_y_rad=0.7, width=64, height=48)
CHOICES: dict[str, Callable[[Page], None]] = {
    "field of view": lambda page: page.viewpoint.set_fov(0.5),
    "up": lambda page: page.viewpoint.set_up((1.0, 0.0, 0.0)),
    "look along": lambda page: page.viewpoint.look_along((0.0, 0.0, 1.0)),
    "training camera": lambda page: page.viewpoint.go_to(TRAINING),
    "walking": lambda page: page.say(
        position=page.state["position"] + 0.3, look_at=page.state["look_at"] + 0.3
    ),
    "turning on the spot": lambda page: page.say(
        look_at=page.state["look_at"] + np.array([0.5, 0.0, 0.0])
    ),
}


def test_while_nobody_chose_anything_the_start_view_fits_the_canvas() -> None:
    page = Page()
    wide = page.place[0]
    page.resize(NARROW)
    narrow, target = page.place
    assert narrow == close(START.fitted(NARROW[0] / NARROW[1]).position)
    assert np.linalg.norm(narrow - target) > 1.1 * np.linalg.norm(wide - target)
    assert target == close(START.look_at)
    assert page.poses[-1].canvas == NARROW and page.poses[-1].position == close(narrow)
    page.resize(CANVAS)
    assert page.place[0] == close(wide)


@pytest.mark.parametrize("choice", CHOICES)
def test_what_somebody_chose_survives_another_window(choice: str) -> None:
    page = Page()
    CHOICES[choice](page)
    page.settle()
    before = {name: np.array(value) for name, value in page.state.items()}
    page.resize(NARROW)
    page.settle()
    for name in STATE:
        assert page.state[name] == pytest.approx(before[name], abs=1e-5), name
    assert page.poses[-1].canvas == NARROW


def test_a_reset_begins_anew() -> None:
    page = Page()
    page.viewpoint.set_fov(0.5)
    page.viewpoint.reset()
    page.settle()
    assert page.state["fov"] == pytest.approx(START.fov_y_rad)
    page.resize(NARROW)
    assert page.place[0] == close(START.fitted(NARROW[0] / NARROW[1]).position)


@pytest.mark.parametrize(
    "start",
    [
        START.changed(position=(2.0, -1.0, 5.0)),
        choose_start_view(checkered_wall(12), up=(0, -1, 0), cameras=[TRAINING]),
    ],
)
def test_a_start_that_somebody_chose_is_not_fitted(start: StartView) -> None:
    page = Page(start)
    assert page.place[0] == close(start.position)
    page.resize(NARROW)
    assert not page.sent and page.place[0] == close(start.position)
    # Within what counts as being there, and yet not to be taken back.
    page.say(position=page.state["position"] + 0.02)
    page.resize(CANVAS)
    assert page.place[0] != pytest.approx(start.position, abs=1e-6)


def test_a_canvas_of_no_size_moves_nothing() -> None:
    page = Page()
    before = page.place[0]
    page.resize((640, 0))
    assert page.place[0] == close(before)


def test_a_slider_of_speed_moves_nothing_however_late_the_page_speaks() -> None:
    page = Page()
    page.say(position=np.array([1.0, -2.0, 3.0]), look_at=np.array([0.0, -1.0, 0.5]))
    position, look_at = page.place
    said = [dict(page.state)]
    for speed in (1.2, 1.4, 2.0, 3.0, 2.0, 1.2, 1.0):
        page.viewpoint.set_speed(speed)
        page.say(said[-1])  # from before it heard of that
        page.viewpoint.set_speed(1.01 * speed)
        page.say(said[0])
        page.obey()
        said.append(dict(page.state))
    page.settle()
    assert page.place[0] == close(position)
    assert page.place[1] == close(look_at)
    assert page.poses[-1].position == close(position)


def test_a_page_on_its_way_there_and_back_is_not_taken_for_one_that_is_back() -> None:
    page = Page()
    position, look_at = page.place
    passed = []
    for speed in (2.0, 1.5, 2.0):
        page.viewpoint.set_speed(speed)
        passed.append({**page.state, **page.sent})
    page.say(passed[0])
    page.say(passed[1])
    page.viewpoint.set_speed(1.0)
    page.settle()
    assert page.place[0] == close(position) and page.place[1] == close(look_at)
    page.say(position=page.state["position"] + 0.3)
    assert page.poses[-1].position == close(page.place[0]), "it is believed again"


def test_a_word_of_the_page_while_it_is_told_changes_nothing() -> None:
    """viser replaces what its handle holds at any moment."""
    page = Page()
    late = dict(page.state)
    page.handle.__dict__["interruption"] = lambda: page.handle.hear(late, CANVAS)
    page.viewpoint.go_to(TRAINING)
    page.handle.__dict__["interruption"] = None
    assert page.poses[-1].position == close(TRAINING.position)
    page.viewpoint.set_speed(2.0)
    page.settle()
    assert page.place[0] == close(TRAINING.position)
    assert page.poses[-1].position == close(TRAINING.position)


def test_what_a_late_word_of_the_page_agrees_with_is_sent_all_the_same() -> None:
    page = Page()
    first = dict(page.state)
    page.viewpoint.go_to(TRAINING)
    page.viewpoint.set_up((0.0, 0.0, 1.0))
    page.obey()
    page.say(first)  # said before it went there
    page.viewpoint.reset()
    page.obey()
    for name in STATE:
        assert page.state[name] == pytest.approx(first[name], abs=1e-5), name


def test_looking_along_an_axis_starts_from_where_the_camera_is() -> None:
    page = Page()
    late = dict(page.state)
    page.viewpoint.go_to(TRAINING)
    page.say(late)
    page.viewpoint.look_along((0.0, 0.0, 1.0))
    page.settle()
    position, look_at = page.place
    assert (look_at - position) / np.linalg.norm(look_at - position) == close((0, 0, 1))
    ahead = (look_at - TRAINING.position) / np.linalg.norm(look_at - TRAINING.position)
    assert ahead == pytest.approx(TRAINING.forward, abs=1e-3)


def test_a_pole_is_looked_at_from_a_hair_beside_it() -> None:
    page = Page()
    page.viewpoint.look_along((0.0, 1.0, 0.0))
    page.settle()
    position, look_at = page.place
    forward = (look_at - position) / np.linalg.norm(look_at - position)
    assert 0.0 < math.acos(float(forward @ (0.0, 1.0, 0.0))) < 0.01


def test_no_older_pose_follows_a_newer_one() -> None:
    """The page speaks while it is being put elsewhere."""
    page = Page()
    late = dict(page.state)
    page.say(position=np.array([1.0, -2.0, 3.0]))
    page.viewpoint.reset()
    page.say(late | {"fov": 1.1})
    assert page.poses[-1].position == close(START.fitted(CANVAS[0] / CANVAS[1]).position)
    assert page.poses[-1].fov_y_rad == pytest.approx(START.fov_y_rad)
