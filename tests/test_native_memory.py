"""What the native engine takes from the system: memory and threads, and where they run out."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from rendering.base import Outputs, RasterSettings
from splat.camera import MAX_IMAGE_SIDE, CameraModel
from splat.errors import BackendUnavailable, BudgetError
from splat.gaussians import Gaussians
from tests.conftest import REPOSITORY
from tests.rasterizer_contract import ALL, bytes_of
from tests.scenes import camera, gaussians, random_scene

try:
    from rendering.native import _native, cpu
except (BackendUnavailable, ImportError) as error:
    pytest.skip(f"the native engine is not built: {error}", allow_module_level=True)

SLAB_BYTES = 2 << 20  # what the system is asked for at once
TILE_BYTES = 24  # of a tile that holds nothing, for each thread
MIB = 1 << 20


def layers(count: int, width: int = 333, height: int = 201) -> Gaussians:
    """Gaussians that all fill the picture of ``camera(width=width, height=height)``."""
    means = np.column_stack([np.zeros((count, 2)), np.linspace(1, 2, count)])
    return gaussians(means, scales=0.02 * max(width, height), opacities=0.01)


# --- the record budget ---------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_a_smaller_record_budget_never_takes_more_memory(threads: int) -> None:
    scene, view = layers(6000), camera(width=333, height=201)
    how = replace(ALL, threads=threads)
    ample = cpu.NativeRasterizer()
    prepared = ample.prepare(scene)
    expected = ample.render(prepared, view, how)
    assert expected.stats.parts == 1
    assert expected.stats.record_bytes > 24 * MIB
    parts, tiles = 1, 11 * 7
    for budget in (24 * MIB, 8 * MIB, 3 * MIB, MIB, 0):
        image = cpu.NativeRasterizer(record_budget_bytes=budget).render(prepared, view, how)
        assert bytes_of(image) == bytes_of(expected)
        assert image.stats.tile_pairs == expected.stats.tile_pairs
        # The 6000 records of a single tile, which are allowed in any case, fit into a slab.
        assert image.stats.record_bytes <= max(budget, SLAB_BYTES + TILE_BYTES * threads * tiles)
        assert image.stats.parts > parts or budget == 0
        parts = image.stats.parts
    assert parts == tiles


def test_memory_does_not_multiply_with_threads() -> None:
    """One Gaussian a chunk, so that any thread may need a page: 64 still fit a few MiB."""
    chunk, chunks = 1024, 200
    random = np.random.default_rng(1)
    scene = gaussians(random.uniform((-3, -1, 5), (3, 1, 9), size=(chunk * chunks, 3)))
    scene.opacities[np.arange(len(scene)) % chunk != 0] = 0
    frugal = cpu.NativeRasterizer(record_budget_bytes=4 * MIB)
    prepared, view = frugal.prepare(scene), camera(width=129, height=65)
    alone = frugal.render(prepared, view, replace(ALL, threads=1))
    crowd = frugal.render(prepared, view, replace(ALL, threads=64))
    assert bytes_of(crowd) == bytes_of(alone)
    assert crowd.stats.visible == chunks
    assert crowd.stats.parts == 1
    assert crowd.stats.record_bytes <= 4 * MIB


# --- what is kept between frames -----------------------------------------------------------


def test_a_crowd_of_renders_leaves_two_workspaces_at_most() -> None:
    rasterizer = cpu.NativeRasterizer()
    prepared, view = rasterizer.prepare(layers(3000)), camera(width=333, height=201)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda _: rasterizer.render(prepared, view).alpha, range(16)))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    count, idle_bytes = _native.idle_workspaces()
    assert 1 <= count <= 2
    assert idle_bytes > 0


def test_the_memory_of_a_large_frame_goes_with_the_small_ones_after_it() -> None:
    rasterizer = cpu.NativeRasterizer()
    large = rasterizer.prepare(layers(12_000, 640, 480))
    small = rasterizer.prepare(gaussians((0, 0, 1)))
    view, how = camera(width=640, height=480), RasterSettings(threads=1)
    needed = rasterizer.render(large, view, how).stats.record_bytes
    _, after_large = _native.idle_workspaces()
    assert after_large >= needed > 128 * MIB
    for _ in range(12):
        rasterizer.render(small, view, how)
    _, after_small = _native.idle_workspaces()
    assert after_small < after_large - 0.9 * needed


def test_the_memory_of_two_large_frames_goes_with_the_small_ones_after_them() -> None:
    """Two were drawn at once, so that each has its own; from then on one is enough."""
    rasterizer = cpu.NativeRasterizer()
    large = rasterizer.prepare(layers(12_000, 640, 480))
    small = rasterizer.prepare(gaussians((0, 0, 1)))
    view, how = camera(width=640, height=480), RasterSettings(threads=1)

    def draw_large() -> int:
        return rasterizer.render(large, view, how).stats.record_bytes

    after_large, needed = 0, MIB
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.submit(draw_large), pool.submit(draw_large)
            needed = min(first.result(), second.result())
        _, after_large = _native.idle_workspaces()
        if after_large > 1.4 * needed:  # the two have overlapped
            break
    assert after_large > 1.4 * needed > 128 * MIB
    for _ in range(12):
        rasterizer.render(small, view, how)
    _, after_small = _native.idle_workspaces()
    assert after_small < 0.1 * needed


@pytest.mark.parametrize("sh_degree", [0, 3])
@pytest.mark.parametrize("count", [0, 1, 1024, 5000])
def test_a_packed_scene_says_what_it_takes(count: int, sh_degree: int) -> None:
    packed = cpu.NativeRasterizer().prepare(random_scene(1, count, sh_degree))
    blocks, chunks = -(-count // 16), -(-count // 1024)
    harmonics = 3 * ((sh_degree + 1) ** 2 - 1)
    rest = blocks * 16 * (2 * harmonics + 4) if sh_degree else 0
    assert packed.nbytes == blocks * 16 * 14 * 4 + rest + chunks * 7 * 4


# --- the largest picture -------------------------------------------------------------------


@pytest.mark.slow
def test_the_largest_image() -> None:
    side = MAX_IMAGE_SIDE
    view = camera(CameraModel.ORTHO, width=side, height=side, focal=1.0)
    means = [(side / 2 - 0.5, side / 2 - 0.5, 1), (0.5 - side / 2, 0.5 - side / 2, 1)]
    rasterizer = cpu.NativeRasterizer()
    prepared = rasterizer.prepare(gaussians(means, scales=2.0))
    try:
        image = rasterizer.render(prepared, view, RasterSettings(outputs=Outputs(0)))
    except BudgetError:
        pytest.skip("the picture alone takes a gibibyte")
    assert image.stats.tile_pairs == 2
    for corner in (image.alpha[0, 0], image.alpha[-1, -1]):
        assert corner == pytest.approx(0.8, abs=1e-5)
    assert np.count_nonzero(image.alpha[:32, :32]) == np.count_nonzero(image.alpha) / 2


# --- out of memory, out of threads ---------------------------------------------------------


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=REPOSITORY
    )


needs_address_limit = pytest.mark.skipif(
    not sys.platform.startswith("linux") or "BELVEDERE_NATIVE_BUILD" in os.environ,
    reason="needs a limit on the address space, which sanitizers reserve all of",
)

# 4000 Gaussians that fill the picture: half a gigabyte of records without a budget.
OUT_OF_MEMORY = """
import resource
import numpy as np
from rendering.native.cpu import NativeRasterizer
from splat.errors import BudgetError
from tests.scenes import camera, gaussians

