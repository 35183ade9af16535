"""Cancelling a frame of the fused engine, which looks at its flag between launches."""

from __future__ import annotations

import pytest

from rendering.cancel import EventCancelFlag
from rendering.fused_cuda import FusedRasterizer
from splat.camera import CameraModel
from splat.errors import RenderCancelled
from tests.rasterizer_contract import ALL, bytes_of
from tests.scenes import orbit_camera, random_scene


class SetAtALook(EventCancelFlag):
    """A flag that somebody sets just before it is looked at for the n-th time."""

    __slots__ = ("_looks", "looks_left")

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks_left = looks

    def is_set(self) -> bool:
        """Whether it is by now."""
        self.looks_left -= 1
        if self.looks_left == 0:
            self.set()
        return super().is_set()


def cancelled_between_launches(rasterizer: FusedRasterizer) -> None:
    """Wherever a frame is when it is cancelled, it ends, and the next one is whole."""
    prepared = rasterizer.prepare(random_scene(1, 60))
    view = orbit_camera(CameraModel.PINHOLE, 33, 17)
    untouched = bytes_of(rasterizer.render(prepared, view, ALL))
    never = SetAtALook(1 << 30)
    rasterizer.render(prepared, view, ALL, never)
    looks = (1 << 30) - never.looks_left
    assert looks >= 4
    for look in range(1, looks + 1):
        with pytest.raises(RenderCancelled):
            rasterizer.render(prepared, view, ALL, SetAtALook(look))
    assert bytes_of(rasterizer.render(prepared, view, ALL)) == untouched
