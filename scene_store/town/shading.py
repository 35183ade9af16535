"""Colours of Gaussians: texture, baked sun and sky, and what the view changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_store.town import parts as columns
from scene_store.town.bridge import WATER_Y
from scene_store.town.light import ShadeMap, mirror_table, surface_light
from scene_store.town.recipe import Material, Texture, load_recipe
from splat.gaussians import Float32Array, Gaussians
from splat.harmonics import SH_C0, SH_C1

Points = tuple[Float32Array, Float32Array, Float32Array]
IntArray = NDArray[np.int64]


def elevation(y: Float32Array) -> Float32Array:
    """Height above the ground; of a point of the river's mirror image, its original's."""
    return np.where(y > WATER_Y, y - 2.0 * WATER_Y, -y).astype(np.float32)


def displayed(linear: Float32Array) -> Float32Array:
    """Degree-0 coefficient of a linear colour: square-root transfer, soft highlights."""
    color = np.sqrt(linear / (1.0 + 0.16 * linear))
    color -= 0.5
    color *= 1.0 / SH_C0
    return color


def paint_panels(
    out: Gaussians,
    rows: Float32Array,
    which: IntArray,
    points: Points,
    meters: tuple[Float32Array, Float32Array],
    normals: Float32Array,
    shade: ShadeMap,
    rng: np.random.Generator,
) -> None:
    """Colour and opacity of the samples ``which`` of panels ``rows`` at plan ``points``;
    ``meters`` run along and across each panel."""
    x, y, z = points
    lit = normals.copy()
    lit[rows[:, 1] > WATER_Y + 0.01, 1] *= -1.0
    height = elevation(y)
    # Look up shadows half a metre off the wall, or its own house would shade it.
    sun, sky = shade.shade(
        x + np.take(0.55 * lit[:, 0], which),
        z + np.take(0.55 * lit[:, 2], which),
        height + np.take(0.4 * np.maximum(0.0, -lit[:, 1]), which),
    )
    under = np.clip((height - rows[:, columns.EAVES][which]) * 3.0 + 0.5, 0.0, 1.0)
    sun *= 1.0 - under
    sky *= 1.0 - 0.3 * under
    # Walls darken towards the ground, which hides half of the sky's light from their feet.
    foot = np.where(np.abs(lit[:, 1]) < 0.5, 0.3, 0.0).astype(np.float32)
    sky *= 1.0 - np.take(foot, which) * np.exp(-1.2 * np.abs(height))
    ambient, direct = surface_light(lit)
    albedo = rows[:, columns.COLOR] ** 2
    color = np.take(albedo * ambient, which, axis=0)
    color *= sky[:, None]
    color += np.take(albedo * direct, which, axis=0) * sun[:, None]
    material = rows[:, columns.MATERIAL].astype(np.intp)
    texture = load_recipe().texture[material]
    _texture(color, texture, meters, points, which, rng)
    out.sh[:, 0] = displayed(color)
    np.take(texture[:, Texture.OPACITY], which, out=out.opacities)


def _texture(
    color: Float32Array,
    texture: Float32Array,
    meters: tuple[Float32Array, Float32Array],
    points: Points,
    which: IntArray,
    rng: np.random.Generator,
) -> None:
    """Multiply ``color`` by blocks, stains and speckle; ``texture`` is [panels, Texture]."""
    tone = rng.random(len(which), dtype=np.float32)
    tone -= np.float32(0.5)
    tone *= np.take(2.0 * texture[:, Texture.SPECKLE], which)
    tone += np.take(texture[:, Texture.STAIN], which) * _stain(*points)
    block = _blocks(texture, meters, which)
    block -= np.float32(0.5)
    tone += np.take(2.0 * texture[:, Texture.VARY], which) * block
    color *= np.maximum(1.0 + tone, 0.05)[:, None]
    # Stains and bricks differ in hue as they do in brightness.
    tone *= np.take(2.5 * texture[:, Texture.WARM], which)
    color[:, 0] *= 1.0 + tone
    color[:, 2] *= 1.0 - tone


def _stain(x: Float32Array, y: Float32Array, z: Float32Array) -> Float32Array:
    """Smooth noise in [−1, 1] with features of one to ten metres: warped sines."""
    slow = np.sin(0.61 * x + 1.3 * np.sin(0.37 * z + 0.5) + 0.8 * y)
    fast = np.sin(1.9 * z + 2.1 * slow + 1.7 * y)
    return np.asarray(0.6 * slow + 0.4 * fast, np.float32)


def _blocks(
    texture: Float32Array, meters: tuple[Float32Array, Float32Array], which: IntArray
) -> Float32Array:
    """A number in [0, 1) for each brick, slab or tile."""
    course = np.floor(meters[1] * np.take(texture[:, Texture.PER_METER_V], which))
    along = meters[0] * np.take(texture[:, Texture.PER_METER_U], which)
    shift = np.take(texture[:, Texture.STAGGER], which) * (course.astype(np.int32) & 1)
    brick = np.floor(along + shift)
    h = course.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    h ^= brick.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77)
    h ^= which.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h >>= np.uint32(8)
    return np.asarray(h.astype(np.float32) * np.float32(1.0 / (1 << 24)), np.float32)


def add_reflection(
    out: Gaussians,
    rows: Float32Array,
    which: IntArray,
    normals: Float32Array,
    material: Material,
    rng: np.random.Generator,
) -> None:
    """Add what the surface mirrors, as harmonics of the view direction."""
    degree = out.sh_degree
    table = mirror_table(degree)
    if material.name == "water":
        _ripple(out, rows, which, normals, rng)
        return
    # Panes are never quite plane: each house's windows show another bit of sky.
    tilt = rng.normal(0.0, 0.035, normals.shape) * (material.gloss > 0.9)
    skyline = np.clip((0.5 * (16.0 - elevation(rows[:, 1])) / 4.5).astype(np.intp), 0, 2)
    fits = table.sh[skyline, table.nearest((normals + tilt).astype(np.float32))]
    gain = np.float32(material.gloss)
    bright = np.maximum(0.35, 1.0 - 0.5 * np.maximum(0.0, 3.0 - elevation(rows[:, 1])) / 3.0)
    out.sh[:] += (gain * bright[:, None, None].astype(np.float32) * fits)[which]


def _ripple(
    out: Gaussians,
    rows: Float32Array,
    which: IntArray,
    normals: Float32Array,
    rng: np.random.Generator,
) -> None:
    """Water: every Gaussian mirrors the sky with a slightly different tilt."""
    table = mirror_table(out.sh_degree)
    kinds = 24
    tilt = rng.normal(0.0, 0.06, (kinds, 3)).astype(np.float32)
    nearest = table.nearest(columns.UP + tilt)
    pick = rng.integers(kinds, size=len(which))
    # The mirror image below the surface shows most of the sky; the ripples add the rest.
    gain = rng.uniform(0.30, 0.62, len(which)).astype(np.float32)
    out.sh[:] += table.sh[0, nearest][pick] * gain[:, None, None]


def paint_round(out: Gaussians, color: Float32Array, points: Points, shade: ShadeMap) -> None:
    """Rods: brighter when seen from the sun's side."""
    light = load_recipe().light
    sun, sky = shade.shade(points[0], points[2], elevation(points[1]) + 0.3)
    albedo = color * color
    linear = albedo * (0.62 * sky[:, None] * (light.sky + light.bounce))
    linear += albedo * light.sun * (0.30 * sun)[:, None]
    out.sh[:, 0] = displayed(linear)
    _favor(out, -light.to_sun, 0.16 * sun[:, None] * color)


