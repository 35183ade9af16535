"""What baking brings, by Gaussians and rounds: a block of the town stands in for a field.

``python -m benchmarks.bake`` draws the block by the native engine, which costs next to nothing, so
that what is timed is the baking; PSNR is that of views held out. The block is of Gaussians
itself, seen through the same engine: figures are better than those of real fields, whose pictures
are not as smooth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from rich.console import Console

from benchmarks.fitting.town_views import town_block
from benchmarks.report import new_table
from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.models.bake import BakeOptions, BakeReport, bake
from rendering.native.cpu import NativeRasterizer
from scene_store.outline import outline_of
from splat.camera import Camera
from splat.gaussians import Gaussians

TOWN_COUNT = 1_000_000  # of which the block has about 62,000
OUTPUTS = Outputs.COLOR | Outputs.DEPTH | Outputs.MEDIAN_DEPTH


class TownDrawer:
    """Draws Gaussians for a bake."""

    def __init__(self, gaussians: Gaussians) -> None:
        self._native = NativeRasterizer()
        self._scene = self._native.prepare(gaussians)

    def __call__(self, cameras: Sequence[Camera]) -> Iterator[RasterImage]:
        """One after the other."""
        settings = RasterSettings(outputs=OUTPUTS)
        for camera in cameras:
            yield self._native.render(self._scene, camera, settings)


def baked(drawer: TownDrawer, count: int, options: BakeOptions) -> BakeReport:
    """What one bake of the block comes to."""
    block = town_block(count)
    outline = outline_of(block.gaussians, up=block.up)
    return bake(drawer, outline, (), options, lambda share, what: None)[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What baking brings, by Gaussians and rounds.")
    parser.add_argument("--town", type=int, default=TOWN_COUNT, help="Gaussians of the town")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--sh-degree", type=int, default=1)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[15_000, 50_000, 150_000])
    parser.add_argument("--rounds", type=int, nargs="+", default=[5, 15, 30])
    words = parser.parse_args(argv)
    drawer = TownDrawer(town_block(words.town).gaussians)
    console = Console()
    table = new_table(
        f"A block of the town, {words.views} views of {words.size} pixels",
        (),
        ("Gaussians", "rounds", "seconds", "PSNR held out", "worst"),
    )
    for gaussians in words.gaussians:
        for rounds in words.rounds:
            options = BakeOptions(words.views, words.size, gaussians, words.sh_degree, rounds)
            report = baked(drawer, words.town, options)
            table.add_row(
                f"{report.gaussians:,}",
                f"{report.rounds}",
                f"{report.seconds:.0f}",
                f"{report.psnr_db:.1f} dB",
                f"{report.worst_db:.1f} dB",
            )
    console.print(table)


if __name__ == "__main__":
    from viewer.cli import guarded

    raise SystemExit(guarded(main))
