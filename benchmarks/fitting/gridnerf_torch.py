"""GridNeRF in plain torch: the oracle for readers and engines, and what is fitted.

Written from the paper (Xu et al. 2023, "Grid-guided Neural Radiance Fields for Large Urban Scenes",
section 3.2) and from what LandMark's trainer and renderer compute. It shares no code with
``scene_store`` or ``rendering``. Parameters are named so that the state is LandMark's;
``benchmarks.fitting.gridnerf_files`` writes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fitting.posed_rays import PosedRays
from benchmarks.fitting.steps import each_step

PLANE_AXES = ((0, 1), (0, 2), (1, 2))
LINE_AXES = (2, 1, 0)
LATENT = 48
NERF_OCTAVES, NERF_WIDTH, NERF_LAYERS = 4, 32, 3
Vector3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class GridNerfSettings:
    """As LandMark's options, some of which have other names there.

    Attributes:
        lb, ub: Corners of the box.
        grid_size: Texels along x, y and z, of resolution 1.
        res_mode: Resolutions, multiples of ``grid_size``.
        ndims: Planes: over the ground (1), and also the two upright ones (2, 3).
        n_lamb_sigma, n_lamb_sh: Values of a texel, of densities and of colours.
        data_dim_color: Features of a colour.
        nonlinear_density: Whether a learned sum of the features makes the density.
        run_nerf: Whether the NeRF branch is there, too.
        plane_division: Blocks along x and y, each with planes of its own.
        alpha_mask: Whether what is empty is masked.
    """

    lb: Vector3 = (-1.0, -1.0, -0.1)
    ub: Vector3 = (1.0, 1.0, 0.9)
    grid_size: tuple[int, int, int] = (64, 64, 32)
    res_mode: tuple[int, ...] = (1, 2, 4)
    ndims: int = 1
    n_lamb_sigma: int = 16
    n_lamb_sh: int = 48
    data_dim_color: int = 27
    view_pe: int = 2
    fea_pe: int = 2
    feature_channels: int = 128
    bias_enable: bool = True
    encode_app: bool = False
    images: int = 8
    nonlinear_density: bool = True
    fea2dense_act: str = "relu"
    density_shift: float = -10.0
    distance_scale: float = 25.0
    step_ratio: float = 0.5
    color_weight: float = 1e-3
    near_far: tuple[float, float] = (0.6, 3.5)
    white_bkgd: bool = True
    run_nerf: bool = False
    plane_division: tuple[int, int] = (1, 1)
    alpha_mask: bool = False


def frequencies(x: Tensor, octaves: int) -> Tensor:
    """Sines of all values in all octaves, value by value, then their cosines."""
    angles = (x[:, :, None] * 2.0 ** torch.arange(octaves)).flatten(1)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


class ColorNetwork(nn.Module):
    """From features and a direction to a colour."""

    def __init__(self, settings: GridNerfSettings):
        super().__init__()
        s = self.settings = settings
        inputs = s.data_dim_color * (1 + 2 * s.fea_pe) + (LATENT if s.encode_app else 0)
        inputs += 3 + 6 * max(s.view_pe, 0) if s.view_pe >= 0 else 0
        self.mlp = nn.Sequential(
            nn.Linear(inputs, s.feature_channels, bias=s.bias_enable),
            nn.ReLU(),
            nn.Linear(s.feature_channels, s.feature_channels, bias=s.bias_enable),
            nn.ReLU(),
            nn.Linear(s.feature_channels, 3, bias=s.bias_enable),
        )

    def forward(self, features: Tensor, latent: Tensor | None, views: Tensor) -> Tensor:
        """[N, 3]."""
        parts = [features, *([] if latent is None else [latent])]
        if self.settings.view_pe >= 0:
            parts.append(views)
        parts.append(frequencies(features, self.settings.fea_pe))
        if self.settings.view_pe > 0:
            parts.append(frequencies(views, self.settings.view_pe))
        color: Tensor = torch.sigmoid(self.mlp(torch.cat(parts, dim=-1)))
        return color


class NerfBranch(nn.Module):
    """What guides the grid in training; no picture is made of it."""

    def __init__(self, settings: GridNerfSettings):
        super().__init__()
        count = len(settings.res_mode) * settings.ndims
        density, color = count * settings.n_lamb_sigma, count * settings.n_lamb_sh
        points, width = 3 + 6 * NERF_OCTAVES + density, NERF_WIDTH
        latent = LATENT if settings.encode_app else 0
        self.pts_linears = nn.ModuleList(
            nn.Linear(width if n else points, width) for n in range(NERF_LAYERS)
        )
        self.views_linears = nn.ModuleList([nn.Linear(27 + color + width + latent, width // 2)])
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = nn.Linear(width, 1)
        self.rgb_linear = nn.Linear(width // 2, 3)

    def forward(
        self, points: Tensor, views: Tensor, density: Tensor, color: Tensor, latent: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Densities [N] and colours [N, 3]."""
        hidden = torch.cat([points, frequencies(points, NERF_OCTAVES), density], dim=-1)
        for layer in self.pts_linears:
            hidden = functional.relu(layer(hidden))
        parts = [self.feature_linear(hidden), views, frequencies(views, 4), color]
        parts += [] if latent is None else [latent]
        seen = functional.relu(self.views_linears[0](torch.cat(parts, dim=-1)))
        return (
            functional.relu(self.alpha_linear(hidden))[:, 0],
            torch.sigmoid(self.rgb_linear(seen)),
        )


