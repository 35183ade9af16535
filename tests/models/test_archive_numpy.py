"""Arrays and numbers of numpy in checkpoints, read as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_store.models.archive import read_checkpoint
from splat.errors import SceneFormatError

VALUES: dict[str, Any] = {
    "bits": np.packbits(np.arange(20) % 3 == 0),
    "rows": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "swapped": np.arange(4, dtype=">f4"),
    "nothing": np.zeros((0, 3), np.float16),
}


def test_arrays_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.th"
    torch.save({**VALUES, "half": np.float64(0.5), "yes": np.bool_(True), "n": np.int64(7)}, path)
    read = read_checkpoint(path)
    for name, expected in VALUES.items():
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype
    assert (read["half"], read["yes"], read["n"]) == (0.5, True, 7)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.array([Path("a")], object), "numpy's type 'O8'"),
        (np.zeros(2, [("a", "f4"), ("b", "i4")]), "numpy's type 'V8'"),
        (np.array(["text"]), "numpy's type 'U4'"),
    ],
)
def test_arrays_of_anything_else(value: Any, problem: str, tmp_path: Path) -> None:
    torch.save({"a": value}, tmp_path / "a.th")
    with pytest.raises(SceneFormatError, match=problem):
        read_checkpoint(tmp_path / "a.th")


class _Array:
    """An array whose pickle claims another shape than it has bytes for."""

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: Any = np.zeros(4, np.uint8).__reduce__()
        rebuild, arguments, (version, _, kind, order, data) = reduced
        return rebuild, arguments, (version, (1 << 40,), kind, order, data)


def test_shape_beyond_its_bytes(tmp_path: Path) -> None:
    torch.save({"a": _Array()}, tmp_path / "a.th")
    with pytest.raises(SceneFormatError, match="in 4 bytes"):
        read_checkpoint(tmp_path / "a.th")
