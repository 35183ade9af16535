"""What ``belvedere info`` says of neural scenes alone: what is known without reading chunks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scene_store.chunks import ChunkSource, Model, NeuralSource
from scene_store.models.mixed_chunks import MixedModel
from scene_store.scene import FIELD_UNIT, Vector3
from splat.anchors import AnchorModel
from splat.fields import FieldModel
from viewer.text import vector_text


@dataclass(frozen=True, slots=True)
class NeuralFacts:
    """What a model says of itself; None where it has no such thing.

    Attributes:
        training_cameras: How many are known; 0 if none is.
        background: RGB behind its fields as they were trained, if they agree.
        octree_levels: Levels of detail that ``bake --level`` chooses from.
        gaussians_per_anchor: How many an anchor stands for.
        appearances: Embeddings, one for a picture that it was trained with.
    """

    training_cameras: int
    background: Vector3 | None = None
    octree_levels: int | None = None
    gaussians_per_anchor: int | None = None
    appearances: int | None = None

    @classmethod
    def of(cls, source: ChunkSource) -> NeuralFacts | None:
        """Of an open scene; None of one of Gaussians."""
        if not isinstance(source, NeuralSource):
            return None
        model, cameras = source.model, len(source.meta.training_cameras)
        if isinstance(model, AnchorModel):
            return cls(
                cameras,
                octree_levels=None if model.levels is None else model.levels.levels,
                gaussians_per_anchor=model.layout.offsets,
                appearances=None if model.appearances is None else len(model.appearances),
            )
        return cls(cameras, background=model.background)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """For people: names and values."""
        rows = []
        if self.octree_levels is not None:
            finest = self.octree_levels - 1
            said = f"{self.octree_levels}: 0, the coarsest, to {finest} (bake --level)"
            rows.append(("Levels of the octree", said))
        if self.gaussians_per_anchor is not None:
            rows.append(("Gaussians an anchor", f"{self.gaussians_per_anchor:,}"))
        if self.appearances is not None:
            rows.append(("Appearances", f"{self.appearances:,}"))
        if self.background is not None:
            rows.append(("Trained before", f"the background {vector_text(self.background)}"))
        if self.training_cameras:
            rows.append(("Training cameras", f"{self.training_cameras:,}"))
        return rows


def bounds_of(source: ChunkSource) -> tuple[Vector3, Vector3]:
    """Corners of the box of a scene, the same of a scene and of its store.

    Boxes of fields may be as large as what cameras could see of them; where there are such, the
    overview tells.
    """
    tree = source.tree
    low, high = tree.lo.min(axis=0), tree.hi.max(axis=0)
    if isinstance(source, NeuralSource) and _has_fields(source.model):
        seen = source.overview()
        # Two standard deviations of what stands for a chunk are its box (``MixedChunks``).
        reach = np.float32(0.0 if source.meta.unit == FIELD_UNIT else 2.0) * seen.scales
        low = np.maximum(low, (seen.means - reach).min(axis=0))
        high = np.minimum(high, (seen.means + reach).max(axis=0))
    return _three(low.tolist()), _three(high.tolist())


def _has_fields(model: Model) -> bool:
    if isinstance(model, MixedModel):
        return any(part.model is not None and _has_fields(part.model) for part in model.parts)
    return isinstance(model, FieldModel)


def _three(values: list[float]) -> Vector3:
    x, y, z = values
    return x, y, z
