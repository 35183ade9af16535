"""Broken, hostile and misnamed files: one clear error each, in bounded memory."""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from scene_store.formats import open_scene
from scene_store.formats.side_files import FolderFiles, ZipFiles
from scene_store.formats.zip_entries import MAX_DIRECTORY_BYTES
from scene_store.loading import load_scene
from splat.errors import SceneError, SceneFormatError, SceneNotFoundError
from tests.formats import encoders
from tests.formats.samples import random_gaussians

GAUSSIANS = random_gaussians(40, 1)
MEMORY_LIMIT = 48 << 20


@contextmanager
def bounded_memory(limit: int = MEMORY_LIMIT) -> Iterator[None]:
    """Fails if more than ``limit`` bytes are allocated at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:,} bytes"


def refuse(path: Path, *words: str) -> str:
    """Loads a scene that must be refused; checks the message and returns it."""
    with bounded_memory(), pytest.raises(SceneError) as caught:
        load_scene(path)
    message = str(caught.value)
    assert str(path.parent) in message  # the file itself, or one beside it
    assert message.isprintable()
    assert len(message) < 500
    for word in words:
        assert word in message
    return message


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- nothing there -------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneNotFoundError, match=r"gone\.ply: no such file"):
        open_scene(tmp_path / "gone.ply")


def test_an_empty_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(SceneNotFoundError, match="path is empty"):
        open_scene("")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_an_impossible_name_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(SceneNotFoundError):
        open_scene(tmp_path / name)


@pytest.mark.parametrize("name", ["a.ply", "a.splat", "a.ksplat", "a.spz", "a.sog", "meta.json"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    refuse(write(tmp_path, name, b""), "is empty")


def test_a_folder_without_a_scene(tmp_path: Path) -> None:
    with pytest.raises(SceneFormatError, match="is a folder without"):
        open_scene(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    with pytest.raises(SceneFormatError, match="not a regular file"):
        open_scene(tmp_path / "pipe.ply")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.ply", encoders.ply(GAUSSIANS))
    path.chmod(0)
    with pytest.raises(SceneNotFoundError, match="permission denied"):
        open_scene(path)


# --- something else ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            ("Git LFS", "git lfs pull"),
        ),
        (b"<!DOCTYPE html><html></html>", ("web page",)),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), ("image",)),
        (b"glTF" + bytes(60), ("glTF",)),
        (b"hello, this is not a scene", ("no known kind", ".spz", ".bvs")),
        (b'{"scene": 1}', ("JSON",)),
        (b'[{"scene": 1}]', ("JSON",)),
        (b'{"means": ', ("not valid JSON", "line 1")),
        (b"[" * 100_000, ("nested too deeply",)),
        (os.urandom(1 << 12), ()),
        (bytes(1 << 12), ()),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, words: tuple[str]) -> None:
    refuse(write(tmp_path, "scene.dat", content), *words)


# --- PLY -----------------------------------------------------------------------------


def header(*lines: str, count: int = 4) -> bytes:
    return "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {count}",
            *lines,
            "end_header\n",
        ]
    ).encode()


def floats(names: list[str]) -> list[str]:
    return [f"property float {name}" for name in names]


def test_an_ascii_ply(tmp_path: Path) -> None:
    path = write(tmp_path, "a.ply", "ply\nformat ascii 1.0\nelement vertex 1\nend_header\n0\n")
    refuse(path, "ASCII", "header line 2", "binary")


def test_a_header_that_claims_100_gb(tmp_path: Path) -> None:
    content = header(*floats(encoders.ply_properties(0)), count=1_500_000_000) + bytes(1000)
    refuse(write(tmp_path, "a.ply", content), "1,500,000,000", "bytes")


def test_a_point_cloud(tmp_path: Path) -> None:
    content = header(*floats(["x", "y", "z", "red"])) + bytes(64)
    refuse(write(tmp_path, "a.ply", content), "f_dc_0", "point cloud")


def test_neural_anchors(tmp_path: Path) -> None:
    content = header(*floats(["x", "y", "z", "f_anchor_feat_0"])) + bytes(64)
    refuse(write(tmp_path, "a.ply", content), "Scaffold-GS")


@pytest.mark.parametrize("rest", [1, 8, 10, 44, 72])
def test_an_impossible_number_of_harmonics(tmp_path: Path, rest: int) -> None:
    names = encoders.ply_properties(0) + [f"f_rest_{i}" for i in range(rest)]
    refuse(write(tmp_path, "a.ply", header(*floats(names)) + bytes(4096)), f"{rest} f_rest")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("element vertex -1", "name and a count"),
        ("element vertex 99999999999999999999", "name and a count"),
        ("element vertex", "name and a count"),
        ("property quaternion q", "unknown type"),
        ("property float x", "twice"),
        ("nonsense", "does not understand"),
        ("format binary_middle_endian 1.0", "unknown format"),
    ],
)
def test_a_broken_header_line(tmp_path: Path, line: str, problem: str) -> None:
    content = header(*floats(["x"]), line)
    refuse(write(tmp_path, "a.ply", content), problem, "header line 5")


def test_a_header_without_end(tmp_path: Path) -> None:
    refuse(write(tmp_path, "a.ply", b"ply\n" + b"comment x\n" * 200_000), "end_header")


def test_a_ply_without_gaussians(tmp_path: Path) -> None:
    content = header(*floats(encoders.ply_properties(0)), count=0)
    refuse(write(tmp_path, "a.ply", content), "no Gaussians")


def test_a_scene_of_nothing_but_nan(tmp_path: Path) -> None:
    content = header(*floats(encoders.ply_properties(0))) + b"\xff" * (4 * 17 * 4)
    refuse(write(tmp_path, "a.ply", content), "none that can be drawn")


def test_a_compressed_ply_with_too_few_chunks(tmp_path: Path) -> None:
    gaussians = random_gaussians(300, 0)
    content = encoders.compressed_ply(gaussians).replace(b"element chunk 2", b"element chunk 1")
    refuse(write(tmp_path, "a.compressed.ply", content), "chunks")


# --- splat and ksplat ----------------------------------------------------------------


def test_a_cut_splat(tmp_path: Path) -> None:
    content = encoders.splat(random_gaussians(5, 0))[:-3]
    refuse(write(tmp_path, "a.splat", content), "29 of 32 bytes")


def test_a_ksplat_that_claims_100_gb(tmp_path: Path) -> None:
    content = bytearray(encoders.ksplat(GAUSSIANS, 1))
    struct.pack_into("<2I", content, 4096, 4_000_000_000, 4_000_000_000)
    refuse(write(tmp_path, "a.ksplat", bytes(content)), "4,000,000,000")


def test_a_ksplat_of_a_million_sections(tmp_path: Path) -> None:
    content = bytearray(encoders.ksplat(GAUSSIANS, 1))
    struct.pack_into("<I", content, 4, 1 << 20)
    refuse(write(tmp_path, "a.ksplat", bytes(content)), "sections")


def test_a_ksplat_of_a_later_version(tmp_path: Path) -> None:
    content = bytearray(encoders.ksplat(GAUSSIANS, 1))
    content[0] = 3
    refuse(write(tmp_path, "a.ksplat", bytes(content)), "version 3.1")


# --- spz -----------------------------------------------------------------------------


def spz_header(version: int, count: int, degree: int = 0, streams: int = 0, toc: int = 32) -> bytes:
    head = struct.pack("<4sIIBBBB", b"NGSP", version, count, degree, 12, 0, streams)
    return head + struct.pack("<I12x", toc) if version >= 4 else head


def test_a_gzip_bomb(tmp_path: Path) -> None:
    # No header claims anything; the content unpacks to 256 MiB of zeros.
    bomb = encoders.gzip_bomb(1 << 28)
    assert len(bomb) < 1 << 19
    refuse(write(tmp_path, "a.spz", bomb), "not to an SPZ scene")


def test_a_gzip_header_that_claims_100_gb(tmp_path: Path) -> None:
    import gzip

    content = gzip.compress(spz_header(3, 4_000_000_000) + bytes(1000))
    refuse(write(tmp_path, "a.spz", content), "4,000,000,000", "trust")


def test_a_zstandard_bomb(tmp_path: Path) -> None:
    count = 1 << 20  # allowed at any size, but the stream unpacks to far more
    frame = zstandard.compress(bytes(400 << 20))
    sizes = [count * width for width in (9, 1, 3, 3, 4)]
    table = b"".join(struct.pack("<QQ", len(frame), size) for size in sizes)
    content = spz_header(4, count, streams=5) + table + frame * 5
    refuse(write(tmp_path, "a.spz", content), "stream 0", "unpacks to more")


def test_a_zstandard_stream_that_lies_about_its_size(tmp_path: Path) -> None:
    frame = zstandard.compress(bytes(10))
    table = b"".join(struct.pack("<QQ", len(frame), 100 * width) for width in (9, 1, 3, 3, 4))
    content = spz_header(4, 100, streams=5) + table + frame * 5
    refuse(write(tmp_path, "a.spz", content), "stream 0", "10 of 900")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (spz_header(4, 4_000_000_000, streams=5) + bytes(500), "4,000,000,000"),
        (spz_header(9, 4) + bytes(500), "version 9"),
        (spz_header(4, 4, degree=7, streams=6) + bytes(500), "degree 7"),
        (spz_header(4, 4, streams=2) + bytes(500), "2 streams"),
        (spz_header(4, 4, streams=5, toc=4_000_000_000) + bytes(500), "table of contents"),
        (spz_header(4, 0, streams=5) + bytes(500), "no Gaussians"),
        (b"NGSP", "header"),
        (b"\x1f\x8b" + bytes(40), "gzip"),
    ],
)
def test_a_broken_spz(tmp_path: Path, content: bytes, problem: str) -> None:
    refuse(write(tmp_path, "a.spz", content), problem)


# --- sog and streamed sog ------------------------------------------------------------


def sog_folder(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A SOG folder whose meta.json has been changed."""
    path = encoders.write_files(folder, encoders.sog(GAUSSIANS, 2))
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return path


