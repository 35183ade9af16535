"""Gaussians, anchors and fields in one picture, composited by depth.

What is made of Gaussians is drawn by the engine in slabs of depth (docs/adr/0011), each a layer of
colour, alpha and depth. In a pixel a layer is then a *fragment*: all of its alpha, at the mean
depth that its Gaussians have there. Fragments are samples of the rays that go through the fields,
merged with theirs by distance, so what is in front hides what is behind to the sample, whichever
kind it is.

*Error.* Between Gaussians of different slabs, and between them and what no slab of theirs contains,
the order is exact. Within a slab a pixel's Gaussians stand where they are on average: what a field
has between them is on one side of all. With a_k the alpha of the layer and f_k that of the field
within the slab, a pixel's colour is off by at most ``Σ_k T_k a_k f_k`` times the colours' range,
T_k what is left of the light before it. Where Gaussians are surfaces, a_k or f_k is next to nothing
in almost every slab. Borders lie so that slabs hold equally much of what is seen of the Gaussians,
found in a small picture of the whole view; more slabs are more exact.

Anchors are decoded before that, once for all that is drawn of a request: the small picture, slabs,
bands and both eyes are of the same Gaussians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rendering.base import (
    TRANSMITTANCE_STOP,
    CancelFlag,
    Outputs,
    PagingRasterizer,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.depth_slabs import DepthMasses, slabs_between
from rendering.frame import FrameRequest
from rendering.models.anchors import AnchorDrawing, AnchorRasterizer, AnchorScene
from rendering.models.field_scene import rows_of
from rendering.models.fields import FieldRasterizer
from rendering.models.fragments import Fragments
from rendering.models.mixed_pages import MixedPool, by_source
from rendering.models.renderers import ModelWishes, renderer_of
from rendering.stages import Stage
from scene_store.models.mixed_chunks import MixedModel, wrapped_rows
from scene_store.placement import Placement, rotation_matrix
from splat.camera import Camera, CameraModel
from splat.fields import FieldModel, PagedFieldModel
from splat.gaussians import Gaussians
from splat.rows import Rows

SLABS = 8
PREVIEW_SIDE = 96  # pixels of the larger side of the picture by which borders are found
NO_WISHES = ModelWishes()
LAYER = Outputs.COLOR | Outputs.DEPTH


@dataclass(frozen=True, slots=True, eq=False)
class SplatGroup:
    """Parts that are drawn as Gaussians, together.

    Attributes:
        rasterizer: What draws them.
        scene: Of that.
        placement: Of its world; the camera is moved accordingly.
        drawing: Of the picture under way, of anchors that were decoded for it.
    """

    rasterizer: PagingRasterizer
    scene: Any
    placement: Placement
    drawing: AnchorDrawing | None = None

    def decoded(self, camera: Camera, settings: RasterSettings, flag: CancelFlag) -> SplatGroup:
        """The same as what the engine draws in layers."""
        if not isinstance(self.rasterizer, AnchorRasterizer):
            return self
        inside = camera_inside(camera, self.placement)
        drawing, _ = self.rasterizer.begun(self.scene, (inside,), settings, flag)
        return SplatGroup(self.rasterizer.engine, drawing.scene, self.placement, drawing)

    @property
    def decode_stats(self) -> RasterStats:
        """What decoding took for the picture under way."""
        if self.drawing is None:
            return RasterStats()
        return RasterStats(stage_ms={Stage.DECODE.value: self.drawing.decode_ms})


@dataclass(frozen=True, slots=True, eq=False)
class MixedScene:
    """What a frame draws.

    Attributes:
        groups: Of Gaussians.
        fields: Of the field rasterizer; None if there are none in the frame.
    """

    groups: tuple[SplatGroup, ...]
    fields: Any


class MixedRasterizer:
    """Draws scenes of several kinds; see the module.

    Args:
        model: What their parts need.
        engine: Of the device.
        slabs: Layers of Gaussians, where there are fields to merge them with.
        wishes: The user's, for the parts that they concern.
        options: Of ``FieldRasterizer``.

    Attributes:
        name: Of the engine.
        slabs: As given.
    """

    def __init__(
        self,
        model: MixedModel,
        engine: PagingRasterizer,
        *,
        slabs: int = SLABS,
        wishes: ModelWishes = NO_WISHES,
        **options: Any,
    ) -> None:
        self.name, self.slabs = engine.name, slabs
        self._engine, self._model = engine, model
        kinds = [part.model for part in model.parts if isinstance(part.model, FieldModel)]
        # Fields of one scene have their tables in one file.
        tables = next((m.tables for m in kinds if isinstance(m, PagedFieldModel)), None)
        names = tuple(kind for model in kinds for kind in model.kinds)
        self._fields = FieldRasterizer(PagedFieldModel(names, tables=tables), engine, **options)
        self._drawing: list[Any] = [
            self._fields
            if isinstance(part.model, FieldModel)
            else renderer_of(part.model, engine, wishes.within(part.model))
            for part in model.parts
        ]

    def prepare(self, gaussians: Rows | Gaussians) -> MixedScene:
        """The scene of chunks that are there as a whole.

        Args:
            gaussians: Their rows, one chunk after the other.
        """
        contents = rows_of(gaussians)
        pool = self.new_pool(max(1, len(contents)), 0)
        parts = []
        first = 0
        while first < len(contents):
            page = pool.pack(contents[first : first + wrapped_rows(contents.data[first])])
            parts.append(ScenePart(page))
            first += page.held.rows
        return self.compose(parts)

    def new_pool(self, page_gaussians: int, sh_degree: int) -> MixedPool:
        """Pages of so many rows; see ``rendering.base.PagingRasterizer``."""
        return MixedPool(self._model, self._drawing, page_gaussians)

    def compose(self, parts: Sequence[ScenePart]) -> MixedScene:
        """Chunks of all kinds as one scene."""
        return self._composed(parts, None)

    def compose_for(self, parts: Sequence[ScenePart], request: FrameRequest) -> MixedScene:
        """Chunks of all kinds as one scene for a request; see ``rendering.frame_scenes``."""
        return self._composed(parts, request)

    def _composed(self, parts: Sequence[ScenePart], request: FrameRequest | None) -> MixedScene:
        own = by_source(parts, len(self._model.parts))
        gaussians, fields, groups = [], [], []
        for part, rasterizer, pages in zip(self._model.parts, self._drawing, own, strict=True):
            if part.model is None:
                gaussians += pages
            elif isinstance(part.model, FieldModel):
                fields += pages
            elif pages:
                scene = _anchors(rasterizer, pages, request, part.placement)
                groups.append(SplatGroup(rasterizer, scene, part.placement))
        if gaussians:
            placed = SplatGroup(self._engine, self._engine.compose(gaussians), Placement())
            groups.insert(0, placed)
        return MixedScene(tuple(groups), self._fields.compose(fields) if fields else None)

    def new_cancel_flag(self) -> CancelFlag:
        """A flag for one call of ``render``: of the engine's kind."""
        return self._engine.new_cancel_flag()

    def render(
        self,
        scene: MixedScene,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``. A layer of Gaussians counts as one in
        ``RasterImage.count`` where there are fields, too."""
        flag = self._engine.new_cancel_flag() if cancel is None else cancel
        if not scene.groups:
            fields = self._fields.compose([]) if scene.fields is None else scene.fields
            return self._fields.render(fields, camera, settings, flag)
        if scene.fields is None and len(scene.groups) == 1:
            return _drawn(scene.groups[0], camera, settings, flag)
        groups = tuple(group.decoded(camera, settings, flag) for group in scene.groups)
        layers = self._layers(groups, camera, settings, flag)
        fragments = fragments_of(layers, camera.width, settings.rows_of(camera)[0])
        fields = self._fields.compose([]) if scene.fields is None else scene.fields
        image = self._fields.render_among(fields, camera, settings, flag, fragments)
        decoding = [group.decode_stats for group in groups]
        drawing = [layer.stats for layer in layers]
        return replace(image, stats=_joint([image.stats, *decoding, *drawing]))

    def _layers(
        self,
        groups: Sequence[SplatGroup],
        camera: Camera,
        settings: RasterSettings,
        flag: CancelFlag,
    ) -> list[RasterImage]:
        """The slabs of all groups."""
        how = replace(
            settings,
            background=(0.0, 0.0, 0.0),
            outputs=LAYER,
            transmittance_stop=TRANSMITTANCE_STOP,
        )
        borders = self._borders(groups, camera, how, flag)
        slabs = slabs_between(camera, borders, [0.0] * (len(borders) + 2))
        return [
            _drawn(group, slab.seen_by(camera), how, flag)
            for slab in slabs
            if slab is not None
            for group in groups
        ]

    def _borders(
        self, groups: Sequence[SplatGroup], camera: Camera, how: RasterSettings, flag: CancelFlag
    ) -> list[np.float32]:
        """Depths between which equally much of the Gaussians is seen; of the whole picture,
        whichever rows of it are drawn."""
        share = min(1.0, PREVIEW_SIDE / max(camera.width, camera.height))
        size = [max(1, round(share * side)) for side in (camera.width, camera.height)]
        small = camera.resized(*size)
        previews = [_drawn(g, small, replace(how, rows=None), flag) for g in groups]
        depths = np.concatenate([_depth(p)[p.alpha > 0] for p in previews]).astype(np.float64)
        weights = np.concatenate([p.alpha[p.alpha > 0] for p in previews]).astype(np.float64)
        if not len(depths):
            return []
        masses = DepthMasses.of(depths, weights)
        found = [masses.depth_at((number + 1) / self.slabs) for number in range(self.slabs - 1)]
        return sorted(set(found))


def _depth(image: RasterImage) -> NDArray[np.float32]:
    assert image.depth is not None
    return image.depth


def _drawn(
    group: SplatGroup, camera: Camera, settings: RasterSettings, flag: CancelFlag
) -> RasterImage:
    """A group, with depths of the scene."""
    inside = camera_inside(camera, group.placement)
    image = group.rasterizer.render(group.scene, inside, settings, flag)
    if group.drawing is not None:
        image = replace(image, stats=group.drawing.drawn(image.stats))
    if group.placement == Placement():
        return image
    scale = np.float32(group.placement.scale)
    depth = None if image.depth is None else image.depth * scale
    median = None if image.median_depth is None else image.median_depth * scale
    return replace(image, depth=depth, median_depth=median)


def _anchors(
    rasterizer: Any, pages: Sequence[ScenePart], request: FrameRequest | None, placement: Placement
) -> AnchorScene:
    assert isinstance(rasterizer, AnchorRasterizer)
    if request is None:
        return rasterizer.compose(pages)
    cameras = [camera_inside(camera, placement) for camera in request.cameras]
    return rasterizer.compose_for(pages, request, cameras)


def camera_inside(camera: Camera, placement: Placement) -> Camera:
    """The camera in the world of a scene that was placed in this one: it sees the same picture,
    with depths that are shorter by the placement's scale."""
    if placement == Placement():
        return camera
    scale = placement.scale
    rotation, shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation @ rotation_matrix(placement.rotation)
    viewmat[:3, 3] = (rotation @ np.asarray(placement.translation) + shift) / scale
    K = np.array(camera.K)
    if camera.model is CameraModel.ORTHO:
        K[[0, 1], [0, 1]] *= scale
    return replace(camera, viewmat=viewmat, K=K, near=camera.near / scale, far=camera.far / scale)


def fragments_of(layers: Sequence[RasterImage], width: int, first_row: int) -> Fragments:
    """Layers as fragments, by pixel and then by depth.

    Args:
        layers: With colours, premultiplied, and depths, all of the same rows.
        first_row: Of these, in the whole picture.
    """
    pixels, depths, alphas, colors = [], [], [], []
    for layer in layers:
        assert layer.color is not None and layer.depth is not None
        alpha = layer.alpha.reshape(-1)
        there = np.flatnonzero(alpha > 0)
        pixels.append(there + first_row * width)
        depths.append(layer.depth.reshape(-1)[there])
        alphas.append(alpha[there])
        colors.append(layer.color.reshape(-1, 3)[there] / alpha[there, None])
    ray, depth = np.concatenate(pixels), np.concatenate(depths)
    order = np.lexsort((depth, ray))
    color = np.concatenate(colors)[order].T
    return Fragments(
        ray[order].astype(np.int32),
        depth[order],
        np.concatenate(alphas)[order],
        np.ascontiguousarray(color),
    )


def _joint(stats: Sequence[RasterStats]) -> RasterStats:
    """What all passes did; Gaussians and rows of the scene are counted once."""
    stage_ms: dict[str, float] = {}
    for each in stats:
        for stage, ms in each.stage_ms.items():
            stage_ms[stage] = stage_ms.get(stage, 0.0) + ms
    return RasterStats(
        gaussians=stats[0].gaussians + max((each.gaussians for each in stats[1:]), default=0),
        visible=sum(each.visible for each in stats),
        tile_pairs=sum(each.tile_pairs for each in stats),
        stage_ms=stage_ms,
        parts=max(each.parts for each in stats),
        record_bytes=max(each.record_bytes for each in stats),
    )
