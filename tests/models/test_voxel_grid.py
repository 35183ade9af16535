"""Grids of densities and colours."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rendering.base import RasterSettings
from rendering.models.fields import FieldRasterizer
from rendering.native.cpu import NativeRasterizer
from scene_store.models import voxel_grid
from scene_store.models.field_bytes import block_rows
from scene_store.models.field_chunks import block_of
from scene_store.models.voxel_grid import read_field, recognizes
from splat.camera import Camera
from splat.errors import BudgetError, SceneFormatError
from splat.fields import FieldModel, HashGridEncoding
from tests.models.model_contract import ModelContract

SIDE = 12


def ball(path: Path, **changes: object) -> Path:
    """A ball of radius 0.8 in a cube from −1 to 1, of many colours."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    arrays: dict[str, object] = {
        "density": np.where(x**2 + y**2 + z**2 < 0.64, 20.0, 0.0),
        "rgb": np.stack([0.5 + 0.5 * x, 0.5 + 0.5 * y, 0.5 + 0.5 * z], axis=-1),
        "lo": np.full(3, -1.0),
        "hi": np.full(3, 1.0),
        "up": np.array([0.0, 0.0, 1.0]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


class TestContract(ModelContract):
    reader = "voxel_grid"
    files = ("ball.npz",)

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Path:
        return ball(tmp_path / "ball.npz")


def test_the_picture_is_the_integral(tmp_path: Path) -> None:
    """Along a ray through the middle of a cube of even density."""
    density = 1.7
    path = ball(
        tmp_path / "even.npz",
        density=np.full((SIDE,) * 3, density),
        rgb=np.full((SIDE, SIDE, SIDE, 3), 0.25),
    )
    renderer = FieldRasterizer(FieldModel(("Voxel grid",)), NativeRasterizer())
    scene = renderer.prepare(block_rows(block_of(read_field(path))))
    camera = Camera.look_at((0, -4, 0), (0, 0, 0), (0, 0, 1), fov_y_rad=0.05, width=3, height=3)
    image = renderer.render(scene, camera, RasterSettings())
    assert image.color is not None
    expected = 1 - np.exp(-density * 2.0)
    assert image.alpha[1, 1] == pytest.approx(expected, abs=2e-2)
    assert image.color[1, 1] == pytest.approx(0.25 * image.alpha[1, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lo": None}, "lacks the array 'lo'"),
        ({"density": np.full((SIDE,) * 3, np.nan)}, "not finite"),
        ({"density": np.full((SIDE,) * 3, -1.0)}, "below 0"),
        ({"rgb": np.zeros((SIDE, SIDE, 3))}, "'rgb' of shape"),
        ({"density": np.zeros((1, 1, 1))}, "2 to 512 a side"),
        ({"hi": np.array([1.0, 1.0, 5.0])}, "no cube"),
        ({"rgb": np.array([object()])}, "'rgb' of object instead of real numbers"),
        ({"up": np.zeros(3, np.complex64)}, "'up' of complex64 instead"),
        ({"up": np.zeros(3, "m8[s]")}, "'up' of timedelta64"),
        ({"up": np.array(["a", "b", "c"])}, "'up' of <U1 instead"),
        ({"lo": np.full(3, -1e300)}, "'lo' that is not finite"),
    ],
)
def test_bad_grids_are_one_line(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    path = ball(tmp_path / "bad.npz", **changes)
    assert recognizes(path)
    with pytest.raises(SceneFormatError, match=problem):
        read_field(path)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4", np.uint8])
def test_numbers_of_any_width_and_order_are_read(tmp_path: Path, dtype: str) -> None:
    density = np.random.default_rng(0).integers(0, 200, (SIDE,) * 3)
    turned = np.asfortranarray(density.astype(dtype))
    field = read_field(ball(tmp_path / "grid.npz", density=turned))
    assert isinstance(field.network.position, HashGridEncoding)
    np.testing.assert_array_equal(field.network.position.table[:, 0], density.reshape(-1))


def archive(path: Path, density: bytes, old: bytes = b"", new: bytes = b"") -> Path:
    """One whose density is what it is made of, with ``old`` bytes of its zip as ``new``."""
    ball(path, density=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("density.npy", density)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new) if old else data)
    return path


def npy(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """A file of numpy whatever its header claims."""
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


GOOD = npy("<f4", (SIDE,) * 3, bytes(4 * SIDE**3))
CENTRAL = b"PK\x01\x02\x14\x03\x14\x00"  # version made by, system, version needed
DAMAGES: dict[str, tuple[bytes, ...]] = {
    "encrypted": (GOOD, CENTRAL + b"\0\0", CENTRAL + b"\1\0"),
    "method": (GOOD, CENTRAL + b"\0\0\x08\0", CENTRAL + b"\0\0\x63\0"),
    "version": (GOOD, CENTRAL, CENTRAL[:6] + b"\xff\0"),
    "claims": (npy("<f4", (1 << 40,) * 3, b""),),
    "short": (npy("<f4", (SIDE,) * 3, b"1234"),),
    "negative": (npy("<f4", (-1, -4), bytes(16)),),
    "no header": (b"density",),
    "no text": (b"\x93NUMPY\x01\x00\x04\x00{'(\n",),
    "open text": (b"\x93NUMPY\x01\x00\x04\x00{((\n",),
    "no key": (b"\x93NUMPY\x01\x00\x08\x00{[]: 1}\n",),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_are_one_line(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "bad.npz", *DAMAGES[damage])
    assert recognizes(path)
    with pytest.raises(SceneFormatError) as caught:
        read_field(path)
    assert "\n" not in str(caught.value)


def test_what_was_packed_is_verified(tmp_path: Path) -> None:
    """Broken streams, and whole ones of other bytes."""
    whole = archive(tmp_path / "bad.npz", GOOD).read_bytes()
    start = whole.index(b"density.npy") + len(b"density.npy")
    for at, value in ((start, 0xFF), (whole.index(b"lo.npy") + 160, 1)):
        data = bytearray(whole)
        data[at] = value
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(SceneFormatError, match="is damaged"):
            read_field(tmp_path / "bad.npz")


def test_bombs_are_refused_by_their_headers(tmp_path: Path) -> None:
    """What little is packed would be much: nothing of it is unpacked."""
    path = archive(tmp_path / "bomb.npz", npy("|i1", (1 << 25,), bytes(1 << 25)))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    with pytest.raises(SceneFormatError, match="2 to 512 a side"):
        read_field(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 22


def test_a_grid_lies_in_memory_once_while_it_is_read(tmp_path: Path) -> None:
    side = 96
    wide = np.asfortranarray(np.random.default_rng(0).uniform(0, 1, (side, side, side, 3)))
    path = ball(tmp_path / "grid.npz", density=wide[..., 0], rgb=wide)
    tracemalloc.start()
    field = read_field(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(field.network.position, HashGridEncoding)
    table = field.network.position.table
    np.testing.assert_array_equal(table[:, 1:], wide.reshape(-1, 3).astype(np.float32))
    assert most < 1.2 * table.nbytes + 16 * voxel_grid._PIECE


def test_a_grid_too_large_for_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ball(tmp_path / "grid.npz")
    monkeypatch.setattr(voxel_grid, "available_bytes", lambda: 32 * SIDE**3 - 1)
    with pytest.raises(BudgetError, match="a side takes"):
        read_field(path)
    monkeypatch.setattr(voxel_grid, "available_bytes", lambda: 32 * SIDE**3)
    assert read_field(path).kind == "Voxel grid"


def test_other_archives_are_not_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    assert not recognizes(tmp_path / "other.npz")
