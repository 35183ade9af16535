"""What small checkpoints could cost: neither copies, keys nor texts grow beyond their file."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_store.models.archive import read_checkpoint
from scene_store.models.archive_pickle import PickleError
from scene_store.models.archive_values import StorageRef, vocabulary
from splat.errors import SceneFormatError
from tests.models.test_archive import FLOATS, one_line, save, tensor_pickle, zip_of


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(name: bytes, *arguments: bytes) -> bytes:
    return b"c" + name + b"\n(" + b"".join(arguments) + b"tR"


def nested_again(times: int) -> bytes:
    """A list of eight times the same list, and so on, under key 1 of the memo."""
    level = b"(" + b"h\x01" * 8 + b"lq\x01" + b"0"
    return b"]K\x01aq\x01" + b"0" + level * times


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


MERSENNE = 2**61 - 1  # all its multiples have the hash 0


@pytest.mark.parametrize(
    ("pickled", "problem"),
    [
        pytest.param(
            nested_again(30) + b"}" + text("k") + called(b"torch\ndevice", b"h\x01") + b"s.",
            "names a device",
            id="a device of lists",
        ),
        pytest.param(
            nested_again(30) + b"}" + text("k") + called(b"numpy\ndtype", b"h\x01") + b"s.",
            "numpy's type of a list",
            id="a type of lists",
        ),
        pytest.param(
            b"}(" + b"".join(number(k * MERSENNE) + b"N" for k in range(1, 40_000)) + b"u.",
            "a key that is too large",
            id="numbers of one hash",
        ),
        pytest.param(
            b"}(" + b"".join(number(k << 8) + b"N" for k in range(40_000)) + b"u.",
            "more than 16,384 numbers as keys",
            id="numbers",
        ),
        pytest.param(
            b"}N" + b"".join(b"p%d\n" % (k * MERSENNE) for k in range(1, 40_000)) + b"0.",
            "the place 2,305,843,009,213,693,951",
            id="places of one hash",
        ),
        pytest.param(b"}" + text("x" * 5000) + b"Ns.", "a key that is too large", id="text"),
        pytest.param(b"}K\x01K\x02\x86Ns.", "a key that is of type tuple", id="tuple"),
        pytest.param(b"}G" + bytes(8) + b"Ns.", "a key that is of type float", id="float"),
        pytest.param(
            b"(" + b"".join(text(f"{i:x}") + b"N" for i in range(50_000)) + b"dq\x01"
            b"0(" + called(b"collections\nOrderedDict", b"h\x01") * 160 + b"l.",
            "again and again",
            id="copies of dictionaries",
        ),
        pytest.param(
            b"(" + b"".join(text(f"{i:x}") + b"N\x86" for i in range(50_000)) + b"lq\x01"
            b"0(" + called(b"collections\nOrderedDict", b"h\x01") * 160 + b"l.",
            "again and again",
            id="dictionaries of the same pairs",
        ),
        pytest.param(b"]" * 299_000 + b"N" * 2000 + b".", "300,000 steps", id="steps"),
    ],
)
def test_a_small_file_costs_little(tmp_path: Path, pickled: bytes, problem: str) -> None:
    path = zip_of(tmp_path / "x.pt", b"\x80\x02" + pickled)
    assert path.stat().st_size < 1_000_000
    spent = time.process_time()
    with peak_memory() as peak, pytest.raises(SceneFormatError, match=problem) as error:
        read_checkpoint(path)
    one_line(error, path)
    assert peak() < 100_000_000
    assert time.process_time() - spent < 10  # traced; without it a tenth


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Gives the most bytes that were allocated within."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_devices_are_read(tmp_path: Path) -> None:
    value = {"a": torch.device("cuda", 1), "b": torch.device("cpu")}
    assert read_checkpoint(save(tmp_path / "x.pt", value)) == {"a": "cuda:1", "b": "cpu"}


def test_addresses_may_be_keys(tmp_path: Path) -> None:
    value = {"moments": {139787826558528: 1.0, -1: 2.0, True: None, None: 3}}
    assert read_checkpoint(save(tmp_path / "x.pt", value)) == value


def test_one_tensor_in_many_places_is_one_array(tmp_path: Path) -> None:
    pickled = tensor_pickle()[:-2]  # without SETITEM and STOP
    path = zip_of(
        tmp_path / "x.pt",
        pickled + b"q\xffs" + text("all") + b"(" + b"h\xff" * 1000 + b"ls.",
        {"0": FLOATS},
    )
    read = read_checkpoint(path)
    assert len(read["all"]) == 1000 and all(each is read["w"] for each in read["all"])


@pytest.mark.parametrize("start", [0, 1])
def test_newer_types_are_no_parts_of_storages(start: int) -> None:
    """A part begins at a value of the storage's type, a newer tensor at one of its own."""
    storage = StorageRef("0", vocabulary().constants["torch.storage.UntypedStorage"], 24, start)
    build = vocabulary().calls["torch._utils._rebuild_tensor_v3"]
    arguments: tuple[Any, ...] = (
        storage,
        0,
        (2, 2),
        (2, 1),
        False,
        {},
        vocabulary().constants["torch.float32"],
    )
    if start:
        with pytest.raises(PickleError, match="not known here"):
            build(*arguments)
    else:
        assert build(*arguments).of(np.arange(6.0)).tolist() == [[0, 1], [2, 3]]
