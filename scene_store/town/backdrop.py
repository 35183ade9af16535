"""What lies around the town: fields, woods and hills, and the sky above them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_store.town.bridge import WATER_DEPTH
from scene_store.town.light import mirror_table, sky_color, surface_light
from scene_store.town.parts import UP
from scene_store.town.plan import PITCH_X, RIVER_ROW, SKY_RADIUS, TownPlan, bend, cell_at
from scene_store.town.recipe import load_recipe
from scene_store.town.river import BANK, banks
from scene_store.town.shading import displayed
from scene_store.town.street import EDGE
from scene_store.town.surfels import frame_quats, normalized, upright_quats
from splat.gaussians import SH_COUNT_OF_DEGREE, Float32Array, Gaussians
from splat.harmonics import SH_C0, rgb_to_sh0

HILLS_FROM, HILLS_TO, HILL_HEIGHT = 900.0, 3200.0, 330.0
_HAZE_M = 5200.0


def backdrop(plan: TownPlan, sh_degree: int) -> Gaussians:
    """The plan's ``backdrop`` Gaussians: sky, clouds, land and woods."""
    rng = np.random.default_rng([plan.seed & 0x7FFFFFFF, 3])
    total = plan.backdrop
    sky = min(round(0.16 * total), 7000)
    clouds = min(round(0.10 * total), 4200)
    woods = round(0.30 * (total - sky - clouds))
    land = total - sky - clouds - woods
    return Gaussians.concatenate(
        [
            _sky(sky, sh_degree),
            _clouds(clouds, rng, sh_degree),
            _land(plan, land, rng, sh_degree),
            _woods(plan, woods, rng, sh_degree),
        ]
    )


def _sky(count: int, sh_degree: int) -> Gaussians:
    """A closed sphere of overlapping discs; its lower half is what the river mirrors."""
    k = np.arange(count) + 0.5
    height = 1.0 - 2.0 * k / max(count, 1)
    angle = k * np.pi * (3.0 - np.sqrt(5.0))
    ring = np.sqrt(1.0 - height * height)
    direction = np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], axis=1)
    size = 0.78 * SKY_RADIUS * np.sqrt(4.0 * np.pi / max(count, 1))
    scales = np.broadcast_to(np.array([size, size, 0.1 * size], np.float32), (count, 3))
    return _plain(
        direction * SKY_RADIUS, -direction, scales, 0.995, sky_color(direction), sh_degree
    )


def _clouds(count: int, rng: np.random.Generator, sh_degree: int) -> Gaussians:
    """Cumulus: heaps of puffs on flat bases, white towards the sun and grey below."""
    light = load_recipe().light
    heaps, puffs = 40, 9
    azimuth = np.repeat(rng.uniform(0, 2 * np.pi, heaps), puffs)
    rise = np.repeat(np.radians(4.0 + 30.0 * rng.random(heaps) ** 1.6), puffs)
    spread = np.repeat(rng.uniform(0.05, 0.13, heaps), puffs)
    across = rng.normal(0.0, 0.75, heaps * puffs)
    crown = np.exp(-(across**2))
    size = spread * (0.20 + 0.26 * rng.random(heaps * puffs)) * (0.5 + 0.6 * crown)
    across, lift = across * spread, size * (0.5 + 0.9 * rng.random(heaps * puffs) * crown)
    which = np.sort(rng.integers(heaps * puffs, size=count))
    offset = rng.normal(0.0, 0.45, (count, 2))
    a = azimuth[which] + (across[which] + offset[:, 0] * size[which] * 1.5) / np.cos(rise[which])
    above = np.maximum(lift[which] + offset[:, 1] * size[which] * 0.8, -0.06 * spread[which])
    e = rise[which] + above
    direction = np.stack([np.cos(e) * np.cos(a), -np.sin(e), np.cos(e) * np.sin(a)], axis=1)
    toward = direction @ light.to_sun
    lit = 0.45 + 0.42 * offset[:, 1] + 2.0 * above / spread[which] * 0.35 + 0.12 * toward
    bright = np.clip(lit, 0.0, 1.0)[:, None]
    color = np.array([0.71, 0.74, 0.80]) * (1.0 - bright) + np.array([1.0, 0.98, 0.95]) * bright
    near = 0.5 * np.clip(toward, 0.0, 1.0)[:, None] ** 3
    color = color * (1.0 - near) + near * light.glow * 1.05
    haze = 0.7 * np.exp(-6.0 * np.sin(rise[which]))[:, None]
    color = color * (1.0 - haze) + haze * light.horizon
    radius = 0.93 * SKY_RADIUS * (1.0 - 0.02 * rng.random(count))
    width = radius * size[which] * rng.uniform(0.22, 0.42, count)
    scales = np.stack([width * 1.25, width * 0.8, 0.3 * width], axis=1)
    gaussians = _plain(
        direction * radius[:, None], -direction, scales, 0.0, color, sh_degree, level=True
    )
    gaussians.opacities[:] = rng.uniform(0.10, 0.38, count)
    return gaussians


