"""Instant-NGP in torch, after Müller et al. 2022 and tiny-cuda-nn: an oracle, and a trainer.

Independent of the project's own code for fields: from rays to pictures it shares nothing with it
but cameras. A model lives in instant-ngp's world, the middle of whose box is (½, ½, ½); ``World``
brings a data set's cameras there. Parameters have tiny-cuda-nn's shapes, paddings and all.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.fitting.nerf_torch import rays_of
from benchmarks.fitting.steps import each_step
from benchmarks.fitting.town_views import Views
from splat.camera import Camera

GRID_SIDE = 128
MIN_STEP = math.sqrt(3.0) / 1024.0
MAX_STEP = MIN_STEP * 128.0 * 1024.0 / GRID_SIDE
THICKNESS = 0.01
REGRID_STEPS = 64  # of a fit, after which what is empty is looked for again
PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True, slots=True)
class NgpConfig:
    """Sizes of a model.

    Attributes:
        levels, features, log2_entries, base: Of the hash grid.
        ratio: Of one level's resolution to the one before; None: up to 2048 a unit cube.
        neurons: Of hidden layers: one of densities, two of colours.
        aabb_scale: Side of the box, a power of two.
        latents, images: Values of an appearance, and how many there are.
    """

    levels: int = 8
    features: int = 4
    log2_entries: int = 15
    base: int = 16
    ratio: float | None = None
    neurons: int = 64
    aabb_scale: int = 1
    latents: int = 0
    images: int = 1

    @property
    def growth(self) -> float:
        """Ratio of resolutions."""
        if self.ratio is not None:
            return self.ratio
        finest = 2048.0 * self.aabb_scale / self.base
        return math.exp(math.log(finest) / (self.levels - 1))


@dataclass(frozen=True, slots=True)
class World:
    """``n = cycle(scale · x + offset)``: x of the data set, n of instant-ngp."""

    scale: float = 0.33
    offset: tuple[float, float, float] = (0.5, 0.5, 0.5)
    cycles: bool = True

    def direction(self, x: Tensor) -> Tensor:
        """Vectors [..., 3] of the data set in the axes of instant-ngp."""
        return x[..., [1, 2, 0]] if self.cycles else x

    def point(self, x: Tensor) -> Tensor:
        """Points [..., 3]."""
        return self.direction(x * self.scale + torch.tensor(self.offset, dtype=x.dtype))


@dataclass
class Level:
    """One resolution of the grid, worked out as tiny-cuda-nn does."""

    scale: float
    side: int
    entries: int
    first: int
    hashed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.hashed = self.entries < self.side**3

    def entry(self, vertex: Tensor) -> Tensor:
        """Rows of the table [M] of vertices [M, 3] int64."""
        x, y, z = vertex.unbind(-1)
        if self.hashed:
            # In 64 bits, of which the lowest 32 are what wraps around in 32.
            mixed = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
            return self.first + (mixed & 0xFFFFFFFF) % self.entries
        return self.first + (x + self.side * (y + self.side * z)) % self.entries


def grid_levels(config: NgpConfig) -> list[Level]:
    """Levels of tables, each a multiple of 8 entries, at most 2^T."""
    levels: list[Level] = []
    log2 = torch.log2(torch.tensor(config.growth, dtype=torch.float32))
    for number in range(config.levels):
        scale = float(torch.exp2(number * log2) * config.base - 1.0)
        side = math.ceil(scale) + 1
        entries = min(-(-(side**3) // 8) * 8, 2**config.log2_entries)
        first = levels[-1].first + levels[-1].entries if levels else 0
        levels.append(Level(scale, side, entries, first))
    return levels


def harmonics(d: Tensor) -> Tensor:
    """Real spherical harmonics of degrees 0 to 3 [..., 16] of unit vectors."""
    x, y, z = d.unbind(-1)
    pi = math.pi
    rows = [
        torch.full_like(x, 0.5 / math.sqrt(pi)),
        -math.sqrt(3 / (4 * pi)) * y,
        math.sqrt(3 / (4 * pi)) * z,
        -math.sqrt(3 / (4 * pi)) * x,
        math.sqrt(15 / (4 * pi)) * x * y,
        -math.sqrt(15 / (4 * pi)) * y * z,
        math.sqrt(5 / (16 * pi)) * (3 * z * z - 1),
        -math.sqrt(15 / (4 * pi)) * x * z,
        math.sqrt(15 / (16 * pi)) * (x * x - y * y),
        -math.sqrt(35 / (32 * pi)) * y * (3 * x * x - y * y),
        math.sqrt(105 / (4 * pi)) * x * y * z,
        -math.sqrt(21 / (32 * pi)) * y * (5 * z * z - 1),
        math.sqrt(7 / (16 * pi)) * z * (5 * z * z - 3),
        -math.sqrt(21 / (32 * pi)) * x * (5 * z * z - 1),
        math.sqrt(105 / (16 * pi)) * z * (x * x - y * y),
        -math.sqrt(35 / (32 * pi)) * x * (x * x - 3 * y * y),
    ]
    return torch.stack(rows, -1)


class InstantNgp(nn.Module):
    """A model; ``parameters_in_order`` is how snapshots hold it."""

    def __init__(self, config: NgpConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.levels = grid_levels(config)
        random = torch.Generator().manual_seed(seed)

        def matrix(rows: int, columns: int) -> nn.Parameter:
            bound = math.sqrt(6.0 / (rows + columns))
            return nn.Parameter((torch.rand(rows, columns, generator=random) * 2 - 1) * bound)

        width = config.neurons
        inputs = _padded(config.levels * config.features)
        seen = _padded(16 + config.latents)
        self.density = nn.ParameterList([matrix(width, inputs), matrix(16, width)])
        self.color = nn.ParameterList(
            [matrix(width, 16 + seen), matrix(width, width), matrix(16, width)]
        )
        entries = self.levels[-1].first + self.levels[-1].entries
        table = (torch.rand(entries, config.features, generator=random) * 2 - 1) * 1e-4
        self.table = nn.Parameter(table)
        latents = torch.rand(config.images, config.latents, generator=random) * 2 - 1
        self.latents = nn.Parameter(latents)

    def parameters_in_order(self) -> Tensor:
        """[P], all that a snapshot's ``params_binary`` has."""
        parts = [*self.density, *self.color, self.table]
        return torch.cat([part.detach().reshape(-1) for part in parts])

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Makes the parameters those that a snapshot can hold."""
        for part in (*self.density, *self.color, self.table):
            part.copy_(part.half())

    def encode(self, unit: Tensor) -> Tensor:
        """[M, L · F] of points [M, 3] in the box's own [0, 1]."""
        corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])
        out = []
        for level in self.levels:
            place = unit * level.scale + 0.5
            low = torch.floor(place)
            part = (place - low)[:, None]
            rows = level.entry(low.long()[:, None] + corners)
            weights = torch.where(corners.bool(), part, 1.0 - part).prod(-1)
            out.append((weights[..., None] * self.table[rows]).sum(1))
        return torch.cat(out, -1)

    def features(self, points: Tensor) -> Tensor:
        """[M, 16] of points [M, 3] in instant-ngp's world; the first are densities' logarithms."""
        side = self.config.aabb_scale
        encoded = self.encode((points - (0.5 - side / 2)) / side)
        padded = nn.functional.pad(encoded, (0, self.density[0].shape[1] - encoded.shape[1]))
        out: Tensor = torch.relu(padded @ self.density[0].T) @ self.density[1].T
        return out

    def forward(self, points: Tensor, directions: Tensor, image: int = 0) -> tuple[Tensor, Tensor]:
        """Colours [M, 3] and densities [M] a unit of instant-ngp's world."""
        features = self.features(points)
        latent = self.latents[image].expand(len(points), -1)
        seen = torch.cat([harmonics(directions), latent], -1)
        # tiny-cuda-nn pads with ones what a network sees besides features.
        missing = self.color[0].shape[1] - 16 - seen.shape[1]
        seen = nn.functional.pad(seen, (0, missing), value=1.0)
        h = torch.cat([features, seen], -1)
        h = torch.relu(torch.relu(h @ self.color[0].T) @ self.color[1].T) @ self.color[2].T
        return torch.sigmoid(h[:, :3]), torch.exp(features[:, 0])


