"""Fields with less memory than they take: level by level from disk, to the bit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.fitting.instant_ngp_file import save_snapshot
from benchmarks.fitting.nerfacto_files import write_run
from rendering.memory_shares import least_budgets
from rendering.models.components import Domain, Samples, Variant, components_for
from rendering.models.components.native import NativeComponents, instruction_sets
from rendering.models.components.paged_grids import SWEPT_SAMPLES, PagedGrid
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from scene_store.chunks import EncodedChunk, NeuralSource, model_of
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets
from scene_store.models import open_model, paged_fields
from scene_store.models.field_bytes import ROW_BYTES, FieldBlock, block_rows, rows_block
from scene_store.models.field_checks import paged_grids
from scene_store.models.paged_fields import PagedFields, TableFile, fill
from scene_store.models.rooms import make_room, pageable
from splat.errors import BudgetError, ChunkReadError, RenderError, SceneError
from splat.fields import (
    Contraction,
    Field,
    GridLevel,
    HashGridEncoding,
    Network,
    PagedGridEncoding,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Layer, Mlp
from splat.rows import Rows
from tests.models import test_nerfacto
from tests.models.instant_ngp_torch import ngp_scene
from tests.models.model_contract import AMPLE, color_of, picture
from tests.scenes import random_scene

RNG = np.random.default_rng(5)
LEVELS = (
    GridLevel(7.0, 8, False, 512, 0),
    GridLevel(20.0, 21, True, 1024, 512),
    GridLevel(63.0, 64, True, 1024, 1536),
    GridLevel(200.0, 201, True, 2048, 2560),
)
ENTRIES = 4608


def layer(inputs: int, outputs: int, activation: Activation) -> Layer:
    weight = RNG.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
    return Layer(weight, RNG.normal(0, 0.1, outputs).astype(np.float32), activation)


def network(dtype: Any = np.float16, features: int = 2) -> Network:
    table = RNG.normal(0, 1, (ENTRIES, features)).astype(dtype)
    position = HashGridEncoding(LEVELS, table, 0.5)
    width = position.outputs
    return Network(
        position,
        Mlp(width, (layer(width, 16, Activation.RELU), layer(16, 9, Activation.NONE))),
        Mlp(9, ()),
        Activation.EXP,
        feature_columns=(1, 9),
        direction=SphericalHarmonicsEncoding(3),
        color_mlp=Mlp(17, (layer(17, 3, Activation.SIGMOID),)),
    )


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[TableFile]:
    file = TableFile(tmp_path)
    yield file
    file.close()


def paged_out(whole: Network, tables: TableFile, kept: int = 0, buffers: int = 1) -> Network:
    grid = whole.position
    assert isinstance(grid, HashGridEncoding)
    entries, features = grid.table.shape
    half = grid.table.dtype == np.float16
    at = tables.append(grid.table)
    paged = PagedGridEncoding(grid.levels, features, half, entries, at, grid.shift, kept, buffers)
    return replace(whole, position=paged)


def positions(count: int) -> NDArray[np.float32]:
    """Also outside, and no numbers."""
    at = RNG.uniform(-0.3, 1.3, (3, count)).astype(np.float32)
    at[:, :3] = np.array([[np.nan, np.inf, 1.0], [0.5, 0.5, 0.0], [0.5, 0.5, 1.0]])
    return at


DOMAINS = (
    Domain(),
    Domain(Contraction.NONE, False),
    Domain(Contraction.L2),
    Domain(Contraction.LINF),
)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("domain", DOMAINS)
def test_every_sample_is_the_same_to_the_bit(isa: str, domain: Domain, tables: TableFile) -> None:
    components = NativeComponents(1, isa)
    at, views = positions(1001), RNG.normal(0, 1, (3, 1001)).astype(np.float32)
    for whole in (network(), network(np.float32, 3), network(np.float16, 1)):
        expected = components.network(whole, domain)
        for kept in (0, 2, len(LEVELS)):
            given_ = paged_out(whole, tables, kept, min(1, len(LEVELS) - kept))
            found = components.network(given_, domain, tables)
            assert np.array_equal(found.densities(at), expected.densities(at))
            for one, other in zip(
                found.evaluate(at, views), expected.evaluate(at, views), strict=True
            ):
                assert np.array_equal(one, other)


def test_along_rays_and_in_many_sweeps(tables: TableFile) -> None:
    count, rays = SWEPT_SAMPLES + 77, 200
    ray = np.sort(RNG.integers(0, rays, count)).astype(np.int32)
    samples = Samples(ray, RNG.uniform(0, 1, count).astype(np.float32), np.ones(count, np.float32))
    origins, views = (RNG.normal(0.5, 0.3, (3, rays)).astype(np.float32) for _ in range(2))
    directions = RNG.normal(0, 0.5, (3, rays)).astype(np.float32)
    whole, components = network(), NativeComponents(2)
    expected = components.network(whole)
    found = components.network(paged_out(whole, tables), tables=tables)
    along = origins, directions
    assert np.array_equal(
        found.densities_along(*along, samples), expected.densities_along(*along, samples)
    )
    for one, other in zip(
        found.evaluate_along(*along, views, samples),
        expected.evaluate_along(*along, views, samples),
        strict=True,
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("variant", [Variant.TORCH, Variant.REFERENCE])
def test_torch_looks_into_one_level_after_the_other(variant: Variant, tables: TableFile) -> None:
    whole, components = network(), components_for("cpu", variant)
    at = positions(500)
    found = components.network(paged_out(whole, tables, 1), tables=tables)
    assert np.array_equal(found.densities(at), components.network(whole).densities(at))


def test_many_threads_share_a_buffer(tables: TableFile) -> None:
    whole, components = network(), NativeComponents(1)
    at = positions(2000)
    expected = components.network(whole).densities(at)
    shared = components.network(paged_out(whole, tables), tables=tables)
    same: list[bool] = []

    def look() -> None:
        same.extend(np.array_equal(shared.densities(at), expected) for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert same == [True] * 30


def test_a_level_that_cannot_be_read_is_one_error_and_blocks_nobody(tables: TableFile) -> None:
    evaluator = NativeComponents(1).network(paged_out(network(), tables), tables=tables)
    tables.close()
    for _ in range(3):
        with pytest.raises(RenderError, match="cannot be read"):
            evaluator.densities(positions(10))


# How much stays in memory


@given(st.integers(0, 40_000), st.integers(1, 3))
def test_no_more_stays_in_memory_than_there_is_room_for(spare: int, count: int) -> None:
    bare = [PagedGridEncoding(LEVELS, 2, True, ENTRIES, 0)] * count
    filled = fill(bare, spare)
    before = sum(grid.memory_bytes for grid in bare)
    assert sum(grid.memory_bytes for grid in filled) <= before + spare
    for grid in filled:
        assert 0 <= grid.kept <= len(LEVELS)
        assert (grid.buffers >= 1) == (grid.kept < len(LEVELS))
    if spare >= count * ENTRIES * 4:
        assert all(grid.kept == len(LEVELS) for grid in filled)


def test_memory_is_what_the_encoding_says(tables: TableFile) -> None:
    for kept in range(len(LEVELS) + 1):
        whole = paged_out(network(), tables, kept, 2 if kept < len(LEVELS) else 0)
        grid = whole.position
        assert isinstance(grid, PagedGridEncoding)
        made = PagedGrid(grid, tables)
        buffers = [made._buffers.get() for _ in range(grid.buffers)]
        held = sum(each.nbytes for each in (*made._kept, *buffers))
        assert held == grid.memory_bytes


# Scenes


@pytest.fixture(params=["Instant-NGP", "Nerfacto"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "Nerfacto":
        write_run(test_nerfacto.lively(test_nerfacto.SMALL), tmp_path / "nerfacto")
        return tmp_path / "nerfacto"
    made = ngp_scene("growth-of-large-box")
    save_snapshot(tmp_path / "large.ingp", made.model, made.world, made.grid)
    return tmp_path / "large.ingp"


@pytest.fixture(autouse=True)
def every_table_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_fields, "LEAST_TABLE_BYTES", 1)


def least_of(source: NeuralSource) -> Budgets:
    return least_budgets(source, renderer_of(model_of(source), NativeRasterizer()))


def opened(scene: Path, folder: Path, host: int, device: int) -> NeuralSource:
    source = pageable(open_model(scene), folder)
    try:
        make_room(source, host, device)
    except BaseException:
        source.close()
        raise
    return source


def test_a_field_is_drawn_with_less_memory_than_it_takes(scene: Path, tmp_path: Path) -> None:
    whole = open_model(scene)
    needed = least_of(whole)
    expected = color_of(picture(whole, AMPLE))
    tables = tmp_path / "tables"
    with contextlib.closing(opened(scene, tables, AMPLE.host_bytes, 1)) as source:
        bare = least_of(source).device_bytes
    assert bare < needed.device_bytes
    for budget in (bare, (bare + needed.device_bytes) // 2, needed.device_bytes - 1):
        with pytest.raises(BudgetError):
            picture(open_model(scene), Budgets(AMPLE.host_bytes, budget))
        source = opened(scene, tables, AMPLE.host_bytes, budget)
        assert least_of(source).host_bytes < needed.host_bytes
        image = picture(source, Budgets(least_of(source).host_bytes, budget))
        assert np.array_equal(color_of(image), expected)
    assert not list(tables.iterdir()), "it has no name"


def test_a_field_is_read_by_parts_where_the_host_has_little(scene: Path, tmp_path: Path) -> None:
    whole = open_model(scene)
    needed = least_of(whole)
    expected = color_of(picture(whole, AMPLE))
    source = opened(scene, tmp_path, needed.host_bytes - 1, AMPLE.device_bytes)
    least = least_of(source)
    assert least.host_bytes < needed.host_bytes
    grids = paged_grids(rows_block(decoded(source), tables_bytes=1 << 40).field)
    assert grids and all(grid.kept == len(grid.levels) for grid in grids), "there is room"
    assert np.array_equal(color_of(picture(source, least)), expected)


def test_one_that_fits_stays_as_it_is(scene: Path, tmp_path: Path) -> None:
    source = pageable(open_model(scene), tmp_path / "none")
    before = source.tree
    make_room(source, AMPLE.host_bytes, least_of(source).device_bytes)
    assert np.array_equal(source.tree.count, before.count)
    assert not (tmp_path / "none").exists()
    source.close()


def test_a_full_disk_is_one_line(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TableFile, "append", full)
    with pytest.raises(SceneError, match=r"kept in .* \(No space left on device\)"):
        opened(scene, tmp_path, 1 << 30, 1 << 16)


def test_fields_of_a_composition_are_drawn_with_less_memory(scene: Path, tmp_path: Path) -> None:
    """Two copies of it, and Gaussians beside them."""
    ball = random_scene(3, 500, 0)
    write_ply(tmp_path / "ball.ply", [ball], len(ball), 0)
    whole = tmp_path / "mixed.yaml"
    whole.write_text(
        f"scenes:\n  - path: {scene}\n  - path: {tmp_path / 'ball.ply'}\n"
        f"  - path: {scene}\n    transform: {{translation: [1.5, 0, 0]}}\n"
    )
    needed = least_of(open_model(whole))
    expected = color_of(picture(open_model(whole), AMPLE))
    with contextlib.closing(opened(whole, tmp_path / "t", AMPLE.host_bytes, 1)) as source:
        bare = least_of(source).device_bytes
    assert bare < needed.device_bytes
    for budget in (int(1.4 * bare), needed.device_bytes - 1):
        source = opened(whole, tmp_path / "t", AMPLE.host_bytes, budget)
        least = least_of(source)
        assert least.device_bytes <= max(budget, bare)
        image = picture(source, Budgets(least.host_bytes, max(budget, 2 * bare)))
        assert np.array_equal(color_of(image), expected)


def test_a_chunk_that_is_gone_is_one_error(scene: Path, tmp_path: Path) -> None:
    source = opened(scene, tmp_path, 1 << 30, 1 << 16)
    assert isinstance(source, PagedFields)
    source._tables.close()
    with pytest.raises(ChunkReadError, match="cannot be read"):
        source.read(0)
    source.close()


def test_a_chunk_of_its_own_names_no_tables(scene: Path, tmp_path: Path) -> None:
    """Of a store that somebody made: the tables of others are not for it, nor is their memory."""
    source = pageable(open_model(scene), tmp_path)
    assert isinstance(source, PagedFields)
    field = a_field(scene)
    at = source._tables.append(np.zeros(1 << 16, np.uint8))
    grid = PagedGridEncoding((GridLevel(1.0, 2, True, 8, 0),) * 32, 2, True, 8, at, buffers=200)
    other = replace(
        field,
        network=replace(network(), position=grid, trunk=Mlp(64, (layer(64, 9, Activation.NONE),))),
    )
    rows = block_rows(FieldBlock(other)).data.reshape(-1)
    with pytest.raises(ChunkReadError, match="table is not there"):
        source.decode(0, EncodedChunk((rows.data,)))
    source.close()


def decoded(source: NeuralSource) -> Rows:
    encoded = source.read(0)
    assert encoded is not None
    rows = source.decode(0, encoded)
    assert isinstance(rows, Rows)
    return rows


def a_field(scene: Path) -> Field:
    with contextlib.closing(open_model(scene)) as source:
        return rows_block(decoded(source)).field


def test_rows_that_name_tables_which_are_not_there_are_refused(
    scene: Path, tables: TableFile
) -> None:
    """As a store may, that somebody made."""
    field = a_field(scene)
    out = replace(field, network=paged_out(field.network, tables))
    assert paged_grids(out)
    rows = block_rows(FieldBlock(out))
    with pytest.raises(ValueError, match="table is not there"):
        rows_block(rows)
    with pytest.raises(ValueError, match="table is not there"):
        rows_block(rows, tables_bytes=tables.nbytes - 1)
    assert rows_block(rows, tables_bytes=tables.nbytes).field.kind == field.kind
    width = field.network.direction.outputs
    direction = PagedGridEncoding(LEVELS[:1], width, True, 512, 0)
    inside = replace(field, network=replace(field.network, direction=direction))
    with pytest.raises(ValueError, match="not in memory"):
        rows_block(block_rows(FieldBlock(inside)), tables_bytes=1 << 40)
    assert rows.row_bytes == ROW_BYTES
