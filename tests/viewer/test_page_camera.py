"""A page's camera: what it says is believed only if it is newer than what it was told."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest

from viewer.page_camera import GRACE_S, PageCamera
from viewer.pose import PageSpace

SPACE = PageSpace(np.array([10.0, 0.0, 0.0]), 2.0)
UP = np.array([0.0, -1.0, 0.0])


class Handle:
    """A page's camera as viser tells it; ``say`` stands for a message of the page."""

    def __init__(self) -> None:
        self.image_width, self.image_height = 64, 48
        self.up_direction = UP
        self.fov = 1.3
        self.say((3.0, 3.0, 3.0), (0.0, 0.0, 0.0))

    def say(self, position: Any, look_at: Any, fov: float | None = None) -> None:
        self.position, self.look_at = np.array(position, float), np.array(look_at, float)
        self.fov = self.fov if fov is None else fov

    @property
    def wxyz(self) -> Any:
        import viser.transforms as tf

        forward = self.look_at - self.position
        if not np.isfinite(forward).all():
            return np.full(4, np.nan)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, self.up_direction)
        right /= np.linalg.norm(right)
        matrix = np.stack([right, np.cross(forward, right), forward], axis=1)
        return tf.SO3.from_matrix(matrix).wxyz


class Client:
    """As much of a browser as a camera needs."""

    def __init__(self) -> None:
        self.camera = Handle()

    def atomic(self) -> Any:
        return nullcontext()


class Page:
    """A page, its clock, and the round trips it owes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.owed: list[Callable[[], None]] = []
        self.client = cast(Any, Client())
        self.camera = PageCamera(self.client, SPACE, self.owed.append, lambda: self.now)


def put(page: Page, x: float = 0.0) -> Any:
    return page.camera.put(np.array([x, -1.0, 4.0]), np.zeros(3), up=UP, fov_y_rad=1.0)


def test_a_camera_is_put_in_world_coordinates() -> None:
    page = Page()
    pose = put(page)
    assert page.client.camera.position == pytest.approx((-20.0, -2.0, 8.0))
    assert pose.position == pytest.approx((0, -1, 4))
    assert (pose.fov_y_rad, pose.canvas) == (1.0, (64, 48))
    assert not page.camera.settled


def test_what_is_said_at_the_new_place_is_believed() -> None:
    page = Page()
    put(page)
    pose = page.camera.said()
    assert pose is not None and pose.position == pytest.approx((0, -1, 4))
    assert page.camera.settled
    page.client.camera.say((5.0, 0.0, 0.0), (0.0, 0.0, 0.0))  # a person moves it
    moved = page.camera.said()
    assert moved is not None and moved.position == pytest.approx((12.5, 0, 0))


@pytest.mark.parametrize(
    ("position", "look_at", "fov"),
    [
        ((3.0, 3.0, 3.0), (0.0, 0.0, 0.0), 1.0),
        ((-20.0, -2.0, 8.0), (0.0, 0.0, 0.0), 1.0),  # there already, but looking elsewhere
        ((-20.0, -2.0, 8.0), (-20.0, 0.0, 0.0), 1.3),  # with the field of view of before
        ((math.nan, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0),
    ],
)
def test_what_was_said_before_is_not_believed_however_late_it_comes(
    position: Any, look_at: Any, fov: float
) -> None:
    page = Page()
    put(page)
    page.client.camera.say(position, look_at, fov)
    for _ in range(3):
        page.now += 10.0
        assert page.camera.said() is None, "the page has not even heard of it"
    assert not page.camera.overdue()


def test_a_page_that_has_heard_it_and_is_elsewhere_was_moved() -> None:
    page = Page()
    put(page)
    page.client.camera.say((5.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    page.owed.pop()()
    assert page.camera.said() is None
    page.now += GRACE_S + 0.1
    assert page.camera.overdue() and page.camera.settled
    assert page.camera.said() is not None
    assert not page.camera.overdue()


def test_only_the_answer_to_the_last_change_counts() -> None:
    page = Page()
    put(page)
    put(page, 3.0)
    page.client.camera.say((3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    page.owed[0]()
    page.now += 10.0
    assert page.camera.said() is None
    page.owed[1]()
    page.now += 10.0
    assert page.camera.said() is not None


def test_a_page_that_is_there_already_is_not_waited_for() -> None:
    page = Page()
    put(page)
    assert page.camera.said() is not None
    put(page)
    assert page.camera.settled
    page.client.camera.say((5.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    assert page.camera.said() is not None


def test_a_page_that_has_not_heard_of_one_place_is_not_at_the_next() -> None:
    page = Page()
    put(page)
    put(page)
    assert not page.camera.settled


def test_a_field_of_view_can_be_changed_on_the_way() -> None:
    page = Page()
    put(page)
    page.camera.set_fov(0.5)
    pose = page.camera.said()
    assert pose is not None and pose.fov_y_rad == 0.5
