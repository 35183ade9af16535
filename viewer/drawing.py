"""A scene ready to be drawn: opened and prepared once, for pictures of any number of cameras."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from configs.settings import RenderSettings, StreamSettings
from rendering.base import Outputs, PagingRasterizer, RasterImage, RasterSettings
from splat.camera import Camera
from viewer.complete_picture import draw_complete
from viewer.engines import create_rasterizer
from viewer.scenes import OpenedScene
from viewer.streams import OpenedStream, streamed

log = logging.getLogger(__name__)

ALL_GAUSSIANS = 1_000_000_000
Images = tuple[RasterImage, ...]


class Draw(Protocol):
    """Draws a scene."""

    def __call__(
        self, cameras: Sequence[Camera], outputs: Outputs, coming: Sequence[Camera] = ()
    ) -> Images:
        """One image a camera, all of the same chunks, in all their detail.

        Args:
            cameras: One, or two eyes.
            outputs: The images that are wanted.
            coming: Cameras that are drawn next, for which a streamed scene reads ahead.
        """


@contextlib.contextmanager
def prepared(
    opened: OpenedScene | OpenedStream,
    render: RenderSettings,
    stream: StreamSettings,
    on_problem: Callable[[str], None],
) -> Iterator[Draw]:
    """The scene, to be drawn in the block; after it the source of a streamed one is closed.

    Args:
        opened: The scene.
        render: How.
        stream: How much memory a streamed one may take.
        on_problem: Hears after the block, a line each and each once, what the pictures lack.

    Raises:
        BudgetError: If memory does not suffice.
    """
    rasterizer = create_rasterizer(render.engine, streamed=isinstance(opened, OpenedStream))
    settings = RasterSettings(
        background=render.background,
        antialiased=render.antialiased,
        sh_degree=render.sh_degree,
        threads=render.threads,
    )
    if isinstance(opened, OpenedStream):
        with _streamed(opened, rasterizer, settings, stream, on_problem) as draw:
            yield draw
        return
    scene = rasterizer.prepare(opened.scene.gaussians)

    def draw_resident(
        cameras: Sequence[Camera], outputs: Outputs, coming: Sequence[Camera] = ()
    ) -> Images:
        wanted = replace(settings, outputs=outputs)
        return tuple(rasterizer.render(scene, camera, wanted) for camera in cameras)

    yield draw_resident


@contextlib.contextmanager
def _streamed(
    opened: OpenedStream,
    rasterizer: PagingRasterizer,
    settings: RasterSettings,
    stream: StreamSettings,
    on_problem: Callable[[str], None],
) -> Iterator[Draw]:
    whole = replace(stream, max_gaussians=ALL_GAUSSIANS, fade_ms=0.0)
    problems: dict[str, None] = {}
    error_px = 0.0
    with contextlib.closing(streamed(opened, rasterizer, whole)) as scene:

        def draw(
            cameras: Sequence[Camera], outputs: Outputs, coming: Sequence[Camera] = ()
        ) -> Images:
            nonlocal error_px
            wanted = replace(settings, outputs=outputs)
            drawn = draw_complete(scene, rasterizer, cameras, wanted, coming=coming)
            problems.update(dict.fromkeys(drawn.problems))
            error_px = max(error_px, drawn.stream.error_px)
            return drawn.images

        yield draw
    for problem in problems:
        on_problem(problem)
    if error_px > 0 and not problems:
        log.warning(
            "drawn with an error of up to %.2g pixels, as memory allows; raise --device-budget",
            error_px,
        )
