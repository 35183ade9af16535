"""What a frame asks of a GPU is counted as the kernels count it."""

from __future__ import annotations

import importlib.util
import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from benchmarks.kernel_work import (
    FrameCounts,
    count_frame,
    gaussian_bytes,
    main,
    sort_bytes,
    work_of,
)
from rendering.fused_cuda import FusedRasterizer, Tuning
from rendering.fused_pages import page_words
from rendering.native.cpu import NativeRasterizer
from splat.camera import CameraModel
from tests.scenes import orbit_camera, random_scene

COUNTS = FrameCounts(gaussians=1000, visible=500, pairs=2000, pixels=10_000, tiles=40)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to")
def test_splats_and_pairs_are_those_of_the_kernels() -> None:
    scene, view = random_scene(1, 200), orbit_camera(CameraModel.PINHOLE, 93, 61)
    fused, native = FusedRasterizer("cpu", Tuning(tile=16, stride=4)), NativeRasterizer()
    stats = fused.render(fused.prepare(scene), view).stats
    counts = count_frame(native, native.prepare(scene), view, 16, scene.sh_degree)
    assert (counts.gaussians, counts.visible) == (stats.gaussians, stats.visible)
    # Single precision may put an edge on the other side of a tile's.
    assert abs(counts.pairs - stats.tile_pairs) <= 2
    assert counts.pairs > 2 * counts.visible
    assert (counts.pixels, counts.tiles) == (93 * 61, 6 * 4)


def test_a_gaussian_takes_what_it_takes_of_a_page() -> None:
    for degree in range(4):
        room = 1 << 16
        assert gaussian_bytes(degree) == pytest.approx(
            4 * page_words(degree, room) / room, rel=1e-3
        )


def test_sorts_read_and_write_all_of_it_in_every_pass() -> None:
    assert sort_bytes(10, 2, 8) == 10 * (2 + 2 * 2 * (2 + 8))
    assert sort_bytes(10, 4, 8) == 10 * (4 + 2 * 4 * (4 + 8))


def test_halves_spare_bytes_of_compositing_alone() -> None:
    whole, halves = work_of(COUNTS), work_of(COUNTS, halves=True)
    assert [one.stage for one in whole if one not in halves] == ["composite"]
    assert whole[-1].moved_bytes - halves[-1].moved_bytes == 32 * COUNTS.pairs
    assert whole[-1].flops == halves[-1].flops == 2000 * 256 * 16


def test_the_floor_is_that_of_what_takes_longer() -> None:
    last = work_of(COUNTS)[-1]
    assert last.floor_ms(1e9, 1e30) == pytest.approx(last.moved_bytes / 1e6)
    assert last.floor_ms(1e30, 1e9) == pytest.approx(last.flops / 1e6)


def test_a_scene_that_is_not_there_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scene", "gone.ply"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: gone.ply: ")
    assert said.err.count("\n") == 1
