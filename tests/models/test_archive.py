"""Torch's files read as data: what torch writes comes back, and nothing is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scene_store.models.archive import read_checkpoint, weights_of
from splat.errors import SceneError, SceneFormatError

torch.set_num_threads(1)


def save(path: Path, value: Any, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def perceptron(last: nn.Module | None = None) -> nn.Sequential:
    parts = [nn.Linear(35, 32), nn.ReLU(True), nn.Linear(32, 5)]
    return nn.Sequential(*parts, *([] if last is None else [last]))


def assert_same(read: Any, written: Any) -> None:
    if isinstance(written, torch.Tensor):
        held = written.detach()
        expected = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
        assert read.dtype == expected.dtype and read.shape == expected.shape
        np.testing.assert_array_equal(read, expected)
        assert not read.flags.writeable
    elif isinstance(written, dict):
        assert list(read) == list(written)
        for key, value in written.items():
            assert_same(read[key], value)
    elif isinstance(written, list | tuple):
        assert isinstance(read, list if isinstance(written, list) else tuple)
        assert len(read) == len(written)
        for left, right in zip(read, written, strict=True):
            assert_same(left, right)
    else:
        assert read == written and type(read) is type(written)


def problem_of(path: Path) -> str:
    """Why it is refused; nothing if it is read."""
    try:
        read_checkpoint(path)
    except SceneError as error:
        return str(error)
    return ""


def one_line(error: pytest.ExceptionInfo[SceneError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text and str(path) in text
    return text


# ---- What torch writes -----------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_values_of_all_kinds_come_back(tmp_path: Path, legacy: bool) -> None:
    grid = torch.arange(60, dtype=torch.float32).reshape(5, 4, 3)
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16)
    value: dict[str, Any] = {
        "state": perceptron().state_dict(),
        "transposed": grid.permute(2, 0, 1),
        "part": grid[1:4, ::2, 1],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.arange(3.0)[:1].expand(1, 1),
        "parameter": nn.Parameter(torch.ones(2)),
        "kinds": [torch.arange(-3, 4).to(kind) for kind in kinds],
        "small": [torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([-1], dtype=torch.int8)],
        "flags": torch.tensor([True, False]),
        "ordered": OrderedDict(a=1, b=-(2**70)),
        "texts": ["ü", "", b"\x00\xff", None, True, 1.5e300, (1, (2,))],
    }
    path = save(tmp_path / "x.pt", value, legacy=legacy)
    value["ordered"] = dict(value["ordered"])
    assert_same(read_checkpoint(path), value)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_storage_are_read_once(tmp_path: Path, legacy: bool) -> None:
    whole = torch.arange(1000.0)
    path = save(tmp_path / "x.pt", {"a": whole, "b": whole[10:20], "c": whole}, legacy=legacy)
    read = read_checkpoint(path)
    assert np.shares_memory(read["a"], read["b"]) and np.shares_memory(read["a"], read["c"])
    np.testing.assert_array_equal(read["b"], np.arange(10.0, 20.0, dtype=np.float32))


def test_protocol_4_is_read(tmp_path: Path) -> None:
    value = {"w": torch.ones(3), "b": b"ab", "s": {"k": [1, 2]}}
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pt"
        torch.save(value, path, pickle_protocol=4, _use_new_zipfile_serialization=not legacy)
        assert_same(read_checkpoint(path), value)


def test_real_checkpoints_are_read_as_torch_reads_them(data_dir: Path) -> None:
    files = sorted((data_dir / "nerf").glob("*/*.ckpt"))
    if not files:
        pytest.skip("no real NeRF checkpoints in the data folder")
    for path in files:
        expected = torch.load(path, map_location="cpu", weights_only=False)
        read = read_checkpoint(path)
        for key in ("model_coarse_state_dict", "model_fine_state_dict"):
            assert_same(read[key], dict(expected[key]))


def test_what_trainers_keep_for_themselves_is_left_out(tmp_path: Path) -> None:
    moments = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"odd": Odd()}]}
    state = {"net": nn.Linear(3, 2).state_dict(), "optimizer": moments, "scaler": Odd()}
    read = read_checkpoint(save(tmp_path / "x.pt", state))
    assert list(read) == ["net"]
    with pytest.raises(SceneFormatError, match=r"Odd"):
        read_checkpoint(tmp_path / "x.pt", tolerate=())


def test_a_counter_is_a_dictionary(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"milestones": Counter([5, 5, 9])})
    assert read_checkpoint(path) == {"milestones": {5: 2, 9: 1}}


def test_weights_are_arrays_and_nothing_else(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"net": {"w": torch.ones(2)}, "odd": {"w": 3}})
    read = read_checkpoint(path)
    assert list(weights_of(path, read, "net")) == ["w"]
    for keys in (("odd",), ("none",), ("net", "w")):
        with pytest.raises(SceneFormatError) as error:
            weights_of(path, read, *keys)
        one_line(error, path)


# ---- What is not executed --------------------------------------------------------------------


class Odd:
    """Some class of a trainer."""


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


class Runs(Touches):
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("evil", [Touches, Runs])
def test_code_in_a_pickle_is_not_executed(
    tmp_path: Path, legacy: bool, evil: type[Touches]
) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path / "x.pt", {"net": {"w": evil(marker)}}, legacy=legacy)
    with pytest.raises(SceneFormatError) as error:
        read_checkpoint(path)
    text = one_line(error, path)
    assert "nothing of it was executed" in text and "--trust" in text
    assert ("system" if evil is Touches else "exec") in text
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


def test_code_among_what_is_left_out_is_not_executed_either(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = save(tmp_path / "x.pt", {"net": {"w": torch.ones(1)}, "optimizer": Touches(marker)})
    assert list(read_checkpoint(path)) == ["net"]
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch MARKER'\ntR.",
        b"(S'touch MARKER'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch MARKER'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch MARKER\x85R.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"ccollections\nOrderedDict\n(cos\nsystem\ntR.",
        b"\x80\x02\x82\x01.",  # an extension's number
        b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nX\x01\x00\x00\x00atR.",
    ],
)
def test_every_way_of_calling_is_refused(tmp_path: Path, pickled: bytes) -> None:
    marker = tmp_path / "executed"
    data = pickled.replace(b"MARKER", str(marker).encode())
    data = data.replace(b"\x8c\x0ctouch", b"\x8c" + bytes([6 + len(str(marker))]) + b"touch")
    for tolerate in ((), ("optimizer",)):
        path = zip_of(tmp_path / "x.pt", data)
        with pytest.raises(SceneFormatError) as error:
            read_checkpoint(path, tolerate=tolerate)
        one_line(error, path)
    assert not marker.exists()


def test_trust_lets_torch_load_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"net": nn.Linear(2, 1), "bf": torch.ones(2).bfloat16()})
    with pytest.raises(SceneFormatError, match="Linear"):
        read_checkpoint(path)
    read = read_checkpoint(path, trust=True)
    assert read["net"]["weight"].shape == (1, 2) and read["bf"].dtype == np.float32


# ---- What is broken --------------------------------------------------------------------------


def zip_of(path: Path, pickled: bytes, storages: dict[str, bytes] = {}, **how: Any) -> Path:  # noqa: B006
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def tensor_pickle(
    *, key: str = "0", count: int = 6, offset: int = 0, size: Any = (2, 3), stride: Any = (3, 1)
) -> bytes:
    """A checkpoint of one tensor, as it claims to be."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, key, "cpu", count)
            return None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            arguments: Any = (Storage(), offset, size, stride, False, OrderedDict())
            return (torch._utils._rebuild_tensor_v2, arguments)

    out = io.BytesIO()
    Pickler(out, 2).dump({"w": Tensor()})
    return out.getvalue()


