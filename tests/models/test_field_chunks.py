"""Fields as bytes and chunks: everything comes back, and nothing else is taken for a field."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scene_store.chunks import EncodedChunk, NeuralSource
from scene_store.models.field_bytes import (
    ROW_BYTES,
    FieldBlock,
    block_rows,
    rows_block,
    rows_in_block,
)
from scene_store.models.field_checks import require_valid
from scene_store.models.field_chunks import BlockReader, FieldChunks, StandIn, block_of
from scene_store.placement import Placement
from scene_store.scene import SceneMeta
from splat.errors import ChunkReadError, SceneFormatError
from splat.fields import (
    BoxSampler,
    ConcatenatedEncoding,
    Field,
    FieldModel,
    GridLevel,
    HashGridEncoding,
    HierarchicalSampler,
    IdentityEncoding,
    OccupancySampler,
    PlaneEncoding,
)
from splat.gaussians import Gaussians
from splat.networks import Layer, Mlp
from splat.rows import Rows
from tests.models.small_fields import (
    ball_field,
    contracted_field,
    plain_field,
    random_network,
    space,
    view,
)


def plane_field() -> Field:
    """Like GridNeRF's: planes, a mask, positions beside them."""
    rng = np.random.default_rng(3)
    planes = PlaneEncoding(
        (rng.normal(size=(4, 5, 6)).astype(np.float32),),
        (rng.normal(size=(4, 7)).astype(np.float32),),
        ((0, 1, 2),),
    )
    network = random_network(rng, ConcatenatedEncoding((planes, IdentityEncoding())))
    lo, hi = np.full(3, -1.0), np.full(3, 1.0)
    mask = rng.random((3, 4, 5)) > 0.5
    sampler = BoxSampler(lo, hi, 0.05, 80, mask, lo, hi, 1e-4)
    return Field("GridNeRF", network, space(), sampler, near=0.1, far=10.0)


FIELDS: dict[str, Callable[[], Field]] = {
    "balls": ball_field,
    "plain": plain_field,
    "contracted": contracted_field,
    "planes": plane_field,
}


def same(one: Any, other: Any) -> bool:
    """Whether two trees of dataclasses are equal, arrays to the bit and of one dtype."""
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape) and (
            np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()
        )
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and type(one) is type(other)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_comes_back_to_the_bit(name: str) -> None:
    block = FieldBlock(
        FIELDS[name](),
        (-1.0, -2.0, -3.0),
        (1.0, 2.0, np.inf),
        3,
        1,
        0.5,
        Placement((1.0, 2.0, 3.0)),
    )
    rows = block_rows(block)
    assert rows.data.dtype == np.uint8 and rows.width == ROW_BYTES
    assert rows_in_block(rows.data[0]) == len(rows)
    assert same(rows_block(rows), block)


def test_arrays_are_views_of_the_rows() -> None:
    rows = block_rows(block_of(ball_field()))
    position = rows_block(rows).field.network.position
    assert isinstance(position, HashGridEncoding)
    assert np.shares_memory(position.table, rows.data)


def test_training_cameras_are_left_out() -> None:
    field = replace(ball_field(), cameras=(view(),) * 5000)
    assert rows_block(block_rows(block_of(field))).field.cameras == ()


def test_a_flipped_bit_is_found() -> None:
    rows = block_rows(block_of(ball_field()))
    rng = np.random.default_rng(1)
    for place in rng.integers(32, rows.nbytes, 40):
        damaged = rows.data.copy()
        damaged.reshape(-1)[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="checksum"):
            rows_block(Rows(damaged))


@pytest.mark.parametrize("rows", [1, 3, -1])
def test_a_field_that_is_cut_off_is_found(rows: int) -> None:
    whole = block_rows(block_of(ball_field()))
    with pytest.raises(ValueError, match="cut off"):
        rows_block(whole[:rows])


def test_rows_of_anything_else_are_no_field() -> None:
    for data in (np.zeros((3, ROW_BYTES), np.uint8), np.zeros((3, 8), np.uint8)):
        with pytest.raises(ValueError, match="field"):
            rows_block(Rows(data))
    with pytest.raises(ValueError, match="field"):
        rows_block(Rows(np.zeros((3, 9), np.float32)))


