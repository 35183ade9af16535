"""gsplat's torch functions, written by others, agree with both rasterizers."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rendering.base import DILATION_PX2, RasterSettings
from rendering.reference import ReferenceRasterizer
from rendering.reference_project import project
from splat.camera import Camera, CameraModel
from splat.gaussians import Gaussians
from splat.harmonics import sh_basis
from tests.scenes import ODD_SIZES, orbit_camera, random_scene
from tests.test_native_rasterizer import make_native

RELATIVE = 1e-4
# gsplat guards its fisheye against division by zero by adding 1e-7 here and there.
MODELS = {CameraModel.PINHOLE: 1e-9, CameraModel.ORTHO: 1e-9, CameraModel.FISHEYE: 1e-5}
SIZES = [size for size in ODD_SIZES if min(size) > 1]


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """``gsplat.cuda._torch_impl``; what importing it prints without CUDA is not shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("gsplat.cuda._torch_impl")


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Screen parameters of the Gaussians ``index`` of a scene, whoever computed them."""

    index: NDArray[np.integer]
    means2d: NDArray[np.floating]
    depths: NDArray[np.floating]
    conics: NDArray[np.floating]
    colors: NDArray[np.floating]
    opacities: NDArray[np.floating]

    @classmethod
    def of(cls, projected: Any) -> Projection:
        """From either rasterizer's own type."""
        return cls(*(np.asarray(getattr(projected, name)) for name in cls.__slots__))


def gsplat_projection(
    oracle: ModuleType, scene: Gaussians, camera: Camera, settings: RasterSettings
) -> Projection:
    """All Gaussians of the scene by gsplat in float64; meaningless behind the camera."""
    means, quats, scales, opacities, sh = (
        torch.from_numpy(array.astype(np.float64))
        for array in (scene.means, scene.quats, scene.scales, scene.opacities, scene.sh)
    )
    covariances, _ = oracle._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    _, means2d, depths, conics, compensations = oracle._fully_fused_projection(
        means,
        covariances,
        torch.from_numpy(camera.viewmat.copy())[None],
        torch.from_numpy(camera.K.copy())[None],
        camera.width,
        camera.height,
        eps2d=DILATION_PX2,
        near_plane=camera.near,
        calc_compensations=settings.antialiased,
        camera_model=camera.model.value,
    )
    degree = scene.sh_degree if settings.sh_degree is None else settings.sh_degree
    directions = means - torch.from_numpy(camera.position.copy())
    colors = (oracle._spherical_harmonics(degree, directions, sh) + 0.5).clamp(min=0)
    if settings.antialiased:
        opacities = opacities * compensations[0]
    return Projection(
        index=np.arange(len(scene)),
        means2d=means2d[0].numpy(),
        depths=depths[0].numpy(),
        conics=conics[0].numpy(),
        colors=colors.numpy(),
        opacities=opacities.numpy(),
    )


def by_reference(scene: Gaussians, camera: Camera, settings: RasterSettings) -> Projection:
    return Projection.of(project(ReferenceRasterizer().prepare(scene), camera, settings))


def by_native(scene: Gaussians, camera: Camera, settings: RasterSettings) -> Projection:
    rasterizer = make_native()
    return Projection.of(rasterizer.project(rasterizer.prepare(scene), camera, settings))


Project = Callable[[Gaussians, Camera, RasterSettings], Projection]


