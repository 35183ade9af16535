"""Pages of Gaussians on a device: what is in them, whose they are, and how they get there."""

from __future__ import annotations

import gc
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)

import torch

from rendering.base import ALPHA_CUT
from rendering.device import DeviceLost
from rendering.fused_pages import DevicePage, FusedPagePool, PageMemory
from rendering.page_packing import HEADER_WORDS, PAGE_GAUSSIANS, pack_pages, page_words
from scene_store.staging import MIB
from scene_store.transfer import HostCopier, Transfer
from splat.errors import BudgetError
from splat.gaussians import Gaussians
from tests.late_copier import Device, LateCopier, StreamCopier
from tests.scenes import random_scene

CPU = torch.device("cpu")
ROOM = 64


def words_of(page: DevicePage) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(page.words)


def unpacked(page: DevicePage) -> Gaussians:
    """What a kernel reads of it."""
    words, room, count = words_of(page), page.room, page.count
    rows = words[HEADER_WORDS : HEADER_WORDS + 14 * room].reshape(14, room)[:, :count].T
    sh = np.zeros((count, (page.sh_degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = rows[:, 11:14]
    if page.sh_degree:
        tail = words[HEADER_WORDS + 14 * room :]
        coefficients = 3 * (sh.shape[1] - 1)
        halves = tail[room : room + coefficients * room // 2].view(np.int16)
        rest = halves.reshape(coefficients, room)[:, :count].T * tail[:count, None]
        sh[:, 1:] = rest.reshape(count, coefficients // 3, 3)
    return Gaussians(rows[:, :3], rows[:, 3:7], rows[:, 7:10], np.exp2(rows[:, 10]), sh)


def assert_same(found: Gaussians, scene: Gaussians) -> None:
    np.testing.assert_array_equal(found.means, scene.means)
    np.testing.assert_array_equal(found.scales, scene.scales)
    np.testing.assert_array_equal(found.sh[:, 0], scene.sh[:, 0])
    lengths = np.linalg.norm(scene.quats, axis=1, keepdims=True)
    np.testing.assert_allclose(found.quats, scene.quats / lengths, rtol=1e-6)
    np.testing.assert_allclose(found.opacities, scene.opacities, rtol=1e-6)
    step = np.abs(scene.sh[:, 1:]).max(axis=(1, 2), keepdims=True, initial=0) / 32767
    assert (np.abs(found.sh - scene.sh)[:, 1:] <= 0.51 * step).all()


def pool_of(copier: Any, degree: int = 3, slab_pages: int = 4, **more: Any) -> FusedPagePool:
    return FusedPagePool(Transfer(copier, **more), CPU, ROOM, degree, slab_pages)


# --- What is in them ------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(4))
def test_pages_hold_what_was_packed(degree: int) -> None:
    scene = random_scene(3, 500, degree)
    pool = pool_of(HostCopier(), degree)
    rows = np.array([[0, 64], [64, 64], [128, 64], [200, 3], [203, 64], [430, 64], [7, 0]])
    for page, (first, count) in zip(pool.pack_many(scene, rows), rows.tolist(), strict=True):
        assert (page.count, page.room, page.sh_degree) == (count, ROOM, degree)
        assert_same(unpacked(page), scene[slice(first, first + count)])


@pytest.mark.parametrize("degree", [0, 2])
def test_pages_written_together_are_those_written_alone(degree: int) -> None:
    scene, length = random_scene(5, 1200, degree), page_words(degree, ROOM)
    rows = np.array([[0, 64], [64, 64], [128, 9], [137, 9], [146, 64], [64, 64], [900, 1]])
    together, alone = (np.full((len(rows), length + 3), 7, np.float32) for _ in range(2))
    pack_pages(scene, rows, ROOM, together)
    for at in range(len(rows)):
        pack_pages(scene, rows[at : at + 1], ROOM, alone[at : at + 1])
    assert together.tobytes() == alone.tobytes()
    assert (together[:, length:] == 7).all()


def test_the_header_bounds_the_page() -> None:
    scene = random_scene(2, 90, 1)
    scene.opacities[:] = np.linspace(0.0, 4.0, 90, dtype=np.float32)
    pages = pool_of(HostCopier(), 1).pack_many(scene, np.array([[0, 64], [64, 26]]))
    for page, part in zip(pages, (scene[slice(0, 64)], scene[slice(64, 90)]), strict=True):
        header = words_of(page)[:HEADER_WORDS]
        np.testing.assert_array_equal(header[:3], part.means.min(axis=0))
        np.testing.assert_array_equal(header[3:6], part.means.max(axis=0))
        reach = np.sqrt(1 + np.log(part.opacities.clip(1)) / -np.log(ALPHA_CUT))
        np.testing.assert_allclose(header[6], (part.scales.max(axis=1) * reach).max(), rtol=1e-6)
        assert not header[7:].any()


def test_what_is_not_a_number_hides_no_page() -> None:
    scene, whole = random_scene(2, 64, 0), random_scene(2, 64, 0)
    scene.means[3, 1] = scene.scales[5, 0] = scene.opacities[7] = np.nan
    with np.errstate(invalid="ignore"):
        page = pool_of(HostCopier(), 0).pack(scene)
    header, others = words_of(page)[:7], np.delete(np.arange(64), [3, 5, 7])
    assert np.isfinite(header).all()
    assert (header[:3] <= whole.means[others].min(axis=0)).all()
    assert (header[3:6] >= whole.means[others].max(axis=0)).all()
    assert header[6] >= whole.scales[others].max()


def test_black_harmonics_and_no_opacity_are_numbers() -> None:
    scene = random_scene(2, 8, 3)
    scene.sh[:, 1:] = 0
    scene.opacities[:] = 0
    page = pool_of(HostCopier()).pack(scene)
    found = unpacked(page)
    assert not found.sh[:, 1:].any() and not found.opacities.any()


def test_lower_degrees_fit_and_higher_do_not() -> None:
    pool = pool_of(HostCopier(), 1)
    assert_same(unpacked(pool.pack(random_scene(1, 60, 0))), random_scene(1, 60, 0))
    with pytest.raises(ValueError, match="degree 1"):
        pool.pack(random_scene(1, 60, 2))


# --- Whose they are -------------------------------------------------------------------------


def test_a_page_comes_back_with_its_last_reference() -> None:
    pool = pool_of(HostCopier())
    first, second = pool.pack(random_scene(1, 9)), pool.pack(random_scene(2, 9))
    held = [first]
    address = second.address
    del first, second
    assert pool.pages_in_use == 1
    again = pool.pack(random_scene(3, 9))
    assert again.address == address
    held.clear()
    assert pool.pages_in_use == 1


def test_pages_in_a_cycle_come_back_too() -> None:
    pool = pool_of(HostCopier())
    cycle: list[object] = [pool.pack(random_scene(1, 9))]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert pool.pages_in_use == 0


def test_unused_memory_goes_when_it_is_not_to_be_kept() -> None:
    memory = PageMemory(CPU, Transfer(HostCopier()))
    pool = memory.new_pool(ROOM, 3, 4)
    pages = pool.pack_many(random_scene(1, 64 * 8), np.array([[64 * i, 64] for i in range(8)]))
    assert memory.held_bytes == 8 * pool.page_bytes
    del pages
    assert memory.held_bytes == 8 * pool.page_bytes
    pool.keep_free(4)
    assert memory.held_bytes == 4 * pool.page_bytes
    memory.trim()
    assert memory.held_bytes == 0


def test_a_whole_scene_is_in_pages_and_goes_with_them() -> None:
    memory = PageMemory(CPU, Transfer(HostCopier()))
    scene = random_scene(1, 2 * PAGE_GAUSSIANS + 5, 2)
    pages = memory.upload(scene)
    assert [page.count for page in pages] == [1024, 1024, 5]
    assert_same(unpacked(pages[1]), scene[slice(1024, 2048)])
    assert memory.held_bytes == 3 * 4 * page_words(2)
    assert len(memory.upload(Gaussians.empty())) == 0
    del pages
    gc.collect()
    assert memory.held_bytes == 0


# --- How they get there ---------------------------------------------------------------------


def test_many_threads_load_while_copies_are_late() -> None:
    copier = LateCopier()
    pool = pool_of(copier, ring_bytes=MIB // 4)
    scenes = [random_scene(seed, 150) for seed in range(16)]
    rows = np.array([[0, 64], [64, 64], [128, 22]])
    with Device(copier, 3), ThreadPoolExecutor(4) as threads:
        packed = list(threads.map(lambda scene: pool.pack_many(scene, rows), scenes))
    for pages, scene in zip(packed, scenes, strict=True):
        for page, (first, count) in zip(pages, rows.tolist(), strict=True):
            assert page.copied.is_over()
            assert_same(unpacked(page), scene[slice(first, first + count)])


def test_a_scene_goes_in_few_copies() -> None:
    copier = LateCopier()
    memory = PageMemory(CPU, Transfer(copier, ring_bytes=8 * MIB))
    with Device(copier):
        pages = memory.upload(random_scene(1, 40 * PAGE_GAUSSIANS, 0))
    marks = {id(page.copied) for page in pages}
    assert len(marks) <= -(-40 * 4 * page_words(0) // MIB) + 1


@pytest.mark.parametrize("room_pages", [0, 3, 4, 7])
def test_no_memory_is_a_budget_error_and_all_or_none(room_pages: int) -> None:
    copier = LateCopier()
    pool = pool_of(copier)
    copier.room = room_pages * pool.page_bytes // 4
    rows = np.array([[0, 64], [64, 64], [128, 22], [0, 5], [0, 5], [0, 5], [0, 5], [0, 5]])
    with Device(copier):
        with pytest.raises(BudgetError, match="has no memory for 175 more Gaussians"):
            pool.pack_many(random_scene(1, 150), rows)
        assert pool.pages_in_use == 0
        if room_pages >= 4:
            assert len(pool.pack_many(random_scene(1, 150), rows[:3])) == 3


def test_pages_that_can_never_be_sent_are_refused_at_once() -> None:
    with pytest.raises(BudgetError, match="build the store with smaller pages"):
        pool_of(HostCopier(), ring_bytes=4 * page_words(3, ROOM) - 4)


def test_a_device_that_takes_nothing_is_lost() -> None:
    pool = pool_of(LateCopier(), ring_bytes=64 * 1024, patience_s=0.05)
    scene, rows = random_scene(1, 64), np.tile(np.array([[0, 64]]), (40, 1))
    with pytest.raises(DeviceLost, match="no copy to the device ended"):
        pool.pack_many(scene, rows)
    assert pool.pages_in_use == 0


def test_a_device_that_is_lost_amid_uploads_keeps_no_pages() -> None:
    class Lost(LateCopier):
        def copy(self, source: Any, target: Any) -> None:
            if len(self.under_way) == 2:
                raise RuntimeError("CUDA error: unspecified launch failure\nmore")
            super().copy(source, target)

    for threads in (1, 3):
        pool = pool_of(Lost(), ring_bytes=64 * 1024)
        scene, rows = random_scene(1, 64), np.tile(np.array([[0, 64]]), (40, 1))
        with pytest.raises(DeviceLost, match=r"unspecified launch failure$"):
            pool.pack_many(scene, rows, threads)
        assert pool.pages_in_use == 0


# --- How they move --------------------------------------------------------------------------


def test_pages_that_move_are_the_same_and_old_ones_stay_as_long_as_they_are_drawn() -> None:
    copier = StreamCopier()
    pool = pool_of(copier, 1, slab_pages=4)
    scene = random_scene(4, 32 * ROOM, 1)
    rows = np.array([[ROOM * i, ROOM] for i in range(32)])
    pages = dict(enumerate(pool.pack_many(scene, rows)))
    for gone in set(range(32)) - set(range(0, 32, 3)):
        del pages[gone]
    full = pool.held_bytes
    assert full == 32 * pool.page_bytes
    pool.limit(12 * pool.page_bytes)
    assert pool.is_loose()
    moved = pool.moved(pages.values())
    drawn = list(moved)
    for number, page in pages.items():
        pages[number] = moved.get(page, page)
    assert all(not page.copied.is_over() for page in moved.values())
    memory_marks = {page.copied for page in moved.values()}
    pool._transfer.frame_begins(lambda: memory_marks)
    assert all(mark.held == 1 for mark in memory_marks)  # type: ignore[attr-defined]
    copier.finish_all()
    assert pool.held_bytes == full, "a frame draws the old ones"
    numbers = {id(page): number for number, page in pages.items()}
    for page in drawn:
        number = numbers[id(moved[page])]
        assert_same(unpacked(page), scene[slice(ROOM * number, ROOM * (number + 1))])
    del drawn, moved, page
    for number, page in pages.items():
        assert_same(unpacked(page), scene[slice(ROOM * number, ROOM * (number + 1))])
    assert pool.pages_in_use == len(pages) == 11
    assert pool.held_bytes == 12 * pool.page_bytes
    assert not pool.is_loose()


def test_pages_that_cannot_move_stay_where_they_are() -> None:
    class Lost(LateCopier):
        def mark(self) -> Any:
            if self.lost:
                raise RuntimeError("CUDA error: the launch timed out and was terminated")
            return super().mark()

    copier = Lost()
    pool = pool_of(copier, 0)
    pages = pool.pack_many(random_scene(1, 64, 0), np.tile(np.array([[0, 64]]), (16, 1)))
    pages = pages[::4]
    pool.limit(4 * pool.page_bytes)
    assert pool.is_loose()
    copier.lost = True
    with pytest.raises(DeviceLost, match="timed out"):
        pool.moved(pages)
    assert pool.pages_in_use == 4
