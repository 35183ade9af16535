"""Damaged coarse chunks: made again from what is below them, and told; nothing else is lost."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import RasterSettings
from rendering.frame import FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store import remade_chunks
from scene_store.build import BuildOptions, build_store
from scene_store.build.merging import foreign, merge, original
from scene_store.chunks import ChunkSource, EncodedChunk, ReadOutcome, gaussians_of
from scene_store.formats.ply import write_ply
from scene_store.ledger import Budgets, ChunkState
from scene_store.manifest import Profile
from scene_store.remade_chunks import RemadeChunks
from scene_store.residency_stats import ResidencyStats
from scene_store.store import Store, open_store
from scene_store.tree import LodTree
from splat.camera import Camera
from splat.errors import ChunkReadError
from splat.gaussians import Gaussians
from tests import scenes

BUDGETS = Budgets(64 << 20, 64 << 20)
PATIENCE_S = 20.0
FIELDS = ("means", "quats", "scales", "opacities", "sh")


def build_ball(folder: Path, profile: Profile) -> Path:
    """40,000 Gaussians in pages of 1,024."""
    ball = scenes.random_scene(3, 40_000, 1)
    write_ply(folder / "ball.ply", [ball], len(ball), 1)
    options = BuildOptions(profile=profile, page_gaussians=1024, threads=1)
    build_store([folder / "ball.ply"], folder / "ball.bvs", options)
    return folder / "ball.bvs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball in three levels and a root above them, every bit of it."""
    return build_ball(tmp_path_factory.mktemp("ball"), Profile.LOSSLESS)


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "ball.bvs"))


def flip(path: Path, chunk: int, stream: str = "geometry") -> None:
    """A byte in the middle of a chunk."""
    with open_store(path) as store:
        record = store._records[chunk]
        level = store.manifest.levels[int(record["level"])]
        file = level.geometry if stream == "geometry" else level.sh
        assert file is not None
        at = int(record[f"{stream}_offset"]) + int(record[f"{stream}_bytes"]) // 2
    with (path / file.name).open("r+b") as handle:
        handle.seek(at)
        value = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([value ^ 1]))


def remade(path: Path) -> RemadeChunks:
    return RemadeChunks(open_store(path))


def get(source: ChunkSource, chunk: int) -> Gaussians:
    encoded = source.read(chunk)
    assert encoded is not None
    return gaussians_of(source.decode(chunk, encoded))


def get_together(source: RemadeChunks, chunks: list[int]) -> list[Gaussians]:
    outcomes = source.read_many(chunks, lambda _: False)
    encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedChunk)]
    decoded = source.decode_many(chunks, encoded)
    assert not decoded.errors
    contents = gaussians_of(decoded.contents)
    return [contents[first : first + count] for first, count in decoded.rows.tolist()]


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


def inner(tree: LodTree, level: int) -> list[int]:
    return [int(node) for node in np.flatnonzero(tree.level == level)]


# ---- Chunks --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("stream", ["geometry", "sh"])
def test_a_chunk_is_merged_as_it_was_built(
    whole: Path, damaged: Path, level: int, stream: str
) -> None:
    """Of a lossless store: to the bit."""
    with remade(damaged) as source, open_store(whole) as expected:
        chunk = inner(source.tree, level)[-1]
        flip(damaged, chunk, stream)
        assert_same(get(source, chunk), get(expected, chunk))
        children = source.tree.child_count[chunk]
        (line,) = source.remade
        assert f"{stream}-0{level}.bin: chunk {chunk}: is damaged" in line
        assert line.endswith(f"remade from the {children} below it")
        others = [other for other in range(len(source.tree)) if other != chunk]
        for other, found in zip(others, get_together(source, others), strict=True):
            assert_same(found, get(expected, other))


def test_damage_below_damage_is_mended_first(whole: Path, damaged: Path) -> None:
    """All coarse files are gone: everything is made of the leaves, with the same bits."""
    with remade(damaged) as source, open_store(whole) as expected:
        for file in damaged.glob("*-*.bin"):
            if "-00" not in file.name:
                file.unlink()
        tree = source.tree
        found = get_together(source, list(range(len(tree))))
        for chunk, gaussians in enumerate(found):
            assert_same(gaussians, get(expected, chunk))
        assert len(source.remade) == np.count_nonzero(tree.child_count)
        assert "is missing" in source.remade[0]


