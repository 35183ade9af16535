"""Small fields of every kind, for tests: parameters by hand or at random, nothing trained."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from splat.camera import Camera
from splat.fields import (
    Contraction,
    Field,
    FieldSpace,
    FrequencyEncoding,
    GridLevel,
    HashGridEncoding,
    HierarchicalSampler,
    Network,
    OccupancySampler,
    ProposalSampler,
    Rays,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Mlp

INFINITE = np.full(3, np.inf)


def space(
    lo: tuple[float, float, float] = (-1, -1, -1), side: float = 2.0, density_scale: float = 1.0
) -> FieldSpace:
    """A cube of the world."""
    low = np.array(lo, np.float64)
    matrix = np.concatenate([np.eye(3) / side, (-low / side)[:, None]], axis=1)
    return FieldSpace(matrix, Contraction.NONE, low, low + side, density_scale)


def voxels(density: np.ndarray, color: np.ndarray) -> Network:
    """A dense grid [S, S, S] (z, y, x) of densities and [S, S, S, 3] of colours."""
    side = len(density)
    table = np.concatenate([density[..., None], color], axis=-1).reshape(-1, 4).astype(np.float32)
    grid = HashGridEncoding(
        (GridLevel(float(side - 1), side, False, side**3, 0),), table, shift=0.0
    )
    return Network(
        position=grid,
        trunk=Mlp(4),
        density_head=Mlp(4),
        density_activation=Activation.RELU,
        feature_columns=(1, 4),
        color_mlp=Mlp(3),
        color_inputs=("feature",),
    )


def balls(
    side: int = 17, lo: tuple[float, float, float] = (-1, -1, -1), size: float = 2.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Densities and colours of a few balls on a grid's vertices; smooth at their rims."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(0, 1, side)] * 3, indexing="ij")
    density, color = np.zeros((side,) * 3), np.full((side, side, side, 3), 0.5)
    for _ in range(5):
        middle, radius = rng.uniform(0.25, 0.75, 3), rng.uniform(0.1, 0.22)
        apart = np.sqrt((x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2)
        inside = np.clip((radius - apart) * side, 0, 1)
        density += 30.0 / size * inside
        color[inside > 0] = rng.uniform(0, 1, 3)
    return density, color


def grown(mask: np.ndarray) -> np.ndarray:
    """With its 26 neighbours."""
    for axis in range(3):
        mask = mask | np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return mask


def ball_field(
    lo: tuple[float, float, float] = (-1, -1, -1), size: float = 2.0, seed: int = 0, side: int = 17
) -> Field:
    """Balls in a grid, stepped through where it is occupied."""
    density, color = balls(side, lo, size, seed)
    occupied = grown(density > 0)[None]
    sampler = OccupancySampler(occupied, min_step=1 / 64, max_step=1 / 64)
    return Field("Instant-NGP", voxels(density, color), space(lo, size), sampler, near=0.0, far=1e6)


def random_mlp(rng: np.random.Generator, *widths: int, last: Activation = Activation.NONE) -> Mlp:
    """He-initialized."""
    pairs = list(pairwise(widths))
    weights = [rng.normal(0, np.sqrt(2 / a), (b, a)).astype(np.float32) for a, b in pairs]
    biases = [rng.normal(0, 0.1, b).astype(np.float32) for _, b in pairs]
    return Mlp.of(weights, biases, last=last)


def random_network(
    rng: np.random.Generator,
    position: object,
    width: int = 32,
    *,
    colored: bool = True,
    density: Activation = Activation.RELU,
) -> Network:
    """An encoding, a layer, and a head each of density and colour."""
    trunk = random_mlp(rng, position.outputs, width, last=Activation.RELU)  # type: ignore[attr-defined]
    return Network(
        position=position,  # type: ignore[arg-type]
        trunk=trunk,
        density_head=random_mlp(rng, width, 1),
        density_activation=density,
        density_bias=-0.5,
        feature_head=random_mlp(rng, width, 8) if colored else None,
        direction=SphericalHarmonicsEncoding(3),
        color_mlp=random_mlp(rng, 8 + 9, 16, 3, last=Activation.SIGMOID) if colored else None,
    )


def plain_field(seed: int = 0, rays: Rays = Rays.DEPTH) -> Field:
    """Like nerf-pytorch's: unbounded, coarse and fine."""
    rng = np.random.default_rng(seed)
    encoding = FrequencyEncoding((1.0, 2.0, 4.0))
    endless = FieldSpace(np.eye(3, 4), Contraction.NONE, -INFINITE, INFINITE)
    sampler = HierarchicalSampler(random_network(rng, encoding), 24, 16)
    network = random_network(rng, encoding)
    return Field("NeRF", network, endless, sampler, near=2.0, far=6.0, rays=rays)


def contracted_field(seed: int = 0) -> Field:
    """Like nerfacto's: contracted, with a proposal."""
    rng = np.random.default_rng(seed)
    around = FieldSpace(np.eye(3, 4) * 0.5, Contraction.LINF, -INFINITE, INFINITE)

    def grid(side: int) -> HashGridEncoding:
        table = rng.normal(0, 1, (side**3, 2)).astype(np.float32)
        return HashGridEncoding((GridLevel(float(side - 1), side, False, side**3, 0),), table, 0.0)

    sampler = ProposalSampler(
        (random_network(rng, grid(6), 8, colored=False, density=Activation.EXP),),
        (32,),
        16,
        proposal_spaces=(around,),
    )
    return Field(
        "Nerfacto",
        random_network(rng, grid(9), density=Activation.EXP),
        around,
        sampler,
        near=0.05,
        far=100.0,
        last_sample_background=True,
    )


def view(width: int = 45, height: int = 37, angle: float = 0.5, distance: float = 4.0) -> Camera:
    """From outside, towards the origin."""
    eye = distance * np.array([np.sin(angle), -0.3, -np.cos(angle)])
    return Camera.look_at(eye, (0, 0, 0), (0, -1, 0), fov_y_rad=0.8, width=width, height=height)
