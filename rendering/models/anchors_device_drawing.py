"""Neural anchors drawn from a GPU's memory: the work of a frame around ``anchors_device``."""

from __future__ import annotations

from collections.abc import Sequence

from rendering.base import CancelFlag, ScenePart
from rendering.cancel import raise_if_cancelled
from rendering.fused_cuda import FusedPagePool, FusedRasterizer
from rendering.models.anchor_frames import DecodedPage, FrameViews
from rendering.models.anchor_pages import AnchorPage
from rendering.models.anchor_work import LEAST_OPACITY, PageWork
from rendering.models.anchors import AnchorPairRasterizer
from rendering.models.anchors_device import (
    DeviceAnchorPage,
    DeviceAnchorPool,
    DeviceDecoder,
    room_for,
)
from rendering.models.anchors_native import AnchorCuller
from splat.errors import BudgetError


class DevicePageWork(PageWork):
    """Decodes pages of anchors of a device, all that a frame wants by one launch.

    Args:
        decoder: Of the model.
        engine: That draws.
    """

    def __init__(self, decoder: DeviceDecoder, engine: FusedRasterizer) -> None:
        super().__init__(decoder.offsets, engine)
        self._decoder, self._memory = decoder, engine.memory

    def _decode_all(
        self,
        wanted: Sequence[tuple[AnchorPage, bool]],
        views: FrameViews,
        cutter: AnchorCuller,
        threads: int,
        cancel: CancelFlag,
    ) -> list[DecodedPage]:
        """Whole pages: which of their anchors are seen the device finds out when it draws them."""
        raise_if_cancelled(cancel)
        pages = [page for page, _ in wanted if isinstance(page, DeviceAnchorPage)]
        assert len(pages) == len(wanted), "pages are of this engine's pools"
        decoded = self._blanks(pages, views)
        self._decoder.decode(
            [(page, done.parts[0].scene) for page, done in zip(pages, decoded, strict=True)],
            views.center,
            LEAST_OPACITY,
        )
        views.decoded += sum(page.count for page in pages)
        if views.derived is not None:
            views.derived.keep_all(
                (page.number, done, done.size_bytes)
                for page, done in zip(pages, decoded, strict=True)
            )
        return decoded

    def _blanks(self, pages: Sequence[AnchorPage], views: FrameViews) -> list[DecodedPage]:
        """Room for the Gaussians of pages; where there is none, what nobody uses goes first."""
        try:
            return [self._blank(page, views) for page in pages]
        except BudgetError:
            self._memory.trim()
            return [self._blank(page, views) for page in pages]

    def _blank(self, page: AnchorPage, views: FrameViews) -> DecodedPage:
        """Room for all Gaussians of a page of anchors."""
        count = page.count * self.offsets
        room = room_for(count)
        pool = self._pool_of(room)
        assert isinstance(pool, FusedPagePool)
        (blank,) = pool.blank([count])
        return DecodedPage((ScenePart(blank),), room, None, views.center, pool.page_bytes)


class DeviceAnchorRasterizer(AnchorPairRasterizer):
    """Draws anchors from a GPU's memory, decoded there."""

    engine: FusedRasterizer

    def _new_pool(self, page_rows: int) -> DeviceAnchorPool:
        return DeviceAnchorPool(page_rows, self._model.layout, self._gone, self.engine)

    def _new_work(self, appearance: int | None, instruction_set: str | None) -> PageWork:
        decoder = DeviceDecoder(self._model, appearance, self.engine)
        return DevicePageWork(decoder, self.engine)
