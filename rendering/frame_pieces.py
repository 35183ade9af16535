"""A frame cut into what each device draws, and put together again. Pure.

Bands begin at multiples of ``TILE_PX`` and rasterizers draw the same bytes in a band as in the
whole picture, so that the joined picture is the one that a single device would have drawn.
Slabs of depth become layers, which are composited (``rendering.layers`` says how exact that is).
Pictures of which layers do not tell everything, and scenes that cannot be drawn in slabs, are
drawn in bands where a schedule says shards.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from rendering.assignment import CutRows, Group, Part, parts_of
from rendering.base import (
    TILE_PX,
    CancelFlag,
    PairRasterizer,
    RasterImage,
    Rasterizer,
    RasterSettings,
    RasterStats,
)
from rendering.depth_slabs import Slab
from rendering.device import Device
from rendering.drawable import Drawable
from rendering.frame import FrameRequest
from rendering.layers import LAYERED, composited, layer_settings
from rendering.part_costs import Span
from rendering.schedule import Schedule, Split, SplitBy
from rendering.stages import DRAWN_ONCE
from splat.stereo import is_pair

CutInSlabs = Callable[[int, Sequence[float]], tuple[Slab | None, ...]]
"""From an eye, and the ends of all its shares but the last, to slabs; None for empty ones."""
CutInBands = Callable[[int, Sequence[float]], Sequence[float]]
"""From an eye, and the ends of shares of its cost, but the last, to shares of its rows."""


@dataclass(frozen=True, slots=True)
class EyePart:
    """A part of the picture of one camera: a band of it, or a layer.

    Attributes:
        eye: Which camera of the request.
        rows: First and end.
        whole: Whether these are all that the request wants.
        slab: Of depth, to be drawn as a layer; None for all of what is there.
        span: Of what is cut, the rows or the Gaussians by depth, from and to, in [0, 1].
    """

    eye: int
    rows: tuple[int, int]
    whole: bool
    slab: Slab | None = None
    span: Span = (0.0, 1.0)

    def settings(self, request: FrameRequest, device: Device) -> RasterSettings:
        """How to draw it, on a device."""
        wanted = request.settings
        if self.slab is not None:
            wanted = layer_settings(wanted)
        threads = device.threads_for(wanted.threads)
        if self.whole and threads == wanted.threads:
            return wanted
        return replace(wanted, rows=wanted.rows if self.whole else self.rows, threads=threads)

    def draw(
        self,
        drawable: Drawable,
        request: FrameRequest,
        rasterizer: Rasterizer,
        device: Device,
        cancel: CancelFlag | None,
    ) -> RasterImage:
        """Its image."""
        camera, scene = request.cameras[self.eye], drawable.scene
        if self.slab is not None:
            camera = self.slab.seen_by(camera)
            scene = drawable.seen_by(camera)
        return rasterizer.render(scene, camera, self.settings(request, device), cancel)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one device draws of a frame.

    Attributes:
        device: Whom it is for; any other could do it.
        parts: At least one, one after the other.
        shares_eyes: Whether two eyes may be drawn at once.
    """

    device: str
    parts: tuple[EyePart, ...]
    shares_eyes: bool = True

    def draw(
        self,
        drawable: Drawable,
        request: FrameRequest,
        rasterizer: Rasterizer,
        device: Device,
        cancel: CancelFlag | None,
    ) -> tuple[RasterImage, ...]:
        """One image a part; two eyes at once where they may share what looks the same to both."""
        images: dict[int, RasterImage] = {}
        for place, part in enumerate(self.parts):
            if place in images:
                continue
            beside = self._second_eye(place, request)
            if beside is None or not isinstance(rasterizer, PairRasterizer):
                images[place] = part.draw(drawable, request, rasterizer, device, cancel)
                continue
            images[place], images[beside] = rasterizer.render_pair(
                drawable.scene,
                request.cameras[part.eye],
                request.cameras[self.parts[beside].eye],
                part.settings(request, device),
                cancel,
            )
        return tuple(images[place] for place in range(len(self.parts)))

    def without(self, eyes: Container[int]) -> Piece:
        """The same but for some eyes, whose pictures are at hand."""
        return replace(self, parts=tuple(part for part in self.parts if part.eye not in eyes))

    def _second_eye(self, place: int, request: FrameRequest) -> int | None:
        """Which part is the same of the other eye, if what they have in common may be reused."""
        part, reuse = self.parts[place], request.settings.reuse
        if not (self.shares_eyes and reuse.drift_px > 0 and reuse.angle_rad > 0):
            return None
        if part.slab is not None:
            return None
        camera = request.cameras[part.eye]
        for other in range(place + 1, len(self.parts)):
            beside = self.parts[other]
            if replace(beside, eye=part.eye) == part and is_pair(
                camera, request.cameras[beside.eye]
            ):
                return other
        return None