def paint_leaves(
    out: Gaussians,
    color: Float32Array,
    points: Points,
    direction: Float32Array,
    reach: Float32Array,
    fuzz: Float32Array,
    shade: ShadeMap,
    rng: np.random.Generator,
) -> None:
    """Foliage: lit on the sun's side, dark inside and below, glowing against the light."""
    light = load_recipe().light
    sun, sky = shade.shade(points[0], points[2], elevation(points[1]) + 2.5 * fuzz)
    up = np.where(points[1] > WATER_Y, direction[:, 1], -direction[:, 1])
    toward = direction[:, 0] * light.to_sun[0] + direction[:, 2] * light.to_sun[2]
    toward -= up * light.to_sun[1]
    wrapped = np.clip(0.42 + 0.58 * toward, 0.0, 1.0)
    inside = 1.0 - fuzz * np.clip((1.0 - reach) * 1.7, 0.0, 0.65)
    inside *= 0.66 + 0.34 * up
    albedo = color * color
    leaf = rng.normal(0.0, 0.26, len(fuzz)).clip(-0.55, 0.7).astype(np.float32)
    albedo *= (1.0 + fuzz * leaf)[:, None]
    linear = albedo * light.sky * (sky * inside * (0.8 + 0.2 * up))[:, None]
    linear += albedo * light.sun * (sun * inside * wrapped)[:, None]
    hue = rng.normal(0.0, 0.06, len(fuzz)).astype(np.float32) * fuzz
    linear[:, 0] *= 1.0 + hue
    linear[:, 2] *= 1.0 - hue
    out.sh[:, 0] = displayed(linear)
    glow = color * np.array([1.0, 1.0, 0.45], np.float32)
    _favor(out, light.to_sun, (0.13 * fuzz * inside)[:, None] * glow)


def _favor(out: Gaussians, direction: Float32Array, color: Float32Array) -> None:
    """Add ``color`` × cos(angle between the view and ``direction``), if the degree allows."""
    if out.sh_degree < 1:
        return
    for band, axis, sign in ((1, 1, -1.0), (2, 2, 1.0), (3, 0, -1.0)):
        out.sh[:, band] += color * np.float32(sign * direction[axis] / SH_C1)
