"""The kit's step that decodes neural anchors, by Triton's interpreter: what it tells is so."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before Triton is imported: kernels are made for the interpreter, or for a device.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from benchmarks.gpu_kit import anchors
from benchmarks.gpu_kit.anchor_models import MODELS, OUTSIDE
from benchmarks.gpu_kit.anchors import largest_error
from benchmarks.gpu_kit.bars import ANCHORS_OFF
from benchmarks.gpu_kit.bench import Bench
from benchmarks.gpu_kit.plan import DRY, FULL
from benchmarks.gpu_kit.timing import turns
from benchmarks.report import Row
from rendering.models.anchors_device import DEFAULT_TUNING, DecoderTuning, can_decode
from rendering.models.anchors_reference import DecodedAnchors, decode_anchors, level_shares
from splat.harmonics import rgb_to_sh0

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]


def told(folder: Path, form: int = 0) -> list[Row]:
    rows: list[Row] = []
    anchors.measure(Bench(DRY, folder, folder), rows.append, form=form)
    return rows


def test_pages_are_decoded_and_timed(tmp_path: Path) -> None:
    rows = told(tmp_path)
    assert [row["model"] for row in rows] == list(MODELS)
    for row in rows:
        assert 0 < row["max_error"] < ANCHORS_OFF
        assert 0 < row["device_ms_p50"] <= row["host_ms_p50"]
        assert row["anchors_s"] == pytest.approx(1e3 * DRY.anchors / row["device_ms_p50"])
        assert (row["anchors"], row["gaussians"]) == (44, 440)


def test_what_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a kernel that sees anchors from elsewhere, by a hundredth of their cube."""
    monkeypatch.setattr(
        anchors, "decode_anchors", lambda model, rows, at: decode_anchors(model, rows, at + 1.0)
    )
    assert all(row["max_error"] > ANCHORS_OFF for row in told(tmp_path))


def test_what_is_not_written_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors._Anchors, "_decode", lambda self, pages: 1.0)
    assert all(np.isnan(row["max_error"]) for row in told(tmp_path))


def test_errors_are_of_the_worst_number() -> None:
    truth = DecodedAnchors(
        np.full((2, 3, 3), 50.0),
        np.full((2, 3, 4), 0.5),
        np.full((2, 3, 3), 0.1),
        np.array([[0.5, 0.0, -0.7]] * 2),
        np.full((2, 3, 3), 0.25),
    )
    geometry = np.empty((2, 3, 14))
    geometry[..., 0:3], geometry[..., 3:7], geometry[..., 7:10] = 50.0, 0.5, 0.1
    geometry[..., 10], geometry[..., 11:14] = [-1.0, -np.inf, -np.inf], rgb_to_sh0(truth.colors)
    assert largest_error(geometry, truth) < 1e-15
    for at, value, error in ((0, 50.5, 0.01), (8, 0.3, 0.2), (10, 0.0, 1.0), (11, np.nan, np.nan)):
        wrong = geometry.copy()
        wrong[1, 1, at] = value
        assert largest_error(wrong, truth) == pytest.approx(error, nan_ok=True)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_such_as_are_drawn(name: str) -> None:
    """Many Gaussians are seen and many are not; of an octree some by half."""
    model, rows = MODELS[name](300)
    assert can_decode(model) and len(rows) == 300 and np.isfinite(rows.data).all()
    opacities = decode_anchors(model, rows, OUTSIDE).opacities
    assert 0.2 < (opacities > 1 / 255).mean() < 0.8
    if model.levels is not None:
        data = rows.data
        means, levels = data[:, model.layout.means], data[:, model.layout.level_values]
        shares = level_shares(model.levels, means, levels, OUTSIDE)
        assert ((shares > 0) & (shares < 1)).sum() > 20 and (shares == 0).sum() > 20


def test_frames_have_the_first_form() -> None:
    forms: list[Any] = [DecoderTuning(*form) for form in FULL.anchor_forms]
    assert forms[0] == DEFAULT_TUNING and len(set(forms)) == len(forms)
    assert set(DRY.anchor_forms) <= set(FULL.anchor_forms)


def test_sampling_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    some = replace(DRY.sampling, least=3, most=5)
    assert list(turns(replace(some, most_s=0.0))) == [0, 1, 2]
    assert list(turns(replace(some, most_s=60.0))) == [0, 1, 2, 3, 4]
