"""Stores of neural scenes: what comes out is what went in, or one clear line."""

from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_store.chunks import NeuralSource, model_of
from scene_store.manifest import MODEL_FILE, MODEL_VERSION
from scene_store.models.mixed_chunks import MixedChunks
from scene_store.neural_store import NeuralStore, StoredModel, build_neural_store
from scene_store.placement import Placement
from scene_store.store import open_store
from scene_store.typed_bytes import from_bytes, to_bytes
from splat.anchors import AnchorModel, OctreeLevels
from splat.errors import ChunkReadError, OutputError, SceneFormatError
from splat.gaussians import Gaussians
from splat.networks import Layer
from splat.rows import Rows
from tests.models.neural_source import SmallAnchors, small_model


@pytest.fixture
def built(tmp_path: Path) -> Path:
    origin = tmp_path / "origin"
    origin.write_text("anchors")
    path = tmp_path / "grid.bvs"
    report = build_neural_store(SmallAnchors(), path, origin)
    assert report.nodes == 3
    assert report.store_bytes == sum(file.stat().st_size for file in path.iterdir())
    return path


def test_a_store_gives_back_every_bit(built: Path) -> None:
    source = SmallAnchors()
    with open_store(built) as store:
        assert isinstance(store, NeuralStore)
        assert isinstance(store, NeuralSource)
        assert store.manifest.version == MODEL_VERSION
        assert (store.meta.count, store.meta.unit, store.meta.up) == (64, "anchors", (0, 0, 1))
        assert store.meta.facts == "Belvedere store of Anchors · 64 anchors"
        assert store.meta.outline is not None
        for chunk, rows in enumerate(source.rows):
            encoded = store.read(chunk)
            assert encoded is not None
            decoded = store.decode(chunk, encoded)
            assert isinstance(decoded, Rows)
            assert decoded.data.dtype == np.float32
            assert decoded.data.tobytes() == rows.data.tobytes()
        assert np.array_equal(store.overview().means, source.overview().means)
        for name in ("lo", "hi", "count", "parent", "error", "level"):
            assert np.array_equal(getattr(store.tree, name), getattr(source.tree, name))


def test_the_model_is_the_same(built: Path) -> None:
    with open_store(built) as store:
        model = model_of(store)
    assert isinstance(model, AnchorModel)
    expected = small_model()
    assert model.layout == expected.layout
    for name in ("opacity_mlp", "color_mlp", "covariance_mlp"):
        mine, theirs = getattr(model, name), getattr(expected, name)
        for a, b in zip(mine.layers, theirs.layers, strict=True):
            assert np.array_equal(a.weight, b.weight)
            assert np.array_equal(a.bias, b.bias)
            assert (a.activation, a.skip) == (b.activation, b.skip)


@pytest.mark.parametrize("name", [MODEL_FILE, "nodes.bin"])
def test_a_damaged_file_is_named(built: Path, name: str) -> None:
    path = built / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SceneFormatError, match=f"{name}: the checksum differs"):
        open_store(built)


def test_a_missing_model_is_named(built: Path) -> None:
    (built / MODEL_FILE).unlink()
    with pytest.raises(SceneFormatError, match=MODEL_FILE):
        open_store(built)


def test_a_damaged_chunk_is_an_error_of_that_chunk(built: Path) -> None:
    path = built / "geometry-00.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with open_store(built) as store:
        encoded = store.read(1)
        assert encoded is not None
        with pytest.raises(ChunkReadError, match="checksum"):
            store.decode(1, encoded)
        whole = store.read(2)
        assert whole is not None
        assert len(store.decode(2, whole)) == 32
        assert set(store.faults([0, 1, 2])) == {1}


