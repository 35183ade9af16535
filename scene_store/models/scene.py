"""A neural scene, opened."""

from __future__ import annotations

from dataclasses import dataclass

from scene_store.chunks import NeuralSource
from scene_store.scene import SceneMeta


@dataclass(frozen=True, slots=True, eq=False)
class NeuralScene:
    """What a reader of a kind of model opens.

    Attributes:
        source: Its chunks; whoever draws it closes it.
    """

    source: NeuralSource

    @property
    def meta(self) -> SceneMeta:
        """What is known of it."""
        return self.source.meta