def forged(rows: Rows, old: bytes, new: bytes) -> Rows:
    """With other words of the same length in its description, and a checksum that fits."""
    assert len(old) == len(new)
    raw = rows.data.tobytes()
    assert raw.count(old) >= 1
    raw = raw.replace(old, new, 1)
    checksum = struct.pack("<I", zlib.crc32(raw[32:]))
    return Rows(
        np.frombuffer(raw[:12] + checksum + raw[16:], np.uint8).reshape(-1, ROW_BYTES).copy()
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"class":"Network"', b'"class":"network"', "network is none of Network"),
        (b'"class":"Mlp"', b'"class":"Sys"', "trunk is none of Mlp"),
        (b'"shape":[4913,4]', b'"shape":[9914,4]', "larger than the bytes"),
        (b'"shape":[4913,4]', b'"shape":[-913,4]', "no shape or place"),
        (b'"shape":[4913,4]', b'"shape":[49e9,4]', "no shape or place"),
        (b'"dtype":"bool"', b'"dtype":"int8"', "'int8', not bool"),
        (b'"density_activation":"relu"', b'"density_activation":"rolu"', "Activation"),
        (b'"entries":4913', b'"entries":9913', "beyond its table"),
        (b'"scale":16.0', b'"scale":true', "no float"),
        (b'"near":0.0', b'"noar":0.0', "other values than a Field"),
        (b'"resolution":17', b'"resolution":-7', "beyond its table, or has no size"),
        (b'"hi":[1.0,1.0,1.0]', b'"hi":[1.0,-99,1.0]', "has no volume"),
        (b'"lo":[-1.0,-1.0,-1.0]', b'"lo":[-1.0,-1.0,1.00]', "has no volume"),
        (b'"border":0.0', b'"border":-99', "blended over -99"),
        (b'{"class"', b'["class"', "Expecting|delimiter"),
    ],
)
def test_a_forged_description_is_refused(old: bytes, new: bytes, message: str) -> None:
    rows = block_rows(block_of(ball_field()))
    with pytest.raises(ValueError, match=message):
        rows_block(forged(rows, old, new))


def _with_table(table: np.ndarray) -> Field:
    field = ball_field()
    grid = HashGridEncoding((GridLevel(16.0, 17, False, len(table), 0),), table, 0.0)
    return replace(field, network=replace(field.network, position=grid))


THREE = Layer(np.zeros((3, 6), np.float32), np.zeros(3, np.float32))
BROKEN: dict[str, tuple[Callable[[], Field], str]] = {
    "table": (lambda: _with_table(np.full((4913, 4), np.nan, np.float32)), "not finite"),
    "near": (lambda: replace(ball_field(), near=3.0, far=2.0), "near 3 and far 2"),
    "endless": (lambda: replace(plain_field(), far=np.inf), "far end"),
    "steps": (
        lambda: replace(
            ball_field(), sampler=OccupancySampler(np.ones((1, 4, 4, 4), np.bool_), 0.0, 1.0)
        ),
        "steps of 0",
    ),
    "cells": (
        lambda: replace(
            ball_field(), sampler=OccupancySampler(np.ones((1, 4, 4, 5), np.bool_), 0.1, 1.0)
        ),
        "shape",
    ),
    "far away": (lambda: replace(ball_field(), near=1e300), "near 1e"),
    "dense": (lambda: replace(ball_field(), space=space(density_scale=1e300)), "scales lengths"),
    "doubled": (
        lambda: replace(
            ball_field(),
            network=replace(
                ball_field().network, color_inputs=2 * ("feature",), color_mlp=Mlp(6, (THREE,))
            ),
        ),
        "an input twice",
    ),
    "coarse": (
        lambda: replace(plain_field(), sampler=HierarchicalSampler(None, 2, 8)),
        "too often, or never",
    ),
    "skew": (
        lambda: replace(
            ball_field(),
            space=replace(
                space(), world_to_field=np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1.0, 0]])
            ),
        ),
        "skewed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_fields_that_no_engine_could_evaluate_are_refused(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        require_valid(make())