def test_absurd_manifests_are_refused(built: Path) -> None:
    path = built / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["crc32"]
    for name, value in (("row_bytes", 10**9), ("bytes", 10**12), ("crc32", "x"), ("count", 0)):
        broken = {**fields, "model": {**fields["model"], name: value}}
        path.write_text(json.dumps(broken))
        with pytest.raises(SceneFormatError, match=name):
            open_store(built)
    for other in ({"model": None}, {"page_gaussians": 10**9}, {"sh_degree": 3}):
        path.write_text(json.dumps({**fields, **other}))
        with pytest.raises(SceneFormatError):
            open_store(built)


@pytest.mark.parametrize("row_bytes", [4, 7, 152, 256])
def test_rows_of_another_width_than_the_models_are_refused(built: Path, row_bytes: int) -> None:
    path = built / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["crc32"]
    fields["model"]["row_bytes"] = row_bytes
    path.write_text(json.dumps(fields))
    with pytest.raises(SceneFormatError, match=f"its manifest says {row_bytes}"):
        open_store(built)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_an_error_of_their_chunk(tmp_path: Path, value: float) -> None:
    source = SmallAnchors()
    source.rows[1].data[5, 3] = value
    origin = tmp_path / "origin"
    origin.write_text("anchors")
    build_neural_store(source, tmp_path / "grid.bvs", origin)
    with open_store(tmp_path / "grid.bvs") as store:
        broken, whole = store.read(1), store.read(2)
        assert broken is not None and whole is not None
        with pytest.raises(ChunkReadError, match="not finite"):
            store.decode(1, broken)
        assert len(store.decode(2, whole)) == 32


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [(0, 1e20, "beyond 1e"), (5, 1e30, "scales beyond"), (5, 60.0, "scales beyond")],
)
def test_anchors_too_large_for_any_scene_are_an_error_of_their_chunk(
    tmp_path: Path, column: int, value: float, problem: str
) -> None:
    source = SmallAnchors()
    layout = source.model.layout
    assert (layout.means, layout.scales) == (slice(0, 3), slice(3, 9))
    source.rows[1].data[5, column] = value
    origin = tmp_path / "origin"
    origin.write_text("anchors")
    build_neural_store(source, tmp_path / "grid.bvs", origin)
    with open_store(tmp_path / "grid.bvs") as store:
        broken = store.read(1)
        assert broken is not None
        with pytest.raises(ChunkReadError, match=problem):
            store.decode(1, broken)


def test_anchors_of_compositions_are_held_against_the_same(tmp_path: Path) -> None:
    source = SmallAnchors()
    source.rows[1].data[5, 5] = 1e30
    mixed = MixedChunks([source], [Placement()], tmp_path)
    build_neural_store(mixed, tmp_path / "mixed.bvs", tmp_path)
    with open_store(tmp_path / "mixed.bvs") as store:
        outcomes = []
        for chunk in range(len(store.tree)):
            encoded = store.read(chunk)
            assert encoded is not None
            try:
                store.decode(chunk, encoded)
            except ChunkReadError as error:
                outcomes.append(str(error))
        assert len(outcomes) == 1 and "scales beyond" in outcomes[0]


def test_what_cannot_become_a_store_is_told_of_with_its_file(tmp_path: Path) -> None:
    class Endless(SmallAnchors):
        def overview(self) -> Gaussians:
            seen = super().overview()
            return replace(seen, means=np.full_like(seen.means, np.nan))

    origin = tmp_path / "origin"
    origin.write_text("anchors")
    with pytest.raises(SceneFormatError, match="origin: cannot become a store: the overview's"):
        build_neural_store(Endless(), tmp_path / "grid.bvs", origin)
    assert [path.name for path in tmp_path.iterdir()] == ["origin"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"means": np.zeros(192, np.float32)}, "means have the shape"),
        ({"means": np.zeros((10, 3), np.float32)}, "scales have the shape"),
        ({"colors": np.zeros((64, 4), np.float32)}, "colours have the shape"),
        ({"opacities": np.full(64, np.nan, np.float32)}, "opacities are not all finite"),
    ],
)
def test_overviews_of_other_shapes_are_refused(changes: dict[str, Any], problem: str) -> None:
    stored = StoredModel.of(SmallAnchors())
    assert from_bytes(StoredModel, to_bytes(stored)).overview.means.shape == (64, 3)
    parts = {each.name: getattr(stored, each.name) for each in fields_of(stored)}
    data = to_bytes(make_dataclass("StoredModel", parts)(**{**parts, **changes}))
    with pytest.raises(ValueError, match=problem):
        from_bytes(StoredModel, data)


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": 0},
        {"levels": 33},
        {"levels": -1},
        {"standard_dist": 0.0},
        {"standard_dist": float("inf")},
        {"standard_dist": float("nan")},
        {"fork": 1.0},
        {"fork": float("inf")},
        {"res_scale": 0.0},
        {"voxel_size": -1.0},
    ],
)
def test_octrees_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an octree"):
        replace(OctreeLevels(3, 1.5), **changes)