@pytest.mark.parametrize("name", ["means_u.webp", "quats.webp", "shN_labels.webp"])
def test_a_missing_side_file_is_named(tmp_path: Path, name: str) -> None:
    path = sog_folder(tmp_path, lambda meta: None)
    (tmp_path / name).unlink()
    refuse(path, name, "whole folder")


@pytest.mark.parametrize(
    "name", ["../secret.webp", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", "http://x/y"]
)
def test_a_side_file_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "secret.webp").write_bytes(encoders.webp(np.zeros((12, 12, 4), np.uint8)))
    path = sog_folder(tmp_path, lambda meta: meta["quats"].update(files=[name]))
    refuse(path, "not inside its folder")


def _set(*keys: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        target: Any = meta
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("count", to=10**12), ("1,000,000,000,000", "trust")),
        (_set("count", to=-3), ("whole number", "count")),
        (_set("count", to=3.5), ("whole number", "count")),
        (_set("count", to=145), ("pixels for 145",)),
        (_set("version", to=3), ("version 3",)),
        (_set("means", "mins", to=[0, 0]), ("3 numbers", "means.mins")),
        (_set("means", "mins", 0, to="x"), ("a number", "means.mins")),
        (_set("means", "mins", 0, to=10**400), ("finite", "means.mins")),
        (_set("scales", "codebook", to=[]), ("256", "scales.codebook")),
        (_set("scales", "codebook", to=None), ("list", "scales.codebook")),
        (_set("sh0", to=7), ("object", "sh0")),
        (_set("shN", "bands", to=4), ("degree", "shN.bands")),
        (_set("shN", "count", to=10**6), ("lines",)),
        (_set("means", "files", to=["means_l.webp"]), ("names", "means.files")),
    ],
)
def test_a_broken_meta(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: tuple[str, ...]
) -> None:
    refuse(sog_folder(tmp_path, change), *words)


