"""What a frame asks of a GPU: operations and bytes of each kernel, and the floor that they imply.

``python -m benchmarks.kernel_work --scene town-1M`` counts, on the CPU, what frames of a scene put
through each stage, and prints what a GPU of a given bandwidth and arithmetic needs for that at
least. Operations are those of the machine code (``benchmarks.kernel_code``), bytes those that each
stage must read and write once, whatever its caches do. ``docs/gpu.md`` explains the numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.packages import STATUS, end_without

try:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.table import Table

    from splat.camera import Camera
    from splat.errors import BelvedereError
    from splat.gaussians import SH_COUNT_OF_DEGREE
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    end_without(error, ("numpy", "rich"))

if TYPE_CHECKING:
    from rendering.native.cpu import NativeRasterizer, ProjectedGaussians

Size = tuple[int, int]

SPLAT_BYTES = 64
HALF_SPLAT_BYTES = 32  # what compositing reads of it, if colours are halves
KEY_BYTES, INDEX_BYTES = 4, 8  # of the order by depth
DIGIT_BITS = 8  # that a pass of the sort goes by
PROJECT_FLOPS, PROJECT_FLOPS_NO_SH = 441, 286
PAIR_FLOPS = 104
COMPOSITE_FLOPS = 16  # a pixel and splat
DATA_SHEET = {"H200": (4.8e12, 67e12), "RTX 4090": (1.01e12, 82.6e12), "A100": (2.04e12, 19.5e12)}


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What goes through a frame.

    Attributes:
        gaussians: In chunks whose box is seen.
        visible: Splats.
        pairs: (Splat, tile) pairs.
        pixels: Of the picture.
        tiles: Of the picture.
        tile: Pixels of a side of a tile.
        sh_degree: Of the scene.
    """

    gaussians: int
    visible: int
    pairs: int
    pixels: int
    tiles: int
    tile: int = 16
    sh_degree: int = 3


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage asks for at least.

    Attributes:
        stage: Its name.
        moved_bytes: Read and written.
        flops: In single precision.
    """

    stage: str
    moved_bytes: float
    flops: float

    def floor_ms(self, bytes_per_s: float, flops_per_s: float) -> float:
        """Time of a device that does both at once."""
        return 1e3 * max(self.moved_bytes / bytes_per_s, self.flops / flops_per_s)


def sort_bytes(count: int, key_bytes: int, index_bytes: int) -> int:
    """Of a radix sort by digits: all keys once for the histograms, and both in and out a pass."""
    passes = 8 * key_bytes // DIGIT_BITS
    return count * (key_bytes + 2 * passes * (key_bytes + index_bytes))


def gaussian_bytes(sh_degree: int) -> int:
    """Of one in a page (``rendering.fused_pages``)."""
    rest = 3 * (SH_COUNT_OF_DEGREE[sh_degree] - 1)
    return 4 * 14 + (4 + 2 * rest if rest else 0)


def work_of(counts: FrameCounts, *, halves: bool = False) -> list[Work]:
    """Every stage of a frame of one eye with colour."""
    c = counts
    tile_key = 2 if c.tiles <= 32767 else 4
    project_flops = PROJECT_FLOPS if c.sh_degree else PROJECT_FLOPS_NO_SH
    listed = SPLAT_BYTES + 2 * KEY_BYTES + KEY_BYTES + 4  # and once more, without gaps
    read = HALF_SPLAT_BYTES if halves else SPLAT_BYTES
    return [
        Work(
            "project",
            c.gaussians * gaussian_bytes(c.sh_degree) + c.visible * listed,
            c.gaussians * project_flops,
        ),
        Work("order by depth", sort_bytes(c.visible, KEY_BYTES, INDEX_BYTES) + c.visible * 36, 0),
        Work("pairs", c.visible * SPLAT_BYTES + c.pairs * (tile_key + 4), c.pairs * PAIR_FLOPS),
        Work("order by tile", sort_bytes(c.pairs, tile_key, INDEX_BYTES) + c.pairs * 16, 0),
        Work(
            "composite",
            c.pairs * (4 + read) + c.pixels * 16,
            c.pairs * c.tile * c.tile * COMPOSITE_FLOPS,
        ),
    ]


def tiles_touched(projected: ProjectedGaussians, size: Size, tile: int) -> NDArray[np.int64]:
    """[M] tiles that ellipses touch, as ``fused_kernels/footprint.py`` finds them.

    Args:
        projected: On the screen.
        size: Width and height of the picture.
        tile: Pixels of a side of a tile.
    """
    x, y = projected.means2d.T.astype(np.float64)
    xx, xy, yy = projected.conics.T.astype(np.float64)
    ex, ey = projected.extents.T.astype(np.float64)
    tx0, tx1 = _tiles_of_box(x, ex, size[0], tile)
    ty0, ty1 = _tiles_of_box(y, ey, size[1], tile)
    exact = (tx0 != tx1) & (ty0 != ty1)
    touched = np.where(exact, 0, (tx1 - tx0 + 1) * (ty1 - ty0 + 1))
    # The outline xx dx² + 2 xy dx dy + yy dy² = r² reaches furthest where its gradient is level.
    r2, level = ex**2 * (xx - xy**2 / yy), -xy / yy * ex
    for step in range(int((ty1 - ty0).max(initial=-1)) + 1):
        at = np.flatnonzero(exact & (ty0 + step <= ty1))
        top = (ty0[at] + step) * tile + 0.5 - y[at]
        lo, hi = np.maximum(top, -ey[at]), np.minimum(top + tile - 1, ey[at])
        ends = []
        for side in (-1, 1):
            dy = np.clip(side * level[at], lo, hi)
            half = (xy[at] * dy) ** 2 - xx[at] * (yy[at] * dy * dy - r2[at])
            dx = (-xy[at] * dy + side * np.sqrt(half.clip(0))) / xx[at]
            # Pixel centres lie half a pixel in; 0.01 px covers rounding.
            ends.append(np.floor((x[at] + dx - 0.5 + 0.01 * side) / tile))
        first, last = np.maximum(ends[0], tx0[at]), np.minimum(ends[1], tx1[at])
        touched[at] += np.where(lo <= hi, (last - first + 1).clip(0), 0).astype(np.int64)
    return touched


def _tiles_of_box(
    middle: NDArray[np.float64], extent: NDArray[np.float64], side: int, tile: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last tile along an axis that holds a pixel centre inside the box."""
    first = np.maximum(np.ceil(middle - extent - 0.5), 0)
    last = np.minimum(np.floor(middle + extent - 0.5), side - 1)
    return first.astype(np.int64) // tile, last.astype(np.int64) // tile


