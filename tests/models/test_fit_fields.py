"""The trainers of fields learn what they are shown, and what they write is read and drawn."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import fit_fields
from benchmarks.fitting import grid_fits, instant_ngp_torch, nerf_torch
from benchmarks.fitting.instant_ngp_torch import InstantNgp, NgpConfig, World, density_grid
from benchmarks.fitting.nerf_torch import FlexibleNeRF, Sampling
from benchmarks.fitting.steps import each_step, fit_progress, heard
from scene_store.models import gridnerf, instant_ngp, nerf, nerfacto
from tests.models.town_views import Views, town_block, town_views


def views_of_block() -> Views:
    block = town_block()
    return town_views(6, 20, 15).moved(block.center, block.radius)


def error_of(color: torch.Tensor, image: np.ndarray) -> float:
    return float(((color - torch.tensor(image)) ** 2).mean())


def test_instant_ngp_learns_the_block() -> None:
    views, world = views_of_block(), World(scale=0.5)
    model = InstantNgp(
        NgpConfig(levels=4, features=2, log2_entries=12, neurons=16, base=8, ratio=1.6)
    )
    instant_ngp_torch.fit(model, views, world, steps=40, batch=1 << 12, samples=48)
    shown, _ = instant_ngp_torch.render(
        model, views.cameras[2], world, density_grid(model, side=16), views.background
    )
    mean = torch.tensor(views.images[2]).mean((0, 1)).expand_as(shown)
    assert error_of(shown, views.images[2]) < 0.5 * error_of(mean, views.images[2])


def test_nerf_learns_the_block() -> None:
    views, sampling = views_of_block(), Sampling(0.5, 3.5, coarse=16, fine=16)
    torch.manual_seed(1)
    coarse, fine = (FlexibleNeRF(width=32, hidden=2, octaves=4, seen=2) for _ in range(2))
    errors = []
    for steps in (0, 80):
        nerf_torch.fit(coarse, fine, views, sampling, steps=steps, rays=128, rate=5e-3)
        shown, _ = nerf_torch.render(coarse, fine, views.cameras[2], sampling)
        errors.append(error_of(shown, views.images[2]))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", ["instant-ngp", "instant-ngp-sparse", "nerf"])
def test_what_is_fitted_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_fields, "block_views", lambda *_, **__: views_of_block())
    monkeypatch.setattr(fit_fields, "SAMPLING", Sampling(0.5, 3.5, coarse=8, fine=8))
    monkeypatch.setattr(fit_fields, "GRID_SIDE", 16)
    fitted = fit_fields.fit(kind, tmp_path, 1)
    reader = nerf if kind == "nerf" else instant_ngp
    assert reader.recognizes(fitted.path)
    field = reader.read_field(fitted.path)
    assert field.background == (1.0, 1.0, 1.0)
    assert len(field.cameras) == (1 if kind == "nerf" else 6)
    color = fitted.draw(views_of_block().cameras[0].resized(4, 3))
    assert color.shape == (3, 4, 3)


@pytest.mark.parametrize(("kind", "reader"), [("nerfacto", nerfacto), ("gridnerf", gridnerf)])
def test_grids_that_are_fitted_are_read(
    kind: str, reader: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_fields, "block_views", lambda *_, **__: views_of_block())
    monkeypatch.setattr(grid_fits, "RAYS", 16)
    fitted = fit_fields.fit(kind, tmp_path, 1)
    assert reader.recognizes(fitted.path)
    assert reader.read_field(fitted.path).background == (1.0, 1.0, 1.0)
    assert fitted.draw(views_of_block().cameras[0].resized(4, 3)).shape == (3, 4, 3)


@pytest.mark.parametrize("kind", fit_fields.KINDS)
def test_fits_tell_how_far_they_are(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_fields, "block_views", lambda *_, **__: views_of_block())
    monkeypatch.setattr(fit_fields, "SAMPLING", Sampling(0.5, 3.5, coarse=8, fine=8))
    monkeypatch.setattr(fit_fields, "GRID_SIDE", 16)
    monkeypatch.setattr(grid_fits, "RAYS", 16)
    told: list[tuple[int, int]] = []
    with heard(lambda done, total: told.append((done, total))):
        fit_fields.fit(kind, tmp_path, 2)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_progress_off_a_terminal_is_two_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with fit_progress("nerf"):
        assert list(each_step(3)) == [0, 1, 2]
    assert capfd.readouterr().err.splitlines() == ["nerf: fitting …", "nerf: fitted in 0 s"]
