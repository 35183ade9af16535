"""A frame cut into what each device draws, and put together again. Pure.

Bands begin at multiples of ``TILE_PX`` and rasterizers draw the same bytes in a band as in the
whole picture, so that the joined picture is the one that a single device would have drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rendering.assignment import Group, Part, parts_of
from rendering.base import (
    TILE_PX,
    CancelFlag,
    RasterImage,
    Rasterizer,
    RasterSettings,
    RasterStats,
)
from rendering.device import Device
from rendering.drawable import Drawable
from rendering.frame import FrameRequest
from rendering.schedule import Schedule, SplitBy


@dataclass(frozen=True, slots=True)
class EyeBand:
    """Rows of the picture of one camera.

    Attributes:
        eye: Which camera of the request.
        rows: First and end.
        whole: Whether these are all that the request wants.
    """

    eye: int
    rows: tuple[int, int]
    whole: bool

    def settings(self, request: FrameRequest, device: Device) -> RasterSettings:
        """How to draw it, on a device."""
        wanted = request.settings
        threads = device.threads_for(wanted.threads)
        if self.whole and threads == wanted.threads:
            return wanted
        return replace(wanted, rows=wanted.rows if self.whole else self.rows, threads=threads)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one device draws of a frame.

    Attributes:
        device: Whom it is for; any other could do it.
        bands: At least one, one after the other.
    """

    device: str
    bands: tuple[EyeBand, ...]

    def draw(
        self,
        drawable: Drawable,
        request: FrameRequest,
        rasterizer: Rasterizer,
        device: Device,
        cancel: CancelFlag | None,
    ) -> tuple[RasterImage, ...]:
        """One image a band."""
        return tuple(
            rasterizer.render(
                drawable.scene, request.cameras[band.eye], band.settings(request, device), cancel
            )
            for band in self.bands
        )


def pieces_of(
    schedule: Schedule, group: Group, request: FrameRequest, eyes: Sequence[int]
) -> tuple[Piece, ...]:
    """Some pictures of a request, divided among a group by a schedule.

    Args:
        eyes: Which cameras; those whose pictures are at hand are not drawn.

    Raises:
        ValueError: If the request wants rows that a picture lacks.
    """
    if not eyes:
        return ()
    rows = {eye: request.settings.rows_of(request.cameras[eye]) for eye in eyes}
    tile_rows = max(-(-(end - first) // TILE_PX) for first, end in rows.values())
    pieces = []
    for part in _parts(schedule, group, len(eyes), tile_rows):
        bands = [_band(eyes[i], rows[eyes[i]], part.rows) for i in part.eyes]
        there = tuple(band for band in bands if band is not None)
        if there:
            pieces.append(Piece(part.device.name, there))
    return tuple(pieces)


def _parts(schedule: Schedule, group: Group, eyes: int, tile_rows: int) -> tuple[Part, ...]:
    if eyes <= 2 or not schedule.has(SplitBy.EYE):
        return parts_of(schedule, group, eyes, tile_rows)
    # More pictures than anybody has eyes, such as the sides of a panorama: dealt out.
    devices = group.devices[:eyes]
    return tuple(
        Part(device, tuple(range(i, eyes, len(devices))), (0, tile_rows))
        for i, device in enumerate(devices)
    )


def _band(eye: int, wanted: tuple[int, int], tiles: tuple[int, int]) -> EyeBand | None:
    """Tile rows of an eye's picture, None if it has none of them, being less tall than others."""
    first = wanted[0] + tiles[0] * TILE_PX
    end = min(wanted[0] + tiles[1] * TILE_PX, wanted[1])
    return EyeBand(eye, (first, end), (first, end) == wanted) if first < end else None


def joined(
    pieces: Sequence[Piece],
    drawn: Sequence[Sequence[RasterImage]],
    kept: Mapping[int, RasterImage],
    eyes: int,
) -> tuple[RasterImage, ...]:
    """The pictures of all cameras, in their order.

    Args:
        drawn: Of each piece, one image a band.
        kept: Pictures that were at hand.
        eyes: Cameras of the request.
    """
    bands: dict[int, list[tuple[int, RasterImage]]] = {eye: [] for eye in range(eyes)}
    for piece, images in zip(pieces, drawn, strict=True):
        for band, image in zip(piece.bands, images, strict=True):
            bands[band.eye].append((band.rows[0], image))
    return tuple(
        kept[eye] if eye in kept else _stacked([image for _, image in sorted_bands])
        for eye in range(eyes)
        for sorted_bands in [sorted(bands[eye], key=lambda band: band[0])]
    )


def _stacked(bands: Sequence[RasterImage]) -> RasterImage:
    if len(bands) == 1:
        return bands[0]
    return RasterImage.stack(bands, _joined_stats([band.stats for band in bands]))


def _joined_stats(bands: Sequence[RasterStats]) -> RasterStats:
    """Of bands drawn at the same time: the stages are those of the slowest one."""
    slowest = max(bands, key=lambda stats: sum(stats.stage_ms.values()))
    return RasterStats(
        gaussians=max(stats.gaussians for stats in bands),
        visible=sum(stats.visible for stats in bands),
        tile_pairs=sum(stats.tile_pairs for stats in bands),
        stage_ms=dict(slowest.stage_ms),
        parts=max(stats.parts for stats in bands),
        record_bytes=sum(stats.record_bytes for stats in bands),
    )
