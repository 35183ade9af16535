"""Finished pictures are not drawn again, and none is shown that is not the right one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.drawable import Drawable
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.picture_cache import PictureCache
from splat.camera import Camera
from splat.errors import RenderCancelled
from splat.gaussians import Gaussians
from tests.fake_rasterizer import WAIT_S, FakeRasterizer


def camera_at(x: float) -> Camera:
    return Camera.look_at((x, 0, -1), (x, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=9, height=5)


def some(count: int) -> Gaussians:
    shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 1, 3))
    return Gaussians(*(np.ones(shape, np.float32) for shape in shapes))


class Asking:
    """Requests for frames of an engine."""

    def __init__(self, engine: RenderEngine) -> None:
        self.engine = engine
        self._asked = 0

    def frame(self, *xs: float, client: str = "a", **wishes: Any) -> Frame:
        self._asked += 1
        cameras = tuple(camera_at(x) for x in xs)
        request = FrameRequest(client, self._asked, cameras, urgency=Urgency.STILL)
        return self.engine.submit(replace(request, **wishes)).result(WAIT_S)


@pytest.fixture
def rasterizer() -> FakeRasterizer:
    return FakeRasterizer()


@pytest.fixture
def asking(rasterizer: FakeRasterizer) -> Iterator[Asking]:
    with RenderEngine(rasterizer, some(8), picture_bytes=10_000) as engine:
        yield Asking(engine)


def test_a_view_is_drawn_once_for_whoever_asks(asking: Asking, rasterizer: FakeRasterizer) -> None:
    first = asking.frame(0.5)
    again, other = asking.frame(0.5), asking.frame(0.5, client="b")
    assert len(rasterizer.views) == 1
    assert (first.stats.reused, again.stats.reused, other.stats.reused) == (0, 1, 1)
    for frame in (again, other):
        np.testing.assert_array_equal(frame.images[0].alpha, first.images[0].alpha)
        assert frame.stats.raster == first.stats.raster
        assert frame.stats.drawing_ms == sum(first.stats.raster[0].stage_ms.values())
    assert asking.engine.pictures.hit_rate == pytest.approx(2 / 3)


def test_an_eye_is_reused_alone(asking: Asking, rasterizer: FakeRasterizer) -> None:
    asking.frame(0.5)
    both = asking.frame(0.5, 0.6)
    assert len(rasterizer.views) == 2 and both.stats.reused == 1
    reds = [float(image.color[0, 0, 0]) for image in both.images if image.color is not None]
    assert reds == pytest.approx([0.5, 0.6])


@pytest.mark.parametrize(
    "wish",
    [
        {"settings": RasterSettings(background=(0.1, 0, 0))},
        {"settings": RasterSettings(outputs=Outputs.COLOR | Outputs.DEPTH)},
        {"settings": RasterSettings(resolution=0.5)},
        {"detail": 1},
    ],
)
def test_another_wish_is_another_picture(
    asking: Asking, rasterizer: FakeRasterizer, wish: dict[str, Any]
) -> None:
    asking.engine.add_coarser(some(2))
    asking.frame(0.5)
    assert asking.frame(0.5, **wish).stats.reused == 0
    assert len(rasterizer.views) == 2
    assert asking.frame(0.5, **wish).stats.reused == 1


def test_threads_make_no_difference(asking: Asking) -> None:
    asking.frame(0.5, settings=RasterSettings(threads=1))
    assert asking.frame(0.5, settings=RasterSettings(threads=2)).stats.reused == 1


def test_another_scene_is_another_picture(asking: Asking) -> None:
    asking.frame(0.5)
    asking.engine.replace_scene(some(3))
    frame = asking.frame(0.5)
    assert frame.stats.reused == 0 and frame.stats.raster[0].gaussians == 3


def test_a_picture_cannot_be_written_to_once_it_is_kept(asking: Asking) -> None:
    with pytest.raises(ValueError, match="read-only"):
        asking.frame(0.5).images[0].alpha[0, 0] = 7.0


def test_an_abandoned_picture_is_not_kept(asking: Asking, rasterizer: FakeRasterizer) -> None:
    rasterizer.gate.clear()
    first = asking.engine.submit(FrameRequest("a", 1, (camera_at(0.5),), preemptible=True))
    rasterizer.wait_started()
    second = asking.engine.submit(FrameRequest("a", 2, (camera_at(0.5),)))
    with pytest.raises(RenderCancelled):
        first.result(WAIT_S)
    rasterizer.gate.set()
    assert second.result(WAIT_S).stats.reused == 0


def test_pictures_of_a_moving_camera_are_not_kept(
    asking: Asking, rasterizer: FakeRasterizer
) -> None:
    asking.frame(0.5)
    for step in range(1000):  # more than there is room for
        asking.frame(float(step), urgency=Urgency.MOVING)
    assert asking.engine.pictures.entries == 1
    assert asking.frame(0.5).stats.reused == 1
    asked = asking.engine.pictures
    assert (asked.hits, asked.misses) == (1, 1), "a moving camera does not ask for what is kept"


def test_memory_stays_in_its_budget() -> None:
    drawable, settings = Drawable(scene=None, key="scene"), RasterSettings()
    cache = PictureCache(4 * 9 * 5 * 2)
    for x in range(5):
        cache.put(drawable, camera_at(x), settings, RasterImage(np.ones((5, 9), np.float32)))
        assert cache.stats().held_bytes <= 4 * 9 * 5 * 2
    kept = [x for x in range(5) if cache.get(drawable, camera_at(x), settings) is not None]
    assert kept == [3, 4]


def test_what_is_not_known_to_be_the_same_is_drawn_again() -> None:
    drawable, settings = Drawable(scene=None), RasterSettings()
    cache = PictureCache(1_000_000)
    image = RasterImage(np.ones((5, 9), np.float32))
    cache.put(drawable, camera_at(0), settings, image)
    assert cache.get(drawable, camera_at(0), settings) is None
    assert image.alpha.flags.writeable