FLOATS = np.arange(6, dtype=np.float32).tobytes()


def test_the_tensor_of_these_tests_is_one(tmp_path: Path) -> None:
    read = read_checkpoint(zip_of(tmp_path / "x.pt", tensor_pickle(), {"0": FLOATS}))
    np.testing.assert_array_equal(read["w"], np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    "claims",
    [
        {"count": 7},
        {"count": 2**40, "size": (2**40,), "stride": (1,)},
        {"offset": 1},
        {"size": (2, 4)},
        {"size": (10**9, 10**9), "stride": (0, 0)},
        {"size": (7,), "stride": (0,)},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"offset": -1},
        {"size": (2,)},
        {"size": [2, 3]},
        {"size": (2.0, 3)},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"key": "../../etc/passwd"},
        {"key": "1"},
    ],
)
def test_claims_beyond_the_storage_are_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    path = zip_of(tmp_path / "x.pt", tensor_pickle(**claims), {"0": FLOATS})
    with pytest.raises(SceneFormatError) as error:
        read_checkpoint(path)
    one_line(error, path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    whole = save(tmp_path / "whole.pt", perceptron().state_dict(), legacy=legacy).read_bytes()
    path = tmp_path / "cut.pt"
    for size in [*range(1, 64), *range(64, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(SceneError) as error:
            read_checkpoint(path)
        one_line(error, path)
        assert "broken pickle" not in str(error.value)
        if legacy and 2 < size < 64:
            assert "is cut off" in str(error.value)
    path.write_bytes(b"")
    with pytest.raises(SceneFormatError, match="empty"):
        read_checkpoint(path)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory: Any, data: st.DataObject) -> None:
    legacy = data.draw(st.booleans())
    folder = tmp_path_factory.mktemp("damage")
    path = save(folder / "x.pt", {"a": nn.Linear(2, 1).state_dict(), "n": [1]}, legacy=legacy)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert "\n" not in problem_of(path)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_pickle_is_refused_or_harmless(tmp_path_factory: Any, pickled: bytes) -> None:
    path = zip_of(tmp_path_factory.mktemp("any") / "x.pt", pickled + b".")
    assert "\n" not in problem_of(path)


def nested(depth: int) -> bytes:
    return b"}X\x01\x00\x00\x00a" + b"]" * depth + b"a" * (depth - 1) + b"s."


def doubled(times: int) -> bytes:
    """A dictionary whose key is a pair of twice the same pair, and so on."""
    return b"(K\x01" + b"2\x86" * times + b"K\x01d."


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(nested(100_000), id="deep"),
        pytest.param(b"}q\x00X\x01\x00\x00\x00ah\x00s.", id="circular"),
        pytest.param(b"]q\x00h\x00a}X\x01\x00\x00\x00ah\x00s.", id="circular list"),
        pytest.param(doubled(200), id="a key whose hash takes for ever"),
        pytest.param(b"\x80\x02" + b"]" * 1_000_001 + b".", id="millions of values"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"ab.", id="huge bytes"),
        pytest.param(b"X\xff\xff\xff\x7fab.", id="huge text"),
        pytest.param(b"}r\xff\xff\xff\x7f", id="a huge place, no end"),
        pytest.param(b"\x8b\xff\xff\xff\x7f\x01.", id="huge number"),
        pytest.param(b"I" + b"9" * 10_000 + b"\n.", id="huge decimal"),
        pytest.param(
            b"ccollections\nOrderedDict\nq\x00" + b"(" + b"]]aa" * 1000 + b".", id="marks"
        ),
        pytest.param(b"", id="nothing"),
        pytest.param(b"K\x01.", id="a number"),
    ],
)
def test_bombs_are_refused(tmp_path: Path, pickled: bytes) -> None:
    path = zip_of(tmp_path / "x.pt", pickled)
    with pytest.raises(SceneFormatError) as error:
        read_checkpoint(path)
    one_line(error, path)


