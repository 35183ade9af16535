"""Native fitting of Gaussians: pictures as the rasterizer draws them, derivatives as autograd's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rendering.base import ALPHA_CUT, ALPHA_MAX, DILATION_PX2, RasterSettings
from rendering.native.cpu import NativeRasterizer, instruction_sets
from rendering.native.fitting import (
    HARMONICS,
    LOG_SCALE,
    LOGIT,
    Comparison,
    FittedGaussians,
    Rates,
)
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from splat.harmonics import SH_C0

COUNT = 60
BACKGROUND = (0.2, 0.5, 0.9)
STILL = Rates(0, 0, 0, 0, 0, 0)
SLOW = Rates(0.05, 0.01, 0.02, 0.05, 0.02, 0.01)


def cloud(sh_degree: int, seed: int = 0) -> Gaussians:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(COUNT, 4))
    return gaussians_of(
        rng.normal(0, 0.5, (COUNT, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(rng.uniform(-3.0, -1.0, (COUNT, 3))),
        rng.uniform(0.2, 0.9, COUNT),
        rng.normal(0, 0.3, (COUNT, (sh_degree + 1) ** 2, 3)),
    )


def gaussians_of(*arrays: NDArray[Any]) -> Gaussians:
    means, quats, scales, opacities, sh = (array.astype(np.float32) for array in arrays)
    return Gaussians(means, quats, scales, opacities, sh)


def camera(azimuth: float = 0.1) -> Camera:
    eye = (3 * np.sin(azimuth), 0.5, -3 * np.cos(azimuth))
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.7, width=45, height=37)


def target_of(gaussians: Gaussians, seen_from: Camera) -> NDArray[np.uint8]:
    """A picture as 8-bit colour over black and alpha."""
    native = NativeRasterizer()
    image = native.render(native.prepare(gaussians), seen_from)
    assert image.color is not None
    values = np.concatenate([image.color, image.alpha[..., None]], axis=-1)
    pixels: NDArray[np.uint8] = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return pixels


def drawn_by_torch(rows: torch.Tensor, seen_from: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour over black and alpha by the definition (``rendering/base.py``), degree 0; float64."""
    view = torch.tensor(seen_from.viewmat)
    points = rows[:, :3] @ view[:3, :3].T + view[:3, 3]
    w, x, y, z = torch.nn.functional.normalize(rows[:, 3:7], dim=1).unbind(1)
    axes = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )
    fx, fy = seen_from.K[0, 0], seen_from.K[1, 1]
    px, py, pz = points.unbind(1)
    zero = torch.zeros_like(pz)
    jacobian = torch.stack(
        [
            torch.stack([fx / pz, zero, -fx * px / pz**2], 1),
            torch.stack([zero, fy / pz, -fy * py / pz**2], 1),
        ],
        1,
    )
    spread = jacobian @ view[:3, :3] @ axes @ torch.diag_embed(rows[:, 7:10].exp())
    inverse = torch.linalg.inv(spread @ spread.mT + DILATION_PX2 * torch.eye(2))
    centres = torch.stack([fx * px / pz, fy * py / pz], 1) + torch.tensor(seen_from.K[:2, 2])
    grid = torch.meshgrid(
        torch.arange(seen_from.height) + 0.5, torch.arange(seen_from.width) + 0.5, indexing="ij"
    )
    offsets = torch.stack([grid[1], grid[0]], -1)[None] - centres[:, None, None]
    power = -0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offsets, inverse, offsets)
    alpha = torch.sigmoid(rows[:, 10])[:, None, None] * power.exp()
    alpha = torch.where(alpha < ALPHA_CUT, 0.0, alpha).clamp(max=ALPHA_MAX)
    alpha = alpha[torch.argsort(pz)]
    colors = (0.5 + SH_C0 * rows[:, HARMONICS:]).clamp(min=0)[torch.argsort(pz)]
    clear = torch.cumprod(1 - alpha, 0)
    weights = alpha * torch.cat([torch.ones_like(clear[:1]), clear[:-1]])
    return torch.einsum("nhw,nc->hwc", weights, colors), 1 - clear[-1]


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_pictures_are_those_of_the_rasterizer(sh_degree: int) -> None:
    native, gaussians = NativeRasterizer(), cloud(sh_degree)
    image = native.render(
        native.prepare(gaussians), camera(), RasterSettings(background=BACKGROUND)
    )
    assert image.color is not None
    drawn = FittedGaussians(gaussians, sh_degree).draw(camera(), Comparison(BACKGROUND))
    assert np.abs(drawn[..., :3] - image.color).max() < 2e-4
    assert np.abs(drawn[..., 3] - image.alpha).max() < 1e-5


