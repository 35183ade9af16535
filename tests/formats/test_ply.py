"""What is particular to 3DGS PLY files: flat Gaussians, cameras, and writing."""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData

from scene_store.formats import open_scene, write_ply
from splat.errors import OutputError
from splat.gaussians import Gaussians
from tests.formats import encoders
from tests.formats.samples import Tolerance, assert_close, random_gaussians, read_all

EXACT = Tolerance(means=0, log_scales=1e-5, opacities=1e-6, sh0=0, rest=0, angle=0.1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read_back(tmp_path: Path, degree: int) -> None:
    gaussians = random_gaussians(20_000, degree)
    path = tmp_path / "scene.ply"
    write_ply(path, [gaussians[:1], gaussians[1:]], len(gaussians), degree)
    with open_scene(path) as source:
        assert source.meta.notes == ()
        assert_close(read_all(source), gaussians, EXACT)


def test_the_written_file_is_what_the_inria_code_writes(tmp_path: Path) -> None:
    """Byte for byte what an independent writer of the same layout makes."""
    gaussians = random_gaussians(50, 2)
    path = tmp_path / "scene.ply"
    write_ply(path, [gaussians], 50, 2)
    table = PlyData.read(str(path))["vertex"].data
    assert list(table.dtype.names) == encoders.ply_properties(2)
    for name, values in encoders.ply_columns(gaussians).items():
        np.testing.assert_allclose(table[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_harmonics_are_padded_and_cut_to_the_degree(tmp_path: Path) -> None:
    low, high = random_gaussians(10, 1, seed=1), random_gaussians(10, 3, seed=2)
    path = tmp_path / "scene.ply"
    write_ply(path, [low, high], 20, 2)
    with open_scene(path) as source:
        sh = read_all(source).sh
    assert sh.shape == (20, 9, 3)
    np.testing.assert_array_equal(sh[:10, :4], low.sh)
    assert (sh[:10, 4:] == 0).all()
    np.testing.assert_array_equal(sh[10:], high.sh[:, :9])


def test_extreme_opacities_stay_finite(tmp_path: Path) -> None:
    gaussians = random_gaussians(2, 0)
    gaussians.opacities[:] = (0.0, 1.0)
    path = tmp_path / "scene.ply"
    write_ply(path, [gaussians], 2, 0)
    table = PlyData.read(str(path))["vertex"].data
    assert np.isfinite(table["opacity"]).all()
    with open_scene(path) as source:
        np.testing.assert_allclose(read_all(source).opacities, (0, 1), atol=1e-6)


def test_a_wrong_count_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="announced 3"):
        write_ply(tmp_path / "scene.ply", [random_gaussians(2, 0)], 3, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    path.write_bytes(b"precious")

    def batches() -> Iterator[Gaussians]:
        yield random_gaussians(2, 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ply(path, batches(), 4, 0)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"scene\.ply: cannot write"):
            write_ply(tmp_path / "scene.ply", [random_gaussians(5000, 3)], 5000, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no/such/folder/a.ply", "a\0.ply", "x" * 300 + ".ply"])
def test_an_impossible_target_is_an_output_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_ply(tmp_path / name, [], 0, 0)


def test_a_short_write_is_continued() -> None:
    """A nearly full disk takes a part of what it is given; the rest must not be lost."""
    from scene_store.formats.ply import _write_fully

    class Reluctant(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:7])

    file = Reluctant()
    _write_fully(file, memoryview(bytes(range(100))))
    assert file.getvalue() == bytes(range(100))


def test_flat_gaussians_get_a_thin_third_axis(tmp_path: Path) -> None:
    gaussians = random_gaussians(30, 0)
    names = [name for name in encoders.ply_properties(0) if name != "scale_2"]
    path = tmp_path / "flat.ply"
    path.write_bytes(encoders.ply(gaussians, order=names))
    with open_scene(path) as source:
        assert source.meta.format_name == "2DGS PLY"
        scales = read_all(source).scales
    np.testing.assert_allclose(scales[:, :2], gaussians.scales[:, :2], rtol=1e-5)
    assert (scales[:, 2] < 0.01 * scales[:, :2].min(axis=1)).all()


def test_ignored_properties_are_named(tmp_path: Path) -> None:
    gaussians = random_gaussians(3, 0)
    path = tmp_path / "a.ply"
    path.write_bytes(encoders.ply(gaussians, extra={"label": np.zeros(3)}))
    with open_scene(path) as source:
        assert source.meta.notes == ("ignored properties: label",)


CAMERA = {
    "id": 0,
    "img_name": "a",
    "width": 640,
    "height": 480,
    "position": [1.0, 2.0, 3.0],
    # camera → world: the camera looks along world +x, its right is world −z
    "rotation": [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]],
    "fx": 500.0,
    "fy": 510.0,
}


def training_folder(folder: Path, cameras: object) -> Path:
    output = folder / "point_cloud" / "iteration_30000"
    output.mkdir(parents=True)
    (output / "point_cloud.ply").write_bytes(encoders.ply(random_gaussians(4, 0)))
    (folder / "cameras.json").write_text(json.dumps(cameras))
    return output / "point_cloud.ply"


def test_cameras_of_a_training_folder(tmp_path: Path) -> None:
    ply = training_folder(tmp_path, [CAMERA, CAMERA])
    for path in (tmp_path, tmp_path / "point_cloud", ply.parent, ply):
        with open_scene(path) as source:
            assert source.meta.count == 4
            assert len(source.meta.cameras) == 2
            camera = source.meta.cameras[0]
        np.testing.assert_allclose(camera.position, (1, 2, 3), atol=1e-12)
        np.testing.assert_allclose(camera.forward, (1, 0, 0), atol=1e-12)
        assert (camera.width, camera.height) == (640, 480)
        np.testing.assert_allclose(camera.K, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])


@pytest.mark.parametrize(
    "cameras",
    [{}, [3], [{**CAMERA, "rotation": [[1, 0, 0]] * 3}], [{**CAMERA, "fx": None}], "text"],
)
def test_broken_cameras_are_a_note_not_an_error(tmp_path: Path, cameras: object) -> None:
    training_folder(tmp_path, cameras)
    with open_scene(tmp_path) as source:
        assert source.meta.cameras == ()
        assert any("cameras ignored" in note for note in source.meta.notes)
        assert len(read_all(source)) == 4