def test_levels_need_anchors_that_have_them() -> None:
    model = small_model()
    for changes in ({"levels": OctreeLevels(3, 1.5)}, {"level_input": True}):
        with pytest.raises(ValueError, match="of anchors that have none"):
            replace(model, **changes)
    layout = replace(model.layout, has_levels=True)
    assert replace(model, layout=layout, levels=OctreeLevels(3, 1.5)).levels is not None
    assert replace(model, layout=layout).levels is None  # all are drawn everywhere
    with pytest.raises(ValueError, match="anchors of -2 offsets"):
        replace(model, layout=replace(model.layout, offsets=-2))


def test_a_store_is_replaced_as_a_whole_or_not_at_all(built: Path) -> None:
    origin = built.parent / "origin"
    with pytest.raises(OutputError, match="exists already"):
        build_neural_store(SmallAnchors(1), built, origin)
    build_neural_store(SmallAnchors(1), built, origin, replace=True)

    class Failing(SmallAnchors):
        def decode(self, chunk: int, encoded: object) -> Rows:
            raise ChunkReadError("grid", chunk, "is damaged")

    with pytest.raises(ChunkReadError):
        build_neural_store(Failing(), built, origin, replace=True)
    assert sorted(path.name for path in built.parent.iterdir()) == ["grid.bvs", "origin"]
    with open_store(built) as store:
        assert isinstance(store, NeuralStore)
        assert np.array_equal(store.overview().means, SmallAnchors(1).overview().means)


def test_dataclasses_come_back_as_they_went() -> None:
    layer = small_model().opacity_mlp.layers[0]
    back = from_bytes(Layer, to_bytes(layer))
    assert np.array_equal(back.weight, layer.weight)
    assert back.activation is layer.activation


@pytest.mark.parametrize("cut", [0, 3, 15, 16, 40, 200, -1])
def test_bytes_that_are_cut_off_are_refused(cut: int) -> None:
    data = to_bytes(small_model())
    with pytest.raises(ValueError, match=r"."):
        from_bytes(AnchorModel, data[:cut])


def test_what_is_not_expected_is_refused() -> None:
    with pytest.raises(ValueError, match="none of Layer"):
        from_bytes(Layer, to_bytes(small_model()))


@pytest.mark.parametrize("number", ["1" + 400 * "0", "NaN", "Infinityy", "1e", '"nan"', "true"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    data = to_bytes(OctreeLevels(3, 1.5))
    assert data.count(b"1.5") == 1
    header = data[16:].replace(b"1.5", number.encode()).rstrip(b"\0")
    data = data[:8] + len(header).to_bytes(8, "little") + header + bytes(64)
    with pytest.raises(ValueError, match=r"."):
        from_bytes(OctreeLevels, data)


def test_nan_is_not_written() -> None:
    @dataclass(frozen=True)
    class Number:
        value: float

    assert from_bytes(Number, to_bytes(Number(float("-inf")))) == Number(float("-inf"))
    for nan in (float("nan"), np.float32("nan")):
        with pytest.raises(ValueError, match="none"):
            to_bytes(Number(nan))