class GridNerf(nn.Module):
    """The whole model: from rays to colours."""

    def __init__(self, settings: GridNerfSettings):
        super().__init__()
        s = self.settings = settings
        self.lo, self.hi = torch.tensor(s.lb), torch.tensor(s.ub)
        self.density_plane, self.density_line = self._planes(s.n_lamb_sigma)
        self.app_plane, self.app_line = self._planes(s.n_lamb_sh)
        count = len(s.res_mode) * s.ndims
        self.basis_mat = nn.Linear(s.n_lamb_sh * count, s.data_dim_color, bias=False)
        if s.nonlinear_density:
            self.basis_den = nn.Linear(s.n_lamb_sigma * count, 1, bias=False)
        if s.encode_app:
            self.embedding_app = nn.Embedding(s.images, LATENT)
        self.renderModule = ColorNetwork(s)
        if s.run_nerf:
            self.nerf = NerfBranch(s)
        self.mask: Tensor | None = None

    def _planes(self, values: int) -> tuple[nn.ParameterList, nn.ParameterList]:
        """Planes [1, C, B, H, W] (without B if there is one block) and lines [1, C, D, B]."""
        s = self.settings
        blocks = s.plane_division[0] * s.plane_division[1]
        sides = [n // d for n, d in zip(s.grid_size, (*s.plane_division, 1), strict=True)]
        planes, lines = [], []
        for dimension in range(s.ndims):
            across, down = PLANE_AXES[dimension]
            for factor in s.res_mode:
                shape = (blocks, sides[down] * factor, sides[across] * factor)
                plane = 0.1 * torch.randn(1, values, *(shape if blocks > 1 else shape[1:]))
                height = sides[LINE_AXES[dimension]] * factor
                planes.append(nn.Parameter(plane))
                lines.append(nn.Parameter(0.1 * torch.randn(1, values, height, blocks)))
        return nn.ParameterList(planes), nn.ParameterList(lines)

    # ---- Fields -----------------------------------------------------------------------------

    def features(self, kind: str, unit: Tensor) -> Tensor:
        """[N, C] features of ``density`` or ``app`` at points [N, 3] of the unit cube."""
        nx, ny = self.settings.plane_division
        if nx * ny == 1:
            return self._block_features(kind, unit, 0)
        scaled = unit[:, :2] * torch.tensor([nx, ny])
        column = scaled.floor().clamp_min(0).minimum(torch.tensor([nx - 1.0, ny - 1.0]))
        local = torch.cat([scaled - column, unit[:, 2:]], dim=-1)
        number = (column[:, 0] * ny + column[:, 1]).long()
        width = sum(plane.shape[1] for plane in getattr(self, f"{kind}_plane"))
        found = unit.new_zeros(len(unit), width)
        for block in range(nx * ny):
            here = number == block
            if here.any():
                found = found.index_put(
                    (here.nonzero()[:, 0],), self._block_features(kind, local[here], block)
                )
        return found

    def _block_features(self, kind: str, unit: Tensor, block: int) -> Tensor:
        at = 2 * unit - 1
        resolutions = len(self.settings.res_mode)
        parts = []
        pairs = zip(getattr(self, f"{kind}_plane"), getattr(self, f"{kind}_line"), strict=True)
        for number, (plane, line) in enumerate(pairs):
            plane = plane if plane.ndim == 4 else plane[:, :, block]
            dimension = number // resolutions
            on_plane = at[:, PLANE_AXES[dimension]].reshape(1, -1, 1, 2)
            height = at[:, LINE_AXES[dimension]]
            on_line = torch.stack([torch.zeros_like(height), height], dim=-1).reshape(1, -1, 1, 2)
            area = functional.grid_sample(plane, on_plane, align_corners=True)
            along = functional.grid_sample(line[..., [block]], on_line, align_corners=True)
            parts.append((area * along)[0, :, :, 0])
        return torch.cat(parts).T

    def density(self, points: Tensor) -> Tensor:
        """[N] at points [N, 3] of the world, all of them in the box."""
        return self._density(self.features("density", self._unit(points)))

    def _density(self, features: Tensor) -> Tensor:
        s = self.settings
        if s.nonlinear_density:
            value = functional.relu(self.basis_den(features))[:, 0]
        else:
            value = features.sum(dim=-1)
        if s.fea2dense_act == "softplus":
            return functional.softplus(value + s.density_shift)
        return functional.relu(value)

    def color(self, points: Tensor, views: Tensor, image: Tensor | None = None) -> Tensor:
        """[N, 3], seen along directions [N, 3] of depth 1.

        Args:
            image: [N] of pictures whose appearance is taken; the first if None.
        """
        features = self.basis_mat(self.features("app", self._unit(points)))
        color: Tensor = self.renderModule(features, self._latent(len(points), image), views)
        return color

    def _latent(self, count: int, image: Tensor | None) -> Tensor | None:
        if not self.settings.encode_app:
            return None
        numbers = torch.zeros(count, dtype=torch.long) if image is None else image
        latent: Tensor = self.embedding_app(numbers)
        return latent

    def _unit(self, points: Tensor) -> Tensor:
        return (points - self.lo) / (self.hi - self.lo)

    # ---- Pictures ---------------------------------------------------------------------------

    @property
    def step(self) -> float:
        """Depth from sample to sample."""
        size = self.hi - self.lo
        units = size / (torch.tensor(self.settings.grid_size) - 1)
        return float(units.mean() * self.settings.step_ratio)

    @property
    def samples(self) -> int:
        """Of a ray."""
        size = self.hi - self.lo
        return int(float((size * size).sum().sqrt()) / self.step) + 1

    def forward(
        self, origins: Tensor, directions: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Colours [N, 3] of the grid branch, and of the NeRF branch in training.

        Args:
            origins, directions: [N, 3]; directions of depth 1.
            generator: Where samples are, at random; None to evaluate.
        """
        s = self.settings
        t = self._depths(origins, directions, generator)
        points = origins[:, None] + directions[:, None] * t[..., None]
        inside = ((points >= self.lo) & (points <= self.hi)).all(dim=-1)
        if self.mask is not None:
            inside = inside & self._unmasked(points)
        views = directions[:, None].expand_as(points)
        found = self.density(points[inside])
        density = torch.zeros(t.shape, dtype=t.dtype).masked_scatter(inside, found)
        lengths = torch.cat([t[:, 1:] - t[:, :-1], torch.zeros_like(t[:, :1])], dim=-1)
        weights = _weights(density, lengths * s.distance_scale)
        seen = weights > s.color_weight
        colors = torch.zeros(*t.shape, 3, dtype=t.dtype)
        colors = colors.masked_scatter(seen[..., None], self.color(points[seen], views[seen]))
        picture = self._over_background(weights, colors)
        if generator is None or not s.run_nerf:
            return picture, None
        return picture, self._guidance(points, views, lengths, inside)

    def _guidance(self, points: Tensor, views: Tensor, lengths: Tensor, inside: Tensor) -> Tensor:
        """The NeRF branch, at the grid's samples (LandMark draws others beside)."""
        unit = self._unit(points[inside])
        latent = self._latent(len(unit), None)
        density, color = self.nerf(
            points[inside],
            views[inside],
            self.features("density", unit),
            self.features("app", unit),
            latent,
        )
        dense = torch.zeros(inside.shape).masked_scatter(inside, density)
        colors = torch.zeros(*inside.shape, 3).masked_scatter(inside[..., None], color)
        return self._over_background(_weights(dense, lengths), colors)

    def _over_background(self, weights: Tensor, colors: Tensor) -> Tensor:
        picture = (weights[..., None] * colors).sum(dim=1)
        if self.settings.white_bkgd:
            picture = picture + 1 - weights.sum(dim=1, keepdim=True)
        return picture.clamp(0, 1)

    def _depths(
        self, origins: Tensor, directions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        along = torch.where(directions == 0, torch.full_like(directions, 1e-6), directions)
        faces = torch.minimum((self.hi - origins) / along, (self.lo - origins) / along)
        entry = faces.amax(dim=-1).clamp(*self.settings.near_far)
        steps = torch.arange(self.samples, dtype=origins.dtype).expand(len(origins), -1)
        if generator is not None:
            steps = steps + torch.rand((len(origins), 1), generator=generator)
        return entry[:, None] + self.step * steps

    @torch.no_grad()
    def update_mask(self, shape: tuple[int, int, int], threshold: float = 1e-4) -> None:
        """Masks what lets light through.

        Args:
            shape: Vertices along x, y and z.
            threshold: Opacity of a step below which there is nothing.
        """
        axes = [
            torch.linspace(float(a), float(b), n)
            for a, b, n in zip(self.lo, self.hi, shape, strict=True)
        ]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
        alpha = 1 - torch.exp(-self.density(points) * self.step)
        volume = alpha.reshape(1, 1, *shape).transpose(2, 4)  # z, y, x
        self.mask = functional.max_pool3d(volume, 3, 1, 1)[0, 0] >= threshold

    def _unmasked(self, points: Tensor) -> Tensor:
        assert self.mask is not None
        at = (2 * self._unit(points) - 1).reshape(1, -1, 1, 1, 3)
        mask = self.mask[None, None].to(points.dtype)
        return functional.grid_sample(mask, at, align_corners=True).reshape(points.shape[:2]) > 0


def _weights(density: Tensor, lengths: Tensor) -> Tensor:
    alpha = 1 - torch.exp(-density * lengths)
    left = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=-1)


# ---- Fitting --------------------------------------------------------------------------------


def fit_gridnerf(
    model: GridNerf, rays: PosedRays, *, steps: int, batch: int, rate: float = 2e-2, seed: int = 0
) -> float:
    """Fits both branches to rays (Adam); the mean squared error of the last step."""
    generator = torch.Generator().manual_seed(seed)
    grids = [p for name, p in model.named_parameters() if "plane" in name or "line." in name]
    others = [p for p in model.parameters() if not any(p is grid for grid in grids)]
    optimizer = torch.optim.Adam(
        [{"params": grids, "lr": rate}, {"params": others, "lr": rate / 20}], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    error = math.inf
    for _ in each_step(steps):
        picked = rays.batch(batch, generator)
        color, guide = model(picked.origins, picked.directions, generator=generator)
        colors = functional.mse_loss(color, picked.colors)
        loss = colors if guide is None else colors + functional.mse_loss(guide, picked.colors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        error = float(colors.detach())
    return error
