"""What a bake may begin with, by the kind of the scene: the one place of baking that knows.

Anchors stand for Gaussians, and those of an octree for several levels of detail. Level l is what
Octree-GS itself draws as that level: the anchors that its rule asks for at each distance, none of
them finer than l. That is the rule of an octree of l + 1 levels, so the finest level is the scene
as it is drawn otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from rendering.models.anchors_to_gaussians import to_gaussians
from rendering.models.bake import Start
from rendering.models.bake_progress import Progress, time_left
from scene_store.chunks import EncodedChunk, Model, NeuralSource, Payload, never_cancelled
from scene_store.memory import require_memory
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.anchors import AnchorModel
from splat.camera import Camera
from splat.gaussians import Gaussians
from splat.rows import Rows


def levels_of(model: Model) -> int:
    """How many levels of detail can be asked for of a scene: 0 of one that has none."""
    if isinstance(model, AnchorModel) and model.levels is not None:
        return model.levels.levels
    return 0


def at_level(source: NeuralSource, level: int) -> NeuralSource:
    """The scene as it is drawn with levels of detail up to one.

    Args:
        source: Closed with what is returned.
        level: From 0, the coarsest, to below ``levels_of``.

    Raises:
        ValueError: If there is no such level.
    """
    model = source.model
    if not 0 <= level < levels_of(model):
        raise ValueError(f"level {level} of {levels_of(model)}")
    assert isinstance(model, AnchorModel) and model.levels is not None
    return _OfModel(source, replace(model, levels=replace(model.levels, levels=level + 1)))


def start_of(source: NeuralSource, sh_degree: int) -> Start | None:
    """What makes the Gaussians that a scene stands for as it is drawn from some views; None of a
    scene that stands for none, whose pictures must be drawn first.

    What is returned raises ``BudgetError`` if memory does not suffice for them, and
    ``ChunkReadError`` if a chunk cannot be had.

    Args:
        sh_degree: Of the colours, 0 to 3.
    """
    model = source.model
    if not isinstance(model, AnchorModel):
        return None
    return partial(_converted, source, model, sh_degree)


def _converted(
    source: NeuralSource,
    model: AnchorModel,
    sh_degree: int,
    views: Sequence[Camera],
    progress: Progress,
) -> Gaussians:
    """The Gaussians of all anchors."""
    leaves = np.flatnonzero(source.tree.is_leaf).tolist()
    most = int(source.tree.count[leaves].sum()) * model.layout.offsets
    require_memory(
        "the anchors", most, sh_degree, remedy="use a lower --sh-degree or a smaller scene"
    )
    parts, began = [], time.monotonic()
    for done, chunk in enumerate(leaves):
        left = f", {time_left(began, done, len(leaves))}" if done else ""
        progress(done / len(leaves), f"Converting {source.meta.count:,} anchors{left}")
        encoded = source.read(chunk)
        if encoded is not None:
            rows = source.decode(chunk, encoded)
            assert isinstance(rows, Rows)
            parts.append(to_gaussians(model, rows, views, sh_degree))
    return Gaussians.concatenate(parts)


class _OfModel:
    """Another source, whose rows mean something else; a ``NeuralSource``."""

    def __init__(self, source: NeuralSource, model: Model) -> None:
        self._source = source
        self.model = model
        self.meta: SceneMeta = source.meta
        self.tree: LodTree = source.tree
        self.sh_degree, self.page_gaussians = source.sh_degree, source.page_gaussians
        self.row_bytes = source.row_bytes

    def overview(self) -> Gaussians:
        """See ``NeuralSource``."""
        return self._source.overview()

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        return self._source.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        return self._source.read(chunk, cancelled)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Payload:
        """See ``ChunkSource``."""
        return self._source.decode(chunk, encoded)

    def close(self) -> None:
        """See ``ChunkSource``."""
        self._source.close()