def pieces_of(
    schedule: Schedule,
    group: Group,
    request: FrameRequest,
    eyes: Sequence[int],
    cut: CutInSlabs | None = None,
    cut_rows: CutInBands | None = None,
) -> tuple[Piece, ...]:
    """Some pictures of a request, divided among a group by a schedule.

    Args:
        eyes: Which cameras; those whose pictures are at hand are not drawn.
        cut: Cuts views in slabs; None where the scene cannot be drawn so.
        cut_rows: Cuts them in bands that are BALANCED; None for even costs. Eyes that are cut
            alike are cut as the first of them.

    Raises:
        ValueError: If the request wants rows that a picture lacks.
    """
    if not eyes:
        return ()
    rows = {eye: request.settings.rows_of(request.cameras[eye]) for eye in eyes}
    tile_rows = max(-(-(end - first) // TILE_PX) for first, end in rows.values())
    in_layers = cut is not None and request.settings.outputs in LAYERED
    if not in_layers:
        schedule = _in_bands(schedule)

    def cut_places(places: tuple[int, ...], ends: Sequence[float]) -> Sequence[float]:
        return ends if cut_rows is None else cut_rows(eyes[places[0]], ends)

    shares = _parts(schedule, group, len(eyes), tile_rows, cut_places)
    drawn: dict[str, list[EyePart]] = {part.device.name: [] for part in shares}
    for place, eye in enumerate(eyes):
        mine = [part for part in shares if place in part.eyes]
        if cut is not None and in_layers and schedule.has(SplitBy.SHARD):
            parts = _layers(eye, rows[eye], mine, cut)
        else:
            parts = [_band(eye, rows[eye], part.rows) for part in mine]
        for share, part in zip(mine, parts, strict=True):
            if part is not None:
                drawn[share.device.name].append(part)
    once = all(stage in schedule.shared for stage in DRAWN_ONCE)
    return tuple(Piece(device, tuple(parts), once) for device, parts in drawn.items() if parts)


def _in_bands(schedule: Schedule) -> Schedule:
    """Bands in the place of shards."""
    levels = tuple(
        Split(SplitBy.BAND, level.parts) if level.by is SplitBy.SHARD else level
        for level in schedule.split
    )
    return schedule if levels == schedule.split else replace(schedule, split=levels)


def _parts(
    schedule: Schedule, group: Group, eyes: int, tile_rows: int, cut_rows: CutRows
) -> tuple[Part, ...]:
    if eyes <= 2 or not schedule.has(SplitBy.EYE):
        return parts_of(schedule, group, eyes, tile_rows, cut_rows=cut_rows)
    # More pictures than anybody has eyes, such as the sides of a panorama: dealt out.
    devices = group.devices[:eyes]
    return tuple(
        Part(device, tuple(range(i, eyes, len(devices))), (0, tile_rows))
        for i, device in enumerate(devices)
    )


def _band(eye: int, wanted: tuple[int, int], tiles: tuple[int, int]) -> EyePart | None:
    """Tile rows of an eye's picture, None if it has none of them, being less tall than others."""
    first = wanted[0] + tiles[0] * TILE_PX
    end = min(wanted[0] + tiles[1] * TILE_PX, wanted[1])
    if first >= end:
        return None
    height = wanted[1] - wanted[0]
    span = (first - wanted[0]) / height, (end - wanted[0]) / height
    return EyePart(eye, (first, end), (first, end) == wanted, span=span)


def _layers(
    eye: int, wanted: tuple[int, int], shares: Sequence[Part], cut: CutInSlabs
) -> list[EyePart | None]:
    """Layers of an eye's picture, the nearest first; None where a slab is empty."""
    whole = EyePart(eye, wanted, True)
    if len(shares) == 1:
        return [whole]
    slabs = cut(eye, [share.chunks[1] for share in shares[:-1]])
    if sum(slab is not None for slab in slabs) == 1:
        return [None if slab is None else whole for slab in slabs]
    return [None if slab is None else replace(whole, slab=slab, span=slab.masses) for slab in slabs]


def joined(
    pieces: Sequence[Piece],
    drawn: Sequence[Sequence[RasterImage]],
    kept: Mapping[int, RasterImage],
    request: FrameRequest,
    gaussians: int,
) -> tuple[RasterImage, ...]:
    """The pictures of all cameras, in their order.

    Args:
        drawn: Of each piece, one image a part.
        kept: Pictures that were at hand.
        gaussians: Of the scene, of which a layer is drawn from some.
    """
    parts: dict[int, list[tuple[EyePart, RasterImage]]] = {}
    for piece, images in zip(pieces, drawn, strict=True):
        for part, image in zip(piece.parts, images, strict=True):
            parts.setdefault(part.eye, []).append((part, image))
    return tuple(
        kept[eye] if eye in kept else _whole(parts[eye], request.settings, gaussians)
        for eye in range(len(request.cameras))
    )


def _whole(
    parts: Sequence[tuple[EyePart, RasterImage]], settings: RasterSettings, gaussians: int
) -> RasterImage:
    """The picture of one camera."""
    if len(parts) == 1:
        return parts[0][1]
    if all(part.slab is None for part, _ in parts):
        bands = [image for _, image in sorted(parts, key=lambda entry: entry[0].rows[0])]
        return RasterImage.stack(bands, _joined_stats([band.stats for band in bands]))
    layers = {part.slab.near: image for part, image in parts if part.slab is not None}
    stats = _joined_stats([image.stats for image in layers.values()])
    front_to_back = [layers[near] for near in sorted(layers)]
    return composited(front_to_back, settings, replace(stats, gaussians=gaussians))


def _joined_stats(parts: Sequence[RasterStats]) -> RasterStats:
    """Of parts drawn at the same time: the stages are those of the slowest one."""
    slowest = max(parts, key=lambda stats: sum(stats.stage_ms.values()))
    return RasterStats(
        gaussians=max(stats.gaussians for stats in parts),
        visible=sum(stats.visible for stats in parts),
        tile_pairs=sum(stats.tile_pairs for stats in parts),
        stage_ms=dict(slowest.stage_ms),
        parts=max(stats.parts for stats in parts),
        record_bytes=sum(stats.record_bytes for stats in parts),
        is_marched=slowest.is_marched,
    )


def part_times(
    pieces: Sequence[Piece],
    drawn: Sequence[Sequence[RasterImage]],
    group: Group,
    *,
    layers: bool,
) -> dict[int, tuple[list[Span], list[float]]]:
    """By eye that was drawn in layers, or in bands, their spans, and what each takes of a device
    of weight 1."""
    weights = {device.name: device.weight for device in group.devices}
    times: dict[int, tuple[list[Span], list[float]]] = {}
    for piece, images in zip(pieces, drawn, strict=True):
        for part, image in zip(piece.parts, images, strict=True):
            if (part.slab is not None) == layers:
                spans, took = times.setdefault(part.eye, ([], []))
                spans.append(part.span)
                took.append(weights[piece.device] * sum(image.stats.stage_ms.values()))
    return times
