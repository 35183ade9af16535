"""Coarser forms of a scene in memory, and the memory that showing a scene takes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rendering.engine import RenderEngine
from scene_store import memory
from scene_store.formats.ply import write_ply
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from tests.fake_rasterizer import FakeRasterizer
from tests.scenes import random_scene
from viewer import details
from viewer.details import add_details

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def engine() -> Iterator[RenderEngine]:
    with RenderEngine(FakeRasterizer(), random_scene(1, 900, sh_degree=0)) as engine:
        yield engine


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> list[Gaussians]:
    """A scene that is large enough for two coarser forms."""
    monkeypatch.setattr(details, "COARSEN_FROM", 300)
    return [random_scene(1, 900, sh_degree=0)]


def test_levels_are_added_until_they_are_small(
    engine: RenderEngine, scene: list[Gaussians]
) -> None:
    add_details(engine, scene)
    assert engine.detail_counts == (900, 300, 100)
    assert scene == [], "the scene was handed over"


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    return record.getMessage()


def test_without_memory_there_is_one_warning(
    engine: RenderEngine,
    scene: list[Gaussians],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    add_details(engine, scene)
    assert engine.detail_counts == (900,)
    said = only_warning(caplog)
    assert said.startswith("pictures of a moving camera will be slow: a coarser form of the scene")
    assert "close other programs" in said


@pytest.mark.parametrize("error", [MemoryError(), BudgetError("not enough memory")])
def test_running_out_of_memory_is_one_warning(
    engine: RenderEngine,
    scene: list[Gaussians],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(gaussians: Gaussians) -> bool:
        raise error

    monkeypatch.setattr(engine, "add_coarser", fail)
    add_details(engine, scene)
    expected = "pictures of a moving camera will be slow: not enough memory"
    assert only_warning(caplog) == expected


# Says what the process took at most, over what it takes with a tiny scene. Not by ru_maxrss,
# which starts at what the parent had when it forked.
VIEWING = """
import sys
from configs.settings import Settings, StreamSettings, ViewerSettings
from pathlib import Path
from viewer import serving
from viewer.scenes import SceneChoice

def viewed(path):
    def add_then_stop(engine, scene):
        real(engine, scene)
        raise KeyboardInterrupt

    real, serving.add_details = serving.add_details, add_then_stop
    settings = Settings(viewer=ViewerSettings(port=0), stream=StreamSettings(store=False))
    serving.serve(SceneChoice(Path(path), 0), settings)
    serving.add_details = real
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

small = viewed(sys.argv[1])
print(viewed(sys.argv[2]) - small)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
@pytest.mark.parametrize(("count", "sh_degree"), [(2_400_000, 0), (800_000, 3)])
def test_the_whole_way_to_the_screen_takes_what_is_asked_for(
    tmp_path: Path, count: int, sh_degree: int
) -> None:
    """From the file to the coarser forms, which need a third of the Gaussians in passing."""
    one = random_scene(1, 100_000, sh_degree)
    for name, parts in (("small.ply", 1), ("large.ply", count // 100_000)):
        batches = (one for _ in range(parts))
        write_ply(tmp_path / name, batches, parts * 100_000, sh_degree)
    result = subprocess.run(
        [sys.executable, "-c", VIEWING, tmp_path / "small.ply", tmp_path / "large.ply"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    peak = int(result.stdout)
    scene_bytes = count * memory.gaussian_bytes(sh_degree)
    third = 1 / details.COARSEN_GROUP
    assert (
        scene_bytes < peak < (memory.DRAW_FACTOR + third) * scene_bytes + memory.WORKING_BYTES / 4
    )


def test_drawing_takes_more_than_reading() -> None:
    packed = {0: 56, 3: 56 + 2 * 45 + 4}
    for degree, size in packed.items():
        assert 1 + size / memory.gaussian_bytes(degree) < memory.DRAW_FACTOR
    assert np.isclose(1 + packed[0] / memory.gaussian_bytes(0), 2.0)
