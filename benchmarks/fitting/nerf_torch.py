"""Plain NeRFs in torch, after the paper and the two trainers: an oracle, and a trainer.

Independent of the project's own code for fields: from rays to pictures it shares nothing with it
but cameras. Pictures are deterministic: what trainers draw at random stands at its middle, or is
left out, as their test pictures do.

Source: Mildenhall et al. 2020; ``yenchenlin/nerf-pytorch``, ``krrish94/nerf-pytorch`` (equations
and layouts).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.fitting.steps import each_step
from benchmarks.fitting.town_views import Views
from splat.camera import Camera


def waves(x: Tensor, octaves: int) -> Tensor:
    """γ(x), the input first: [..., 3 + 6 · octaves]."""
    parts = [x]
    for k in range(octaves):
        parts += [torch.sin(2.0**k * x), torch.cos(2.0**k * x)]
    return torch.cat(parts, dim=-1)


def _density_head(width: int) -> nn.Linear:
    """One that begins with fog: behind a rectifier, what is empty everywhere never learns."""
    head = nn.Linear(width, 1)
    nn.init.constant_(head.bias, 0.5)
    return head


class FlexibleNeRF(nn.Module):
    """krrish94's: nothing after the first layer, a rectifier after the features."""

    def __init__(self, width: int = 128, hidden: int = 3, octaves: int = 10, seen: int = 4) -> None:
        super().__init__()
        self.octaves, self.seen = octaves, seen
        self.layer1 = nn.Linear(3 + 6 * octaves, width)
        self.layers_xyz = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden))
        self.layers_dir = nn.ModuleList([nn.Linear(width + 3 + 6 * seen, width // 2)])
        self.fc_alpha = _density_head(width)
        self.fc_rgb = nn.Linear(width // 2, 3)
        self.fc_feat = nn.Linear(width, width)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [..., 3] and densities [...]."""
        h = self.layer1(waves(points, self.octaves))
        for layer in self.layers_xyz:
            h = torch.relu(layer(h))
        density = torch.relu(self.fc_alpha(h))[..., 0]
        h = torch.cat([torch.relu(self.fc_feat(h)), waves(directions, self.seen)], dim=-1)
        for layer in self.layers_dir:
            h = torch.relu(layer(h))
        return torch.sigmoid(self.fc_rgb(h)), density


class OriginalNeRF(nn.Module):
    """The authors', as yenchenlin's: the position once more after layer ``skip``."""

    def __init__(
        self, width: int = 256, depth: int = 8, octaves: int = 10, seen: int = 4, skip: int = 4
    ) -> None:
        super().__init__()
        self.octaves, self.seen, self.skip = octaves, seen, skip
        inputs = 3 + 6 * octaves
        self.pts_linears = nn.ModuleList(
            nn.Linear(
                inputs if number == 0 else width + (inputs if number == skip + 1 else 0), width
            )
            for number in range(depth)
        )
        self.views_linears = nn.ModuleList([nn.Linear(3 + 6 * seen + width, width // 2)])
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = _density_head(width)
        self.rgb_linear = nn.Linear(width // 2, 3)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [..., 3] and densities [...]."""
        x = h = waves(points, self.octaves)
        for number, layer in enumerate(self.pts_linears):
            h = torch.relu(layer(h))
            if number == self.skip:
                h = torch.cat([x, h], dim=-1)
        density = torch.relu(self.alpha_linear(h))[..., 0]
        h = torch.cat([self.feature_linear(h), waves(directions, self.seen)], dim=-1)
        return torch.sigmoid(self.rgb_linear(torch.relu(self.views_linears[0](h)))), density


@dataclass(frozen=True, slots=True)
class Sampling:
    """How rays are sampled.

    Attributes:
        near, far: Depths, or parameters of device coordinates.
        coarse, fine: Samples.
        ndc: Width, height and focal length of device coordinates.
        background: Behind the last sample.
    """

    near: float = 2.0
    far: float = 6.0
    coarse: int = 64
    fine: int = 64
    ndc: tuple[float, float, float] | None = None
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)


def rays_of(camera: Camera, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Origins and directions [H, W, 3] of a pinhole camera's pixels, of depth 1."""
    K, pose = torch.tensor(camera.K), torch.tensor(camera.camera_to_world)
    v, u = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    inward = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], -1)
    directions = inward.double() @ pose[:3, :3].T
    return pose[:3, 3].expand_as(directions).to(dtype), directions.to(dtype)


def to_ndc(
    origins: Tensor, directions: Tensor, ndc: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Appendix C: rays of cameras that look along −z, from the plane z = −1 on."""
    width, height, focal = ndc
    start = origins - ((1.0 + origins[..., 2:]) / directions[..., 2:]) * directions
    ox, oy, oz = start.unbind(-1)
    dx, dy, dz = directions.unbind(-1)
    ax, ay = -2.0 * focal / width, -2.0 * focal / height
    o = torch.stack([ax * ox / oz, ay * oy / oz, 1.0 + 2.0 / oz], -1)
    d = torch.stack([ax * (dx / dz - ox / oz), ay * (dy / dz - oy / oz), -2.0 / oz], -1)
    return o, d


def composite(colors: Tensor, densities: Tensor, t: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """Colour [R, 3] over nothing, opacity [R] and weights [R, S]; the last sample has no end."""
    steps = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], dim=1)
    alphas = 1.0 - torch.exp(-densities * steps * lengths[:, None])
    passed = torch.cumprod(torch.cat([torch.ones_like(t[:, :1]), 1.0 - alphas], dim=1), dim=1)
    weights = alphas * passed[:, :-1]
    return (weights[..., None] * colors).sum(dim=1), weights.sum(dim=1), weights


def invert_cdf(borders: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """Where the cumulative distribution of weights over bins reaches each u [S]: [R, S]."""
    density = (weights + 1e-5) / (weights + 1e-5).sum(dim=1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(density[:, :1]), torch.cumsum(density, dim=1)], dim=1)
    levels = u.expand(len(weights), -1).contiguous()
    above = torch.searchsorted(cdf.contiguous(), levels, right=True)
    low = (above - 1).clamp(min=0)
    high = above.clamp(max=cdf.shape[1] - 1)
    c0, c1 = cdf.gather(1, low), cdf.gather(1, high)
    b0, b1 = borders.gather(1, low), borders.gather(1, high)
    span = torch.where(c1 - c0 < 1e-5, torch.ones_like(c0), c1 - c0)
    return b0 + (levels - c0) / span * (b1 - b0)


def render_rays(
    coarse: nn.Module,
    fine: nn.Module | None,
    origins: Tensor,
    directions: Tensor,
    sampling: Sampling,
    jitter: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [R, 3] over the background, opacity [R] and the coarse colour [R, 3].

    Args:
        origins, directions: [R, 3] of the world; of any length.
        jitter: [R, coarse] in [0, 1): where in its interval a coarse sample lies.
    """
    seen = directions / directions.norm(dim=1, keepdim=True)
    if sampling.ndc is not None:
        origins, directions = to_ndc(origins, directions, sampling.ndc)
    lengths = directions.norm(dim=1)
    t = torch.linspace(sampling.near, sampling.far, sampling.coarse, dtype=origins.dtype)
    t = t.expand(len(origins), -1)
    if jitter is not None:
        middles = 0.5 * (t[:, 1:] + t[:, :-1])
        lower = torch.cat([t[:, :1], middles], dim=1)
        t = lower + (torch.cat([middles, t[:, -1:]], dim=1) - lower) * jitter

    def look(network: nn.Module, at: Tensor) -> tuple[Tensor, ...]:
        points = origins[:, None] + directions[:, None] * at[..., None]
        colors, densities = network(points, seen[:, None].expand_as(points))
        return composite(colors, densities, at, lengths)

    white = torch.tensor(sampling.background, dtype=origins.dtype)
    first, alpha, weights = look(coarse, t)
    first_over = first + (1.0 - alpha[:, None]) * white
    if not sampling.fine:
        return first_over, alpha, first_over
    u = torch.linspace(0.0, 1.0, sampling.fine, dtype=origins.dtype)
    more = invert_cdf(0.5 * (t[:, 1:] + t[:, :-1]), weights[:, 1:-1].detach(), u)
    both, _ = torch.sort(torch.cat([t, more], dim=1), dim=1)
    color, alpha, _ = look(coarse if fine is None else fine, both)
    return color + (1.0 - alpha[:, None]) * white, alpha, first_over


@torch.no_grad()
def render(
    coarse: nn.Module, fine: nn.Module | None, camera: Camera, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """A camera's picture [H, W, 3] over the background and its opacity [H, W], in float64."""
    nets = [None if net is None else copy.deepcopy(net).double() for net in (coarse, fine)]
    assert nets[0] is not None
    origins, directions = (each.reshape(-1, 3) for each in rays_of(camera))
    parts = [
        render_rays(nets[0], nets[1], origins[some], directions[some], sampling)[:2]
        for some in torch.arange(len(origins)).split(2048)
    ]
    color, alpha = (torch.cat(each) for each in zip(*parts, strict=True))
    shape = (camera.height, camera.width)
    return color.reshape(*shape, 3), alpha.reshape(shape)


def fit(
    coarse: nn.Module,
    fine: nn.Module | None,
    views: Views,
    sampling: Sampling,
    *,
    steps: int,
    rays: int = 512,
    rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Adam on the squared error of both networks' colours, of random rays of the views."""
    random = torch.Generator().manual_seed(seed)
    origins, directions, colors = (each.reshape(-1, 3) for each in _all_rays(views))
    parameters = [*coarse.parameters(), *(() if fine is None else fine.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for step in each_step(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.1 ** (step / steps)
        some = torch.randint(len(origins), (rays,), generator=random)
        jitter = torch.rand(rays, sampling.coarse, generator=random)
        color, _, first = render_rays(
            coarse, fine, origins[some], directions[some], sampling, jitter
        )
        loss = ((color - colors[some]) ** 2).mean() + ((first - colors[some]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _all_rays(views: Views) -> Iterator[Tensor]:
    pairs = [rays_of(camera, torch.float32) for camera in views.cameras]
    yield torch.stack([origins for origins, _ in pairs])
    yield torch.stack([directions for _, directions in pairs])
    yield torch.tensor(views.images)


def save_flexible(
    path: Path, coarse: nn.Module, fine: nn.Module | None, *, legacy: bool = False
) -> None:
    """A checkpoint as krrish94's trainer writes it, its optimizer's state and all."""
    optimizer = torch.optim.Adam(coarse.parameters())
    torch.save(
        {
            "iter": 199,
            "model_coarse_state_dict": _single(coarse),
            "model_fine_state_dict": None if fine is None else _single(fine),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": torch.tensor(0.01),
            "psnr": -10.0 * math.log10(0.01),
        },
        path,
        _use_new_zipfile_serialization=not legacy,
    )


def save_original(
    path: Path, coarse: nn.Module, fine: nn.Module | None, *, legacy: bool = False
) -> None:
    """A checkpoint as yenchenlin's trainer writes it."""
    optimizer = torch.optim.Adam(coarse.parameters())
    torch.save(
        {
            "global_step": 200,
            "network_fn_state_dict": _single(coarse),
            "network_fine_state_dict": None if fine is None else _single(fine),
            "optimizer_state_dict": optimizer.state_dict(),
        },
        path,
        _use_new_zipfile_serialization=not legacy,
    )


def _single(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.float() for name, value in network.state_dict().items()}
