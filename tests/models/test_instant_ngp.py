"""Instant-NGP snapshots: what is read is what the oracle evaluates; what is broken is one line."""

from __future__ import annotations

import copy
import gzip
import math
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_store.models.instant_ngp import read_field, recognizes
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import HashGridEncoding, OccupancySampler
from tests.models.field_numpy import evaluate
from tests.models.instant_ngp_torch import (
    CONFIGS,
    grid_levels,
    ngp_scene,
    occupied,
    packed,
    save_snapshot,
    snapshot_of,
)
from tests.models.town_views import block_cameras, moved_camera, town_block

Snapshot = dict[str, Any]
POINTS = 400


def points_and_directions(side: float) -> tuple[np.ndarray, np.ndarray]:
    """In a box around the origin, and unit vectors."""
    random = np.random.default_rng(3)
    directions = random.normal(size=(POINTS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return random.uniform(-0.5, 0.5, (POINTS, 3)) * side, directions


def assert_same_as_oracle(path: Path, name: str, cycles: bool = True) -> None:
    scene = ngp_scene(name, cycles)
    field = read_field(path)
    points, directions = points_and_directions(scene.model.config.aabb_scale / scene.world.scale)
    density, color = evaluate(field, points, directions)
    with torch.no_grad():
        expected_color, expected_density = scene.model(
            scene.world.point(torch.tensor(points, dtype=torch.float32)),
            scene.world.direction(torch.tensor(directions, dtype=torch.float32)),
        )
    # Positions of the oracle are float32 here: a cell of the finest level is 1/2048 or more.
    np.testing.assert_allclose(density, expected_density.numpy(), rtol=0.02)
    np.testing.assert_allclose(color, expected_color.numpy(), atol=2e-3)
    assert field.space.density_scale == scene.world.scale


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluates_as_the_oracle(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    scene = ngp_scene(name)
    save_snapshot(path, scene.model, scene.world, scene.grid)
    assert recognizes(path)
    assert_same_as_oracle(path, name)


@pytest.mark.parametrize("case", ["ingp", "single precision", "mitsuba"])
def test_evaluates_as_the_oracle_in_other_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / ("model.ingp" if case == "ingp" else "model.msgpack")
    scene = ngp_scene("small", case != "mitsuba")
    save_snapshot(path, scene.model, scene.world, scene.grid, half=case != "single precision")
    assert_same_as_oracle(path, "small", case != "mitsuba")


def test_levels_are_those_of_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    for name, config in CONFIGS.items():
        scene = ngp_scene(name)
        save_snapshot(path, scene.model, scene.world, scene.grid)
        encoding = read_field(path).network.position
        assert isinstance(encoding, HashGridEncoding)
        assert encoding.table.dtype == np.float16
        for level, expected in zip(encoding.levels, grid_levels(config), strict=True):
            assert (level.resolution, level.entries, level.first, level.hashed) == (
                expected.side,
                expected.entries,
                expected.first,
                expected.hashed,
            )
            assert level.scale == pytest.approx(expected.scale, rel=1e-6)


@pytest.mark.parametrize("name", ["small", "large-box"])
def test_knows_what_is_empty(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    scene = ngp_scene(name)
    save_snapshot(path, scene.model, scene.world, scene.grid)
    field = read_field(path)
    sampler = field.sampler
    assert isinstance(sampler, OccupancySampler)
    side = scene.model.config.aabb_scale
    assert sampler.occupied.shape == (int(math.log2(side)) + 1, 128, 128, 128)
    assert sampler.cone_angle == (0.0 if side == 1 else 1 / 256)
    assert sampler.min_step == pytest.approx(math.sqrt(3) / 1024 / side)
    assert sampler.max_step == pytest.approx(math.sqrt(3) / side)
    points, _ = points_and_directions(side / scene.world.scale)
    expected = occupied(scene.grid, scene.world.point(torch.tensor(points))).numpy()
    assert 0.1 < expected.mean() < 0.9
    y = points @ field.space.world_to_field[:, :3].T + field.space.world_to_field[:, 3]
    found = []
    for place in y:
        away = np.abs(place - 0.5).max()
        last = len(sampler.occupied) - 1
        cascade = min(k for k in range(last + 1) if away < 0.5 * 2.0 ** (k - last))
        cell = ((place - 0.5) * 2.0 ** (last - cascade) + 0.5) * 128
        i, j, k = cell.astype(int)
        found.append(sampler.occupied[cascade, k, j, i])
    assert (np.array(found) == expected).all()


def test_an_untrained_grid_skips_nothing(tmp_path: Path) -> None:
    def empty(snapshot: Snapshot) -> None:
        snapshot["snapshot"]["density_grid_binary"] = b""

    field = read_field(changed(tmp_path, empty))
    assert isinstance(field.sampler, OccupancySampler)
    assert field.sampler.occupied.all()
    assert any("skipping" in note for note in field.notes)


def test_cameras_and_axes_are_the_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    block = town_block()
    cameras = [
        moved_camera(camera, block.center, block.radius)
        for camera in block_cameras(block, 5, 33, 17)
    ]
    scene = ngp_scene()
    save_snapshot(path, scene.model, scene.world, scene.grid, cameras)
    field = read_field(path)
    assert field.up == (0.0, 0.0, 1.0)
    assert len(field.cameras) == 5
    for found, expected in zip(field.cameras, cameras, strict=True):
        np.testing.assert_allclose(found.viewmat, expected.viewmat, atol=1e-6)
        np.testing.assert_allclose(found.K, expected.K, rtol=1e-6)
        assert (found.width, found.height) == (33, 17)


def test_without_images_it_starts_where_its_author_looked_from(tmp_path: Path) -> None:
    field = read_field(changed(tmp_path, lambda snapshot: None))
    (camera,) = field.cameras
    # In instant-ngp: at (0.5, 0.5, 2), looking along −z, which is −y of the data set.
    np.testing.assert_allclose(camera.position, [1.5 / 0.45, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(camera.forward, [-1.0, 0.0, 0.0], atol=1e-6)
    assert camera.K[1, 1] == pytest.approx(1.2 * 720)


def test_a_crop_is_the_fields_box(tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    scene = ngp_scene()
    crop = ([0.25, -5.0, 0.5], [0.75, 0.6, 1.0])
    save_snapshot(path, scene.model, scene.world, scene.grid, crop=crop)
    space = read_field(path).space
    corners = [scene.world.point(torch.tensor(each)).numpy() for each in (space.lo, space.hi)]
    np.testing.assert_allclose(corners[0], [0.25, 0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(corners[1], [0.75, 0.6, 1.0], atol=1e-6)


def test_latents_and_background_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    scene = ngp_scene("latents")
    save_snapshot(path, scene.model, scene.world, scene.grid, background=(0.25, 0.5, 1.0, 1.0))
    field = read_field(path)
    assert field.background == (0.25, 0.5, 1.0)
    np.testing.assert_array_equal(field.network.appearances, scene.model.latents.detach().numpy())
    assert field.network.appearance == 0


# --- Encodings by other names, against tiny-cuda-nn's rules written out ---------------------------


def plain_encoding(config: Snapshot, x: np.ndarray, width: int) -> np.ndarray:
    """[M, width] as tiny-cuda-nn encodes x, which is in [0, 1], padding and all."""
    kind = config["otype"]
    if kind == "Identity":
        values = x * config.get("scale", 1.0) + config.get("offset", 0.0)
    elif kind == "Frequency":
        rows = [
            wave(2.0**k * math.pi * x[:, dim])
            for dim in range(3)
            for k in range(config["n_frequencies"])
            for wave in (np.sin, np.cos)
        ]
        values = np.stack(rows, axis=1)
    else:
        d = 2 * x - 1
        c0, c1 = 0.28209479177387814, 0.48860251190291987
        values = np.stack([np.full(len(d), c0), -c1 * d[:, 1], c1 * d[:, 2], -c1 * d[:, 0]], axis=1)
    padding = np.ones((len(x), width - values.shape[1]))
    parts = [padding, values] if kind == "SphericalHarmonics" else [values, padding]
    return np.concatenate(parts, axis=1)


OTHER_ENCODINGS: list[tuple[Snapshot, Snapshot]] = [
    ({"otype": "Frequency", "n_frequencies": 5}, {"otype": "Frequency", "n_frequencies": 4}),
    ({"otype": "Identity"}, {"otype": "Identity"}),
    (
        {"otype": "Identity", "scale": 2.0, "offset": -1.0},
        {"otype": "SphericalHarmonics", "degree": 2},
    ),
    ({"otype": "Frequency", "n_frequencies": 3}, {"otype": "Identity", "scale": 2, "offset": -1}),
]


@pytest.mark.parametrize(("position", "direction"), OTHER_ENCODINGS)
def test_other_encodings_are_folded_into_the_first_layers(
    position: Snapshot, direction: Snapshot, tmp_path: Path
) -> None:
    random = np.random.default_rng(5)
    own = 6 * position.get("n_frequencies", 0) or 3
    inputs, seen = -(-own // 8) * 8, 32 if direction["otype"] == "Frequency" else 16
    shapes = [(24, inputs), (24, 24), (16, 24), (24, 16 + seen), (16, 24)]
    matrices = [random.normal(size=shape).astype(np.float16) * np.float16(0.4) for shape in shapes]

    def change(snapshot: Snapshot) -> None:
        network = {"otype": "CutlassMLP", "n_neurons": 24, "activation": "Tanh"}
        snapshot.update(
            encoding=position,
            dir_encoding=direction,
            network={**network, "n_hidden_layers": 2},
            rgb_network={**network, "n_hidden_layers": 1},
        )
        data = b"".join(matrix.astype("<f2").tobytes() for matrix in matrices)
        snapshot["snapshot"]["params_binary"] = data

    field = read_field(changed(tmp_path, change))
    points, directions = points_and_directions(1 / 0.45)
    density, color = evaluate(field, points, directions)
    unit = (points * 0.45 + 0.5)[:, [1, 2, 0]]
    first, second, third, fourth, fifth = (matrix.astype(np.float64) for matrix in matrices)
    h = np.tanh(np.tanh(plain_encoding(position, unit, inputs) @ first.T) @ second.T) @ third.T
    d = plain_encoding(direction, (directions[:, [1, 2, 0]] + 1) / 2, seen)
    out = np.tanh(np.concatenate([h, d], axis=1) @ fourth.T) @ fifth.T
    np.testing.assert_allclose(density, np.exp(h[:, 0]), rtol=1e-4)
    np.testing.assert_allclose(color, 1 / (1 + np.exp(-out[:, :3])), atol=1e-5)


@pytest.mark.parametrize(("kind", "entries"), [("DenseGrid", 4096 + 9264), ("TiledGrid", 8192)])
def test_grids_without_hash(kind: str, entries: int, tmp_path: Path) -> None:
    matrices = 64 * 16 + 16 * 64 + 64 * 32 + 64 * 64 + 16 * 64
    random = np.random.default_rng(0)
    values = random.normal(size=matrices + 2 * entries).astype("<f2")

    def change(snapshot: Snapshot) -> None:
        for name in ("network", "rgb_network"):
            snapshot[name]["n_neurons"] = 64
        # Levels of 16 and 21 vertices a side: 16³ and 21³ + 3 entries, or 16³ of each.
        snapshot["encoding"] = {
            "otype": kind,
            "n_levels": 2,
            "n_features_per_level": 2,
            "base_resolution": 16,
            "per_level_scale": 1.3,
        }
        snapshot["snapshot"]["params_binary"] = values.tobytes()

    encoding = read_field(changed(tmp_path, change)).network.position
    assert isinstance(encoding, HashGridEncoding)
    assert [level.hashed for level in encoding.levels] == [False, False]
    assert [level.resolution for level in encoding.levels] == [16, 21]
    assert len(encoding.table) == entries
    np.testing.assert_array_equal(encoding.table.reshape(-1), values[matrices:])


# --- What is broken -------------------------------------------------------------------------------


@cache
def small_snapshot() -> Snapshot:
    scene = ngp_scene()
    return snapshot_of(scene.model, scene.world, scene.grid)


def changed(folder: Path, change: Callable[[Snapshot], None]) -> Path:
    """The small scene's snapshot, changed."""
    snapshot = copy.deepcopy(small_snapshot())
    change(snapshot)
    path = folder / "model.msgpack"
    path.write_bytes(packed(snapshot))
    return path


def set_at(*names: str, to: Any) -> Callable[[Snapshot], None]:
    def change(snapshot: Snapshot) -> None:
        for name in names[:-1]:
            snapshot = snapshot[name]
        snapshot[names[-1]] = to

    return change


def nan_weights(snapshot: Snapshot) -> None:
    values = np.frombuffer(snapshot["snapshot"]["params_binary"], "<f2").copy()
    values[5] = np.nan
    snapshot["snapshot"]["params_binary"] = values.tobytes()


def nan_table(snapshot: Snapshot) -> None:
    values = np.frombuffer(snapshot["snapshot"]["params_binary"], "<f2").copy()
    values[-5] = np.inf
    snapshot["snapshot"]["params_binary"] = values.tobytes()


def cut_parameters(snapshot: Snapshot) -> None:
    snapshot["snapshot"]["params_binary"] = snapshot["snapshot"]["params_binary"][:-32]


BROKEN: list[tuple[Callable[[Snapshot], None], str]] = [
    (set_at("snapshot", to=None), "holds no snapshot"),
    (set_at("snapshot", "version", to=0), "2022 or before"),
    (set_at("snapshot", "mode", to="sdf"), "mode 'sdf', not of a radiance field"),
    (set_at("snapshot", "mode", to=[7]), "mode 'unknown'"),
    (set_at("snapshot", "params_binary", to=[1, 2]), "needs binary data"),
    (set_at("snapshot", "params_binary", to=b"123"), "needs binary data"),
    (set_at("snapshot", "params_type", to="int8"), "needs to be __half or float"),
    (cut_parameters, "parameters, but .* are there"),
    (nan_weights, "not finite"),
    (nan_table, "not finite"),
    (set_at("encoding", "log2_hashmap_size", to=200), "1 to 31"),
    (set_at("encoding", "log2_hashmap_size", to=31), "parameters, but"),
    (set_at("encoding", "n_levels", to=10**9), "1 to 32"),
    (set_at("encoding", "n_levels", to="many"), "needs a whole number"),
    (set_at("encoding", "n_features_per_level", to=3), "needs to be 1, 2, 4 or 8"),
    (set_at("encoding", "base_resolution", to=10**7), "of 0 to 65,536"),
    (set_at("encoding", "per_level_scale", to=1e9), "levels grow by"),
    (set_at("encoding", "per_level_scale", to=500.0), "cells a side"),
    (set_at("encoding", "interpolation", to="Smoothstep"), "'smoothstep' are not supported"),
    (set_at("encoding", "otype", to="OneBlob"), "'oneblob', which is not supported"),
    (set_at("encoding", to=[]), "needs an object"),
    (set_at("network", "otype", to="Transformer"), "unknown kind 'transformer'"),
    (set_at("network", "n_neurons", to=10**8), "1 to 1,024"),
    (set_at("network", "n_neurons", to=64), "parameters, but"),
    (set_at("network", "activation", to="Sine"), "'sine' is not supported"),
    (set_at("network", "output_activation", to="ReLU"), "activates its outputs"),
    (set_at("dir_encoding", "nested", to=[]), "encodes nothing"),
    (set_at("dir_encoding", to={"otype": "SphericalHarmonics", "degree": 7}), "1 to 4"),
    (set_at("dir_encoding", to={"otype": "OneBlob"}), "directions are encoded by 'oneblob'"),
    (set_at("snapshot", "density_grid_size", to=64), "needs to be 128"),
    (set_at("snapshot", "density_grid_binary", to=b"\0" * 64), "has 32 cells"),
    (set_at("snapshot", "nerf", "dataset", "aabb_scale", to=3), "power of two"),
    (set_at("snapshot", "nerf", "dataset", "aabb_scale", to=1 << 40), "power of two"),
    (set_at("snapshot", "nerf", "dataset", "scale", to=0.0), "makes no scene"),
    (set_at("snapshot", "nerf", "dataset", "scale", to=float("nan")), "needs a finite number"),
    (set_at("snapshot", "nerf", "dataset", "offset", to=[0, 1]), "needs 3 numbers"),
    (set_at("snapshot", "nerf", "dataset", "n_extra_learnable_dims", to=10**6), "1,000,000 values"),
    (set_at("snapshot", "aabb", "max", to=[9, 9, 9]), "is not the box"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_what_is_broken_is_one_clear_line(
    change: Callable[[Snapshot], None], message: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(SceneFormatError, match=message) as caught:
        read_field(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = packed(small_snapshot())
    path = tmp_path / "model.msgpack"
    for size in (1, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SceneFormatError, match=r"ends early|longer than the file"):
            read_field(path)
    squeezed = gzip.compress(whole, 1)
    path = tmp_path / "model.ingp"
    path.write_bytes(squeezed[: len(squeezed) // 2])
    with pytest.raises(SceneFormatError, match="ends within its compressed data"):
        read_field(path)
    path.write_bytes(squeezed[:500] + b"\xff" * 100 + squeezed[600:])
    with pytest.raises(SceneFormatError, match=r"cannot be decompressed|holds no|not MessagePack"):
        read_field(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"snapshot": {"version": 1}}', "is no snapshot of Instant-NGP"),
        (b"\x80", "holds no snapshot"),
        (b"hello, these are notes of a scene", "is no snapshot of Instant-NGP: MessagePack"),
        (b"x", "is no snapshot of Instant-NGP"),
        (b"x\x01 looks like zlib", "is no snapshot of Instant-NGP"),
        (b"h\x05\x1f\x8b", "is no snapshot of Instant-NGP"),
        (b"PK\x03\x04 and so on", "is no snapshot of Instant-NGP"),
        (gzip.compress(b"[1, 2]"), "holds no MessagePack"),
        (b"\xdf\xff\xff\xff\xff", "claims a map that is longer than the file"),
        (b"", "is empty"),
    ],
)
def test_other_files_of_its_name_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.msgpack"
    path.write_bytes(content)
    with pytest.raises(SceneFormatError, match=message):
        read_field(path)


def test_a_decompression_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_store.models.instant_ngp.SMALL_BYTES", 1 << 20)
    path = tmp_path / "model.ingp"
    path.write_bytes(gzip.compress(b"\x81" + b"\0" * (1 << 24)))
    with pytest.raises(SceneFormatError, match="becomes more than 1,048,576 bytes"):
        read_field(path)


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (b"\xc4\x00", "more than 65,536 values"),
        (b"\x81\xa0\x90", "more than 65,536 values"),
    ],
)
def test_little_does_not_become_many_values(what: bytes, problem: str, tmp_path: Path) -> None:
    count = 1_000_000
    path = tmp_path / "model.ingp"
    path.write_bytes(zlib.compress(b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + what * count))
    tracemalloc.start()
    with pytest.raises(SceneFormatError, match=problem):
        read_field(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64_000_000


def test_values_may_be_as_many_as_a_file_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scene_store.models.instant_ngp.SMALL_VALUES", 1000)
    whole = packed({**small_snapshot(), "views": list(range(1500))})
    assert 0.5 * len(whole) > 1500
    path = tmp_path / "model.msgpack"
    path.write_bytes(whole)
    assert read_field(path).kind == "Instant-NGP"
    path.write_bytes(packed({"views": [0] * 3000}))
    with pytest.raises(SceneFormatError, match=r"more than \d,\d{3} values"):
        read_field(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    assert not recognizes(tmp_path / "model.msgpack")
    with pytest.raises(SceneNotFoundError):
        read_field(tmp_path / "model.msgpack")


def test_a_field_keeps_nothing_of_the_file(tmp_path: Path) -> None:
    field = read_field(changed(tmp_path, lambda snapshot: None))
    assert isinstance(field.network.position, HashGridEncoding)
    held: Any = field.network.position.table
    while isinstance(held.base, np.ndarray):
        held = held.base
    assert held.base is None
    assert held.nbytes == field.network.position.table.nbytes