def test_copies_of_copies_are_refused(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x00"
    codec = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02"
    pickled = text + codec + b"(" + b"h\x01h\x00h\x02\x86R" * 5000 + b"t."
    path = zip_of(tmp_path / "x.pt", pickled)
    with pytest.raises(SceneFormatError, match="again and again"):
        read_checkpoint(path)


def test_compressed_and_encrypted_entries_are_refused(tmp_path: Path) -> None:
    path = zip_of(
        tmp_path / "x.pt", tensor_pickle(), {"0": FLOATS}, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(SceneFormatError, match="is compressed"):
        read_checkpoint(path)
    path = zip_of(tmp_path / "y.pt", tensor_pickle(), {"0": FLOATS})
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(SceneFormatError, match="is encrypted"):
        read_checkpoint(path)


def test_entries_that_overlap_do_not_add_up(tmp_path: Path) -> None:
    """Each storage is the same bytes of the file: as many as the directory names."""
    count = 40
    data = bytes(4 * 50_000)
    value = {f"w{i}": torch.zeros(50_000) + i for i in range(count)}
    honest = save(tmp_path / "x.pt", value)
    pickled = zipfile.ZipFile(honest).read("x/data.pkl")
    path = zip_of(tmp_path / "y.pt", pickled, {"0": data})
    content = path.read_bytes()
    start = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", start + 4)
    end = content.find(b"PK\x05\x06")
    entry = content[second:end]
    entries = [entry.replace(b"data/0", f"data/{i}".encode()) for i in range(10)]
    directory = content[start:second] + b"".join(entries)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 11, 11, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    with pytest.raises(SceneFormatError) as error:
        read_checkpoint(path)
    one_line(error, path)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01.", b"hello " * 9])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(SceneFormatError) as error:
        read_checkpoint(path)
    one_line(error, path)
