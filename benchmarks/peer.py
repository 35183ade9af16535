"""How much faster than a peer on a software GPU, the one that could be measured here?

PlayCanvas's splat-transform renders on WebGPU; on a machine without a GPU, Chromium brings
SwiftShader, which runs WebGPU's shaders on all cores with SIMD. Both programs draw the same
scene from the same pose at the same size. Loading, uploading and compiling are excluded: the
peer's frame is the difference between rendering a track of two equal frames and one of one.
That the two pictures agree (PSNR) proves that it is the same view of the same scene.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.frame import timed_frame
from benchmarks.report import Row, Summary, new_table, record, skipped, verdict
from benchmarks.scenes import REPOSITORY
from benchmarks.subject import Advance, Subject, ignore_progress
from rendering.base import Rasterizer, RasterSettings
from scene_store.formats import write_ply
from splat.camera import Camera
from splat.cores import usable_cores
from splat.errors import BackendUnavailable

MIN_SPEEDUP = 150.0
MIN_PSNR_DB = 30.0  # of the same view; two different views are far below
REPEATS = 10  # of our frame, before the peer's and again after
STEPS = 4  # that ``run`` reports
TIMEOUT_S = 1800.0

PACKAGES = REPOSITORY / "tests" / "splat_transform" / "node_modules"
INSTALL_HINT = "run: npm ci --prefix tests/splat_transform"
CHROMIUM_FOLDERS = (Path("/usr/lib/chromium"), Path("/usr/lib/chromium-browser"))
DRIVER_NAME = "vk_swiftshader_icd.json"


@dataclass(frozen=True, slots=True)
class Peer:
    """splat-transform and the Vulkan driver that it renders on.

    Attributes:
        node: The Node.js that the package is pinned to.
        cli: splat-transform's command line.
        driver: Vulkan's description of SwiftShader, beside the library itself.
        version: Of splat-transform.
    """

    node: Path
    cli: Path
    driver: Path
    version: str

    def environment(self) -> Mapping[str, str]:
        """The environment in which Vulkan finds SwiftShader and nothing else."""
        driver = str(self.driver)
        return {
            **os.environ,
            "VK_ICD_FILENAMES": driver,
            "VK_DRIVER_FILES": driver,
            "LD_LIBRARY_PATH": str(self.driver.parent),
        }


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """One view drawn by both.

    Attributes:
        speedup: Their seconds a frame over our median.
        peer_frame_s: Two frames less one, whole processes.
        peer_process_s: The whole process with one frame: loading, compiling, drawing.
        psnr_db: Between the two pictures, 8 bits a channel.
    """

    cores: int
    peer: str
    speedup: float
    peer_frame_s: float
    peer_process_s: float
    frame_ms_p50: float
    frame_ms_p95: float
    psnr_db: float
    bar: float = MIN_SPEEDUP

    @property
    def passed(self) -> bool:
        """Whether the bar is reached, with the same picture."""
        return self.speedup >= self.bar and self.psnr_db >= MIN_PSNR_DB


def run(
    subject: Subject[Rasterizer],
    *,
    peer: Peer | None = None,
    advance: Advance = ignore_progress,
) -> Row:
    """Draw the path's first view with both engines, all cores each.

    Args:
        peer: None to look for it.
        advance: Called ``STEPS`` times.

    Returns:
        ``PeerFigures`` with the verdict, or the reason why it cannot be measured.
    """
    gaussians, camera = subject.scene.gaussians, subject.path.cameras[0]
    try:
        peer = peer or find_peer()
        with tempfile.TemporaryDirectory(prefix="belvedere-peer-") as folder:
            file = Path(folder) / "scene.ply"
            write_ply(file, [gaussians], len(gaussians), gaussians.sh_degree)
            ours_ms = _own_frames_ms(subject, camera)
            advance()
            one_s, picture = render_track(peer, file, camera, 1)
            advance()
            two_s, _ = render_track(peer, file, camera, 2)
            advance()
    except BackendUnavailable as error:
        return skipped("peer", subject.scene.name, subject.path.name, str(error))
    ours_ms += _own_frames_ms(subject, camera)
    advance()
    own = subject.rasterizer.render(subject.prepared, camera).color
    assert own is not None
    summary = Summary.of(ours_ms)
    figures = PeerFigures(
        cores=usable_cores(),
        peer=f"splat-transform {peer.version}",
        speedup=1e3 * (two_s - one_s) / summary.p50,
        peer_frame_s=two_s - one_s,
        peer_process_s=one_s,
        frame_ms_p50=summary.p50,
        frame_ms_p95=summary.p95,
        psnr_db=psnr_db(own, picture),
    )
    return record("peer", figures, subject.describe())


def find_peer() -> Peer:
    """The installed peer, fit to render.

    Raises:
        BackendUnavailable: Naming what is missing.
    """
    peer = find_node_package()
    drivers = [folder / DRIVER_NAME for folder in CHROMIUM_FOLDERS]
    driver = next((path for path in drivers if path.is_file()), None)
    if driver is None:
        places = " or ".join(str(folder) for folder in CHROMIUM_FOLDERS)
        raise BackendUnavailable(
            f"no Chromium with SwiftShader in {places}; install the package 'chromium'"
        )
    return replace(peer, driver=driver)


def find_node_package() -> Peer:
    """The installed peer as far as it needs no GPU.

    Raises:
        BackendUnavailable: If it is not installed.
    """
    nodes = sorted(PACKAGES.glob("node-*/bin/node"))
    package = PACKAGES / "@playcanvas" / "splat-transform"
    cli = package / "bin" / "cli.mjs"
    if not (nodes and cli.is_file()):
        raise BackendUnavailable(f"splat-transform is not installed; {INSTALL_HINT}")
    version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    return Peer(nodes[0], cli, Path(DRIVER_NAME), version)


def camera_track(camera: Camera, frames: int) -> dict[str, Any]:
    """The same view ``frames`` times, as the peer writes it.

    Its world is that of the PLY turned half about z: (x, y, z) becomes (−x, −y, z).
    """
    turned = np.array([-1.0, -1.0, 1.0])
    upward = -camera.viewmat[1, :3]
    pose = {
        "position": (turned * camera.position).tolist(),
        "target": (turned * (camera.position + camera.forward)).tolist(),
        "up": (turned * upward).tolist(),
        "fov": float(np.degrees(camera.fov_y_rad)),
    }
    return {"frameRate": 30, "frames": [pose] * frames}


def render_track(
    peer: Peer, scene: Path, camera: Camera, frames: int
) -> tuple[float, NDArray[np.uint8]]:
    """Let the peer draw the view ``frames`` times; the process's seconds and the last picture.

    Raises:
        BackendUnavailable: If it fails.
    """
    track = scene.with_name(f"track{frames}.json")
    track.write_text(json.dumps(camera_track(camera, frames)), encoding="utf-8")
    target = scene.with_name(f"track{frames}.webp")
    command = [
        *(str(peer.node), str(peer.cli), "--quiet", "--overwrite", "--gpu", "0"),
        *("--webp-effort", "0"),  # its pictures are encoded beside the next frame
        *("--resolution", f"{camera.width}x{camera.height}"),
        *("--camera-near", repr(camera.near), "--camera-track", str(track)),
        *(str(scene), str(target)),
    ]
    start = time.perf_counter()
    try:
        process = subprocess.run(
            command,
            env=peer.environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailable(f"splat-transform does not run: {error}") from None
    seconds = time.perf_counter() - start
    pictures = sorted(scene.parent.glob(f"track{frames}.*.webp"))
    if process.returncode != 0 or len(pictures) != frames:
        said = (process.stderr or process.stdout).strip().splitlines() or ["nothing"]
        raise BackendUnavailable(f"splat-transform failed and said: {said[-1]}")
    return seconds, _read_picture(pictures[-1])


def psnr_db(color: NDArray[np.float32], picture: NDArray[np.uint8]) -> float:
    """PSNR of a float picture [H, W, 3], clipped to [0, 1], against one of 8 bits."""
    difference = np.clip(color.astype(np.float64), 0.0, 1.0) - picture / 255.0
    return float(-10.0 * np.log10(max(np.square(difference).mean(), 1e-20)))


def _own_frames_ms(subject: Subject[Rasterizer], camera: Camera) -> list[float]:
    rasterizer, prepared, settings = subject.rasterizer, subject.prepared, RasterSettings()
    frames = [timed_frame(rasterizer, prepared, camera, settings) for _ in range(REPEATS + 1)]
    return [frame.frame_ms for frame in frames[1:]]


def _read_picture(path: Path) -> NDArray[np.uint8]:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise BackendUnavailable(f"splat-transform wrote a picture that cannot be read: {path}")
    return np.asarray(pixels[..., ::-1], dtype=np.uint8)


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        "peer: a whole frame against splat-transform on SwiftShader, "
        f"bar ≥ {MIN_SPEEDUP:.0f} times as fast, same picture (PSNR ≥ {MIN_PSNR_DB:.0f} dB)",
        ["scene", "path", "peer"],
        ["times as fast", "its frame s", "frame ms p50", "p95", "PSNR dB", "bar"],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["path"],
            row["peer"],
            f"{row['speedup']:.0f}",
            f"{row['peer_frame_s']:.1f}",
            f"{row['frame_ms_p50']:.1f}",
            f"{row['frame_ms_p95']:.1f}",
            f"{row['psnr_db']:.1f}",
            verdict(row),
        )
    return table
