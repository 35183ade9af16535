"""Which memory needs what of a frame: all of it, or slabs."""

from __future__ import annotations

from rendering.depth_slabs import Slab
from rendering.division import Division
from rendering.frame_pieces import EyePart, Piece
from splat.camera import CameraModel
from tests.scenes import orbit_camera

MEMORY_OF = {"cpu:0": "here", "cpu:1": "there", "cpu:2": "here", "cpu:3": "yonder"}
NEAR, FAR = Slab(1.0, 4.0, (0.0, 0.5)), Slab(4.0, 9.0, (0.5, 1.0))
WHOLE = EyePart(0, (0, 64), True)


def layer(eye: int, slab: Slab) -> EyePart:
    return EyePart(eye, (0, 64), True, slab)


def test_who_draws_bands_or_an_eye_may_draw_anything() -> None:
    band = EyePart(0, (0, 32), False)
    division = Division.of([Piece("cpu:0", (band,)), Piece("cpu:1", (WHOLE,))], MEMORY_OF)
    assert division.draws == {"here": None, "there": None}
    assert not division.in_slabs
    assert division.cameras("here", (orbit_camera(CameraModel.PINHOLE, 9, 9, 0.0),)) is None


def test_who_draws_slabs_needs_what_is_in_them() -> None:
    pieces = [
        Piece("cpu:0", (layer(0, NEAR), layer(1, NEAR))),
        Piece("cpu:1", (layer(0, FAR),)),
        Piece("cpu:2", (layer(1, FAR),)),
    ]
    division = Division.of(pieces, MEMORY_OF, {"there", "yonder"})
    assert division.draws == {
        "here": frozenset({(0, NEAR), (1, NEAR), (1, FAR)}),
        "there": frozenset({(0, FAR)}),
    }
    assert division.in_slabs and division.beside == {"yonder"}
    eyes = tuple(orbit_camera(CameraModel.PINHOLE, 9, 9, angle) for angle in (0.0, 0.1))
    ranges = [(c.near, c.far) for c in division.cameras("here", eyes) or ()]
    assert ranges == [(1.0, 4.0), (1.0, 4.0), (4.0, 9.0)]


def test_one_whole_part_needs_everything() -> None:
    for pieces in ([layer(0, NEAR), WHOLE], [WHOLE, layer(0, NEAR)]):
        together = Division.of([Piece("cpu:0", tuple(pieces))], MEMORY_OF)
        apart = Division.of([Piece("cpu:0", (p,)) for p in pieces], MEMORY_OF)
        assert together.draws == apart.draws == {"here": None}
