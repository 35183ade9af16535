"""Two eyes in the page: where they are, and how their pictures share the canvas."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from rendering.base import RasterImage
from rendering.engine import RenderEngine
from splat.gaussians import Gaussians
from tests.fake_rasterizer import WAIT_S, FakeRasterizer
from viewer.images import Mode, UInt8Array
from viewer.pacing import PacingPolicy
from viewer.pose import Pose
from viewer.session import Session, ViewOptions
from viewer.stereo_layouts import StereoLayout
from viewer.stereo_view import COMFORTABLE_SHARE, StereoView

WIDTH, HEIGHT, FOCUS = 160, 90, 6.0
POSE = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3), 1.0, (WIDTH * 2, HEIGHT * 2), FOCUS)
SHAPES = {
    StereoLayout.SIDE_BY_SIDE: (WIDTH // 2, HEIGHT),
    StereoLayout.TOP_BOTTOM: (WIDTH, HEIGHT // 2),
    StereoLayout.ANAGLYPH: (WIDTH, HEIGHT),
}


@pytest.mark.parametrize("layout", list(SHAPES))
def test_eyes_share_the_canvas_and_agree_on_what_they_turn_about(layout: StereoLayout) -> None:
    left, right = StereoView(layout, 2.0).eyes(POSE, WIDTH, HEIGHT, 0.1)
    for eye in (left, right):
        assert (eye.width, eye.height) == SHAPES[layout]
        # Square pixels on the page: its canvas is as wide for its height as a part of it.
        assert eye.K[0, 0] == pytest.approx(eye.K[1, 1])
    apart = right.position - left.position
    np.testing.assert_allclose(apart, [2 * COMFORTABLE_SHARE * FOCUS, 0, 0], atol=1e-12)
    seen = []
    for eye in (left, right):
        x, y, z = eye.K @ (eye.viewmat[:3, :3] @ [0, 0, FOCUS] + eye.viewmat[:3, 3])
        seen.append((x / z, y / z))
    assert seen[0] == pytest.approx(seen[1])
    assert seen[0] == pytest.approx((left.width / 2, left.height / 2))


@pytest.mark.parametrize("layout", list(SHAPES))
def test_pictures_fill_the_canvas_left_eye_first(layout: StereoLayout) -> None:
    width, height = SHAPES[layout]
    images = [
        RasterImage(
            np.ones((height, width), np.float32), np.full((height, width, 3), v, np.float32)
        )
        for v in (0.25, 0.75)
    ]
    rgb = StereoView(layout).picture(images, Mode.COLOR, (0.0, 0.0, 0.0)).rgb
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    if layout is not StereoLayout.ANAGLYPH:
        assert rgb[0, 0, 0] < rgb[-1, -1, 0]


class Screen:
    """Remembers the last picture."""

    def __init__(self) -> None:
        self.shown: list[UInt8Array] = []

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        self.shown.append(rgb)

    def acknowledge(self, on_done: object) -> None:
        on_done()  # type: ignore[operator]


def test_a_session_draws_both_eyes_while_somebody_wants_them() -> None:
    rasterizer, screen = FakeRasterizer(), Screen()
    with RenderEngine(rasterizer, Gaussians.empty()) as engine:
        options = ViewOptions(near=0.1)
        session = Session("a", engine, screen, PacingPolicy(refine_delay_s=0.01), options)
        session.start()
        session.set_options(replace(options, stereo=StereoView(StereoLayout.SIDE_BY_SIDE)))
        session.look(POSE)

        def settles() -> bool:
            deadline_s = time.monotonic() + WAIT_S
            while not session.stats.still and time.monotonic() < deadline_s:
                time.sleep(0.005)
            return session.stats.still

        assert settles()
        left, right = rasterizer.views[-2:]
        assert left.position[0] < right.position[0]
        assert screen.shown[-1].shape[1] == left.width + right.width
        session.set_options(options)
        deadline_s = time.monotonic() + WAIT_S
        while rasterizer.views[-1].position[0] != 0 and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert rasterizer.views[-1].position[0] == 0
        session.close()
        assert session.join(WAIT_S)
