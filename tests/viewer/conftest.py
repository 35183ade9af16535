"""Small scenes for the viewer's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import viser

from scene_store.formats.ply import write_ply
from splat.gaussians import Gaussians
from splat.harmonics import rgb_to_sh0


def blobs(
    means: list[tuple[float, float, float]],
    colors: list[tuple[float, float, float]],
    *,
    scale: float = 0.1,
    opacity: float = 0.8,
) -> Gaussians:
    """Round Gaussians of one size and constant colours."""
    count = len(means)
    return Gaussians(
        means=np.array(means, np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.full((count, 3), scale, np.float32),
        opacities=np.full(count, opacity, np.float32),
        sh=rgb_to_sh0(np.array(colors, np.float32))[:, None, :],
    )


def checkered_wall(side: int = 40) -> Gaussians:
    """A wall in the plane z = 0 of blobs in many colours, sharp enough to see refinement."""
    steps = np.linspace(-1.0, 1.0, side)
    means = [(float(x), float(y), 0.0) for y in steps for x in steps]
    rng = np.random.default_rng(5)
    colors = [tuple(rng.choice([0.05, 0.95], 3)) for _ in means]
    return blobs(means, colors, scale=0.35 * 2.0 / side, opacity=0.95)


@pytest.fixture
def one_blob_ply(tmp_path: Path) -> Path:
    """One orange Gaussian of standard deviation 0.1 and opacity 0.8 at the origin."""
    path = tmp_path / "one.ply"
    write_ply(path, [blobs([(0, 0, 0)], [(1.0, 0.5, 0.0)])], 1, 0)
    return path


@pytest.fixture(scope="session")
def wall_ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkered_wall`` as a file."""
    path = tmp_path_factory.mktemp("scenes") / "wall.ply"
    wall = checkered_wall()
    write_ply(path, [wall], len(wall), 0)
    return path


@pytest.fixture(scope="module")
def viser_server() -> Iterator[viser.ViserServer]:
    """A bare server, for panels that nobody looks at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
    yield server
    server.stop()


@pytest.fixture
def damaged_store(ball_store: Path, tmp_path: Path) -> Path:
    """The store with one bit of one leaf turned over."""
    path = tmp_path / "damaged.bvs"
    path.mkdir()
    for file in ball_store.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    geometry = path / "geometry-00.bin"
    data = bytearray(geometry.read_bytes())
    data[len(data) // 2] ^= 1
    geometry.write_bytes(data)
    return path
