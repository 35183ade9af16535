"""What chunks of a store cost and lose: bytes per Gaussian, PSNR, decoding speed.

Encodes real scenes in Morton order, decodes them, and draws both from several places: the
table of ``docs/format.md``. One thread encodes and decodes.

    python scripts/measure_codec.py ../shared/data [--page 4096] [--only coast]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rendering.base import RasterSettings
from rendering.native.cpu import NativeRasterizer
from scene_store.chunks import EncodedChunk
from scene_store.loading import in_morton_order, load_scene
from scene_store.manifest import DEFAULT_PAGE_GAUSSIANS, Profile
from scene_store.page_codec import decode_chunk, encode_chunk
from splat.camera import Camera, fov_y_from_fov_x
from splat.gaussians import Gaussians

WIDTH, HEIGHT = 960, 540
TURNS_DEG = (0.0, 40.0, -40.0, 160.0)  # around the target
DISTANCES = (1.0, 0.5)
IDENTICAL_DB = 200.0


@dataclass(frozen=True, slots=True)
class Case:
    """A scene, and one good place to look at it from."""

    name: str
    paths: tuple[str, ...]
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov_x_deg: float
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)

    def cameras(self) -> Iterator[Camera]:
        """The place itself first, then others around the target and nearer to it."""
        eye, target, up = (np.array(v, float) for v in (self.eye, self.target, self.up))
        fov_y_rad = fov_y_from_fov_x(math.radians(self.fov_x_deg), WIDTH, HEIGHT)
        for distance in DISTANCES:
            for turn_deg in TURNS_DEG:
                arm = _turned(eye - target, up, math.radians(turn_deg))
                yield Camera.look_at(
                    target + distance * arm,
                    target,
                    up,
                    fov_y_rad=fov_y_rad,
                    width=WIDTH,
                    height=HEIGHT,
                )


CASES = (
    Case("coast", ("coast_near", "coast_far"), (0, -0.7, 0), (2, -0.7, 1), 75),
    Case("park", ("park",), (24, -14, 16), (0, 0, -2), 70),
    Case("playbot", ("playbot",), (1.787, -1.419, 1.49), (0, -0.375, 0), 55),
    Case("logo", ("logo_sog1",), (2.55, -2.757, 2.137), (-0.011, -1.264, 0.003), 55),
    Case("truck", ("truck.splat",), (2.15, -1.039, 1.66), (0.285, 0.048, 0.106), 55),
    Case("biker", ("biker.spz",), (1.876, 2.659, 1.61), (-0.084, 1.516, -0.023), 55, (0, 1, 0)),
    Case(
        "fruit",
        ("fruit_drops_minimal.ply",),
        (1.065, -0.07, -1.853),
        (0.751, 0.113, -2.114),
        55,
    ),
)


def _turned(
    arm: NDArray[np.float64], axis: NDArray[np.float64], angle_rad: float
) -> NDArray[np.float64]:
    """``arm`` turned about a unit ``axis`` (Rodrigues)."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    turned: NDArray[np.float64] = (
        arm * cos + np.cross(axis, arm) * sin + axis * np.dot(axis, arm) * (1 - cos)
    )
    return turned


def load(case: Case, folder: Path) -> Gaussians:
    """All parts of a scene together, in Morton order."""
    parts = [load_scene(folder / path).gaussians for path in case.paths]
    return parts[0] if len(parts) == 1 else in_morton_order(Gaussians.concatenate(parts))


class Painter:
    """Draws a scene from all places of a case."""

    def __init__(self, case: Case) -> None:
        self._cameras = list(case.cameras())
        self._rasterizer = NativeRasterizer()

    def pictures(self, gaussians: Gaussians) -> list[NDArray[np.float32]]:
        """Colours clipped to [0, 1]."""
        scene = self._rasterizer.prepare(gaussians)
        images = (self._rasterizer.render(scene, c, RasterSettings()) for c in self._cameras)
        return [np.clip(image.color, 0, 1) for image in images if image.color is not None]


def psnr_db(picture: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio of two float pictures."""
    error = float(np.mean(np.square(picture.astype(np.float64) - reference)))
    return IDENTICAL_DB if error == 0 else -10 * math.log10(error)


def measure(case: Case, gaussians: Gaussians, page: int, profile: Profile) -> str:
    """One row of the table."""
    count = len(gaussians)
    runs = [slice(start, min(start + page, count)) for start in range(0, count, page)]
    began = time.process_time()
    chunks: list[EncodedChunk] = [encode_chunk(gaussians[run], profile) for run in runs]
    encoding_s, began = time.process_time() - began, time.process_time()
    pairs = zip(chunks, runs, strict=True)
    decoded = [decode_chunk(c, r.stop - r.start, gaussians.sh_degree) for c, r in pairs]
    decoding_s = time.process_time() - began
    painter = Painter(case)
    references = painter.pictures(gaussians)
    pictures = painter.pictures(Gaussians.concatenate(decoded))
    quality = [psnr_db(a, b) for a, b in zip(pictures, references, strict=True)]
    geometry, harmonics = (sum(len(c.parts[i]) for c in chunks) / count for i in (0, 1))
    return (
        f"| {case.name} | {gaussians.sh_degree} | {count:,} | {profile.value} "
        f"| {geometry:.1f} | {harmonics:.1f} | {gaussians.nbytes / count:.0f} "
        f"| {quality[0]:.1f} | {min(quality):.1f} "
        f"| {count / encoding_s / 1e6:.1f} | {count / decoding_s / 1e6:.1f} |"
    )


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the real scenes")
    parser.add_argument("--page", type=int, default=DEFAULT_PAGE_GAUSSIANS, help="per chunk")
    parser.add_argument("--only", nargs="*", help="names of scenes")
    options = parser.parse_args()
    print("| scene | SH | Gaussians | profile | geometry B | harmonics B | in memory B "
          "| PSNR dB | worst dB | encodes M/s | decodes M/s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        gaussians = load(case, options.folder)
        for profile in Profile:
            print(measure(case, gaussians, options.page, profile), flush=True)


if __name__ == "__main__":
    main()
