"""What is made of two eyes' pictures: layouts, and panoramas whose geometry is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from rendering.base import Outputs, RasterImage, RasterSettings
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.stereo import StereoRig
from tests.conftest import require_or_skip
from viewer.panoramas import Panorama, panorama_pair
from viewer.stereo_layouts import StereoLayout, join

HEIGHT = 96
SETTINGS = RasterSettings(outputs=Outputs.COLOR | Outputs.DEPTH | Outputs.COUNT)
RIG = StereoRig(ipd=0.4)


def test_layouts_put_left_first() -> None:
    left, right = (np.full((4, 6, 3), value, np.uint8) for value in (10, 200))
    (beside,) = join(left, right, StereoLayout.SIDE_BY_SIDE)
    assert (
        beside.shape == (4, 12, 3) and (beside[:, :6] == 10).all() and (beside[:, 6:] == 200).all()
    )
    (above,) = join(left, right, StereoLayout.TOP_BOTTOM)
    assert above.shape == (8, 6, 3) and (above[:4] == 10).all() and (above[4:] == 200).all()
    assert [p[0, 0, 0] for p in join(left, right, StereoLayout.SEPARATE)] == [10, 200]
    with pytest.raises(ValueError, match="differ in size"):
        join(left, right[:, :5], StereoLayout.ANAGLYPH)


def test_an_anaglyph_gives_each_eye_its_own() -> None:
    white, black = np.full((2, 2, 3), 255, np.uint8), np.zeros((2, 2, 3), np.uint8)
    (for_left,) = join(white, black, StereoLayout.ANAGLYPH)
    (for_right,) = join(black, white, StereoLayout.ANAGLYPH)
    (both,) = join(white, white, StereoLayout.ANAGLYPH)
    assert for_left[0, 0, 0] > 250 and for_left[0, 0, 1:].max() == 0
    assert for_right[0, 0, 0] == 0 and for_right[0, 0, 1:].min() > 250
    assert both.min() > 250
    grey = np.full((2, 2, 3), 128, np.uint8)
    np.testing.assert_allclose(join(grey, grey, StereoLayout.ANAGLYPH)[0], 128, atol=3)


def seen_at(picture: np.ndarray) -> tuple[float, float]:
    """Column and row of the centre of what is bright."""
    weight = picture.sum(axis=2)
    rows, columns = np.indices(weight.shape) + 0.5
    return float((weight * columns).sum() / weight.sum()), float(
        (weight * rows).sum() / weight.sum()
    )


def pictures_of(panorama: Panorama, place: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Both eyes' of one small, white Gaussian at a place of the head's frame."""
    try:
        from rendering.native.cpu import NativeRasterizer
    except Exception as error:
        require_or_skip(False, str(error))
    rasterizer = NativeRasterizer()
    arrays = ([place], [[1.0, 0, 0, 0]], [[0.05] * 3], [1.0], [[[1.0, 1, 1]]])
    scene = rasterizer.prepare(Gaussians(*(np.array(a, np.float32) for a in arrays)))
    head = Camera.look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), fov_y_rad=1.0, width=64, height=64)

    def draw_each(pairs: Sequence[tuple[Camera, Camera]]) -> Iterator[tuple[RasterImage, ...]]:
        for eyes in pairs:
            yield tuple(rasterizer.render(scene, eye, SETTINGS) for eye in eyes)

    done: list[tuple[int, int]] = []
    image = panorama_pair(
        panorama, HEIGHT, head, RIG, draw_each, lambda done_now, of: done.append((done_now, of))
    )
    assert done == [(index, len(done)) for index in range(len(done))]
    assert image.color is not None and image.alpha.shape == image.color.shape[:2]
    return image.color[:HEIGHT], image.color[HEIGHT:]


def angles(place: np.ndarray) -> tuple[float, float]:
    """Azimuth to the right and elevation down, radians."""
    return math.atan2(place[0], place[2]), math.atan2(place[1], math.hypot(place[0], place[2]))


def test_vr180_shows_directions_from_two_fixed_eyes() -> None:
    place = np.array([1.2, -0.9, 2.0])
    for picture, eye_x in zip(pictures_of(Panorama.VR180, tuple(place)), (-0.2, 0.2), strict=True):
        assert picture.shape == (HEIGHT, HEIGHT, 3)
        azimuth, elevation = angles(place - [eye_x, 0, 0])
        column, row = seen_at(picture)
        assert column == pytest.approx((azimuth / math.pi + 0.5) * HEIGHT, abs=0.3)
        assert row == pytest.approx((elevation / math.pi + 0.5) * HEIGHT, abs=0.3)


@pytest.mark.parametrize("azimuth", [-2.9, -math.pi / 2, 0.0, 1.0, 2.0])
def test_ods_has_the_same_parallax_all_around(azimuth: float) -> None:
    distance = 2.0
    place = (distance * math.sin(azimuth), 0.0, distance * math.cos(azimuth))
    left, right = pictures_of(Panorama.ODS, place)
    assert left.shape == (HEIGHT, 2 * HEIGHT, 3)
    per_rad = HEIGHT / math.pi
    # An eye that is half the distance off the line of sight sees it off by its arc sine.
    parallax = math.asin(0.5 * RIG.ipd / distance)
    for picture, sign in ((left, 1), (right, -1)):
        expected = (azimuth + sign * parallax + math.pi) * per_rad
        assert seen_at(picture)[0] == pytest.approx(expected, abs=0.6)
        assert seen_at(picture)[1] == pytest.approx(HEIGHT / 2, abs=0.3)
