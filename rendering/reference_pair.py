"""The truth of two eyes drawn at once (``rendering.base.PairRasterizer``)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from render_cache.reuse import ReuseLimits
from rendering.base import ALPHA_CUT, RasterSettings, require_pair
from rendering.camera_models import to_screen
from rendering.reference_project import ProjectedReference, ReferenceScene, project
from splat.camera import Camera


def project_second(
    scene: ReferenceScene, left: Camera, right: Camera, settings: RasterSettings
) -> ProjectedReference:
    """What the second eye draws: of the Gaussians that may be reused, the first one's splats.

    Raises:
        ValueError: If the cameras are no pair, or nothing may be reused.
    """
    require_pair(left, right, settings)
    # Depths are the same, so these are the same Gaussians.
    first, second = (project(scene, eye, settings, anywhere=True) for eye in (left, right))
    bases = 1 if settings.sh_degree == 0 else scene.sh.shape[1]
    shared = outline_drift_px(scene, first.index, left, right) <= settings.reuse.drift_px
    if bases > 1:
        shared &= _sine(scene, first.index, left, right) <= _sine_of(settings.reuse)

    def own_or(name: str) -> Tensor:
        firsts, seconds = getattr(first, name), getattr(second, name)
        return torch.where(shared.reshape(-1, *[1] * (firsts.ndim - 1)), firsts, seconds)

    taken = ("conics", "colors", "opacities", "extents")
    seen = replace(second, **{name: own_or(name) for name in taken})
    return seen[seen.opacities >= ALPHA_CUT]


def outline_drift_px(scene: ReferenceScene, index: Tensor, left: Camera, right: Camera) -> Tensor:
    """[n] upper bound of how far the outlines of Gaussians differ between two eyes, pixels.

    ``k ‖M′ − M‖ σ`` of ``render_cache.reuse``: J alone differs, and only in its first row; alpha
    falls to ALPHA_CUT at k deviations, if no opacity is compensated.
    """
    k = (2 * (scene.opacities[index] / ALPHA_CUT).log()).sqrt()
    rows = []
    for eye in (left, right):
        viewmat = torch.from_numpy(eye.viewmat.copy())
        _, J = to_screen(scene.means[index] @ viewmat[:3, :3].T + viewmat[:3, 3], eye)
        rows.append(J[:, 0])
    drift: Tensor = k * scene.scales[index].amax(dim=1) * (rows[1] - rows[0]).norm(dim=1)
    return drift


def _sine(scene: ReferenceScene, index: Tensor, left: Camera, right: Camera) -> Tensor:
    """[n] bound of the sine of the angle between the directions of a Gaussian (law of sines)."""
    eyes = [torch.from_numpy(eye.position.copy()) for eye in (left, right)]
    sine: Tensor = (eyes[1] - eyes[0]).norm() / (scene.means[index] - eyes[0]).norm(dim=1)
    return sine


def _sine_of(limits: ReuseLimits) -> float:
    return math.sin(min(limits.angle_rad, 0.5 * math.pi))
