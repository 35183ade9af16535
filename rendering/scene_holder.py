"""The scene that is drawn at present, for the devices of one memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rendering.base import Rasterizer
from rendering.device import Device
from rendering.drawable import Drawable, DrawableScene, ResidentScene, SceneClosed
from rendering.frame import FrameRequest
from splat.errors import SettingsError
from splat.gaussians import Gaussians


class SceneHolder:
    """One scene for all devices of a memory: one residency, one cut and one lease a request.

    Devices with memories of their own would need a scene each, made by a factory for each
    memory, and a cut that all of them can draw, chosen once per request: this is where it
    belongs. Until then, devices of different memories are refused.

    Args:
        rasterizer: What scenes are prepared for.
        scene: Gaussians, of which no reference is kept, or a scene made for ``rasterizer``,
            which is closed with this.
        devices: Who will draw.

    Raises:
        SettingsError: If the devices do not share a memory.
    """

    def __init__(
        self, rasterizer: Rasterizer, scene: Gaussians | DrawableScene, devices: Sequence[Device]
    ) -> None:
        _require_one_memory(devices)
        self._rasterizer = rasterizer
        self._scene = self._drawable(scene)
        self._replacing = threading.Lock()

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return self._scene.detail_counts

    @contextmanager
    def acquire(self, request: FrameRequest) -> Iterator[Drawable]:
        """The scene for one frame, the same for all its parts, even if it is replaced meanwhile.

        Raises:
            SceneClosed: If this was closed.
        """
        while True:
            scene = self._scene
            held = scene.acquire(request)
            try:
                drawable = held.__enter__()
            except SceneClosed:
                if scene is self._scene:
                    raise
                continue  # it was replaced just before it was acquired
            break
        try:
            yield drawable
        finally:
            held.__exit__(None, None, None)

    def replace(self, scene: Gaussians | DrawableScene) -> None:
        """Draw another scene from the next frame on; frames under way keep the old one."""
        drawable = self._drawable(scene)
        with self._replacing:
            before, self._scene = self._scene, drawable
        before.close()

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Have one more level of detail, coarser than those there are.

        Returns:
            Whether it counts: not if the scene streams, or was replaced while this level,
            which is of the old one, was being prepared.
        """
        scene = self._scene
        if not isinstance(scene, ResidentScene):
            return False
        scene.add_coarser(gaussians)
        return self._scene is scene

    def forget(self, client: str) -> None:
        """The client is gone."""
        self._scene.forget(client)

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()

    def _drawable(self, scene: Gaussians | DrawableScene) -> DrawableScene:
        if isinstance(scene, Gaussians):
            return ResidentScene(self._rasterizer, scene)
        return scene


def _require_one_memory(devices: Sequence[Device]) -> None:
    by_memory: dict[str, list[str]] = {}
    for device in devices:
        by_memory.setdefault(device.memory, []).append(device.name)
    if len(by_memory) > 1:
        where = "; ".join(f"{memory}: {', '.join(names)}" for memory, names in by_memory.items())
        raise SettingsError(
            f"devices: a scene is in one memory, but these are of {len(by_memory)} ({where}); use"
            " those of one of them"
        )
