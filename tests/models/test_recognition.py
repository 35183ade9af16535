"""Neural scenes are told by what is in a file, whatever it is called."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fitting.gridnerf_files import write_landmark, write_system
from benchmarks.fitting.instant_ngp_file import save_snapshot
from benchmarks.fitting.nerfacto_files import write_run
from scene_store.build import BuildOptions
from scene_store.formats import open_scene
from scene_store.formats.zip_entries import MAX_DIRECTORY_BYTES, directory_bytes, entries_of
from scene_store.models import archive_zip, find_reader, open_model, voxel_grid
from scene_store.models.checkpoint_names import MAX_STEPS, names_in
from splat.errors import SceneFormatError
from tests.models import test_gridnerf, test_nerfacto
from tests.models.anchors_torch import ARCHITECTURES, random_net, write_folder
from tests.models.instant_ngp_torch import ngp_scene
from tests.models.nerf_torch import networks, save_flexible, save_original
from tests.models.test_voxel_grid import ball
from viewer.build import build

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def snapshot(path: Path) -> Path:
    scene = ngp_scene("small")
    save_snapshot(path, scene.model, scene.world, scene.grid)
    return path


def deflated(path: Path) -> Path:
    """What zlib makes of a snapshot, without gzip's header."""
    path.write_bytes(zlib.compress(snapshot(path.with_suffix(".msgpack")).read_bytes(), 1))
    return path


def nerfacto_checkpoint(path: Path) -> Path:
    run = write_run(test_nerfacto.lively(test_nerfacto.SMALL), path.parent / "run")
    return Path(shutil.move(run, path))


def nerf_checkpoint(path: Path) -> Path:
    save_flexible(path, *networks("flexible"))
    return path


def original_checkpoint(path: Path) -> Path:
    save_original(path, *networks("original"))
    return path


def system_checkpoint(path: Path) -> Path:
    """LandMarkSystem's, with its arguments beside it."""
    write_system(test_gridnerf.lively(test_gridnerf.SMALL), path.parent)
    return (path.parent / "state_dict.th").rename(path)


def older(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The same as torch wrote it before 1.6."""

    def write_older(path: Path) -> Path:
        whole = torch.load(write(path), weights_only=False)
        torch.save(whole, path, _use_new_zipfile_serialization=False)
        return path

    return write_older


def zipped_again(path: Path) -> Path:
    """With the entries in another order than torch's."""
    nerf_checkpoint(path)
    with zipfile.ZipFile(path) as whole:
        entries = [(info.filename, whole.read(info)) for info in whole.infolist()]
    with zipfile.ZipFile(path, "w") as out:
        for name, data in reversed(entries):
            out.writestr(name, data)
    return path


FILES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "snapshot": ("instant_ngp", lambda path: snapshot(path.with_suffix(".msgpack")).rename(path)),
    "snapshot in gzip": ("instant_ngp", lambda path: snapshot(path.with_suffix(".ingp"))),
    "snapshot in zlib": ("instant_ngp", deflated),
    "nerfacto": ("nerfacto", nerfacto_checkpoint),
    "nerfacto before torch 1.6": ("nerfacto", older(nerfacto_checkpoint)),
    "LandMark": (
        "gridnerf",
        lambda p: write_landmark(test_gridnerf.lively(test_gridnerf.SMALL), p),
    ),
    "LandMarkSystem": ("gridnerf", system_checkpoint),
    "NeRF": ("nerf", nerf_checkpoint),
    "NeRF before torch 1.6": ("nerf", older(original_checkpoint)),
    "NeRF, zipped again": ("nerf", zipped_again),
    "voxel grid": ("voxel_grid", ball),
}


@pytest.mark.parametrize("kind", FILES)
def test_renamed_files_open(kind: str, tmp_path: Path) -> None:
    reader, write = FILES[kind]
    path = write(tmp_path / "written.npz" if kind == "voxel grid" else tmp_path / "written")
    for name in ("scene", "scene.ply", "scene.ckpt", "step-000001000.ckpt", "scene.INGP"):
        path = path.rename(tmp_path / name)
        found = find_reader(path)
        assert found is not None
        assert found.__name__ == f"scene_store.models.{reader}"
    source = open_model(path)
    assert source.meta.count > 0
    source.close()