def land_height(x: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Height of the country at plan (x, z): level near the town, hills far away."""
    away = np.hypot(x, z)
    rise = np.clip((away - HILLS_FROM) / (HILLS_TO - HILLS_FROM), 0.0, 1.0)
    angle = np.arctan2(z, x)
    ridge = 0.55 + 0.22 * np.sin(3 * angle + 1.0) + 0.15 * np.sin(7 * angle + 2.0)
    ridge += 0.10 * np.sin(x / 310.0) * np.cos(z / 270.0)
    ridge += 0.05 * np.sin(x / 97.0 + z / 131.0)
    valley = np.clip(np.abs(z + 62.0) / 700.0, 0.12, 1.0)  # the river's own way out
    smooth = rise * rise * (3.0 - 2.0 * rise)
    return np.asarray(HILL_HEIGHT * smooth * np.maximum(ridge, 0.1) * valley, np.float64)


def _land(plan: TownPlan, count: int, rng: np.random.Generator, sh_degree: int) -> Gaussians:
    """Fields, meadows and the river's course, finer towards the town."""
    x, z, spacing = _around(plan, count, rng, outer=4600.0, margin=EDGE - 1.0)
    height = land_height(x, z)
    step = 3.0
    slope_x = (land_height(x + step, z) - land_height(x - step, z)) / (2 * step)
    slope_z = (land_height(x, z + step) - land_height(x, z - step)) / (2 * step)
    normals = normalized(np.stack([-slope_x, -np.ones(count), -slope_z], 1).astype(np.float32))
    albedo = _field_colors(x, z, rng)
    albedo *= (1.0 - 0.42 * _wooded(x, z))[:, None]
    ambient, sun = surface_light(normals)
    color = displayed((albedo**2 * (ambient + sun)).astype(np.float32)) * SH_C0 + 0.5
    south, north = banks(cell_at(0, RIVER_ROW, plan.seed))
    wet = (z > south) & (z < north)
    afloat = np.clip(np.minimum(z - south, north - z) / BANK, 0.0, 1.0)
    height = np.where(wet, np.minimum(height, 2.0) * (1.0 - afloat) - WATER_DEPTH * afloat, height)
    wet &= afloat > 0.7
    color = np.where(wet[:, None], np.array([0.22, 0.31, 0.34]), _hazed(color, x, z))
    wx, wz = bend(x.astype(np.float32), z.astype(np.float32))
    means = np.stack([wx, -height - 0.05, wz], axis=1)
    size = 0.72 * spacing
    scales = np.stack([size, size, 0.06 * size + 0.02], axis=1)
    gaussians = _plain(means, normals, scales, 0.97, color, sh_degree)
    table = mirror_table(sh_degree)
    gaussians.sh[wet] += 0.9 * table.sh[0, -1]
    return gaussians


def _woods(plan: TownPlan, count: int, rng: np.random.Generator, sh_degree: int) -> Gaussians:
    """Trees in woods and hedgerows, a few Gaussians each."""
    x, z, spacing = _around(plan, 4 * count, rng, outer=3900.0, margin=EDGE + 3.0)
    score = _wooded(x, z) + 0.35 * _hedgerow(x, z) + rng.uniform(0.0, 0.25, len(x))
    south, north = banks(cell_at(0, RIVER_ROW, plan.seed))
    score -= 10.0 * ((z > south - 6.0) & (z < north + 6.0))
    best = np.sort(np.argsort(-score, kind="stable")[:count])
    x, z, spacing = x[best], z[best], spacing[best]
    size = np.clip(0.42 * spacing, 1.1, 26.0) * rng.uniform(0.8, 1.3, count)
    level = rng.uniform(0.5, 1.6, count)
    upward = rng.normal((0.0, -0.9, 0.0), 0.7, (count, 3))
    normals = normalized(upward.astype(np.float32))
    leaf = load_recipe().pick("leaf", rng, count) * 0.82
    ambient, sun = surface_light(normals)
    linear = leaf**2 * (0.75 * ambient + 0.75 * sun) * (0.55 + 0.4 * level)[:, None]
    color = displayed(linear.astype(np.float32)) * SH_C0 + 0.5
    wx, wz = bend(x.astype(np.float32), z.astype(np.float32))
    means = np.stack([wx, -land_height(x, z) - size * level, wz], axis=1)
    scales = np.stack([size, size * rng.uniform(0.7, 1.0, count), 0.5 * size], axis=1)
    return _plain(means, normals, scales, 0.93, _hazed(color, x, z), sh_degree)


def _around(
    plan: TownPlan, count: int, rng: np.random.Generator, *, outer: float, margin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(x, z, spacing) of ``count`` points at least ``margin`` outside the town, sparser with the
    distance."""
    inner = _free_radius(plan)
    # An even spiral in (log r, angle); what falls on the town is made up for elsewhere.
    drawn = count
    for _ in range(12):
        k = np.arange(drawn) + 0.5
        r = inner * (outer / inner) ** (k / drawn)
        angle = k * np.pi * (3.0 - np.sqrt(5.0))
        x, z = r * np.cos(angle), r * np.sin(angle)
        kept = ~_near_cells(plan, x, z, margin)
        if int(kept.sum()) >= count:
            break
        drawn = int(drawn * 1.05 * count / max(1, int(kept.sum()))) + 8
    keep = np.sort(rng.permutation(np.flatnonzero(kept))[:count])
    spacing = r[keep] * np.sqrt(2.0 * np.pi * np.log(outer / inner) / drawn)
    jitter = rng.normal(0.0, 0.12, (2, count)) * spacing
    return x[keep] + jitter[0], z[keep] + jitter[1], spacing


def _free_radius(plan: TownPlan) -> float:
    """The largest distance from the centre at which everything is town."""
    angle = np.linspace(0.0, 2 * np.pi, 180, endpoint=False)
    for r in np.arange(30.0, 2 * plan.radius + 200.0, 8.0):
        inside = _in_cells(plan, r * np.cos(angle), r * np.sin(angle))
        if not inside.all():
            return max(20.0, float(r) - 8.0)
    return float(plan.radius)


def _in_cells(
    plan: TownPlan, x: NDArray[np.floating], z: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Whether plan points lie in one of the town's cells."""
    cells, seed = plan.cells, plan.seed
    i_low, i_high = min(i for i, _ in cells), max(i for i, _ in cells)
    j_low, j_high = min(j for _, j in cells), max(j for _, j in cells)
    lines_x = np.array([cell_at(i, 0, seed).x0 for i in range(i_low, i_high + 2)])
    lines_z = np.array([cell_at(0, j, seed).z0 for j in range(j_low, j_high + 2)])
    taken = np.zeros((len(lines_x) + 1, len(lines_z) + 1), np.bool_)
    for i, j in cells:
        taken[i - i_low + 1, j - j_low + 1] = True
    taken[-1, :] = taken[:, -1] = False
    return taken[np.searchsorted(lines_x, x), np.searchsorted(lines_z, z)]


def _near_cells(
    plan: TownPlan, x: NDArray[np.floating], z: NDArray[np.floating], margin: float
) -> NDArray[np.bool_]:
    """Whether plan points lie in the town or closer to it than ``margin``."""
    near = np.zeros(len(x), np.bool_)
    close = np.flatnonzero(np.hypot(x, z) < plan.radius + PITCH_X + 2.0 * margin)
    x, z = x[close], z[close]
    for dx in (-margin, 0.0, margin):
        for dz in (-margin, 0.0, margin):
            near[close] |= _in_cells(plan, x + dx, z + dz)
    return near


def _field_colors(
    x: NDArray[np.floating], z: NDArray[np.floating], rng: np.random.Generator
) -> Float32Array:
    """A patchwork of fields, ploughed one way or the other."""
    u = x + 40.0 * np.sin(z / 260.0)
    v = z + 35.0 * np.sin(x / 230.0)
    column = np.floor(u / 118.0)
    row = np.floor((v + 37.0 * column) / 84.0)
    field = (column.astype(np.int64) * 73856093) ^ (row.astype(np.int64) * 19349663)
    field = (field ^ (field >> 7)) * 2654435761 & 0xFFFFFFFF
    colors = load_recipe().palettes["field"]
    furrow = np.where(field & 64, np.sin(u * 0.9), np.sin(v * 0.9))
    tone = 1.0 + 0.05 * furrow + rng.normal(0.0, 0.035, len(x))
    return np.asarray(colors[(field >> 8) % len(colors)] * tone[:, None], np.float32)


def _wooded(x: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """0 in the open … 1 in a wood; hills are mostly wooded."""
    noise = np.sin(x / 170.0 + 1.7 * np.sin(z / 240.0))
    noise += np.sin(z / 140.0 + 1.3 * np.sin(x / 310.0))
    hills = np.clip((np.hypot(x, z) - HILLS_FROM) / 900.0, 0.0, 1.0)
    return np.asarray(np.clip(1.3 * (0.5 * noise - 0.45 + 0.75 * hills), 0.0, 1.0), np.float64)


def _hedgerow(x: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 along the borders of fields."""
    u = x + 40.0 * np.sin(z / 260.0)
    v = z + 35.0 * np.sin(x / 230.0)
    across = np.abs((u / 118.0 + 0.5) % 1.0 - 0.5) * 118.0
    along = np.abs(((v + 37.0 * np.floor(u / 118.0)) / 84.0 + 0.5) % 1.0 - 0.5) * 84.0
    return np.asarray(np.exp(-(np.minimum(across, along) ** 2) / 9.0), np.float64)


def _hazed(
    color: NDArray[np.floating], x: NDArray[np.floating], z: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Aerial perspective as it is seen from the centre."""
    d = np.hypot(x, z)
    direction = np.stack([x, -0.03 * d - 1e-3, z], axis=1) / np.hypot(d, 0.03 * d + 1e-3)[:, None]
    veil = (1.0 - np.exp(-d / _HAZE_M))[:, None]
    return np.asarray(color * (1.0 - veil) + (0.93 * sky_color(direction)) * veil, np.float64)


def _plain(
    means: NDArray[np.floating],
    normals: NDArray[np.floating],
    scales: NDArray[np.floating],
    opacity: float,
    rgb: NDArray[np.floating],
    sh_degree: int,
    *,
    level: bool = False,
) -> Gaussians:
    """Gaussians of one colour from every side; ``level`` keeps their first axis horizontal."""
    count = len(means)
    sh = np.zeros((count, SH_COUNT_OF_DEGREE[sh_degree], 3), np.float32)
    sh[:, 0] = rgb_to_sh0(np.asarray(rgb, np.float32))
    normals = np.asarray(normals, np.float32)
    quats = _level_quats(normals) if level else upright_quats(normals)
    opacities = np.full(count, opacity, np.float32)
    return Gaussians(means, quats, np.ascontiguousarray(scales), opacities, sh)


def _level_quats(normals: Float32Array) -> Float32Array:
    right = normalized(np.cross(UP, normals))
    return frame_quats(right, np.cross(normals, right), normals)