means = np.zeros((4000, 3)) + (0, 0, 1)
view, huge = (camera(width=w, height=h, focal=1000.0) for w, h in ((1920, 1080), (16384, 16384)))
careless = NativeRasterizer(record_budget_bytes=1 << 40)
careful = NativeRasterizer(record_budget_bytes=32 << 20)
prepared = careful.prepare(gaussians(means, scales=0.5, opacities=0.9))
expected = careful.render(prepared, view).alpha

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + (192 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for rasterizer, wanted in ((careless, view), (careful, huge)):
    try:
        rasterizer.render(prepared, wanted)
    except BudgetError as error:
        print(error)
    again = careful.render(prepared, view).alpha
    print("same" if np.array_equal(again, expected) else "differs")
"""


@needs_address_limit
def test_out_of_memory_is_an_error_and_the_next_frame_is_drawn() -> None:
    result = run(OUT_OF_MEMORY)
    assert result.stdout.splitlines() == [
        "not enough memory to draw a picture of this size; draw a smaller one",
        "same",
        "not enough memory to draw a picture of this size; draw a smaller one",
        "same",
    ], result.stderr


# A thread's stack is as large as RLIMIT_STACK was when the process began: here 64 GiB, which
# the limit on the address space then refuses.
OUT_OF_THREADS = """
import os, resource, subprocess, sys

_, hard = resource.getrlimit(resource.RLIMIT_STACK)
resource.setrlimit(resource.RLIMIT_STACK, (64 << 30, hard))
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.exit(subprocess.run([sys.executable, "-c", {program!r}]).returncode)
"""
TWO_PICTURES = """
import resource
import numpy as np
from rendering.base import RasterSettings
from rendering.native.cpu import NativeRasterizer
from splat.camera import CameraModel
from tests.scenes import orbit_camera, random_scene

resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30))
rasterizer, view = NativeRasterizer(), orbit_camera(CameraModel.PINHOLE, 333, 201)
prepared = rasterizer.prepare(random_scene(1, 5000))
alone, crowd = (
    rasterizer.render(prepared, view, RasterSettings(threads=n)).alpha for n in (1, 8)
)
threads = open("/proc/self/status").read().split("Threads:")[1].split()[0]
print("same" if np.array_equal(alone, crowd) else "differs", threads)
"""


@needs_address_limit
def test_a_frame_is_drawn_where_the_system_refuses_more_threads() -> None:
    result = run(OUT_OF_THREADS.format(program=TWO_PICTURES))
    assert result.stdout.split() == ["same", "1"], result.stderr


# --- the end of the process ----------------------------------------------------------------

NOBODY_CLOSES = """
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.native.cpu import NativeRasterizer
from tests.scenes import camera, gaussians

engine = RenderEngine(NativeRasterizer(), gaussians((0, 0, 1)))
frame = engine.submit(FrameRequest("a", 0, (camera(width=33, height=17),))).result(10)
print(frame.images[0].alpha.shape)
"""


def test_nothing_native_is_left_at_exit_when_nobody_closes_the_engine() -> None:
    """Native code would report its objects as leaked: a frozen thread never lets go."""
    result = run(NOBODY_CLOSES)
    assert (result.stdout, result.stderr) == ("(17, 33)\n", "")