def test_renamed_anchors_open(tmp_path: Path) -> None:
    folder = write_folder(random_net(ARCHITECTURES["scaffold"]), tmp_path / "scaffold")
    ply = folder / "point_cloud/iteration_30000/point_cloud.ply"
    source = open_model(ply.rename(ply.with_name("scene.ckpt")))
    assert source.meta.format_name == "Scaffold-GS"
    source.close()


def test_numbers_that_are_none_are_told_of_with_their_file(tmp_path: Path) -> None:
    """Also by what a reader did not look at."""
    path = nerfacto_checkpoint(tmp_path / "scene")
    saved = torch.load(path, weights_only=True)
    saved["pipeline"]["_model.field.mlp_head.layers.0.bias"][0] = float("nan")
    torch.save(saved, path)
    with pytest.raises(SceneFormatError, match=r"scene: .*not finite") as caught:
        build([str(path)], tmp_path / "scene.bvs", BuildOptions(), lambda line: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "scene.bvs").exists()


RIGHT_NAMES = (
    "model.msgpack",
    "model.ingp",
    "step-000029999.ckpt",
    "checkpoint1000.ckpt",
    "200000.tar",
    "town.th",
    "town-merged.th",
    "grid.npz",
)


def weights(path: Path) -> None:
    torch.save({"epoch": 1, "weights": {"layer.weight": torch.zeros(3)}}, path)


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, points=np.zeros(3))


OTHER_CONTENTS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("notes of a scene"),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "other weights": weights,
    "arrays": arrays,
    "gzip": lambda path: path.write_bytes(gzip.compress(b"some text")),
    "an archive": lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", "text"),
    "a map": lambda path: path.write_bytes(b"\x81\xa4name\x01"),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("content", OTHER_CONTENTS)
@pytest.mark.parametrize("name", RIGHT_NAMES)
def test_right_names_of_other_contents_are_one_line(
    name: str, content: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    OTHER_CONTENTS[content](path)
    assert find_reader(path) is None
    with pytest.raises(SceneFormatError) as caught:
        open_scene(path)
    said = str(caught.value)
    assert "\n" not in said and str(path) in said
    problem = {
        "text": "is text, no checkpoint",
        "zeros": r"is no checkpoint (it begins with b'\x00",
        "nothing": "is empty",
    }.get(content, "holds none of the neural models that are read")
    assert problem in said and len(said) - len(str(path)) < 200
    assert said.count("docs/models.md") == (content != "nothing")


def test_a_scene_of_gaussians_with_the_name_of_a_checkpoint_opens(tmp_path: Path) -> None:
    """What looks like one by its numbers is no checkpoint, whatever its name."""
    record = np.zeros(40, np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 8)]))
    record["mean"], record["scale"], record["color"] = 0.5, 0.1, (9, 9, 9, 255, 255, 128, 128, 128)
    for name in ("scene.ckpt", "scene.pt"):
        path = tmp_path / name
        path.write_bytes(record.tobytes())
        assert open_scene(path).meta.format_name == "splat"


def trained(folder: Path) -> None:
    folder.mkdir()
    nerf_checkpoint(folder / "checkpoint1000.ckpt")


def test_the_configuration_beside_a_checkpoint_names_the_folder(tmp_path: Path) -> None:
    trained(tmp_path / "scene")
    (path := tmp_path / "scene" / "config.yml").write_text("dataset: {near: 2}\n")
    with pytest.raises(SceneFormatError, match=rf"is no composition .* name that: {path.parent}$"):
        open_scene(path)
    path.write_text("scenes: [{path: a.ply, size: 3}]\n")  # one that is wrong is told where
    with pytest.raises(SceneFormatError, match=r"scenes\[0\]\.size\): unknown key"):
        open_scene(path)
    (alone := tmp_path / "config.yml").write_text("dataset: {near: 2}\n")
    with pytest.raises(SceneFormatError, match=r"\(dataset\): unknown key; use scenes, up"):
        open_scene(alone)