def test_a_texture_that_is_a_bomb(tmp_path: Path) -> None:
    path = sog_folder(tmp_path, lambda meta: None)
    image = bytearray((tmp_path / "sh0.webp").read_bytes())
    image[21:25] = struct.pack("<I", 0x3FFF | 0x3FFF << 14)  # claims 16384 × 16384
    (tmp_path / "sh0.webp").write_bytes(image)
    with bounded_memory(), pytest.raises(SceneFormatError, match="16384 × 16384"):
        load_scene(path)


def test_a_lossy_texture(tmp_path: Path) -> None:
    import cv2

    path = sog_folder(tmp_path, lambda meta: None)
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    lossy = bytes(cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 50])[1])
    (tmp_path / "sh0.webp").write_bytes(lossy)
    with pytest.raises(SceneFormatError, match="lossy"):
        load_scene(path)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("entry", ["meta.json", "sh0.webp"])
def test_a_zip_bomb(tmp_path: Path, entry: str) -> None:
    files = encoders.sog(GAUSSIANS, 2) | {entry: b"{" + b" " * (200 << 20)}
    refuse(write(tmp_path, "a.sog", zipped(files)), f"entry {entry!r}", "trust")


def lying_zip(files: dict[str, bytes], name: str, packed: int, size: int) -> bytes:
    """An archive whose directory states other sizes of an entry than there are."""
    content = bytearray(zipped(files))
    at = content.rindex(name.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    struct.pack_into("<II", content, at + 20, packed, size)
    return bytes(content)


@pytest.mark.parametrize("entry", ["meta.json", "sh0.webp"])
def test_a_zip_entry_cannot_claim_to_be_larger_than_its_archive(tmp_path: Path, entry: str) -> None:
    content = lying_zip(encoders.sog(GAUSSIANS, 2), entry, 3 << 30, 3 << 30)
    refuse(write(tmp_path, "a.sog", content), f"entry {entry!r}", "3,221,225,472 bytes", "trust")


def test_a_zip_entry_that_unpacks_to_more_than_it_claims(tmp_path: Path) -> None:
    files = encoders.sog(GAUSSIANS, 2) | {"meta.json": b"{" + b" " * (200 << 20)}
    content = lying_zip(files, "meta.json", len(zipped(files)), 2000)
    refuse(write(tmp_path, "a.sog", content), "entry 'meta.json'")


@pytest.mark.parametrize("bundled", [True, False])
def test_side_files_have_a_limit_whatever_their_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: bool
) -> None:
    monkeypatch.setattr(ZipFiles.read, "__defaults__", (100,))
    monkeypatch.setattr(FolderFiles.read, "__defaults__", (100,))
    if bundled:
        path = write(tmp_path, "a.sog", zipped(encoders.sog(GAUSSIANS, 2), zipfile.ZIP_STORED))
    else:
        path = sog_folder(tmp_path, lambda meta: None)
    refuse(path, "bytes", "trust")


