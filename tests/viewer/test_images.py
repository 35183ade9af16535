"""What a render looks like, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import Outputs, RasterImage
from viewer.images import Mode, color_to_uint8, depth_picture, picture


def image(**parts: NDArray[Any]) -> RasterImage:
    arrays: dict[str, Any] = {"alpha": np.ones((2, 3), np.float32), **parts}
    return RasterImage(**arrays)


def test_colors_are_rounded_and_clipped() -> None:
    color = np.array([[[0.0, 0.5, 1.0], [-0.1, 1.7, 0.1]]], np.float32)
    assert color_to_uint8(color).tolist() == [[[0, 128, 255], [0, 255, 26]]]


def test_color_is_shown_as_it_is() -> None:
    color = np.random.default_rng(0).uniform(size=(2, 3, 3)).astype(np.float32)
    shown = picture(image(color=color), Mode.COLOR)
    assert shown.rgb == pytest.approx(255 * color, abs=0.51)
    assert shown.legend == ""


def test_alpha_is_grey() -> None:
    alpha = np.array([[0.0, 0.5, 1.0]], np.float32)
    shown = picture(RasterImage(alpha=alpha), Mode.ALPHA)
    assert "white opaque" in shown.legend
    assert shown.rgb.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_near_is_red_and_far_is_blue() -> None:
    depth = np.geomspace(1, 100, 64, dtype=np.float32).reshape(8, 8)
    shown = depth_picture(depth, np.ones((8, 8), np.float32), (0, 0, 0))
    near, far = shown.rgb[0, 0].astype(int), shown.rgb[-1, -1].astype(int)
    assert near[0] > near[2] + 50
    assert far[2] > far[0]
    assert "units" in shown.legend


def test_depth_fades_to_the_background_where_nothing_is() -> None:
    depth, alpha = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    depth[0], alpha[0] = 3.0, 1.0
    shown = depth_picture(depth, alpha, (1.0, 0.0, 0.5))
    assert shown.rgb[1, 0].tolist() == [255, 0, 128]
    assert shown.rgb[0, 0].tolist() != [255, 0, 128]


def test_depths_of_faint_pixels_do_not_stretch_the_range() -> None:
    depth = np.full((10, 10), 5.0, np.float32)
    alpha = np.ones((10, 10), np.float32)
    depth[0], alpha[0] = 1e6, 0.01
    assert "5 … blue 5" in depth_picture(depth, alpha, (0, 0, 0)).legend
    assert "red 4,860 … blue" in depth_picture(972 * depth, alpha, (0, 0, 0)).legend


def test_an_empty_picture_has_a_depth_picture() -> None:
    nothing = np.zeros((4, 4), np.float32)
    assert depth_picture(nothing, nothing, (0, 0, 0)).rgb.max() == 0


def test_more_gaussians_are_brighter() -> None:
    count = np.arange(12, dtype=np.int32).reshape(3, 4)
    shown = picture(image(count=count), Mode.COUNT)
    brightness = shown.rgb.astype(int).sum(axis=2).ravel()
    assert (np.diff(brightness) > 0).all()
    assert "mean 6" in shown.legend


def test_nothing_counted_is_black() -> None:
    assert picture(image(count=np.zeros((2, 3), np.int32)), Mode.COUNT).rgb.max() < 8


@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_asks_for_what_it_shows(mode: Mode) -> None:
    arrays: dict[str, tuple[Outputs, NDArray[Any]]] = {
        "color": (Outputs.COLOR, np.zeros((2, 3, 3), np.float32)),
        "depth": (Outputs.DEPTH, np.ones((2, 3), np.float32)),
        "count": (Outputs.COUNT, np.ones((2, 3), np.int32)),
    }
    drawn = {name: array for name, (output, array) in arrays.items() if output in mode.outputs}
    assert picture(image(**drawn), mode).rgb.shape == (2, 3, 3)