def count_frame(
    rasterizer: NativeRasterizer, scene: Any, camera: Camera, tile: int, sh_degree: int
) -> FrameCounts:
    """What a frame of a scene, as the native engine has it, puts through the stages."""
    size = (camera.width, camera.height)
    projected = rasterizer.project(scene, camera)
    columns, rows = (-(-side // tile) for side in size)
    return FrameCounts(
        gaussians=scene.count,
        visible=len(projected.index),
        pairs=int(tiles_touched(projected, size, tile).sum()),
        pixels=size[0] * size[1],
        tiles=columns * rows,
        tile=tile,
        sh_degree=sh_degree,
    )


def table_of(name: str, counts: FrameCounts, device: str, *, halves: bool) -> Table:
    """Stages of a frame, and what they take of a device at least."""
    bytes_per_s, flops_per_s = DATA_SHEET[device]
    table = Table(
        title=f"{name}: {counts.visible:,} splats, {counts.pairs:,} pairs of tiles of "
        f"{counts.tile}; floors of {device} by its data sheet"
    )
    table.add_column("stage")
    for head in ("MB", "GFLOP", "floor ms"):
        table.add_column(head, justify="right")
    works = work_of(counts, halves=halves)
    for work in works:
        floor = work.floor_ms(bytes_per_s, flops_per_s)
        table.add_row(
            work.stage, f"{work.moved_bytes / 1e6:.0f}", f"{work.flops / 1e9:.1f}", f"{floor:.3f}"
        )
    total = sum(work.floor_ms(bytes_per_s, flops_per_s) for work in works)
    table.add_row("all", "", "", f"{total:.3f}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Count frames and print their floors."""
    options = _parser().parse_args(argv)
    try:
        _print_tables(options)
    except BelvedereError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return STATUS
    return 0


def _print_tables(options: argparse.Namespace) -> None:
    from benchmarks.scenes import open_scene
    from rendering.native.cpu import NativeRasterizer

    rasterizer, console = NativeRasterizer(), Console(width=120)
    for name in options.scene:
        opened = open_scene(name, tuple(options.size))
        prepared, degree = rasterizer.prepare(opened.gaussians), opened.gaussians.sh_degree
        for path in opened.paths:
            camera = path.cameras[0]
            counts = count_frame(rasterizer, prepared, camera, options.tile, degree)
            title = f"{name} {path.name} {camera.width}×{camera.height}"
            console.print(table_of(title, counts, options.device, halves=options.halves))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_work", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--scene",
        nargs="+",
        metavar="SCENE",
        default=["town-1M", "park"],
        help="town-N (town-150K, town-1.5M), park, or the path of a scene (town-1M park)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("WIDTH", "HEIGHT"),
        default=(1920, 1080),
        help="of a picture, in pixels (1920 1080)",
    )
    parser.add_argument("--tile", type=int, default=16, choices=(8, 16, 32), help="pixels (16)")
    parser.add_argument(
        "--device", choices=list(DATA_SHEET), default="H200", help="whose floors (H200)"
    )
    parser.add_argument("--halves", action="store_true", help="colours in half precision")
    return parser


if __name__ == "__main__":
    sys.exit(main())
