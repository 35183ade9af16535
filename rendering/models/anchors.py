"""Neural anchors (Scaffold-GS, Octree-GS) behind the contract of engines.

Pages hold rows of anchors. For each frame those that may be seen are decoded to Gaussians in pages
of the device's own engine, which draws these (``splat.anchors`` has the equations). All that is
drawn of a request, its bands and both eyes, is decoded once, for the point midway between its
cameras; frames of a moving camera may draw some pages as the last frames decoded them
(``render_cache.derived``, docs/adr/0017-derived-cache.md).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from render_cache.byte_cache import CacheStats
from render_cache.derived_rule import DEFAULT_LIMITS, DerivedLimits
from rendering.base import (
    CancelFlag,
    PagingRasterizer,
    PairRasterizer,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.cancel import raise_if_cancelled
from rendering.frame import FrameRequest
from rendering.models.anchor_frames import AnchorFrames, FrameViews
from rendering.models.anchor_pages import AnchorPool
from rendering.models.anchor_reuse import ReuseChoices
from rendering.models.anchor_work import HostPageWork, PageWork
from rendering.models.anchors_native import NativeDecoder
from rendering.models.decoded_room import MemoryRoom
from rendering.stages import Stage
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.rows import Rows

PREPARED_ROWS = 1024  # of a page of a scene that is there as a whole
MOST_DECODED = 2  # views that a scene keeps decoded: two cameras in turn
CANCEL_POLL_S = 0.01  # how often who waits for another's decoding looks whether it still should


@dataclass(slots=True, eq=False)
class _Decoded:
    """What some views see, once it is decoded.

    Attributes:
        views: Whose it is.
        scene: Of the engine; None as long as nobody has decoded it.
        decoding: Held by who decodes.
    """

    views: FrameViews
    scene: Any = None
    decoding: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True, eq=False)
class AnchorScene:
    """Pages of anchors to draw together; what they were decoded to for the last views.

    Attributes:
        parts: Pages, weights and tints.
        views: Of the request that it was made for; None if that is not known.
        work: What decodes them.
    """

    parts: tuple[ScenePart, ...]
    views: FrameViews | None
    work: PageWork
    _engine: PagingRasterizer
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _decoded: list[_Decoded] = field(default_factory=list)

    @property
    def gaussians(self) -> int:
        """That its anchors stand for, seen or not."""
        anchors: int = sum(part.scene.count for part in self.parts)
        return self.work.offsets * anchors

    def decoded(
        self, cameras: Sequence[Camera], threads: int, cancel: CancelFlag
    ) -> tuple[FrameViews, Any, float]:
        """The scene that the engine draws for cameras; others who want it wait for the first.

        The views are those of the request if the cameras are of it, else of them alone.

        Returns:
            The views, the scene, and milliseconds since when it was asked for that somebody
            decoded it.

        Raises:
            RenderCancelled: If ``cancel`` was set meanwhile, whoever decodes.
            BudgetError: If there is not enough memory.
        """
        known = self._known_for(cameras)
        before_ms = known.views.decode_ms
        while not known.decoding.acquire(timeout=CANCEL_POLL_S):
            raise_if_cancelled(cancel)
        try:
            if known.scene is None:
                known.scene = self._decode(known.views, threads, cancel)
            return known.views, known.scene, known.views.decode_ms - before_ms
        finally:
            known.decoding.release()

    def _known_for(self, cameras: Sequence[Camera]) -> _Decoded:
        with self._lock:
            of_request = self.views is not None and all(map(self.views.includes, cameras))
            for known in self._decoded:
                own = known.views is self.views
                if own if of_request else all(map(known.views.includes, cameras)):
                    return known
            views = self.views if of_request else None
            known = _Decoded(FrameViews.of(cameras) if views is None else views)
            del self._decoded[: len(self._decoded) + 1 - MOST_DECODED]
            self._decoded.append(known)
            return known

    def _decode(self, views: FrameViews, threads: int, cancel: CancelFlag) -> Any:
        started_s = time.perf_counter()
        pages = self.work.decode([part.scene for part in self.parts], views, threads, cancel)
        drawn: list[ScenePart] = []
        for part, decoded in zip(self.parts, pages, strict=True):
            if part.weight == 1.0 and part.tint_share == 0.0:
                drawn += decoded
            else:
                drawn += [replace(part, scene=each.scene) for each in decoded]
        scene = self._engine.compose(drawn)
        views.decode_ms += 1e3 * (time.perf_counter() - started_s)
        return scene


class AnchorRasterizer:
    """Draws a model's anchors with an engine; made by ``anchor_rasterizer``.

    Args:
        model: What the anchors share.
        engine: Of the device.
        appearance: The training camera whose look pictures have, of models that were trained with
            one for each; None for the mean of all.
        limits: Of what frames reuse of each other.
        choices: Of how far they go, shared by the renderers of a scene; None for its own.
        room: In the memory of the device, for what is kept, likewise; None for what ``limits``
            says.
        instruction_set: Of the decoder; None for the best there is.

    Attributes:
        engine: As given.
        name: Of the engine.
    """

    def __init__(
        self,
        model: AnchorModel,
        engine: PagingRasterizer,
        *,
        appearance: int | None = None,
        limits: DerivedLimits = DEFAULT_LIMITS,
        choices: ReuseChoices | None = None,
        room: MemoryRoom | None = None,
        instruction_set: str | None = None,
    ) -> None:
        self.engine, self.name, self._model = engine, engine.name, model
        self._gone: deque[int] = deque()
        self._room = MemoryRoom() if room is None else room
        self._frames = AnchorFrames(limits, self._gone, choices, self._room.shared)
        self._work = self._new_work(appearance, instruction_set)

    @property
    def limits(self) -> DerivedLimits:
        """Of what frames reuse of each other; may be replaced at any time."""
        return self._frames.limits

    @limits.setter
    def limits(self, limits: DerivedLimits) -> None:
        self._frames.limits = limits

    def cache_stats(self) -> CacheStats:
        """Of the decoded pages that are kept, and how often they helped."""
        return self._frames.stats()

    @property
    def held_bytes(self) -> int:
        """Of decoded pages that are kept."""
        return self.cache_stats().held_bytes

    def shed(self) -> None:
        """Keep no more decoded pages than what the clients' last frames drew."""
        self._frames.shed()

    def clear(self) -> None:
        """Keep no decoded pages."""
        self._frames.clear()
        self._work.trim()

    def trim(self) -> None:
        """Give back the engine's pages that are ready for the next frames."""
        self._work.trim()

    def new_pool(self, page_gaussians: int, sh_degree: int) -> AnchorPool:
        """A pool of pages for ``page_gaussians`` anchors each; their colours have no harmonics,
        whatever ``sh_degree``."""
        return self._new_pool(page_gaussians)

    def _new_pool(self, page_rows: int) -> AnchorPool:
        return AnchorPool(page_rows, self._model.layout, self._gone)

    def _new_work(self, appearance: int | None, instruction_set: str | None) -> PageWork:
        return HostPageWork(NativeDecoder(self._model, appearance, instruction_set), self.engine)

    def prepare(self, gaussians: Rows | Gaussians) -> AnchorScene:
        """A scene that is there as a whole.

        Args:
            gaussians: Rows of anchors.

        Raises:
            BudgetError: If there is not enough memory.
            ValueError: If they are no anchors of this model.
        """
        count = len(gaussians)
        firsts = np.arange(0, count, PREPARED_ROWS, dtype=np.int64)
        places = np.stack([firsts, np.minimum(PREPARED_ROWS, count - firsts)], axis=1)
        pool = self._new_pool(PREPARED_ROWS)
        return self.compose([ScenePart(page) for page in pool.pack_many(gaussians, places)])

    def compose(self, parts: Sequence[ScenePart]) -> AnchorScene:
        """Pages to draw together, decoded anew for each camera; see ``PagingRasterizer``."""
        return AnchorScene(tuple(parts), None, self._work, self.engine)

    def compose_for(
        self,
        parts: Sequence[ScenePart],
        request: FrameRequest,
        cameras: Sequence[Camera] | None = None,
    ) -> AnchorScene:
        """Pages to draw together for a request; see ``rendering.frame_scenes``.

        Args:
            cameras: Of the request, in the world of the anchors; None where it is the request's.
        """
        self._room.drew(self, request)
        views = self._frames.views_of(request, cameras)
        return AnchorScene(tuple(parts), views, self._work, self.engine)

    def new_cancel_flag(self) -> CancelFlag:
        """A flag for one call of ``render``."""
        return self.engine.new_cancel_flag()

    def render(
        self,
        scene: AnchorScene,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Decode what the camera sees of a scene, if that was not done, and draw it; see
        ``rendering.base.Rasterizer``."""
        drawing, cancel = self.begun(scene, (camera,), settings, cancel)
        image = self.engine.render(drawing.scene, camera, settings, cancel)
        return replace(image, stats=drawing.ended(image.stats))

    def begun(
        self,
        scene: AnchorScene,
        cameras: Sequence[Camera],
        settings: RasterSettings,
        cancel: CancelFlag | None,
    ) -> tuple[AnchorDrawing, CancelFlag]:
        """Decode what cameras see of a scene, if that was not done: what ``engine`` is to draw,
        once or in layers; and a flag to watch meanwhile.

        Raises:
            RenderCancelled, BudgetError: As ``render``.
        """
        flag = self.engine.new_cancel_flag() if cancel is None else cancel
        views, decoded, decode_ms = scene.decoded(cameras, settings.threads, flag)
        return AnchorDrawing(views, decoded, scene.gaussians, decode_ms, len(cameras)), flag


@dataclass(frozen=True, slots=True, eq=False)
class AnchorDrawing:
    """A picture under way, or two.

    Attributes:
        views: Whose it is.
        scene: Of the engine.
        gaussians: That the anchors stand for, seen or not.
        decode_ms: What decoding took for it.
        pictures: That are drawn at once.
    """

    views: FrameViews
    scene: Any
    gaussians: int
    decode_ms: float
    pictures: int

    def ended(self, stats: RasterStats) -> RasterStats:
        """The statistics of one picture, decoding included."""
        stages = {Stage.DECODE.value: self.decode_ms / self.pictures, **stats.stage_ms}
        return replace(self.drawn(stats), stage_ms=stages)

    def drawn(self, stats: RasterStats) -> RasterStats:
        """The statistics of a layer of a picture, without the decoding."""
        self.views.draw_ms += sum(stats.stage_ms.values())
        return replace(stats, gaussians=self.gaussians)


class AnchorPairRasterizer(AnchorRasterizer):
    """The same around an engine that draws two eyes at once."""

    def render_pair(
        self,
        scene: AnchorScene,
        left: Camera,
        right: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> tuple[RasterImage, RasterImage]:
        """Draw two eyes, decoded once for the point midway between them; see
        ``rendering.base.PairRasterizer``. The left picture is that of ``render`` if the scene was
        made for a request of both."""
        drawing, cancel = self.begun(scene, (left, right), settings, cancel)
        assert isinstance(self.engine, PairRasterizer)
        images = self.engine.render_pair(drawing.scene, left, right, settings, cancel)
        first, second = (replace(each, stats=drawing.ended(each.stats)) for each in images)
        return first, second


def anchor_rasterizer(
    model: AnchorModel, engine: PagingRasterizer, **options: Any
) -> AnchorRasterizer:
    """What draws a model's anchors with an engine; options as of ``AnchorRasterizer``."""
    if engine.name == "fused":
        from rendering.models.anchors_device import can_decode
        from rendering.models.anchors_device_drawing import DeviceAnchorRasterizer

        if can_decode(model):  # else the processor decodes, and the GPU draws
            return DeviceAnchorRasterizer(model, engine, **options)
    made_for = AnchorPairRasterizer if isinstance(engine, PairRasterizer) else AnchorRasterizer
    return made_for(model, engine, **options)
