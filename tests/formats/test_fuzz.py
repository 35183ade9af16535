"""Random damage to every format: only ``SceneError`` may escape a reader.

Samples are made on the spot; damage is done to bytes, to the words of binary headers, to
the tokens of PLY headers and to the values of JSON files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scene_store.formats import open_scene
from splat.errors import SceneError
from splat.gaussians import Gaussians
from tests.formats import encoders
from tests.formats.samples import random_gaussians

SMALL = random_gaussians(70, 1, seed=2)
SMALL_FLAT = random_gaussians(70, 0, seed=2)

SAMPLES: dict[str, bytes] = {
    "scene.ply": encoders.ply(SMALL),
    "scene.compressed.ply": encoders.compressed_ply(SMALL),
    "scene.splat": encoders.splat(SMALL_FLAT),
    "level0.ksplat": encoders.ksplat(SMALL, 0),
    "level2.ksplat": encoders.ksplat(SMALL, 2),
    "v1.spz": encoders.spz(SMALL, 1),
    "v2.spz": encoders.spz(SMALL, 2, compress=False),
    "v3.spz": encoders.spz(SMALL, 3, flags=2, extensions=bytes(12)),
    "v4.spz": encoders.spz(SMALL, 4, extensions=struct.pack("<III", 0xADBE0003, 4, 6)),
    "v1.sog": encoders.sog_zip(SMALL, 1),
    "v2.sog": encoders.sog_zip(SMALL, 2),
}

TRIES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD_WORDS = (0, 1, 2, 3, 255, 256, 4095, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 2**31, 2**63, 10**400, 0.5, 1e300, float("nan"), float("inf")),
    *("", "../x", "meta.json", "quats.webp", "nul\0", [], [0], {}, {"0": 1}, [[1, 2, 3]]),
)
ODD_TOKENS = (
    *("", "ply", "end_header", "element", "vertex", "property", "float", "uchar", "list", "x"),
    *("0", "-1", "71", "999999999", "999999999999", "1e9", "ascii", "binary_big_endian"),
    *(
        "f_rest_0",
        "f_rest_9",
        "scale_2",
        "chunk",
        "double",
        "\xff",
        "\x1b[2J",
        "\x85",
        "\n",
        "comment",
    ),
)


def read_through(path: Path) -> None:
    """Opens and reads everything; a ``SceneError`` is a fine answer."""
    try:
        with open_scene(path) as source:
            count = 0
            for batch in source.batches(32):
                assert isinstance(batch, Gaussians)
                assert len(batch) <= 32
                count += len(batch)
            assert count == source.meta.count
    except SceneError as error:
        message = str(error)
    else:
        return
    assert message.isprintable()  # one line, and nothing that a terminal would obey
    assert len(message) < 500


@pytest.mark.parametrize("name", SAMPLES)
@TRIES
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["replace", "cut", "insert", "remove"]))
        if kind == "replace":
            patch = data.draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(patch)] = patch
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        elif kind == "remove":
            del content[at : at + data.draw(st.integers(1, 40))]
        else:
            del content[at:]
    path = tmp_path / name
    path.write_bytes(content)
    read_through(path)


BINARY_HEADERS = {
    "level0.ksplat": (*range(0, 48, 2), *range(4096, 4096 + 44, 2), *range(5120, 5164, 2)),
    "level2.ksplat": (*range(0, 48, 2), *range(4096, 4096 + 44, 2), *range(5120, 5164, 2)),
    "v2.spz": tuple(range(16)),
    "v4.spz": tuple(range(4, 32 + 12 + 16 * 6)),
}


@pytest.mark.parametrize("name", BINARY_HEADERS)
@TRIES
@given(data=st.data())
def test_odd_words_in_binary_headers(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(BINARY_HEADERS[name]))
        size, code = data.draw(st.sampled_from([(1, "<B"), (2, "<H"), (4, "<I")]))
        value = data.draw(st.sampled_from(ODD_WORDS)) & ((1 << 8 * size) - 1)
        struct.pack_into(code, content, at, value)
    path = tmp_path / name
    path.write_bytes(content)
    read_through(path)


@pytest.mark.parametrize("name", ["scene.ply", "scene.compressed.ply"])
@TRIES
@given(data=st.data())
def test_odd_tokens_in_ply_headers(name: str, data: st.DataObject, tmp_path: Path) -> None:
    head, body = SAMPLES[name].split(b"end_header\n", 1)
    lines = [line.split(" ") for line in (head + b"end_header").decode().split("\n")]
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.integers(0, len(lines) - 1))
        action = data.draw(st.sampled_from(["token", "drop", "repeat", "swap"]))
        if action == "token":
            column = data.draw(st.integers(0, len(lines[row]) - 1))
            lines[row][column] = data.draw(st.sampled_from(ODD_TOKENS))
        elif action == "drop" and len(lines) > 1:
            del lines[row]
        elif action == "repeat":
            lines.insert(row, list(lines[row]))
        else:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[row], lines[other] = lines[other], lines[row]
    path = tmp_path / name
    path.write_bytes("\n".join(" ".join(line) for line in lines).encode("latin-1") + b"\n" + body)
    read_through(path)


def with_odd_value(draw: Callable[[Any], Any], value: Any) -> Any:
    """The JSON value with one part, found by a random walk, made odd or taken away."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        if draw(st.integers(0, 7)) == 0:
            del copy[key]
        else:
            copy[key] = with_odd_value(draw, value[key])
        return copy
    return draw(st.sampled_from(ODD_VALUES))


def sog_folder(version: int) -> Callable[[Path], Path]:
    return lambda folder: encoders.write_files(folder, encoders.sog(SMALL, version))


def streamed(folder: Path) -> Path:
    levels = [[SMALL[:30], SMALL[30:60]], [SMALL[:10], SMALL[30:40]]]
    return encoders.streamed_sog(folder, levels, SMALL[60:])


@pytest.mark.parametrize(
    "write", [sog_folder(1), sog_folder(2), streamed], ids=["sog1", "sog2", "lod"]
)
@TRIES
@given(data=st.data())
def test_odd_values_in_json(
    write: Callable[[Path], Path], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"json-{id(write)}")
    meta = json.loads(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 2))):
        meta = with_odd_value(data.draw, meta)
    damaged = path.with_name(f"damaged-{path.name}")
    damaged.write_text(json.dumps(meta))
    read_through(damaged)


@pytest.mark.parametrize("version", [1, 2])
@TRIES
@given(data=st.data())
def test_damaged_textures(
    version: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"textures-{version}"
    path = sog_folder(version)(folder)
    name = data.draw(st.sampled_from(sorted(p.name for p in folder.glob("*.webp"))))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(content), 0, 11, 24, 29, 40]))
    (folder / name).write_bytes(content[:size])
    read_through(path)


@TRIES
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(content: bytes, tmp_path: Path) -> None:
    for name in ("a", "a.ply", "a.splat", "a.ksplat", "a.spz", "a.sog", "meta.json"):
        path = tmp_path / name
        path.write_bytes(content)
        read_through(path)
