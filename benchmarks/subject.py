"""What is measured: a path through a scene that a rasterizer prepared, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from benchmarks.scenes import BenchmarkScene, CameraPath
from rendering.base import Rasterizer

Advance = Callable[[], None]
RasterizerT_co = TypeVar("RasterizerT_co", bound=Rasterizer, covariant=True)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of a path is drawn.

    Attributes:
        cameras: Views of the path, at equal distances.
        repeats: Timed frames of each.
        threads: CPU threads a frame; 0 for one a core.
    """

    cameras: int = 12
    repeats: int = 6
    threads: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Subject(Generic[RasterizerT_co]):
    """A path through a scene, and who draws it.

    Attributes:
        prepared: The scene as ``rasterizer`` prepared it.
        asked: The scene's name as it was asked for; ``scene.name`` is for people.
    """

    scene: BenchmarkScene
    path: CameraPath
    rasterizer: RasterizerT_co
    prepared: Any
    asked: str = ""

    def describe(self) -> dict[str, Any]:
        """The fields of a record that say what was drawn."""
        first = self.path.cameras[0]
        return {
            "scene": self.scene.name,
            "gaussians": len(self.scene.gaussians),
            "path": self.path.name,
            "width": first.width,
            "height": first.height,
        }


def ignore_progress() -> None:
    """The ``Advance`` of those who do not care how far it is."""