def test_a_folder_of_scenes_names_some(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SceneFormatError, match=r"; name a scene file inside it$"):
        open_scene(tmp_path)
    trained(tmp_path / "east")
    with pytest.raises(SceneFormatError, match=r"; name a scene inside it, such as east$"):
        open_scene(tmp_path)
    for name in ("north", "south", "west"):
        trained(tmp_path / name)
    with pytest.raises(SceneFormatError, match=r", such as east, north or south$"):
        open_scene(tmp_path)


def test_folders_of_other_contents_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "nerfstudio_models").mkdir()
    weights(tmp_path / "nerfstudio_models" / "step-000029999.ckpt")
    weights(tmp_path / "town.th")
    weights(tmp_path / "checkpoint1000.ckpt")
    assert find_reader(tmp_path) is None
    with pytest.raises(SceneFormatError, match="checkpoint of a model that is read"):
        open_scene(tmp_path)


def test_other_scenes_may_have_names_of_checkpoints(tmp_path: Path) -> None:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 0\nend_header\n"
    path = tmp_path / "model.ingp"
    path.write_text(header)
    with pytest.raises(SceneFormatError) as caught:
        open_scene(path)
    assert "checkpoint" not in str(caught.value)


# ---- What looking costs ---------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"ply\n", b"PK\x03\x04", b"\x80\x02", b"\x1f\x8b", b"\x81\xa1a"])
def test_large_files_are_not_read(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(1 << 33)
    find_reader(tmp_path / "none")  # readers are imported
    tracemalloc.start()
    assert find_reader(path) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 21  # a header of a PLY may have half of it


def test_steps_of_a_pickle_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"\x80\x02" + b"N" * MAX_STEPS + pickle.dumps("model_coarse_state_dict", 2))
    assert names_in(path) == frozenset()
    path.write_bytes(b"\x80\x02" + b"N" * 9 + pickle.dumps("model_coarse_state_dict", 2)[2:])
    assert names_in(path) == {"model_coarse_state_dict"}


def test_other_entries_of_a_zip_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "mixed"
    name = pickle.dumps("model_coarse_state_dict", 2)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("scene/data.pkl", pickle.dumps({"weights": 1}, 2))
        out.writestr("scene/more.pkl", name)
    assert names_in(path) == {"weights"}


def test_names_are_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    command = f"touch {witness}".encode()
    path = tmp_path / "code"
    path.write_bytes(b"\x80\x02cos\nsystem\n(U" + bytes([len(command)]) + command + b"tR.")
    assert command.decode() in names_in(path)
    assert not witness.exists()


def archive(path: Path, entries: int = 3) -> bytes:
    with zipfile.ZipFile(path, "w") as out:
        for number in range(entries):
            out.writestr(f"{number:064d}", b"x")
    return path.read_bytes()


def test_entries_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "whole.zip"
    whole = archive(path)
    with zipfile.ZipFile(path) as out:
        assert entries_of(path) == {each.filename: each.header_offset for each in out.infolist()}
    path.write_bytes(whole[:-1])
    assert entries_of(path) == {"0" * 64: 0}  # of what has no end the first
    path.write_bytes(whole[:40])
    assert len(entries_of(path)) <= 1
    path.write_bytes(b"no zip")
    assert entries_of(path) == {}


def test_a_directory_of_any_length_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "crowded.zip"
    archive(path, MAX_DIRECTORY_BYTES // 100)
    assert len(entries_of(path)) == 1
    whole = bytearray(archive(path))
    end = whole.rindex(b"PK\x05\x06")
    for length, start in ((1 << 31, 0), (0xFFFFFFFF, 0xFFFFFFFF), (10, 1 << 31)):
        struct.pack_into("<2I", whole, end + 12, length, start)
        path.write_bytes(whole)
        assert len(entries_of(path)) == 1


def test_readers_do_not_list_directories_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_zip, "MAX_DIRECTORY_BYTES", 1 << 12)
    monkeypatch.setattr(voxel_grid, "MAX_DIRECTORY_BYTES", 1 << 12)
    for path in (nerf_checkpoint(tmp_path / "scene"), ball(tmp_path / "grid.npz")):
        open_model(path).close()
        with zipfile.ZipFile(path, "a") as out:
            for number in range(100):
                out.writestr(f"{number:064d}", b"x")
        assert directory_bytes(path) > 1 << 12
        with pytest.raises(SceneFormatError, match="lists more"):
            open_model(path)


