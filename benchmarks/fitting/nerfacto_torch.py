"""Nerfacto in plain torch: the oracle for readers and engines, and what is fitted.

Written from the papers (Tancik et al. 2023, "Nerfstudio", section 4.1; Müller et al. 2022,
equations 2 to 4; Barron et al. 2022, equations 10, 13 and 15) and from what nerfstudio and
tiny-cuda-nn compute. It shares no code with ``scene_store`` or ``rendering``. Modules are named so
that their state is that of nerfstudio 1.1; ``benchmarks.fitting.nerfacto_files`` writes it, and
what other versions wrote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fitting.hash_torch import (
    Held,
    TcnnGrid,
    TcnnJoint,
    TcnnLayers,
    TcnnLevels,
    TcnnNetwork,
    TorchGrid,
    TorchMlp,
    harmonics,
)
from benchmarks.fitting.posed_rays import PosedRays
from benchmarks.fitting.steps import each_step

GEOMETRY_FEATURES = 15
HISTOGRAM_PADDING = 0.01


@dataclass(frozen=True, slots=True)
class Proposal:
    """Of a proposal network; names as in ``proposal_net_args_list``."""

    hidden_dim: int = 16
    log2_hashmap_size: int = 17
    num_levels: int = 5
    max_res: int = 128
    use_linear: bool = False


@dataclass(frozen=True, slots=True)
class NerfactoSettings:
    """Names and defaults as in nerfstudio's ``NerfactoModelConfig``.

    Attributes:
        implementation: ``torch``, or ``tcnn``: the arithmetic and layout of tiny-cuda-nn.
        version: Of nerfstudio whose modules these are: 1.1, 0.3 or 0.2.
        num_images: Of the data set.
    """

    implementation: str = "torch"
    version: str = "1.1"
    num_images: int = 8
    hidden_dim: int = 64
    hidden_dim_color: int = 64
    num_levels: int = 16
    base_res: int = 16
    max_res: int = 2048
    log2_hashmap_size: int = 19
    features_per_level: int = 2
    proposals: tuple[Proposal, ...] = (Proposal(), Proposal(max_res=256))
    use_same_proposal_network: bool = False
    num_proposal_iterations: int = 2
    num_proposal_samples_per_ray: tuple[int, ...] = (256, 96)
    num_nerf_samples_per_ray: int = 48
    proposal_initial_sampler: str = "piecewise"
    near_plane: float = 0.05
    far_plane: float = 1000.0
    background_color: str = "last_sample"
    appearance_embed_dim: int = 32
    use_average_appearance_embedding: bool = True
    average_init_density: float = 0.01
    disable_scene_contraction: bool = False
    scene_scale: float = 1.0


# ---- Fields ---------------------------------------------------------------------------------


class _Space(nn.Module):
    """Positions in the unit cube, and what is kept of a grid's sizes beside it."""

    aabb: Tensor

    def __init__(self, settings: NerfactoSettings, levels: int, finest: int, log2_entries: int):
        super().__init__()
        self.settings = settings
        self.register_buffer("aabb", settings.scene_scale * torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.register_buffer("max_res", torch.tensor(finest))
        self.register_buffer("num_levels", torch.tensor(levels))
        self.register_buffer("log2_hashmap_size", torch.tensor(log2_entries))

    def _cube(self, points: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings.disable_scene_contraction:
            x = (points - self.aabb[0]) / (self.aabb[1] - self.aabb[0])
        else:
            size = points.abs().amax(dim=-1, keepdim=True)
            far = (2 - 1 / size.clamp_min(1e-9)) * points / size.clamp_min(1e-9)
            x = (torch.where(size < 1, points, far) + 2) / 4
        inside = ((x > 0) & (x < 1)).all(dim=-1)
        return x * inside[:, None], inside

    def _density(self, raw: Tensor, inside: Tensor) -> Tensor:
        # nerfstudio limits the gradient's exponent, not the value's; this is fitted with both.
        return self.settings.average_init_density * torch.exp(raw.clamp_max(15)) * inside


class NerfactoField(_Space):
    """Density, features and colour."""

    def __init__(self, settings: NerfactoSettings):
        s = settings
        super().__init__(s, s.num_levels, s.max_res, s.log2_hashmap_size)
        grid = (s.num_levels, s.base_res, s.max_res, s.log2_hashmap_size, s.features_per_level)
        base = (s.hidden_dim, 1 + GEOMETRY_FEATURES, 2)
        inputs = s.num_levels * s.features_per_level
        color_inputs = 16 + GEOMETRY_FEATURES + s.appearance_embed_dim
        self.is_tcnn = s.implementation == "tcnn"
        self.mlp_base: nn.Module
        self.mlp_head: nn.Module
        if not self.is_tcnn:
            parts: list[nn.Module] = [TorchGrid(*grid), TorchMlp(inputs, *base)]
            joined = nn.Sequential(*parts)
            self.mlp_base = joined if s.version == "0.3" else Held("model", joined)
            self.mlp_head = TorchMlp(color_inputs, s.hidden_dim_color, 3, 3)
        else:
            levels = TcnnLevels(*grid)
            if s.version == "0.3":
                network = TcnnNetwork(TcnnLayers(inputs, *base, padding=1.0))
                parts = [Held("tcnn_encoding", TcnnGrid(levels)), Held("tcnn_encoding", network)]
                self.mlp_base = nn.Sequential(*parts)
            else:
                layers = TcnnLayers(inputs, *base, padding=0.0)
                self.mlp_base = Held("model", TcnnJoint(levels, layers))
            head = TcnnLayers(color_inputs, s.hidden_dim_color, 3, 3, padding=1.0)
            self.mlp_head = Held("tcnn_encoding", TcnnNetwork(head))
        if s.appearance_embed_dim:
            embedding = nn.Embedding(s.num_images, s.appearance_embed_dim)
            self.embedding_appearance = Held("embedding", embedding)

    def forward(
        self, points: Tensor, directions: Tensor, image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Densities [N] and colours [N, 3].

        Args:
            points: [N, 3], world.
            directions: [N, 3], unit.
            image: [N] numbers of pictures whose appearance is taken; None to evaluate.
        """
        x, inside = self._cube(points)
        out = self.mlp_base(x)
        encoded = (
            harmonics(directions, signs=True)
            if self.is_tcnn
            else harmonics((directions + 1) / 2, signs=False)
        )
        given = [encoded, out[:, 1:]]
        if self.settings.appearance_embed_dim:
            given.append(self._appearance(len(points), image))
        color = torch.sigmoid(self.mlp_head(torch.cat(given, dim=-1)))
        return self._density(out[:, 0], inside), color

    def _appearance(self, count: int, image: Tensor | None) -> Tensor:
        table = self.embedding_appearance.get_parameter("embedding.weight")
        if image is not None:
            return table[image]
        if self.settings.use_average_appearance_embedding:
            return table.mean(dim=0).expand(count, -1)
        return torch.zeros_like(table[:1]).expand(count, -1)


class ProposalField(_Space):
    """Density alone."""

    def __init__(self, settings: NerfactoSettings, proposal: Proposal):
        super().__init__(
            settings, proposal.num_levels, proposal.max_res, proposal.log2_hashmap_size
        )
        sizes = (proposal.num_levels, 16, proposal.max_res, proposal.log2_hashmap_size, 2)
        inputs = 2 * proposal.num_levels
        is_tcnn = settings.implementation == "tcnn"
        self._joint = is_tcnn and settings.version == "0.2" and not proposal.use_linear
        if self._joint:
            layers = TcnnLayers(inputs, proposal.hidden_dim, 1, 2, padding=0.0)
            self.mlp_base: nn.Module = Held("model", TcnnJoint(TcnnLevels(*sizes), layers))
            return
        self.encoding: nn.Module = (
            Held("tcnn_encoding", TcnnGrid(TcnnLevels(*sizes))) if is_tcnn else TorchGrid(*sizes)
        )
        if proposal.use_linear:
            self.linear = nn.Linear(inputs, 1)
        elif is_tcnn:
            layers = TcnnLayers(inputs, proposal.hidden_dim, 1, 2, padding=1.0)
            network = Held("tcnn_encoding", TcnnNetwork(layers))
            self.mlp_base = nn.Sequential(self.encoding, network)
        else:
            network_ = TorchMlp(inputs, proposal.hidden_dim, 1, 2)
            self.mlp_base = nn.Sequential(self.encoding, network_)
        self._is_linear = proposal.use_linear

    def forward(self, points: Tensor) -> Tensor:
        """Densities [N] at points [N, 3], world."""
        x, inside = self._cube(points)
        if not self._joint and self._is_linear:
            raw = self.linear(self.encoding(x))
        else:
            raw = self.mlp_base(x)
        return self._density(raw[:, 0], inside)


# ---- Pictures -------------------------------------------------------------------------------


class Nerfacto(nn.Module):
    """The whole model: from rays to colours."""

    def __init__(self, settings: NerfactoSettings):
        super().__init__()
        self.settings = settings
        self.field = NerfactoField(settings)
        count = 1 if settings.use_same_proposal_network else settings.num_proposal_iterations
        last = len(settings.proposals) - 1
        self.proposal_networks = nn.ModuleList(
            ProposalField(settings, settings.proposals[min(n, last)]) for n in range(count)
        )

    def forward(
        self,
        origins: Tensor,
        directions: Tensor,
        *,
        image: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Colours [N, 3], and of every stage its borders [N, S + 1] and weights [N, S].

        Args:
            origins, directions: [N, 3]; directions of length 1.
            image: [N] numbers of pictures; None to evaluate, which also begins at the camera.
            generator: Where samples are, at random; None: where evaluation has them.
        """
        s = self.settings
        near = 0.0 if image is None else s.near_plane
        borders = self._first_borders(len(origins), origins.dtype, generator)
        stages: list[tuple[Tensor, Tensor]] = []
        for number in range(s.num_proposal_iterations + 1):
            t = self._distances(borders, near)
            middles = (t[:, 1:] + t[:, :-1]) / 2
            points = origins[:, None] + directions[:, None] * middles[..., None]
            flat, shape = points.reshape(-1, 3), middles.shape
            if number == s.num_proposal_iterations:
                towards = directions[:, None].expand_as(points).reshape(-1, 3)
                images = None if image is None else image[:, None].expand(shape).reshape(-1)
                density, color = self.field(flat, towards, images)
                weights = _weights(density.reshape(shape), t)
                stages.append((borders, weights))
                return self._composited(color.reshape(*shape, 3), weights), stages
            net = self.proposal_networks[min(number, len(self.proposal_networks) - 1)]
            weights = _weights(net(flat).reshape(shape), t)
            stages.append((borders, weights))
            following = (*s.num_proposal_samples_per_ray[1:], s.num_nerf_samples_per_ray)
            count = (
                s.num_nerf_samples_per_ray
                if number + 1 == s.num_proposal_iterations
                else following[number]
            )
            borders = _resampled(borders, weights.detach(), count, generator)
        raise AssertionError("the last stage returns")

    def _first_borders(
        self, rays: int, dtype: torch.dtype, generator: torch.Generator | None
    ) -> Tensor:
        count = self.settings.num_proposal_samples_per_ray[0]
        borders = torch.linspace(0, 1, count + 1, dtype=dtype).expand(rays, -1)
        if generator is None:
            return borders
        centers = (borders[:, 1:] + borders[:, :-1]) / 2
        upper = torch.cat([centers, borders[:, -1:]], dim=-1)
        lower = torch.cat([borders[:, :1], centers], dim=-1)
        return lower + (upper - lower) * torch.rand((rays, 1), generator=generator, dtype=dtype)

    def _distances(self, s: Tensor, near: float) -> Tensor:
        far = self.settings.far_plane
        if self.settings.proposal_initial_sampler == "uniform":
            return near + s * (far - near)

        def forth(x: float) -> float:
            return x / 2 if x < 1 else 1 - 1 / (2 * x)

        even = s * forth(far) + (1 - s) * forth(near)
        return torch.where(even < 0.5, 2 * even, 1 / (2 - 2 * even.clamp_min(0.5)))

    def _composited(self, color: Tensor, weights: Tensor) -> Tensor:
        seen = (weights[..., None] * color).sum(dim=1)
        left = 1 - weights.sum(dim=1, keepdim=True)
        name = self.settings.background_color
        behind = {"last_sample": color[:, -1], "white": torch.ones_like(seen)}.get(name)
        return (seen if behind is None else seen + left * behind).clamp(0, 1)


def _weights(density: Tensor, t: Tensor) -> Tensor:
    depth = density * (t[:, 1:] - t[:, :-1])
    before = torch.cumsum(depth, dim=-1) - depth
    return (1 - torch.exp(-depth)) * torch.exp(-before)


def _resampled(
    borders: Tensor, weights: Tensor, count: int, generator: torch.Generator | None
) -> Tensor:
    padded = weights + HISTOGRAM_PADDING
    padded = padded / padded.sum(dim=-1, keepdim=True)
    sums = torch.cumsum(padded, dim=-1).clamp_max(1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums], dim=-1)
    shares = torch.arange(count + 1, dtype=sums.dtype).expand(len(sums), -1)
    shift = (
        torch.full((len(sums), 1), 0.5, dtype=sums.dtype)
        if generator is None
        else torch.rand((len(sums), 1), generator=generator, dtype=sums.dtype)
    )
    u = ((shares + shift) / (count + 1)).contiguous()
    above = torch.searchsorted(sums, u, right=True).clamp(1, sums.shape[1] - 1)
    low, high = torch.gather(sums, 1, above - 1), torch.gather(sums, 1, above)
    first, second = torch.gather(borders, 1, above - 1), torch.gather(borders, 1, above)
    share = ((u - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return first + share * (second - first)


# ---- Fitting --------------------------------------------------------------------------------


def fit_nerfacto(
    model: Nerfacto, rays: PosedRays, *, steps: int, batch: int, rate: float = 1e-2, seed: int = 0
) -> float:
    """Fits a model to rays (Adam; colours, and proposals that bound the field's weights from
    above); the mean squared error of the last step.

    The appearances are not told apart: all pictures are of one sky.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    error = math.inf
    for _ in each_step(steps):
        picked = rays.batch(batch, generator)
        towards = functional.normalize(picked.directions, dim=-1)
        image = torch.randint(model.settings.num_images, (batch,), generator=generator)
        color, stages = model(picked.origins, towards, image=image, generator=generator)
        colors = functional.mse_loss(color, picked.colors)
        loss = colors + sum(_excess(stages[-1], stage) for stage in stages[:-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        error = float(colors.detach())
    return error


def _excess(fine: tuple[Tensor, Tensor], coarse: tuple[Tensor, Tensor]) -> Tensor:
    """By how much weights exceed what a proposal allows for (Barron et al. 2022, equation 13)."""
    borders, weights = fine[0].detach(), fine[1].detach()
    known, allowed = coarse
    sums = torch.cat([torch.zeros_like(allowed[:, :1]), torch.cumsum(allowed, dim=-1)], dim=-1)
    last = known.shape[1] - 1
    starts, ends = borders[:, :-1].contiguous(), borders[:, 1:].contiguous()
    first = (torch.searchsorted(known.contiguous(), starts, right=True) - 1).clamp(0, last)
    after = torch.searchsorted(known.contiguous(), ends).clamp(0, last)
    bound = torch.gather(sums, 1, after) - torch.gather(sums, 1, first)
    return ((weights - bound).clamp_min(0) ** 2 / (weights + 1e-7)).sum(dim=-1).mean()