def test_what_was_made_depends_on_nothing_that_is_kept(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remade(damaged) as source:
        tree = source.tree
        for chunk in [0, *tree.children(0)][:3]:
            flip(damaged, chunk)
        first = [get(source, chunk) for chunk in range(3)]
    monkeypatch.setattr(remade_chunks, "KEPT_BYTES", 0)
    with remade(damaged) as source:
        for chunk in (2, 1, 0):
            assert_same(get(source, chunk), first[chunk])
        assert not source._kept


def test_what_is_kept_is_bounded_and_the_coarsest(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remade(damaged) as source:
        tree = source.tree
        coarse = np.flatnonzero(tree.child_count).tolist()
        for chunk in coarse:
            flip(damaged, chunk)
        each = 1024 * (4 * 23 + 8)
        monkeypatch.setattr(remade_chunks, "KEPT_BYTES", 4 * each)
        get(source, 0)
        assert sum(kept.nbytes for kept in source._kept.values()) <= 4 * each
        assert {0, 1, 2} <= source._kept.keys(), "the coarsest"


def test_a_short_file_costs_nothing_above_the_leaves(whole: Path, damaged: Path) -> None:
    with remade(damaged) as source, open_store(whole) as expected:
        file = damaged / "geometry-01.bin"
        with file.open("r+b") as handle:
            handle.truncate(file.stat().st_size // 2)
        for chunk in inner(source.tree, 1):
            assert_same(get(source, chunk), get(expected, chunk))
        assert 0 < len(source.remade) < len(inner(source.tree, 1))
        assert all("ends at byte" in line for line in source.remade)


def test_a_lost_leaf_stays_lost_and_is_left_out_above(whole: Path, damaged: Path) -> None:
    with remade(damaged) as source, open_store(whole) as expected:
        tree = source.tree
        chunk = inner(tree, 1)[0]
        lost, *rest = tree.children(chunk)
        for each in (chunk, lost):
            flip(damaged, each)
        parts = [original(get(expected, leaf)) for leaf in rest]
        assert_same(get(source, chunk), merge(parts, int(tree.count[chunk])).gaussians)
        assert source.remade[0].endswith(f"from the {len(rest)} below it")
        with pytest.raises(ChunkReadError, match=f"chunk {lost}: is damaged"):
            get(source, lost)
        assert len(source.remade) == 1


def test_with_all_below_it_a_chunk_is_lost(damaged: Path) -> None:
    with remade(damaged) as source:
        chunk = inner(source.tree, 1)[0]
        for each in (chunk, *source.tree.children(chunk)):
            flip(damaged, each)
        for _ in range(2):
            with pytest.raises(ChunkReadError, match=f"chunk {chunk}: is damaged") as caught:
                get(source, chunk)
            assert not caught.value.transient
        encoded = source.read_many([chunk], lambda _: False)[0]
        assert isinstance(encoded, EncodedChunk)
        assert isinstance(source.decode_many([chunk], [encoded]).errors[0], ChunkReadError)
        assert source.remade == ()


def test_a_branch_that_is_left_stands_for_all(whole: Path, damaged: Path) -> None:
    """In as many Gaussians as the tree says."""
    with remade(damaged) as source, open_store(whole) as expected:
        tree = source.tree
        for chunk in inner(tree, 2):
            flip(damaged, chunk)
        for chunk in inner(tree, 1)[1:]:
            flip(damaged, chunk)
        for leaf in inner(tree, 0):
            if int(tree.parent[leaf]) != inner(tree, 1)[0]:
                flip(damaged, leaf)
        parent = int(tree.parent[inner(tree, 1)[0]])
        found = get(source, parent)
        left = [foreign(get(expected, inner(tree, 1)[0]), 1.0, 0.0)]
        assert_same(found, merge(left, int(tree.count[parent])).gaussians)
        assert len(found) == tree.count[parent]


class Faulty(Store):
    """A store whose reads fail as they are told."""

    failing: dict[int, ChunkReadError]

    @classmethod
    def of(cls, path: Path, failing: dict[int, ChunkReadError]) -> Faulty:
        with open_store(path) as store:
            reader = type(store._reader)(path)  # type: ignore[call-arg]
        faulty = cls(reader, path)
        faulty.failing = failing
        return faulty

    def read_many(
        self, chunks: Sequence[int], cancelled: Callable[[int], bool]
    ) -> list[ReadOutcome]:
        outcomes = super().read_many(chunks, cancelled)
        return [self.failing.get(c, o) for c, o in zip(chunks, outcomes, strict=True)]


def test_a_child_that_may_come_yet_is_waited_for(whole: Path, damaged: Path) -> None:
    flip(damaged, 0)
    stalled = ChunkReadError("https://example.org/geometry-01.bin", 2, "stalled", transient=True)
    with RemadeChunks(Faulty.of(damaged, {2: stalled})) as source:
        (encoded,) = source.read_many([0], lambda _: False)
        assert isinstance(encoded, EncodedChunk)
        error = source.decode_many([0], [encoded]).errors[0]
        assert isinstance(error, ChunkReadError) and error.transient and error.chunk == 0
        assert "stalled" in str(error) and source.remade == ()
        source.source.failing.clear()  # type: ignore[attr-defined]
        assert len(get(source, 0)) == source.tree.count[0]


def test_a_passing_fault_of_the_chunk_itself_is_not_mended(whole: Path) -> None:
    stalled = ChunkReadError("https://example.org/geometry-02.bin", 0, "stalled", transient=True)
    with RemadeChunks(Faulty.of(whole, {0: stalled})) as source:
        assert source.read_many([0, 1], lambda _: False)[0] is stalled


def test_the_log_has_a_line_for_each_file(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    (damaged / "geometry-01.bin").unlink()
    flip(damaged, 0)
    with remade(damaged) as source, caplog.at_level(logging.WARNING):
        for _ in range(2):
            get_together(source, list(range(len(source.tree))))
        assert len(caplog.messages) == 2 < len(source.remade)


def test_closing_ends_the_making(damaged: Path) -> None:
    source = remade(damaged)
    flip(damaged, 0)
    encoded = source.read(0)
    assert encoded is not None
    source.close()
    with pytest.raises(ChunkReadError):
        source.decode(0, encoded)


# ---- Pictures ------------------------------------------------------------------------------


def view(distance: float) -> Camera:
    return Camera.look_at(
        (0.4 * distance, -0.3 * distance, -distance), (0, 0, 0), (0, -1, 0),
        fov_y_rad=0.9, width=131, height=75,
    )  # fmt: skip


class Shown(NamedTuple):
    """A settled picture, what was drawn for it, and what was held."""

    color: NDArray[np.float32]
    chunks: tuple[int, ...]
    held: ResidencyStats


def show(source: ChunkSource, most: int = 1 << 40) -> Shown:
    rasterizer = NativeRasterizer()
    policy = StreamPolicy(most, fade_s=0.0)
    request = FrameRequest("a", 0, (view(7.0),), RasterSettings(threads=1))
    with closing(StreamedScene(source, rasterizer, BUDGETS, policy)) as scene:
        while True:
            with scene.acquire(request) as drawable:
                assert drawable.stream is not None
                if drawable.stream.complete:
                    image = rasterizer.render(drawable.scene, view(7.0), request.settings)
                    break
            assert scene.wait_until_settled(PATIENCE_S)
        assert image.color is not None
        return Shown(image.color, scene.drawn_chunks("a"), scene.stats())


def psnr_db(shown: Shown, wanted: Shown) -> float:
    return float(-10 * np.log10(np.mean((shown.color.astype(np.float64) - wanted.color) ** 2)))


@pytest.mark.parametrize("chunk", [0, 1])
def test_a_damaged_coarse_chunk_costs_no_detail(whole: Path, damaged: Path, chunk: int) -> None:
    """Everything arrives, the picture in full is the same to the bit, and it is told."""
    flip(damaged, chunk)
    expected, found = show(open_store(whole)), show(remade(damaged))
    assert np.ptp(found.color) > 0.5
    np.testing.assert_array_equal(found.color, expected.color)
    assert found.chunks == expected.chunks
    assert found.held.failures == () and found.held.chunks[ChunkState.FAILED] == 0
    assert found.held.chunks[ChunkState.DEVICE] == expected.held.chunks[ChunkState.DEVICE]
    (line,) = found.held.remade
    assert f"chunk {chunk}: is damaged" in line


def test_a_coarse_picture_is_nearly_what_it_was(tmp_path: Path) -> None:
    """Of a compact store: its root was made of what the leaves were before they were packed.
    So others are merged, as well as those."""
    path = build_ball(tmp_path, Profile.COMPACT)
    full, built = show(open_store(path)), show(open_store(path), 1024)
    for file in path.glob("*-0[1-3].bin"):
        file.unlink()
    found = show(remade(path), 1024)
    assert found.chunks == built.chunks == (0,)
    assert "chunk 0: is missing" in found.held.remade[0]
    assert psnr_db(found, full) == pytest.approx(psnr_db(built, full), abs=0.5)
