"""How much faster a baked scene is drawn than the neural one that it was made of.

``python -m benchmarks.baked SCENE BAKED`` draws the same views of both, each picture anew and in
all its detail, as ``belvedere export`` does: from some of the training cameras, or from around.
The first picture of each is not counted. Then a table of milliseconds a picture, the median and the
longest, and how many times as fast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.report import new_table
from configs.settings import RenderSettings, StreamSettings
from rendering.base import Outputs
from rendering.models.bake_views import choose_views
from splat.camera import Camera
from viewer.bake import outline_for
from viewer.drawing import prepared
from viewer.option_groups import TOWN_GAUSSIANS
from viewer.scenes import OpenedScene, SceneChoice, open_scene
from viewer.streams import OpenedStream, open_stream


@dataclass(frozen=True, slots=True)
class Taken:
    """What pictures of a scene took.

    Attributes:
        ms: Of each, in their order.
    """

    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Of all."""
        return float(np.median(self.ms))


def views_of(choice: SceneChoice, count: int, size: int) -> tuple[Camera, ...]:
    """Cameras from which a neural scene is looked at."""
    opened = open_stream(choice)
    try:
        outline = outline_for(opened, choice)
        views = choose_views(outline, opened.meta.cameras, max(count, 4), size, 0)
    finally:
        opened.source.close()
    step = len(views.fitted) / count
    near = 1e-3 * outline.radius
    return tuple(replace(views.fitted[int(number * step)], near=near) for number in range(count))


def taken(opened: OpenedScene | OpenedStream, views: Sequence[Camera], threads: int) -> Taken:
    """What each view takes, the first one drawn once before."""
    render = RenderSettings(threads=threads, background=(0.0, 0.0, 0.0))
    times = []
    with prepared(opened, render, StreamSettings(), lambda line: None) as draw:
        for number, camera in enumerate([views[0], *views]):
            began = time.perf_counter()
            draw((camera,), Outputs.COLOR)
            if number:
                times.append(1e3 * (time.perf_counter() - began))
    return Taken(tuple(times))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="How much faster a baked scene is drawn.")
    parser.add_argument("scene", help="a neural scene")
    parser.add_argument("baked", type=Path, help="the .ply file that belvedere bake made of it")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=400, help="longest side, pixels")
    parser.add_argument("--threads", type=int, default=0, help="0 for one a core")
    words = parser.parse_args(argv)
    choice = SceneChoice.of(words.scene, TOWN_GAUSSIANS)
    views = views_of(choice, words.views, words.size)
    plain = open_scene(SceneChoice.of(str(words.baked), TOWN_GAUSSIANS))
    both = (
        (Path(words.scene).name, taken(open_stream(choice), views, words.threads)),
        (words.baked.name, taken(plain, views, words.threads)),
    )
    width, height = views[0].width, views[0].height
    table = new_table(
        f"{len(views)} views of {width}×{height} pixels",
        ("scene",),
        ("ms a picture", "longest", "times as fast"),
    )
    for name, each in both:
        times = both[0][1].median_ms / each.median_ms
        table.add_row(name, f"{each.median_ms:.2f}", f"{max(each.ms):.2f}", f"{times:.1f}")
    Console().print(table)


if __name__ == "__main__":
    from viewer.cli import guarded

    raise SystemExit(guarded(main))
