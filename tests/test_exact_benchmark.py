"""The ``exact`` benchmark measures what it says, and tells a wrong picture from a right one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rendering.base import CancelFlag, RasterImage, RasterSettings
from splat.camera import Camera, CameraModel
from splat.errors import BackendUnavailable
from tests.conftest import require_or_skip
from tests.scenes import random_scene

try:
    from benchmarks import exact
    from rendering.native.cpu import NativeRasterizer
except BackendUnavailable as error:
    MISSING: str | None = str(error)
else:
    MISSING = None


@pytest.fixture
def scene() -> exact.ExactScene:
    require_or_skip(MISSING is None, str(MISSING))
    return exact.ExactScene("ball", random_scene(1, 300), (0, -1, -5), (0, 0, 0), (0, -1, 0), 1.0)


def test_one_row_for_every_model_size_and_dilation(scene: exact.ExactScene) -> None:
    rows = exact.run([scene], sizes=[(17, 9), (1, 1)])
    cases = {(row["model"], row["width"], row["antialiased"]) for row in rows}
    assert len(rows) == len(cases) == 3 * 2 * 2
    assert all(row["passed"] and row["psnr_db"] >= 60 and row["gaussians"] == 300 for row in rows)
    assert [json.loads(json.dumps(row)) for row in rows] == rows
    summary = exact.table_of(rows)
    assert [list(column.cells)[-1] for column in summary.columns][0:3] == ["ball", "fisheye", "4"]
    worst = min(row["psnr_db"] for row in rows if row["model"] == "fisheye")
    assert list(summary.columns[3].cells)[-1] == f"{worst:.1f}"


@pytest.mark.parametrize("model", list(CameraModel))
def test_every_camera_sees_the_scene(scene: exact.ExactScene, model: CameraModel) -> None:
    native = NativeRasterizer()
    camera = exact.camera_of(scene, model, 33, 17)
    image = native.render(native.prepare(scene.gaussians), camera)
    assert (image.alpha > 0.1).mean() > 0.1


def altered(change: Callable[[RasterImage, RasterSettings], RasterImage]) -> type[NativeRasterizer]:
    """The native rasterizer with something done to its pictures."""

    class Altered(NativeRasterizer):
        def render(
            self,
            scene: Any,
            camera: Camera,
            settings: RasterSettings = RasterSettings(),
            cancel: CancelFlag | None = None,
        ) -> RasterImage:
            return change(super().render(scene, camera, settings, cancel), settings)

    return Altered


def test_a_wrong_color_misses_the_bar(
    scene: exact.ExactScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tint(image: RasterImage, settings: RasterSettings) -> RasterImage:
        assert image.color is not None
        return replace(image, color=image.color + np.float32(0.02))

    monkeypatch.setattr(exact, "NativeRasterizer", altered(tint))
    rows = exact.run([scene], sizes=[(17, 9)])
    assert not any(row["passed"] for row in rows)
    assert all(row["same_bytes"] for row in rows)
    assert rows[0]["max_error_off_edges"] == pytest.approx(0.02, abs=1e-4)


def test_unsteady_bytes_miss_the_bar(
    scene: exact.ExactScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturb(image: RasterImage, settings: RasterSettings) -> RasterImage:
        if settings.threads == 3:
            image.alpha[0, 0] = np.nextafter(image.alpha[0, 0], np.float32(2))
        return image

    monkeypatch.setattr(exact, "NativeRasterizer", altered(disturb))
    rows = exact.run([scene], sizes=[(17, 9)])
    assert not any(row["same_bytes"] or row["passed"] for row in rows)
