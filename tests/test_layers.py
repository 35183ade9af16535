"""Layers of slabs of depth, composited, against the picture of the whole scene."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rendering.base import TRANSMITTANCE_STOP, Outputs, RasterImage, RasterSettings, RasterStats
from rendering.depth_slabs import slabs_between
from rendering.layers import LAYERED, composited, layer_settings
from rendering.native.cpu import NativeRasterizer
from rendering.reference import ReferenceRasterizer
from splat.camera import Camera, CameraModel
from splat.gaussians import Gaussians
from tests import scenes

NATIVE = NativeRasterizer()
SCENE = scenes.random_scene(11, 400, 2)
PACKED = NATIVE.prepare(SCENE)
LIGHT, ROUNDING = (0.9, 0.1, 0.6), 4e-6
STOPPED = 1.001 * TRANSMITTANCE_STOP  # with what rounding adds to it
FURTHEST = 9.0  # depth in these scenes
# No colour of the scene is brighter, and nothing is darker than black.
BRIGHTEST = 3.0


def in_layers(
    camera: Camera,
    borders: list[np.float32],
    wanted: RasterSettings,
    scene: Any = PACKED,
    rasterizer: NativeRasterizer | ReferenceRasterizer = NATIVE,
) -> tuple[RasterImage, list[RasterImage]]:
    """The picture composited of slabs, and their layers."""
    shares = np.linspace(0, 1, len(borders) + 2).tolist()
    layers = [
        rasterizer.render(scene, slab.seen_by(camera), layer_settings(wanted))
        for slab in slabs_between(camera, borders, shares)
        if slab is not None
    ]
    return composited(layers, wanted, RasterStats()), layers


def assert_near(image: RasterImage, whole: RasterImage) -> None:
    """Within what ``rendering.layers`` declares."""
    assert np.abs(image.alpha - whole.alpha).max() <= STOPPED + ROUNDING
    if whole.color is not None:
        assert image.color is not None
        assert np.abs(image.color - whole.color).max() <= STOPPED * BRIGHTEST + ROUNDING * BRIGHTEST
    going_on = 1 - whole.alpha > STOPPED
    if whole.depth is not None:
        assert image.depth is not None
        assert np.abs(image.depth - whole.depth).max() <= (STOPPED + ROUNDING) * FURTHEST
        assert not image.depth[whole.alpha == 0].any()
    if whole.count is not None:
        assert image.count is not None
        # At a pixel that stops, layers may have gone on; no pixel takes fewer, but for rounding.
        assert (image.count == whole.count)[going_on].all()
        assert (image.count >= whole.count).mean() > 0.999
    # Where no pixel stops there is nothing but rounding.
    assert np.abs(image.alpha - whole.alpha)[going_on].max(initial=0) <= ROUNDING


def depths_of(camera: Camera, scene: Gaussians = SCENE) -> NDArray[np.float32]:
    """Those that rasterizers compare with near and far."""
    points = scene.means.astype(np.float64) @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    fisheye = camera.model is CameraModel.FISHEYE
    depth = np.linalg.norm(points, axis=1) if fisheye else points[:, 2]
    rounded: NDArray[np.float32] = depth.astype(np.float32)
    return rounded


sizes = st.sampled_from([(65, 43), (33, 17), (7, 70)])
angles = st.floats(-3, 3)
outputs = st.sets(st.sampled_from([Outputs.COLOR, Outputs.DEPTH, Outputs.COUNT])).map(
    lambda some: Outputs(sum(one.value for one in some))
)


@settings(max_examples=60)
@given(
    st.sampled_from(CameraModel),
    sizes,
    angles,
    st.lists(st.integers(0, len(SCENE) - 1) | st.floats(0.1, 12), max_size=4),
    outputs,
    st.booleans(),
)
def test_layers_are_the_picture(
    model: CameraModel,
    size: tuple[int, int],
    angle: float,
    cuts: list[int | float],
    wanted: Outputs,
    is_antialiased: bool,
) -> None:
    """Cut anywhere: exactly through Gaussians, in front of all and behind all of them."""
    camera = scenes.orbit_camera(model, *size, angle)
    depths = depths_of(camera)
    borders = sorted(depths[c] if isinstance(c, int) else np.float32(c) for c in cuts)
    settings = RasterSettings(LIGHT, is_antialiased, outputs=wanted, threads=1)
    whole = NATIVE.render(PACKED, camera, settings)
    image, layers = in_layers(camera, borders, settings)
    assert_near(image, whole)
    assert sum(layer.stats.visible for layer in layers) == whole.stats.visible
    assert sum(layer.stats.tile_pairs for layer in layers) == whole.stats.tile_pairs


@pytest.mark.parametrize("model", CameraModel)
def test_two_renderers_agree_on_layers(model: CameraModel) -> None:
    """The reference in float64, each of its layers against the native one."""
    few = scenes.random_scene(5, 40, 1)
    camera = scenes.orbit_camera(model, 33, 17)
    depths = np.sort(depths_of(camera, few))
    wanted = RasterSettings(LIGHT, outputs=LAYERED, threads=1)
    reference = ReferenceRasterizer()
    whole = reference.render(reference.prepare(few), camera, wanted)
    cuts = [depths[10], depths[25]]
    image, _ = in_layers(camera, cuts, wanted, reference.prepare(few), reference)
    assert_near(image, whole)
    native, _ = in_layers(camera, cuts, wanted, NATIVE.prepare(few))
    assert native.color is not None and image.color is not None
    assert np.abs(native.color - image.color).max() < 1e-3


def wall(depth: float, opacity: float, rgb: tuple[float, float, float]) -> Gaussians:
    """Covers the picture."""
    return scenes.gaussians((0, 0, depth), scales=50.0, opacities=opacity, rgb=rgb)


def walls(*opacities: float) -> Gaussians:
    return Gaussians.concatenate(
        [wall(depth, o, (1.0, 0.0, 0.0)) for depth, o in enumerate(opacities, start=1)]
    )


def test_nothing_is_added_behind_what_is_opaque() -> None:
    """A pixel that stopped takes nothing from the slabs behind it."""
    camera = scenes.camera()
    scene = NATIVE.prepare(walls(0.999, 0.999, 0.5, 0.5))
    settings = RasterSettings(LIGHT, outputs=LAYERED, threads=1)
    whole = NATIVE.render(scene, camera, settings)
    image, _ = in_layers(camera, [np.float32(2.5)], settings, scene)
    for one, other in zip(image.arrays, whole.arrays, strict=True):
        assert one == pytest.approx(other, abs=ROUNDING)
    assert image.count is not None and image.count.max() == 2
    # In one slab the layer goes on where the whole does not, and counts more.
    more, layers = in_layers(camera, [np.float32(1.5)], settings, scene)
    assert more.count is not None and more.count.max() == 4
    assert layers[1].count is not None and layers[1].count.max() == 3
    assert_near(more, whole)


def test_depth_is_the_mean_over_all_layers() -> None:
    camera = scenes.camera()
    scene = NATIVE.prepare(walls(0.5, 0.5))
    settings = RasterSettings(outputs=LAYERED, threads=1)
    image, _ = in_layers(camera, [np.float32(2)], settings, scene)
    assert image.depth is not None and image.color is not None
    weights = image.color[8, 16, 0]
    assert weights == pytest.approx(image.alpha[8, 16], abs=1e-6)
    near = 0.5 * 1 / (0.5 + 0.25)
    assert image.depth[8, 16] == pytest.approx(near + 0.25 * 2 / 0.75, abs=2e-3)


@pytest.mark.parametrize("stop", [0.004, 0.05])
def test_a_picture_that_stops_earlier_is_opaque_there(stop: float) -> None:
    """Either picture is within the stop, times the range of the colours, of the exact one."""
    camera = scenes.orbit_camera(CameraModel.PINHOLE, 65, 43)
    exact = RasterSettings(LIGHT, outputs=LAYERED, threads=1)
    early = replace(exact, transmittance_stop=stop)
    borders = [np.float32(4.5), np.float32(5.5)]
    image, _ = in_layers(camera, borders, early)
    best = NATIVE.render(PACKED, camera, exact)
    assert image.color is not None and best.color is not None
    assert np.abs(image.color - best.color).max() <= 1.01 * stop * BRIGHTEST
    stopped = 1 - image.alpha <= stop
    assert stopped.any() and (image.alpha[stopped] == 1).all()
    whole = NATIVE.render(PACKED, camera, early)
    assert (stopped == (whole.alpha == 1)).mean() > 0.99


def test_layers_are_not_written_to() -> None:
    """A join whose device is lost is done again."""
    camera = scenes.orbit_camera(CameraModel.PINHOLE, 33, 17)
    settings = RasterSettings(LIGHT, outputs=LAYERED, threads=1)
    _, layers = in_layers(camera, [np.float32(5)], settings)
    before = [array.copy() for layer in layers for array in layer.arrays]
    once = composited(layers, settings, RasterStats())
    again = composited(layers, settings, RasterStats())
    after = [array for layer in layers for array in layer.arrays]
    for one, other in zip((*before, *once.arrays), (*after, *again.arrays), strict=True):
        assert np.array_equal(one, other)


def test_a_tall_picture_is_composited_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = scenes.orbit_camera(CameraModel.PINHOLE, 33, 50)
    settings = RasterSettings(LIGHT, outputs=LAYERED, threads=1)
    expected, layers = in_layers(camera, [np.float32(5)], settings)
    monkeypatch.setattr("rendering.layers.BLOCK_PX", 100)
    image = composited(layers, settings, RasterStats())
    for one, other in zip(image.arrays, expected.arrays, strict=True):
        assert np.array_equal(one, other)