def _padded(width: int) -> int:
    return -(-width // 16) * 16


def cascades_of(config: NgpConfig) -> int:
    """Cubes around the middle of the box, each twice as large as the one before."""
    return config.aabb_scale.bit_length()


@torch.no_grad()
def density_grid(model: InstantNgp, side: int = GRID_SIDE, probes: int = 1) -> Tensor:
    """[K, 128, 128, 128] (z, y, x): optical thickness of the shortest step, at most what is near.

    Args:
        side: Cells a side that are looked at; larger ones take the most of their neighbours, too.
        probes: Points that a cell is looked at, on a lattice of so many a side.
    """
    lattice = (torch.arange(side * probes) + 0.5) / (side * probes) - 0.5
    z, y, x = torch.meshgrid(lattice, lattice, lattice, indexing="ij")
    around = torch.stack([x, y, z], -1).reshape(-1, 3)
    out = []
    for cascade in range(cascades_of(model.config)):
        points = around * 2.0**cascade + 0.5
        found = torch.cat([model.features(some)[:, 0] for some in points.split(1 << 16)])
        grid = torch.exp(found).reshape(1, 1, *(side * probes,) * 3) * MIN_STEP
        grid = nn.functional.max_pool3d(grid, probes)
        if side < GRID_SIDE:
            grid = nn.functional.max_pool3d(grid, 3, stride=1, padding=1)
            grid = nn.functional.interpolate(grid, size=(GRID_SIDE,) * 3)
        out.append(grid[0, 0])
    return torch.stack(out).clamp(max=60000.0).half().float()


def occupied(grid: Tensor, points: Tensor) -> Tensor:
    """[M] whether points [M, 3] lie in cells of more than the threshold."""
    threshold = min(THICKNESS, float(grid[0].clamp(min=0).mean()))
    away = (points - 0.5).abs().amax(-1)
    level = torch.zeros(len(points), dtype=torch.long)
    for cascade in range(len(grid) - 1):
        level += away >= 0.5 * 2.0**cascade
    cell = ((points - 0.5) / 2.0 ** level[:, None] + 0.5) * GRID_SIDE
    x, y, z = cell.long().clamp(0, GRID_SIDE - 1).unbind(-1)
    return grid[level, z, y, x] > threshold


@torch.no_grad()
def render(
    model: InstantNgp,
    camera: Camera,
    world: World,
    grid: Tensor,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    crop: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """A picture [H, W, 3] over the background and its opacity [H, W], in float64.

    Args:
        camera: In the data set's world.
        grid: Of ``density_grid``.
        crop: Corners of what is shown, in instant-ngp's world; None: the box.
    """
    model = copy.deepcopy(model).double()
    origins, directions = (each.reshape(-1, 3) for each in rays_of(camera))
    directions = world.direction(directions / directions.norm(dim=1, keepdim=True))
    origins = world.point(origins)
    side = model.config.aabb_scale
    box = crop or (torch.full((3,), 0.5 - side / 2), torch.full((3,), 0.5 + side / 2))
    parts = [
        _march(model, origins[some], directions[some], grid, box)
        for some in torch.arange(len(origins)).split(128)
    ]
    color, alpha = (torch.cat(each) for each in zip(*parts, strict=True))
    color = color + (1.0 - alpha[:, None]) * torch.tensor(background).double()
    shape = (camera.height, camera.width)
    return color.reshape(*shape, 3), alpha.reshape(shape)


def _march(
    model: InstantNgp, origins: Tensor, directions: Tensor, grid: Tensor, box: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    t, steps = _steps(*_span(origins, directions, box), model.config)
    points = origins[:, None] + t[..., None] * directions[:, None]
    inside = t < _span(origins, directions, box)[1][:, None]
    hit = torch.nonzero(inside & occupied(grid, points.reshape(-1, 3)).reshape(t.shape))
    alpha = torch.zeros_like(t)
    color = torch.zeros_like(points)
    for some in hit.split(1 << 16):
        ray, sample = some.unbind(1)
        rgb, density = model(points[ray, sample], directions[ray])
        alpha[ray, sample] = 1.0 - torch.exp(-density * steps[ray, sample])
        color[ray, sample] = rgb
    passed = torch.cumprod(torch.cat([torch.ones_like(t[:, :1]), 1.0 - alpha], 1), 1)
    weights = alpha * passed[:, :-1]
    return (weights[..., None] * color).sum(1), 1.0 - passed[:, -1]


def _steps(start: Tensor, end: Tensor, config: NgpConfig) -> tuple[Tensor, Tensor]:
    """Places [R, S] of samples, half a step after the start first, and the steps' lengths."""
    cone = 0.0 if config.aabb_scale == 1 else 1.0 / 256.0
    t = start + 0.5 * (start * cone).clamp(MIN_STEP, MAX_STEP)
    places, lengths = [t], [(t * cone).clamp(MIN_STEP, MAX_STEP)]
    while bool((places[-1] < end).any()):
        places.append(places[-1] + lengths[-1])
        lengths.append((places[-1] * cone).clamp(MIN_STEP, MAX_STEP))
    return torch.stack(places, 1), torch.stack(lengths, 1)


def _span(origins: Tensor, directions: Tensor, box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Distances [R] at which rays enter and leave the box; none before the camera."""
    low, high = ((corner.double() - origins) / directions for corner in box)
    enter = torch.minimum(low, high).amax(-1).clamp(min=0.0)
    return enter, torch.maximum(low, high).amin(-1)


def fit(
    model: InstantNgp,
    views: Views,
    world: World,
    *,
    steps: int,
    batch: int = 1 << 14,
    samples: int = 192,
    rate: float = 1e-2,
    seed: int = 0,
) -> None:
    """Adam on the squared error of random rays over random backgrounds, as instant-ngp trains.

    Args:
        batch: Samples of a step, about: the emptier the scene, the more rays.
        samples: Of a ray, jittered, between where it enters and leaves the box; those in empty
            cells are passed over.
    """
    random = torch.Generator().manual_seed(seed)
    rays = _training_rays(views, world, model.config)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99), eps=1e-15)
    grid = torch.ones(cascades_of(model.config), *(GRID_SIDE,) * 3)
    share = 1.0
    for step in each_step(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.1 ** (step / steps)
        if step % REGRID_STEPS == REGRID_STEPS - 1:
            grid = density_grid(model, side=32)
        count = min(max(int(batch / (samples * share)), 32), 4096)
        some = torch.randint(len(rays.colors), (count,), generator=random)
        places = (torch.arange(samples) + torch.rand(count, samples, generator=random)) / samples
        span = (rays.end - rays.start)[some, None]
        t = rays.start[some, None] + span * places
        points = rays.origins[some, None] + t[..., None] * rays.directions[some, None]
        hit = occupied(grid, points.reshape(-1, 3)).reshape(t.shape)
        share = max(0.9 * share + 0.1 * float(hit.float().mean()), 1e-3)
        ray, sample = torch.nonzero(hit).unbind(1)
        found, density = model(points[ray, sample], rays.directions[some][ray])
        alpha = torch.zeros_like(t)
        alpha[ray, sample] = 1.0 - torch.exp(-density * (span / samples)[ray, 0])
        color = torch.zeros_like(points)
        color[ray, sample] = found
        through = torch.cumprod(torch.cat([torch.ones(count, 1), 1.0 - alpha], 1), 1)
        shown = ((alpha * through[:, :-1])[..., None] * color).sum(1)
        behind = torch.rand(count, 3, generator=random)
        wanted = rays.colors[some] + (1.0 - rays.alphas[some, None]) * behind
        loss = ((shown + through[:, -1:] * behind - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@dataclass(frozen=True, slots=True, eq=False)
class _TrainingRays:
    """Rays [R] that meet the box, in instant-ngp's world, float32.

    Attributes:
        origins, directions, colors: [R, 3]; colours are premultiplied.
        start, end, alphas: [R].
    """

    origins: Tensor
    directions: Tensor
    colors: Tensor
    start: Tensor
    end: Tensor
    alphas: Tensor


def _training_rays(views: Views, world: World, config: NgpConfig) -> _TrainingRays:
    pairs = [rays_of(camera) for camera in views.cameras]
    directions = torch.stack([d for _, d in pairs]).reshape(-1, 3)
    directions = world.direction(directions / directions.norm(dim=1, keepdim=True))
    origins = world.point(torch.stack([o for o, _ in pairs]).reshape(-1, 3))
    side = config.aabb_scale
    box = (torch.full((3,), 0.5 - side / 2), torch.full((3,), 0.5 + side / 2))
    start, end = _span(origins, directions, box)
    alphas = torch.tensor(views.alphas).reshape(-1)
    behind = (1.0 - alphas)[:, None] * torch.tensor(views.background)
    colors = torch.tensor(views.images).reshape(-1, 3) - behind
    meets = end > start
    each = (origins, directions, colors, start, end, alphas)
    return _TrainingRays(*(values[meets].float() for values in each))
