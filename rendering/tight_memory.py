"""Pictures where memory is short: unused memory is let go of, then they are drawn in bands of rows.

Bands are the same bytes as in the whole (``RasterSettings.rows``); what lies between the stages of
one is less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rendering.base import TILE_PX, RasterImage, RasterStats
from splat.errors import BudgetError

Rows = tuple[int, int]
Images = tuple[RasterImage, ...]

CALM_PICTURES = 64  # after so many without trouble, larger bands are tried


class TightMemory:
    """How large the bands are that there is memory for.

    Args:
        relieve: Lets go of memory that nobody uses.
    """

    def __init__(self, relieve: Callable[[], None]) -> None:
        self._relieve = relieve
        self._most_rows: int | None = None
        self._calm = 0

    def draw(self, rows: Rows, band: Callable[[Rows], Images]) -> Images:
        """Pictures of some rows.

        Args:
            rows: First and end.
            band: Draws such rows of all pictures.

        Raises:
            BudgetError: If there is no memory for ``TILE_PX`` rows.
        """
        waiting = self._bands(rows)
        drawn: list[Images] = []
        relieved = False
        while waiting:
            images = self._tried(band, waiting[0], may_fail=not relieved or _can_halve(waiting[0]))
            # What the error held is free here, unlike where it was caught.
            if images is not None:
                drawn.append(images)
                del waiting[0]
            elif not relieved:
                self._relieve()
                relieved = True
            else:
                waiting[:1] = _halves(waiting[0])
                self._most_rows, self._calm = waiting[0][1] - waiting[0][0], 0
        if not relieved:
            self._grow(rows[1] - rows[0])
        return _stacked(drawn)

    def _tried(self, band: Callable[[Rows], Images], rows: Rows, may_fail: bool) -> Images | None:
        try:
            return band(rows)
        except BudgetError:
            if not may_fail:
                raise
            return None

    def _bands(self, rows: Rows) -> list[Rows]:
        first, end = rows
        step = self._most_rows or max(1, end - first)
        return [(at, min(at + step, end)) for at in range(first, end, step)]

    def _grow(self, height: int) -> None:
        if self._most_rows is None:
            return
        self._calm += 1
        if self._calm >= CALM_PICTURES:
            larger = 2 * self._most_rows
            self._most_rows, self._calm = (larger if larger < height else None), 0


def _can_halve(rows: Rows) -> bool:
    return rows[1] - rows[0] > TILE_PX


def _halves(rows: Rows) -> list[Rows]:
    """Two, cut at a multiple of ``TILE_PX``."""
    first, end = rows
    tiles = -(-(end - first) // TILE_PX)
    cut = first + (tiles + 1) // 2 * TILE_PX
    return [(first, cut), (cut, end)]


def _stacked(bands: Sequence[Images]) -> Images:
    """One picture an eye."""
    if len(bands) == 1:
        return bands[0]
    return tuple(
        RasterImage.stack(images, _joined([image.stats for image in images]))
        for images in zip(*bands, strict=True)
    )


def _joined(bands: Sequence[RasterStats]) -> RasterStats:
    """Of one picture; splats that several bands show are counted once, as far as that is known."""
    stages: dict[str, float] = {}
    for band in bands:
        for stage, took in band.stage_ms.items():
            stages[stage] = stages.get(stage, 0.0) + took
    return RasterStats(
        gaussians=bands[0].gaussians,
        visible=max(band.visible for band in bands),
        tile_pairs=sum(band.tile_pairs for band in bands),
        stage_ms=stages,
        parts=sum(band.parts for band in bands),
        record_bytes=max(band.record_bytes for band in bands),
    )
