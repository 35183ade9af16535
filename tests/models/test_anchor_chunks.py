"""Anchors as chunks: nothing is lost, boxes hold all Gaussians, stand-ins stand for all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk, NeuralSource
from scene_store.lod import LodLimits, select_lod
from scene_store.models import anchor_tree
from scene_store.models.anchor_chunks import AnchorChunks
from scene_store.models.anchor_file import Measures
from scene_store.models.anchor_tree import build_tree
from splat.anchors import OctreeLevels
from splat.camera import Camera
from splat.errors import ChunkReadError
from tests.models.anchors_torch import AnchorConfig, AnchorNet, random_net, write_folder
from tests.models.test_octree import SMALL as OCTREE
from tests.models.test_scaffold import all_anchors, opened, rewritten

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

SCAFFOLD = AnchorConfig(feat_dim=4, n_offsets=3)
PLY = "point_cloud/iteration_30000/point_cloud.ply"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 32)


def source_of(config: AnchorConfig, count: int, folder: Path) -> tuple[AnchorNet, AnchorChunks]:
    net = random_net(config, count)
    return net, opened(write_folder(net, folder / "x"))


def rows_of(source: AnchorChunks, chunk: int) -> NDArray[np.float32]:
    encoded = source.read(chunk)
    assert encoded is not None
    rows = source.decode(chunk, encoded)
    assert len(rows) == source.tree.count[chunk] and rows.row_bytes == source.row_bytes
    assert encoded.nbytes == source.encoded_bytes(chunk) == rows.nbytes
    return rows.data


@pytest.mark.parametrize("config", [SCAFFOLD, OCTREE])
def test_it_is_a_neural_source_of_all_anchors(tmp_path: Path, config: AnchorConfig) -> None:
    net, source = source_of(config, 777, tmp_path)
    assert isinstance(source, NeuralSource)
    assert source.sh_degree == 0 and source.row_bytes == 4 * source.model.layout.width
    assert len(all_anchors(source)) == 777
    everything = select_lod(
        source.tree, [far_view()], np.ones(len(source.tree), np.bool_), LodLimits(error_px=0)
    )
    np.testing.assert_array_equal(everything.draw, np.flatnonzero(source.tree.is_leaf))
    overview = source.overview()
    low, high = net.anchor.min(0).values.numpy(), net.anchor.max(0).values.numpy()
    assert (overview.means >= low).all() and (overview.means <= high).all()


def far_view() -> Camera:
    return Camera.look_at(
        (60, 0, 0), (0, 0, 0), (0, -1, 0), fov_y_rad=1.5, width=200, height=200, near=0.01
    )


@pytest.mark.parametrize("config", [SCAFFOLD, OCTREE])
def test_boxes_and_scales_bound_every_gaussian_below(tmp_path: Path, config: AnchorConfig) -> None:
    _, source = source_of(config, 777, tmp_path)
    tree, layout = source.tree, source.model.layout
    for chunk in range(len(tree)):
        rows = rows_of(source, chunk)
        scales = np.exp(rows[:, layout.scales])
        offsets = rows[:, layout.offset_values].reshape(len(rows), -1, 3)
        means = rows[:, None, layout.means] + offsets * scales[:, None, :3]
        for node in (chunk, *tree.ancestors(chunk)):
            assert (means >= tree.lo[node]).all() and (means <= tree.hi[node]).all()
            assert (scales[:, 3:] <= tree.max_scale[node]).all()


def test_stand_ins_preserve_area_and_grow_whole_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_tree, "GROWTH", 1.0)  # as if none overlapped another
    net, source = source_of(SCAFFOLD, 1000, tmp_path)
    tree, layout = source.tree, source.model.layout
    assert len(tree.roots) == 1 and tree.level.max() >= 3

    def area(rows: NDArray[np.float32]) -> float:
        a, b, c = np.exp(rows[:, layout.scales].astype(np.float64)).T[3:]
        return float((a * b + b * c + c * a).sum())

    whole = area(all_anchors(source))
    for level in range(1, int(tree.level.max()) + 1):
        # A cut of this level: nodes that have it, and leaves that hang higher.
        nodes = np.flatnonzero(tree.level == level).tolist()
        covered = sum(
            area(rows_of(source, leaf)) for node in nodes for leaf in leaves_below(source, node)
        )
        assert sum(area(rows_of(source, node)) for node in nodes) == pytest.approx(covered, 1e-4)
    assert covered == pytest.approx(whole, 1e-4)
    root = rows_of(source, 0)
    places = source._anchors.rows[0].places
    grown = root[:, layout.scales] - net.scaling.detach().numpy()[places]
    np.testing.assert_allclose(grown, np.repeat(grown[:, :1], 6, axis=1), atol=1e-5)
    assert (grown > 0).all()
    for part, name in ((layout.means, "anchor"), (layout.feature_values, "anchor_feat")):
        expected = getattr(net, name).detach().numpy()[places]
        np.testing.assert_array_equal(root[:, part], expected)


def leaves_below(source: AnchorChunks, node: int) -> list[int]:
    children = source.tree.children(node)
    return [leaf for child in children for leaf in leaves_below(source, child)] or [node]


def test_the_error_is_the_distance_to_the_stand_ins() -> None:
    """Equal anchors in a row, one unit apart: the first of four stands for all of them."""
    measures = Measures.allocate(64)
    measures.usable[...] = True
    measures.means[...] = np.arange(64)[:, None] * np.array([1.0, 0, 0])
    measures.lo[...], measures.hi[...] = measures.means - 0.5, measures.means + 0.5
    measures.largest[...], measures.area[...], measures.spread[...] = 0.5, 0.75, 2.0
    anchors = build_tree(measures, np.arange(64, dtype=np.uint32), None)
    tree = anchors.tree
    assert tree.count.tolist() == [16, 32, 32]
    rows = anchors.rows[0]
    np.testing.assert_array_equal(rows.places, np.arange(0, 64, 4))
    assert rows.gains is not None
    gain = 2.0**anchor_tree.GROWTH
    np.testing.assert_allclose(rows.gains, gain, rtol=1e-6)
    # Distances 0, 1, 2, 3 from the first of four; spreads of 2 and of 2 · gain.
    squared = (0 + 1 + 4 + 9) / 4 + (2 * gain - 2) ** 2
    assert tree.error[0] == pytest.approx(np.sqrt(squared), rel=1e-5)
    assert tree.max_scale[0] == pytest.approx(0.5 * gain, rel=1e-4)
    np.testing.assert_allclose(tree.lo[0], [-0.5 * gain] * 3, atol=0.01)
    np.testing.assert_allclose(tree.hi[0], [63.5, 0.5 * gain, 0.5 * gain], atol=0.01)
    assert tree.loss[0] == pytest.approx(0.05 * 48 * 0.75)


@settings(max_examples=30)
@given(st.data())
def test_any_scene_makes_a_tree(data: st.DataObject) -> None:
    """``LodTree`` checks itself; here: each anchor once in the leaves, and subsets above."""
    count = data.draw(st.integers(1, 600))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    measures = Measures.allocate(count)
    measures.usable[...] = True
    measures.means[...] = random.standard_normal((count, 3)) * 10.0 ** random.integers(-3, 5)
    size = (10.0 ** random.uniform(-12, 6, count)).astype(np.float32)
    measures.lo[...] = measures.means - size[:, None]
    measures.hi[...] = measures.means + size[:, None]
    measures.largest[...], measures.spread[...] = size, size
    measures.area[...] = np.maximum(3 * size * size, np.float32(1e-30))
    measures.level[...] = random.integers(0, 1 + random.integers(0, 9), count)
    measures.extra_level[...] = random.uniform(-2, 30, count)
    levels = data.draw(st.sampled_from([None, OctreeLevels(9, 5.0, 2.0, voxel_size=1.0)]))
    order = random.permutation(count).astype(np.uint32)
    anchors = build_tree(measures, order, levels)
    leaves = [anchors.rows[leaf].places for leaf in np.flatnonzero(anchors.tree.is_leaf)]
    np.testing.assert_array_equal(np.sort(np.concatenate(leaves)), np.arange(count))
    for node in range(len(anchors.tree)):
        own = anchors.rows[node].places
        assert (np.diff(own.astype(np.int64)) > 0).all()
        below = [anchors.rows[child].places for child in anchors.tree.children(node)]
        assert not below or np.isin(own, np.concatenate(below)).all()
        gains = anchors.rows[node].gains
        assert gains is None or (np.isfinite(gains).all() and (gains >= 1).all())


def test_a_file_that_changes_is_an_error_of_the_chunk(tmp_path: Path) -> None:
    _, source = source_of(SCAFFOLD, 100, tmp_path)
    ply = tmp_path / "x" / PLY
    whole = ply.read_bytes()
    rows_of(source, 0)
    ply.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ChunkReadError, match="while it was read"):
        source.read(0)
    ply.unlink()
    with pytest.raises(ChunkReadError):
        source.read(0)


def test_damage_that_shows_late_is_an_error_of_the_chunk(tmp_path: Path) -> None:
    """The same size and time as before, other bytes: a disk that fails."""
    _, source = source_of(SCAFFOLD, 100, tmp_path)
    ply = tmp_path / "x" / PLY
    before = os.stat(ply)

    def spoil(table: NDArray[np.float32]) -> None:
        table[:, 10] = np.nan

    rewritten(ply, spoil)
    os.utime(ply, ns=(before.st_atime_ns, before.st_mtime_ns))
    encoded = source.read(0)
    assert encoded is not None
    with pytest.raises(ChunkReadError, match="changed since it was opened"):
        source.decode(0, encoded)


def test_bytes_of_another_chunk_are_refused(tmp_path: Path) -> None:
    _, source = source_of(SCAFFOLD, 100, tmp_path)
    with pytest.raises(ChunkReadError, match="are needed"):
        source.decode(0, EncodedChunk((b"\0" * 16,)))
    assert source.read(0, lambda: True) is None


def test_decoding_twice_gives_the_same(tmp_path: Path) -> None:
    _, source = source_of(SCAFFOLD, 300, tmp_path)
    encoded = source.read(0)
    assert encoded is not None and source._anchors.rows[0].gains is not None
    first, second = source.decode(0, encoded), source.decode(0, encoded)
    np.testing.assert_array_equal(first.data, second.data)


def test_doubles_and_other_orders_are_read(tmp_path: Path) -> None:
    net, source = source_of(SCAFFOLD, 50, tmp_path)
    expected = all_anchors(source)
    ply = tmp_path / "x" / PLY
    content = ply.read_bytes()
    start = content.index(b"end_header\n") + 11
    names = [line.split()[2] for line in content[:start].split(b"\n") if b"property" in line]
    table = np.frombuffer(content[start:], "<f4").reshape(-1, len(names))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(1)).numpy()
    for kind, word in ((">f4", b"float"), ("<f8", b"double"), (">f8", b"double")):
        endian = b"big" if kind[0] == ">" else b"little"
        lines = [b"ply", b"format binary_" + endian + b"_endian 1.0", b"element vertex 50"]
        lines += [b"property " + word + b" " + names[i] for i in order]
        data = table[:, order].astype(kind).tobytes()
        ply.write_bytes(b"\n".join([*lines, b"end_header", b""]) + data)
        np.testing.assert_array_equal(all_anchors(opened(tmp_path / "x")), expected)
    assert len(net.anchor) == 50