# --- As a source ---------------------------------------------------------------------------------


def stand_in(block: FieldBlock) -> StandIn:
    """Any smaller field."""
    return StandIn(ball_field(side=9), 0.25)


def three() -> FieldChunks:
    fields = [ball_field((x, -1, -1), 1.0, i) for i, x in enumerate((-1.5, -0.5, 0.5))]
    reads = [lambda field=field: field for field in fields]
    return FieldChunks.of_fields("three.yaml", reads, border=0.1, make_stand_in=stand_in)


def test_several_blocks_have_stand_ins_over_them() -> None:
    source = three()
    assert isinstance(source, NeuralSource)
    tree = source.tree
    np.testing.assert_array_equal(tree.parent, [-1, -1, -1, 0, 1, 2])
    np.testing.assert_array_equal(tree.error, [0.25] * 3 + [0.0] * 3)
    assert (tree.count[:3] < tree.count[3:]).all()
    assert source.model.kinds == ("Instant-NGP",) and source.model.border == 0.1
    for i, x in enumerate((-1.5, -0.5, 0.5)):
        np.testing.assert_allclose(tree.lo[3 + i], (x, -1, -1), atol=1e-5)
        np.testing.assert_allclose(tree.hi[3 + i], (x + 1, 0, 0), atol=1e-5)


def test_chunks_are_the_fields() -> None:
    source = three()
    for chunk in range(6):
        encoded = source.read(chunk)
        assert encoded is not None and encoded.nbytes <= source.encoded_bytes(chunk)
        rows = source.decode(chunk, encoded)
        assert len(rows) <= source.tree.count[chunk]
        block = rows_block(rows)
        assert block.site == chunk % 3
        expected = ball_field((-1.5 + chunk % 3, -1, -1), 1.0, chunk % 3)
        assert same(block.field, expected) == (chunk >= 3)


def test_a_single_field_is_one_chunk() -> None:
    source = FieldChunks.of_fields("one", [plain_field], make_stand_in=stand_in)
    assert len(source.tree) == 1
    assert np.isfinite(source.tree.hi).all() and (source.tree.hi >= 6).all()
    assert source.meta.format_name == "NeRF"
    assert isinstance(source.overview(), Gaussians) and len(source.overview()) > 100


def test_damaged_bytes_are_an_error_of_the_chunk() -> None:
    source = three()
    encoded = source.read(4)
    assert encoded is not None
    damaged = bytearray(encoded.parts[0])
    damaged[1000] ^= 255
    with pytest.raises(ChunkReadError, match=r"three.yaml: chunk 4: .*checksum"):
        source.decode(4, EncodedChunk((damaged,)))


def test_a_reader_that_fails_or_changes_is_an_error_of_the_chunk() -> None:
    fields = [ball_field()]

    def read() -> Field:
        if not fields:
            raise SceneFormatError("a.ingp", "ends after 3 bytes")
        return fields[0]

    source = FieldChunks.of_fields("a.ingp", [read])
    fields[0] = ball_field(side=9)
    with pytest.raises(ChunkReadError, match="another field"):
        source.read(0)
    fields.clear()
    with pytest.raises(ChunkReadError, match="ends after 3 bytes"):
        source.read(0)


def test_a_scene_needs_a_field() -> None:
    meta = SceneMeta("none", "NeRF", 0, 0)
    with pytest.raises(SceneFormatError, match="no field"):
        FieldChunks(meta, FieldModel(()), [], Gaussians.empty())


def test_a_placed_block_has_its_box_where_it_is() -> None:
    block = replace(block_of(ball_field()), placement=Placement((10.0, 0.0, 0.0), scale=3.0))
    reader = BlockReader.of(lambda: block)
    np.testing.assert_allclose(reader.lo, (7, -3, -3))
    np.testing.assert_allclose(reader.hi, (13, 3, 3))