HIDDEN_MAGIC = (0x4B50, 0x0605)  # PK\5\6, as how many entries an end record says there are


def disguised(path: Path, how: str, entries: int = 100) -> int:
    """Adds entries to an archive, and tells of them in another way than archives do. How long
    its directory is.

    Args:
        how: ``magic``: in a record in which another one seems to begin; ``locator``: in the record
            of a zip64, beside a classic one that says that there are none; ``far``: likewise, but
            only the locator tells where that is; ``classic``: in the classic one, and the zip64's
            that is located says that there are none.
    """
    with zipfile.ZipFile(path, "a") as out:
        for number in range(entries):
            out.writestr(f"{number:064d}", b"x")
    whole = path.read_bytes()
    end = whole.rindex(b"PK\x05\x06")
    count, length, start = struct.unpack_from("<H2I", whole, end + 10)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    none = record[:40] + struct.pack("<2Q", 0, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    counts, told, between = {
        "magic": (HIDDEN_MAGIC, length, b""),
        "locator": ((0, 0), 0, record + locator),
        "far": ((0, 0), 0, record + bytes(80) + locator),
        "classic": ((0, 0), length, none + bytes(80) + locator),
    }[how]
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *counts, told, start, 0)
    path.write_bytes(whole[:end] + between + last)
    return int(length)


@pytest.mark.parametrize("how", ["magic", "locator", "far", "classic"])
def test_directories_in_disguise_are_measured(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a ``zipfile`` of one of Python's versions would read them."""
    monkeypatch.setattr(archive_zip, "MAX_DIRECTORY_BYTES", 1 << 12)
    monkeypatch.setattr(voxel_grid, "MAX_DIRECTORY_BYTES", 1 << 12)
    for path, read in (
        (nerf_checkpoint(tmp_path / "scene"), archive_zip.TorchZip),
        (ball(tmp_path / "grid.npz"), voxel_grid.read_field),
    ):
        length = disguised(path, how)
        if how in ("magic", "locator"):
            assert len(zipfile.ZipFile(path).namelist()) > 100
        assert directory_bytes(path) == length > 1 << 12
        with pytest.raises(SceneFormatError, match="lists more"):
            read(path)


def test_an_end_that_is_not_told_is_none(tmp_path: Path) -> None:
    """As ``zipfile`` sees it."""
    cut = ball(tmp_path / "cut.npz")
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(cut)
    with pytest.raises(SceneFormatError, match=r"is damaged \(has no end record") as caught:
        voxel_grid.read_field(cut)
    assert "\n" not in str(caught.value)
    with pytest.raises(zipfile.BadZipFile, match="no end record"):
        directory_bytes(cut)


def test_a_directory_before_a_comment_is_found(tmp_path: Path) -> None:
    path = tmp_path / "told.zip"
    whole = archive(path)
    path.write_bytes(whole[:-2] + b"\x08\0about it")
    assert len(entries_of(path)) == len(zipfile.ZipFile(path).namelist()) == 3


def test_a_directory_beyond_4_gb_is_found(tmp_path: Path) -> None:
    """As zip64 tells it."""
    path = tmp_path / "large.zip"
    whole = archive(path)
    end = whole.rindex(b"PK\x05\x06")
    length, start = struct.unpack_from("<2I", whole, end + 12)
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    tail = whole[end : end + 12] + b"\xff" * 8 + whole[end + 20 :]
    path.write_bytes(whole[:end] + record + locator + tail)
    assert len(entries_of(path)) == 3