def assert_agree(ours: Projection, theirs: Projection, relative: float, fisheye: bool) -> None:
    """Every row within ``relative`` of the row's largest entry.

    A colour is 0.5 plus harmonics, so its error is taken relative to 0.5 at least: near
    black the terms cancel, and no float32 (let alone 16-bit coefficient) could do better.
    """
    assert len(ours.index) > 100, "too few Gaussians on the screen to mean anything"
    for name in ("means2d", "conics", "colors", "opacities", "depths"):
        if name == "depths" and fisheye:  # gsplat gives z for a fisheye, we give distance
            continue
        mine = getattr(ours, name).astype(np.float64)
        other = getattr(theirs, name)[ours.index]
        mine, other = (a.reshape(len(ours.index), -1) for a in (mine, other))
        size = np.abs(other).max(axis=1).clip(min=0.5 if name == "colors" else 1e-12)
        error = np.abs(mine - other).max(axis=1) / size
        assert error.max() <= relative, f"{name} differ by {error.max():.2g} relative"


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
def test_reference_projects_as_gsplat_does(
    oracle: ModuleType, model: CameraModel, size: tuple[int, int], antialiased: bool
) -> None:
    scene, view = random_scene(20, 2000), orbit_camera(model, *size)
    settings = RasterSettings(antialiased=antialiased)
    theirs = gsplat_projection(oracle, scene, view, settings)
    # gsplat keeps z in float64, our depths are rounded to the sort key.
    theirs.depths[:] = theirs.depths.astype(np.float32)
    fisheye = model is CameraModel.FISHEYE
    ours = by_reference(scene, view, settings)
    # It compensates with a determinant that cancels for needles; ours does not.
    assert_agree(ours, theirs, 1e-5 if antialiased else MODELS[model], fisheye)


@pytest.mark.parametrize("project_scene", [by_reference, by_native])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
def test_both_rasterizers_project_as_gsplat_does(
    oracle: ModuleType, model: CameraModel, size: tuple[int, int], project_scene: Project
) -> None:
    scene, view = random_scene(21, 2000), orbit_camera(model, *size, angle_rad=2.0)
    settings = RasterSettings()
    theirs = gsplat_projection(oracle, scene, view, settings)
    ours = project_scene(scene, view, settings)
    assert_agree(ours, theirs, RELATIVE, model is CameraModel.FISHEYE)


@pytest.mark.parametrize("project_scene", [by_reference, by_native])
def test_far_off_axis_gaussians_are_linearized_as_in_gsplat(
    oracle: ModuleType, project_scene: Project
) -> None:
    """A narrow view of a wide scene of large Gaussians, where the limit of J matters."""
    scene = random_scene(22, 3000)
    scene.scales[:] *= 4
    scene.scales.clip(0.2, None, out=scene.scales)
    view = orbit_camera(CameraModel.PINHOLE, 129, 31)
    theirs = gsplat_projection(oracle, scene, view, RasterSettings())
    ours = project_scene(scene, view, RasterSettings())
    outside = (ours.means2d[:, 1] < -0.2 * 31) | (ours.means2d[:, 1] > 1.2 * 31)
    assert outside.sum() > 50, "the limit is not exercised"
    assert_agree(ours, theirs, RELATIVE, fisheye=False)


@pytest.mark.parametrize("project_scene", [by_reference, by_native])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colors_are_those_of_gsplat(
    oracle: ModuleType, degree: int, project_scene: Project
) -> None:
    scene, view = random_scene(23, 1000), orbit_camera(CameraModel.PINHOLE, 65, 31)
    settings = RasterSettings(sh_degree=degree)
    theirs = gsplat_projection(oracle, scene, view, settings)
    assert_agree(project_scene(scene, view, settings), theirs, RELATIVE, fisheye=False)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_our_harmonics_are_those_of_gsplat(oracle: ModuleType, degree: int) -> None:
    directions = np.random.default_rng(degree).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bases = (degree + 1) ** 2
    # Unit coefficients, one basis function at a time, in the red channel.
    coefficients = torch.zeros(500, bases, bases, 3, dtype=torch.float64)
    coefficients[:, range(bases), range(bases), 0] = 1
    repeated = torch.from_numpy(directions)[:, None].expand(-1, bases, -1)
    theirs = oracle._spherical_harmonics(degree, repeated, coefficients)[..., 0]
    np.testing.assert_allclose(sh_basis(directions, degree), theirs, atol=1e-12)
