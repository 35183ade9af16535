"""Gaussians in a GPU's memory: pages that kernels read where they lie.

Pages (``rendering.page_packing`` says what is in them) are cut from slabs, written into pinned
memory, and copied beside the frames (``scene_store.transfer``). A page knows the mark of its copy:
the first frame that draws it waits for that on the device.

A page never moves: where memory is to be given back there is a copy of it in another place
(``FusedPagePool.moved``), and the old one goes with the last frame that draws it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.cuda_faults import faults_of
from rendering.device import DeviceLost
from rendering.memory_cuda import free_cached_blocks
from rendering.page_packing import PAGE_GAUSSIANS, Words, pack_pages, page_words, rest_rows
from rendering.page_slabs import Place, SlabPool
from scene_store.staging import OVER, WORD_BYTES, Mark, TransferStalled
from scene_store.transfer import Fill, Target, Transfer, transfer_to
from splat.cores import usable_cores
from splat.gaussians import Gaussians

__all__ = [
    "PAGE_GAUSSIANS",
    "DevicePage",
    "FusedPagePool",
    "PageMemory",
    "page_words",
    "rest_rows",
]

SLAB_BYTES = 32 << 20
SCENE_SLAB_BYTES = 256 << 20  # of a scene that is there as a whole
MOST_PACKERS = 8  # threads that pack such a scene; more than that wait for one another
MOST_MOVES = 256  # at a time: a few milliseconds of who has them moved
ALIGNED_WORDS = 16


class _WithWeakReferences:
    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False)
class DevicePage(_WithWeakReferences):
    """Gaussians in a page, or rows that are made Gaussians of.

    Attributes:
        place: Its memory, until nobody has the page any more.
        words: [at least page_words] float32, on the device.
        count: So many.
        room: For so many, an even number.
        sh_degree: Of what it holds.
        copied: When it is there; kernels that are launched before that read something else.
    """

    place: Place
    words: Tensor
    count: int
    room: int
    sh_degree: int
    copied: Mark = OVER

    @property
    def address(self) -> int:
        """Where kernels find it."""
        return self.words.data_ptr()


class DevicePagePool:
    """Pages of one size in a device's memory, whatever they hold; it is for others to make pages.

    Args:
        transfer: To the device.
        device: For messages.
        words: Of a page.
        slab_pages: Pages that are taken from the device at once, at most; None for ``SLAB_BYTES``
            of them.

    Raises:
        BudgetError: If a page is more than what transfers go through.
    """

    def __init__(
        self, transfer: Transfer, device: torch.device, words: int, slab_pages: int | None = None
    ) -> None:
        self._transfer, self._device = transfer, device
        self._words = -(-words // ALIGNED_WORDS) * ALIGNED_WORDS
        transfer.require(self._words)
        self._slabs = SlabPool(self._new_slab, slab_pages or max(1, SLAB_BYTES // self.page_bytes))

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes."""
        return WORD_BYTES * self._words

    @property
    def held_bytes(self) -> int:
        """Of the device, for pages in use and others."""
        return self._slabs.pages * self.page_bytes

    @property
    def pages_in_use(self) -> int:
        """Pages that hold anything."""
        return self._slabs.pages_in_use

    def keep_free(self, pages: int) -> None:
        """Hold at most so many unused pages, but for those of slabs in use."""
        self._slabs.keep_free(pages)
        self._tell_driver()

    def trim(self) -> None:
        """Let go of what nobody uses: the driver has it again."""
        self._slabs.trim()
        self._tell_driver()

    def limit(self, most_bytes: int) -> None:
        """Hold no more than that from now on, but for pages in use; see ``is_loose``."""
        self._slabs.limit(most_bytes // self.page_bytes)

    def is_loose(self) -> bool:
        """Whether it holds more, and could do with less if pages ``moved``. The driver has again
        what went since."""
        loose = self._slabs.is_loose()
        self._tell_driver()
        return loose

    def _moved(self, pages: Iterable[DevicePage]) -> dict[DevicePage, DevicePage]:
        """Copies of those pages that should move, elsewhere; not all of them at once.

        Raises:
            DeviceLost: If it does nothing any more.
        """
        by_place = {page.place: page for page in pages}
        moves = self._slabs.leave(by_place, MOST_MOVES)
        if not moves:
            return {}
        try:
            with faults_of(self._device, f"{len(moves)} pages that move", in_use=True):
                mark = self._transfer.move(
                    [(by_place[before].words, self._words_of(after)) for before, after in moves]
                )
        except BaseException:
            for _, after in moves:
                self._slabs.give_back(after)
            raise
        return {
            by_place[before]: self._known(
                replace(by_place[before], place=after, words=self._words_of(after), copied=mark)
            )
            for before, after in moves
        }

    def _sent(self, count: int, doing: str, fill: Fill, threads: int) -> list[tuple[Place, Mark]]:
        """Pages that were filled on the host, and copied.

        Args:
            count: Of pages.
            doing: What for, for messages.
            fill: Writes pages into [n, words], the first of them being of that number.
            threads: That fill them.

        Raises:
            BudgetError: If the device has no memory for them.
            DeviceLost: If it does not take them any more.
        """
        with faults_of(self._device, doing, in_use=True):
            places = self._slabs.take(count)
            try:
                marks = self._send(places, fill, threads)
            except BaseException as error:
                for place in places:
                    self._slabs.give_back(place)
                if isinstance(error, TransferStalled):
                    raise DeviceLost(f"{self._device}: {error}") from error
                raise
        return list(zip(places, marks, strict=True))

    def _taken(self, count: int, doing: str) -> list[Place]:
        """Pages of any content, for kernels to write."""
        with faults_of(self._device, doing, in_use=True):
            return self._slabs.take(count)

    def _tell_driver(self) -> None:
        """Torch keeps what is freed for later."""
        if self._slabs.has_shrunk():
            free_cached_blocks(self._device)

    def _new_slab(self, pages: int) -> Tensor:
        words: Tensor = self._transfer.copier.device_words(pages * self._words)
        return words

    def _words_of(self, place: Place) -> Tensor:
        first = place.number * self._words
        words: Tensor = place.slab.memory[first : first + self._words]
        return words

    def _known(self, page: DevicePage) -> DevicePage:
        """Its place comes back with its last reference."""
        weakref.finalize(page, self._slabs.give_back, page.place).atexit = False
        return page

    def _send(self, places: list[Place], fill: Fill, threads: int) -> list[Mark]:
        def send(first: int, end: int) -> list[Mark]:
            def fill_some(words: Words, at: int) -> None:
                fill(words, first + at)

            return self._transfer.send(self._targets(places[first:end]), self._words, fill_some)

        step = self._transfer.batch_pieces(self._words)
        if threads == 1 or len(places) <= step:
            return send(0, len(places))
        firsts = range(0, len(places), step)
        with ThreadPoolExecutor(threads, "packing") as packers:
            sent = packers.map(send, firsts, [min(f + step, len(places)) for f in firsts])
            return [mark for marks in sent for mark in marks]

    def _targets(self, places: Sequence[Place]) -> list[Target]:
        """Neighbours are copied together."""
        targets = []
        at = 0
        while at < len(places):
            slab, first, end = places[at].slab, places[at].number, at + 1
            while end < len(places) and (
                places[end].slab is slab and places[end].number == first + end - at
            ):
                end += 1
            words = slab.memory[first * self._words : (first + end - at) * self._words]
            targets.append(Target(end - at, words))
            at = end
        return targets


class FusedPagePool(DevicePagePool):
    """Pages of Gaussians in a device's memory; see ``rendering.base.PagePool``.

    Args:
        transfer, device, slab_pages: As of ``DevicePagePool``.
        page_gaussians: Of a page.
        sh_degree: Of those, at most.

    Raises:
        BudgetError: If a page is more than what transfers go through.
    """

    def __init__(
        self,
        transfer: Transfer,
        device: torch.device,
        page_gaussians: int,
        sh_degree: int,
        slab_pages: int | None = None,
    ) -> None:
        self._page_gaussians, self._sh_degree = page_gaussians, sh_degree
        self._room = page_gaussians + page_gaussians % 2
        super().__init__(transfer, device, page_words(sh_degree, self._room), slab_pages)

    def pack(self, gaussians: Gaussians) -> DevicePage:
        """Gaussians in a page of their own; see ``rendering.base.PagePool``."""
        return self.pack_many(gaussians, np.array([[0, len(gaussians)]], np.int64))[0]

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> Sequence[DevicePage]:
        """Rows of Gaussians in pages of their own; see ``rendering.base.PagePool``.

        Args:
            gaussians, rows: As there.
            threads: That write them; one, as loaders do while frames are drawn.

        Raises:
            BudgetError: If the device has no memory for them.
            DeviceLost: If it does not take them any more.
        """
        if (rows[:, 1] > self._page_gaussians).any():
            raise ValueError(f"more Gaussians than fit a page of {self._page_gaussians:,}")
        if gaussians.sh_degree > self._sh_degree:
            raise ValueError(f"harmonics of more than degree {self._sh_degree} do not fit a page")

        def fill(words: Words, at: int) -> None:
            pack_pages(gaussians, rows[at : at + len(words)], self._room, words)

        doing = f"{int(rows[:, 1].sum()):,} more Gaussians"
        sent = self._sent(len(rows), doing, fill, threads)
        return [
            self._page(place, count, gaussians.sh_degree, mark)
            for (place, mark), count in zip(sent, rows[:, 1].tolist(), strict=True)
        ]

    def blank(self, counts: Sequence[int]) -> list[DevicePage]:
        """Pages of degree 0 for so many Gaussians each, which kernels are to write, headers
        included, before anything reads them.

        Raises:
            BudgetError: If the device has no memory for them.
        """
        if max(counts, default=0) > self._page_gaussians:
            raise ValueError(f"more Gaussians than fit a page of {self._page_gaussians:,}")
        places = self._taken(len(counts), f"{sum(counts):,} more Gaussians")
        return [self._page(p, count, 0, OVER) for p, count in zip(places, counts, strict=True)]

    def moved(self, pages: Iterable[DevicePage]) -> dict[DevicePage, DevicePage]:
        """Copies of those pages that should move, elsewhere; not all of them at once.

        Memory goes back when nobody has the old ones any more.

        Args:
            pages: In use, of this pool.

        Raises:
            DeviceLost: If it does nothing any more.
        """
        return self._moved(pages)

    def _page(self, place: Place, count: int, sh_degree: int, copied: Mark) -> DevicePage:
        return self._known(
            DevicePage(place, self._words_of(place), count, self._room, sh_degree, copied)
        )


class RowPagePool(DevicePagePool):
    """Pages of rows of numbers in a device's memory, a column after the other: what kernels make
    Gaussians of.

    Args:
        transfer, device: As of ``DevicePagePool``.
        width: Numbers of a row.
        page_rows: Rows of a page.

    Raises:
        BudgetError: If a page is more than what transfers go through.
    """

    def __init__(
        self, transfer: Transfer, device: torch.device, width: int, page_rows: int
    ) -> None:
        self._width = width
        self._room = -(-page_rows // ALIGNED_WORDS) * ALIGNED_WORDS
        super().__init__(transfer, device, width * self._room)

    def pack_rows(self, data: Words, rows: NDArray[np.int64]) -> list[DevicePage]:
        """Rows in pages of their own: all of them, or none. Column c of row i of a page is word
        ``c · room + i``; what is beyond its rows may be anything that is a number.

        Args:
            data: [n, width] of all pages.
            rows: [P, 2] first row and number of rows of each page.

        Raises:
            BudgetError: If the device has no memory for them.
            DeviceLost: If it does not take them any more.
        """

        def fill(words: Words, at: int) -> None:
            for page, (first, count) in zip(words, rows[at:].tolist(), strict=False):
                columns = page[: self._width * self._room].reshape(self._width, self._room)
                columns[:, :count] = data[first : first + count].T
                columns[:, count:] = 0.0

        sent = self._sent(len(rows), f"{int(rows[:, 1].sum()):,} more rows", fill, 1)
        return [
            self._known(DevicePage(place, self._words_of(place), count, self._room, 0, mark))
            for (place, mark), count in zip(sent, rows[:, 1].tolist(), strict=True)
        ]

    def moved_rows(self, pages: Iterable[DevicePage]) -> dict[DevicePage, DevicePage]:
        """As of ``FusedPagePool.moved``."""
        return self._moved(pages)


class PageMemory:
    """All pages that one engine has on its device.

    Args:
        device: Of CUDA; the processor under Triton's interpreter.
        transfer: To it; None for one of its own.
    """

    def __init__(self, device: torch.device, transfer: Transfer | None = None) -> None:
        self._device = device
        with faults_of(device, "the memory that scenes go through"):
            self._transfer = transfer or transfer_to(device)
        self._lock = threading.Lock()
        self._pools: weakref.WeakSet[DevicePagePool] = weakref.WeakSet()

    @property
    def held_bytes(self) -> int:
        """What pages take of the device."""
        return sum(pool.held_bytes for pool in self._all_pools())

    def new_pool(
        self, page_gaussians: int, sh_degree: int, slab_pages: int | None = None
    ) -> FusedPagePool:
        """A pool; arguments as of ``FusedPagePool``."""
        pool = FusedPagePool(self._transfer, self._device, page_gaussians, sh_degree, slab_pages)
        with self._lock:
            self._pools.add(pool)
        return pool

    def new_row_pool(self, width: int, page_rows: int) -> RowPagePool:
        """A pool of rows; arguments as of ``RowPagePool``."""
        pool = RowPagePool(self._transfer, self._device, width, page_rows)
        with self._lock:
            self._pools.add(pool)
        return pool

    def upload(self, gaussians: Gaussians) -> Sequence[DevicePage]:
        """Consecutive Gaussians in pages; the memory goes when the last page does.

        Raises:
            BudgetError: If the device has no memory for them.
            DeviceLost: If it does not take them any more.
        """
        firsts = np.arange(0, len(gaussians), PAGE_GAUSSIANS, dtype=np.int64)
        counts = np.minimum(PAGE_GAUSSIANS, len(gaussians) - firsts)
        size = WORD_BYTES * page_words(gaussians.sh_degree)
        slabs = max(1, -(-len(firsts) * size // SCENE_SLAB_BYTES))
        slab_pages = max(1, -(-len(firsts) // slabs))
        pool = self.new_pool(PAGE_GAUSSIANS, gaussians.sh_degree, slab_pages)
        rows = np.stack([firsts, counts], axis=1)
        threads = min(MOST_PACKERS, usable_cores())
        return pool.pack_many(gaussians, rows, threads)

    def frame_begins(self, pages: Sequence[DevicePage]) -> None:
        """What the calling thread launches from now on finds these pages in their place."""
        self._transfer.frame_begins(lambda: {page.copied for page in pages})

    def trim(self) -> None:
        """Let go of what nobody uses."""
        for pool in self._all_pools():
            pool.trim()

    def _all_pools(self) -> list[DevicePagePool]:
        with self._lock:
            return list(self._pools)