def test_a_zip_of_more_files_than_a_scene_has(tmp_path: Path) -> None:
    """A directory takes ten times its length in memory: of 35 MB, 440 MB."""
    content = zipped(encoders.sog(GAUSSIANS, 2), zipfile.ZIP_STORED)
    end = content.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", content, end + 16)[0]
    one = content[start : content.index(b"PK\x01\x02", start + 1)]
    directory = content[start:end] + one * (MAX_DIRECTORY_BYTES // len(one))
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), start, 0)
    path = write(tmp_path, "a.sog", content[:start] + directory + last)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) > 10_000
    refuse(path, "lists more files than a scene has", "trust")


def test_a_zip_without_meta(tmp_path: Path) -> None:
    refuse(write(tmp_path, "a.sog", zipped({"data.pkl": b"x"})), "without meta.json")


def test_a_zip_entry_that_fails_its_checksum(tmp_path: Path) -> None:
    content = bytearray(zipped(encoders.sog(GAUSSIANS, 2), zipfile.ZIP_STORED))
    at = content.index(b"means_l.webp") + 60
    content[at] ^= 0xFF
    refuse(write(tmp_path, "a.sog", bytes(content)), "entry 'means_l.webp'")


def lod_folder(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = encoders.streamed_sog(folder, [[GAUSSIANS[:20], GAUSSIANS[20:]]], None)
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return path


LEAF = ("tree", "children", 0, "lods", "0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("lodLevels", to=0), ("lodLevels",)),
        (_set("lodLevels", to=10**9), ("levels",)),
        (_set("filenames", to=["../x/meta.json"]), ("not inside its folder",)),
        (_set("filenames", to=["gone/meta.json"]), ("gone/meta.json", "missing")),
        (_set("filenames", to=3), ("filenames",)),
        (_set("filenames", to=["0_0/meta.json"] * 2), ("named twice",)),
        (_set(*LEAF, "file", to=5), ("file 5",)),
        (_set(*LEAF, "count", to=10**9), ("beyond its 40",)),
        (_set(*LEAF, "offset", to=15), ("overlap",)),
        (_set(*LEAF, "offset", to=-1), ("whole number", "offset")),
        (_set("tree", "children", 0, "lods", to={"7": {}}), ("level '7'",)),
        (_set("tree", to=[]), ("object", "tree")),
        (_set("tree", to={}), ("no Gaussians",)),
        (_set("environment", to="gone/meta.json"), ("gone/meta.json",)),
        (_set("environment", to=5), ("environment",)),
    ],
)
def test_a_broken_lod_meta(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: tuple[str, ...]
) -> None:
    refuse(lod_folder(tmp_path, change), *words)


def test_a_deep_tree(tmp_path: Path) -> None:
    path = lod_folder(tmp_path, lambda meta: None)
    meta = json.loads(path.read_text())
    for _ in range(200):
        meta["tree"] = {"children": [meta["tree"]]}
    path.write_text(json.dumps(meta))
    with open_scene(path) as source:
        assert source.meta.count == 40


def test_a_cut_archive_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "cut.sog").write_bytes(zipped({"meta.json": b"{}", "a.webp": bytes(5000)})[:80])
    with pytest.raises(SceneFormatError) as error:
        open_scene(tmp_path / "cut.sog")
    assert str(error.value).endswith(
        "cut.sog: is no whole zip archive; download or export it again"
    )
