"""A scene ready to be drawn: opened and prepared once, for pictures of any number of cameras."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from configs.settings import RenderSettings, StreamSettings
from rendering.base import Outputs, PagingRasterizer, RasterImage, RasterSettings
from rendering.engine import RenderEngine
from rendering.frame import StreamStats
from rendering.streamed_scene import StreamedScene
from scene_store.chunks import model_of
from scene_store.memory import available_bytes
from scene_store.prefetch import look_ahead
from splat.camera import Camera
from viewer.complete_picture import (
    CompletePicture,
    CompleteScene,
    OnShare,
    draw_complete,
    failures_of,
)
from viewer.engines import Drawers, open_drawers
from viewer.frames_in_flight import FramesInFlight
from viewer.opening import drawers_of_whole
from viewer.scenes import OpenedScene
from viewer.shared_budgets import SharedBudgets
from viewer.streams import OpenedStream, stream_budgets, streamed

MOST_TOLD_PX = 1000.0  # larger errors are no numbers that say anything

log = logging.getLogger(__name__)

ALL_GAUSSIANS = 1_000_000_000
VIEWS_AHEAD = 8  # for which chunks are read
Images = tuple[RasterImage, ...]
Views = Sequence[Sequence[Camera]]
"""The cameras of each: one, or two eyes."""


class Draw(ABC):
    """Draws a scene, in all its detail.

    Attributes:
        engine: What does so, if it is one.
    """

    engine: RenderEngine | None = None

    @abstractmethod
    def each(self, views: Views, outputs: Outputs) -> Iterator[Images]:
        """The images of all views, in their order, each as soon as it is wanted and there.

        Those of one view are of the same chunks. Several views may be drawn at a time.

        Args:
            views: In an order in which a streamed scene had best be read.
            outputs: The images that are wanted.
        """

    def __call__(self, cameras: Sequence[Camera], outputs: Outputs) -> Images:
        """The images of one view."""
        (images,) = self.each((cameras,), outputs)
        return images


@contextlib.contextmanager
def prepared(
    opened: OpenedScene | OpenedStream,
    render: RenderSettings,
    stream: StreamSettings,
    on_problem: Callable[[str], None],
    *,
    traced: bool = False,
    on_share: OnShare | None = None,
) -> Iterator[Draw]:
    """The scene, to be drawn in the block; after it the source of a streamed one is closed.

    Args:
        opened: The scene.
        render: How, and by which devices.
        stream: How much memory a streamed one may take.
        on_problem: Hears after the block, a line each and each once, what the pictures lack.
        traced: Have an engine draw, which remembers what it did, even on one device.
        on_share: Hears the share of a view that is drawn, where one device draws a field: what
            takes long enough to be waited for.

    Raises:
        BudgetError: If memory does not suffice.
    """
    drawers = _drawers(opened, render)
    choice, rasterizer = drawers.choice, drawers.first
    # A GPU may be lost, which engines know how to deal with.
    alone = len(choice.devices) == 1 and not choice.gpus and not traced
    settings = RasterSettings(
        background=render.behind,
        antialiased=render.antialiased,
        sh_degree=render.sh_degree,
        threads=render.threads,
    )
    with contextlib.ExitStack() as kept:
        if not isinstance(opened, OpenedStream):
            if alone:
                yield _DrawWhole(rasterizer, rasterizer.prepare(opened.scene.gaussians), settings)
                return
            flight = FramesInFlight(drawers, opened.scene.gaussians, settings)
            kept.callback(flight.close)
            yield _DrawInFlight(flight)
            return
        whole = replace(stream, max_gaussians=ALL_GAUSSIANS, fade_ms=0.0)
        scene = kept.enter_context(contextlib.closing(_streamed(opened, drawers, whole)))
        lacks = _Lacks(scene)
        if alone:
            yield _DrawChunks(scene, rasterizer, settings, lacks, on_share)
        else:
            complete = CompleteScene(scene)
            shares = SharedBudgets(scene.budgets, scene, memories=choice.host_memories)
            drawers.rasterizers.on_replaced(lambda _: shares.move_to_host(available_bytes()))
            flight = FramesInFlight(drawers, complete, settings, on_stream=lacks.drew)
            kept.callback(flight.close)
            kept.callback(complete.stop)  # first, so that nothing is waited for
            scene.set_on_work(flight.engine.recorder.did)
            yield _DrawInFlight(flight)
    lacks.tell(on_problem)


def _drawers(opened: OpenedScene | OpenedStream, render: RenderSettings) -> Drawers:
    """What draws; of a streamed scene the source is closed if nothing can."""
    if not isinstance(opened, OpenedStream):
        return drawers_of_whole(opened, render)
    try:
        return open_drawers(render, streamed=True, model=model_of(opened.source))
    except BaseException:
        opened.source.close()
        raise


def _streamed(opened: OpenedStream, drawers: Drawers, stream: StreamSettings) -> StreamedScene:
    """The scene to be drawn; the source is closed if it cannot be made."""
    try:
        if drawers.decoded is not None:
            drawers.decoded.set_bytes(0)  # no view is asked for twice, or near another one
        room = drawers.gpu_room(opened.source.sh_degree, stream.max_gaussians)
        budgets = stream_budgets(opened, stream, drawers.choice.host_memories, room)
    except BaseException:
        opened.source.close()
        raise
    return streamed(opened, drawers.by_memory, stream, budgets, drawers.gpu_reach())


class _Lacks:
    """What the pictures of a streamed scene lack."""

    def __init__(self, scene: StreamedScene) -> None:
        self._scene = scene
        self._problems: dict[str, None] = {}
        self._error_px = 0.0

    def drew(self, stream: StreamStats) -> None:
        """Images were drawn."""
        self.of(CompletePicture((), stream, failures_of(self._scene)))

    def of(self, picture: CompletePicture) -> None:
        """A picture was drawn."""
        self._problems.update(dict.fromkeys(picture.problems))
        self._error_px = max(self._error_px, picture.stream.error_px)

    def tell(self, on_problem: Callable[[str], None]) -> None:
        """Say it, each once."""
        for problem in self._problems:
            on_problem(problem)
        if self._error_px > 0 and not self._problems:
            far_off = self._error_px > MOST_TOLD_PX
            error = "far coarser" if far_off else f"up to {self._error_px:.2g} pixels off"
            log.warning("drawn %s, as memory allows; raise --device-budget", error)


class _DrawWhole(Draw):
    """A scene that is all in memory, by one device."""

    def __init__(
        self, rasterizer: PagingRasterizer, scene: object, settings: RasterSettings
    ) -> None:
        self._rasterizer, self._scene, self._settings = rasterizer, scene, settings

    def each(self, views: Views, outputs: Outputs) -> Iterator[Images]:
        """One after the other."""
        wanted = replace(self._settings, outputs=outputs)
        for cameras in views:
            yield tuple(self._rasterizer.render(self._scene, one, wanted) for one in cameras)


class _DrawChunks(Draw):
    """A streamed scene, by one device."""

    def __init__(
        self,
        scene: StreamedScene,
        rasterizer: PagingRasterizer,
        settings: RasterSettings,
        lacks: _Lacks,
        on_share: OnShare | None,
    ) -> None:
        self._scene, self._rasterizer, self._settings = scene, rasterizer, settings
        self._lacks, self._on_share = lacks, on_share

    def each(self, views: Views, outputs: Outputs) -> Iterator[Images]:
        """One after the other, each when all of it is there."""
        wanted = replace(self._settings, outputs=outputs)
        for cameras, coming in with_coming(views):
            picture = draw_complete(
                self._scene,
                self._rasterizer,
                cameras,
                wanted,
                coming=coming,
                on_share=self._on_share,
            )
            self._lacks.of(picture)
            yield picture.images


class _DrawInFlight(Draw):
    """A scene, by several devices."""

    def __init__(self, flight: FramesInFlight) -> None:
        self._flight = flight
        self.engine = flight.engine

    def each(self, views: Views, outputs: Outputs) -> Iterator[Images]:
        """As many at a time as keep all devices at work."""
        return self._flight.each(with_coming(views), outputs)


def with_coming(views: Views) -> Iterator[tuple[Sequence[Camera], Sequence[Camera]]]:
    """The cameras of each view, with some of the views that follow."""
    path = [cameras[0] for cameras in views]
    for index, cameras in enumerate(views):
        yield cameras, look_ahead(path, index, VIEWS_AHEAD)