@pytest.mark.parametrize("robust", [1e6, 0.1])
def test_derivatives_are_those_of_autograd(robust: float) -> None:
    fitted = FittedGaussians(cloud(0), 0)
    target = np.random.default_rng(1).integers(0, 256, (37, 45, 4), dtype=np.uint8)
    comparison = Comparison(BACKGROUND, alpha_weight=0.7, robust=robust)
    mean_square = fitted.step(camera(), target, comparison, STILL)
    width = fitted.rows.shape[1]
    ours = fitted._moments[:, :width] / 0.1  # Adam's first moment after one step

    rows = torch.tensor(fitted.rows, dtype=torch.float64, requires_grad=True)
    color, alpha = drawn_by_torch(rows, camera())
    wanted = torch.tensor(target) / 255.0
    behind = torch.tensor(BACKGROUND)
    error = (color + (1 - alpha[..., None]) * behind) - (
        wanted[..., :3] + (1 - wanted[..., 3:]) * behind
    )
    assert mean_square == pytest.approx(float((error.detach() ** 2).mean()), rel=1e-5)

    def loss(e: torch.Tensor) -> torch.Tensor:
        return (robust**2 * ((1 + (e / robust) ** 2).sqrt() - 1)).sum()

    (loss(error) + 0.7 * loss(alpha - wanted[..., 3])).backward()
    assert rows.grad is not None
    theirs = rows.grad.numpy()
    for values in (slice(0, 3), slice(3, 7), slice(7, 10), slice(10, 11), slice(11, None)):
        off = np.linalg.norm(ours[:, values] - theirs[:, values])
        assert off < 2e-3 * np.linalg.norm(theirs[:, values]), values


def test_a_fit_finds_back_what_was_drawn() -> None:
    truth = cloud(1)
    views = [camera(azimuth) for azimuth in np.linspace(-0.8, 0.8, 6)]
    targets = [target_of(truth, view) for view in views]
    rng = np.random.default_rng(3)
    start = gaussians_of(
        truth.means + rng.normal(0, 0.02, (COUNT, 3)),
        truth.quats,
        truth.scales * np.exp(rng.normal(0, 0.2, (COUNT, 3))),
        np.clip(truth.opacities * 0.8, 0.05, 0.9),
        truth.sh * 0.5,
    )
    fitted = FittedGaussians(start, 1)
    errors = [
        np.mean(
            [fitted.step(v, t, Comparison(), SLOW) for v, t in zip(views, targets, strict=True)]
        )
        for _ in range(60)
    ]
    assert errors[-1] < 0.02 * errors[0]
    assert fitted.views.max() == 60 * len(views) and fitted.weight.max() > 0
    fitted.forget()
    assert not fitted.views.any()


def test_threads_change_no_byte() -> None:
    results = []
    for threads in (1, 3):
        fitted = FittedGaussians(cloud(2), 2, threads=threads)
        for azimuth in (0.0, 0.4):
            fitted.step(
                camera(azimuth), target_of(cloud(1, 5), camera(azimuth)), Comparison(), SLOW
            )
        results.append(fitted.rows)
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_all_kernels_step_alike(instruction_set: str) -> None:
    rows = []
    for name in (instruction_sets()[0], instruction_set):
        fitted = FittedGaussians(cloud(3), 3)
        fitted._isa = name
        fitted.step(camera(), target_of(cloud(1, 5), camera()), Comparison(), SLOW)
        rows.append(np.concatenate([fitted._moments, fitted._seen], axis=1))
    off = np.abs(rows[1] - rows[0]).max(axis=0)
    assert (off <= 1e-3 * np.abs(rows[0]).max(axis=0)).all()
    assert np.abs(rows[0]).max(axis=0).min() > 0


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("columns", [slice(0, HARMONICS), slice(HARMONICS, None)])
def test_rows_that_are_no_numbers_do_no_harm(columns: slice, instruction_set: str) -> None:
    rng = np.random.default_rng(6)
    fitted = FittedGaussians(cloud(2), 2)
    fitted._isa = instruction_set
    spoiled = np.zeros(fitted.rows.shape, np.bool_)
    spoiled[:, columns] = rng.random(spoiled[:, columns].shape) < 0.05
    extremes = np.array([np.nan, np.inf, -np.inf, 0, 1e38, -1e38, 1e-45, 85, -85], np.float32)
    fitted.rows[spoiled] = rng.choice(extremes, spoiled.sum())
    sound = np.isfinite(fitted.rows).all(axis=1)
    target = target_of(cloud(1, 5), camera())
    for azimuth in (0.0, 0.7):
        fitted.step(camera(azimuth), target, Comparison(), SLOW)
    assert 0 < sound.sum() < COUNT and np.isfinite(fitted.rows[sound]).all()
    if columns.start == 0:  # a colour that is no number spoils the error of all that it covers
        assert fitted.views[sound].max() == 2


def test_more_pairs_than_can_be_numbered_are_refused() -> None:
    # 65,600 Gaussians that fill a picture of 65,536 tiles each: more than 2^32.
    one = cloud(0)[:1]
    fitted = FittedGaussians(one, 0)
    rows = fitted.rows.repeat(65_600, axis=0)
    rows[:, 0:3], rows[:, LOG_SCALE], rows[:, LOGIT] = 0.0, 3.0, 5.0
    fitted.replace(np.zeros(1, np.bool_), rows)
    view = Camera.look_at((0, 0, -3), (0, 0, 0), (0, -1, 0), fov_y_rad=0.7, width=4096, height=4096)
    with pytest.raises(BudgetError, match="65600 Gaussians to a picture of 4096×4096"):
        fitted.step(view, np.zeros((4096, 4096, 4), np.uint8), Comparison(), STILL)


def test_rows_come_and_go() -> None:
    fitted = FittedGaussians(cloud(1), 1)
    kept = np.arange(COUNT) % 2 == 0
    fitted.replace(kept, fitted.rows[:5])
    assert len(fitted) == COUNT // 2 + 5
    again = fitted.gaussians()
    assert again.sh_degree == 1
    assert np.allclose(again.means[: COUNT // 2], cloud(1).means[kept])
    assert np.allclose(again.opacities[-5:], cloud(1).opacities[:5], atol=1e-6)
