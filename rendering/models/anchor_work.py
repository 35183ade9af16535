"""The work of a frame of anchors: pages culled, decoded and packed for the engine, by threads."""

from __future__ import annotations

import itertools
import threading
import zlib
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from render_cache.derived_rule import PageSpheres
from rendering.base import ALPHA_CUT, CancelFlag, PagePool, PagingRasterizer, ScenePart
from rendering.models.anchor_frames import DecodedPage, FrameViews
from rendering.models.anchor_pages import AnchorPage, Float32Array, boxes_of
from rendering.models.anchors_native import AnchorCuller, Int32Array, NativeDecoder
from rendering.models.task_threads import TaskThreads
from splat.bounds import ViewVolume
from splat.gaussians import Gaussians

# Of the engine's pages: two of the native engine's runs at most, fewer where pages of anchors are
# small.
MOST_GAUSSIANS, LEAST_GAUSSIANS = 2048, 64
PAGES_A_RUN = 6  # by one call of the decoder: what is between fits the cache
RECENT_FRAMES = 16  # by which the memory is measured that the next one will take
WHOLE_SHARE = 0.9  # a page of which more is seen is decoded whole
# Engines draw nothing fainter; a little less, so that no rounding decides here.
LEAST_OPACITY = 0.999 * ALPHA_CUT


class PageWork(ABC):
    """Decodes pages of anchors for an engine. Safe to call from several threads.

    Args:
        offsets: Gaussians of an anchor.
        engine: That draws.

    Attributes:
        offsets: As given.
    """

    def __init__(self, offsets: int, engine: PagingRasterizer) -> None:
        self.offsets = offsets
        self._engine = engine
        self._pools: dict[int, PagePool] = {}
        self._used: deque[Counter[int]] = deque(maxlen=RECENT_FRAMES)
        self._making = threading.Lock()
        self._places: _Places | None = None

    def decode(
        self,
        pages: Sequence[AnchorPage],
        views: FrameViews,
        threads: int,
        cancel: CancelFlag,
    ) -> list[tuple[ScenePart, ...]]:
        """What the engine draws of each page of anchors that the views may show, as where nothing
        fades; none of others.

        Args:
            pages: Any number, in any order; the same one may come again.
            threads: That decode; 0 for one a core.

        Raises:
            RenderCancelled: If ``cancel`` was set meanwhile.
            BudgetError: If there is not enough memory.
        """
        culler = AnchorCuller([ViewVolume.of(camera) for camera in views.cameras])
        places = self._places_of(pages)
        which = np.flatnonzero(culler.pages_in_view(*places.boxes))
        visible = [pages[first] for first in places.firsts[which].tolist()]
        views.seen += int(places.counts[which].sum())
        decoded = self._decoded(visible, places.spheres[which], views, culler, threads, cancel)
        return [decoded.get(number, ()) for number in places.numbers]

    def _places_of(self, pages: Sequence[AnchorPage]) -> _Places:
        """Of the same pages as in the last frame it is known."""
        numbers = [page.number for page in pages]
        places = self._places
        if places is None or places.numbers != numbers:
            places = self._places = _Places.of(numbers, pages)
        return places

    def _decoded(
        self,
        pages: Sequence[AnchorPage],
        spheres: PageSpheres,
        views: FrameViews,
        culler: AnchorCuller,
        threads: int,
        cancel: CancelFlag,
    ) -> dict[int, tuple[ScenePart, ...]]:
        """By the pages' numbers."""
        ready: dict[int, tuple[ScenePart, ...]] = {}
        wanted = self._wanted(pages, spheres, views, culler, ready)
        if not wanted:
            return ready
        cutter = culler
        if (zoom := views.guard_zoom) != 1.0:
            cutter = AnchorCuller([ViewVolume.of(camera, zoom) for camera in views.cameras])
        done = self._decode_all(wanted, views, cutter, threads, cancel)
        for (page, _), packed in zip(wanted, done, strict=True):
            ready[page.number] = packed.parts
        self._keep_as_many(done)
        return ready

    @abstractmethod
    def _decode_all(
        self,
        wanted: Sequence[tuple[AnchorPage, bool]],
        views: FrameViews,
        cutter: AnchorCuller,
        threads: int,
        cancel: CancelFlag,
    ) -> list[DecodedPage]:
        """Pages decoded, which are kept for further frames.

        Args:
            wanted: Which, and whether as a whole even where not all of it is seen.
            views: From where; they hear how many anchors were decoded.
            cutter: Tells which anchors are seen.
        """

    def _wanted(
        self,
        pages: Sequence[AnchorPage],
        spheres: PageSpheres,
        views: FrameViews,
        culler: AnchorCuller,
        ready: dict[int, tuple[ScenePart, ...]],
    ) -> list[tuple[AnchorPage, bool]]:
        """Pages to decode, and whether as a whole; of the others, what is drawn goes to
        ``ready``."""
        if views.derived is None:
            return [(page, False) for page in pages]
        wanted: list[tuple[AnchorPage, bool]] = []
        cut: list[tuple[AnchorPage, DecodedPage]] = []
        missing: list[Float32Array] = []
        for page, kept in zip(pages, views.derived.find(spheres), strict=True):
            if kept is None:
                wanted.append((page, False))
            elif kept.missing is None:
                ready[page.number] = kept.parts
            else:
                cut.append((page, kept))
                missing.append(kept.missing)
        for (page, kept), is_seen in zip(cut, culler.any_in_view(missing).tolist(), strict=True):
            if is_seen:
                # It turned about a point, and may turn further: a page is cut no more than once.
                wanted.append((page, kept.is_for(views.center)))
            else:
                ready[page.number] = kept.parts
        return wanted

    def _pool_of(self, size: int) -> PagePool:
        pool = self._pools.get(size)
        if pool is None:
            with self._making:
                pool = self._pools.setdefault(size, self._engine.new_pool(size, 0))
        return pool

    def _keep_as_many(self, decoded: Sequence[DecodedPage]) -> None:
        """The next frame will decode about as many pages as some frame before, in the place of
        others: memory that is given back and taken again costs more than the packing."""
        used: Counter[int] = Counter()
        for done in decoded:
            used[done.room] += len(done.parts)
        with self._making:
            self._used.append(used)
            for room, pool in self._pools.items():
                pool.keep_free(max(each[room] for each in self._used))

    def trim(self) -> None:
        """Give back the engine's pages that are free."""
        with self._making:
            self._used.clear()
            for pool in self._pools.values():
                pool.keep_free(0)


class HostPageWork(PageWork):
    """The same by the processor's threads, whatever the engine.

    Args:
        decoder: Of the model.
        engine: That draws.
    """

    def __init__(self, decoder: NativeDecoder, engine: PagingRasterizer) -> None:
        super().__init__(decoder.offsets, engine)
        self._decoder = decoder
        self._threads = TaskThreads("anchors")
        self._own = threading.local()

    def _decode_all(
        self,
        wanted: Sequence[tuple[AnchorPage, bool]],
        views: FrameViews,
        cutter: AnchorCuller,
        threads: int,
        cancel: CancelFlag,
    ) -> list[DecodedPage]:
        workers = threads or self._threads.size
        # Where threads have no more than a run each, they are native ones: these wait for each
        # other less, and divide pages more evenly.
        size = max(1, len(wanted)) if len(wanted) <= workers * PAGES_A_RUN else PAGES_A_RUN
        runs = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        done: list[list[DecodedPage]] = [[] for _ in runs]
        within = workers if len(runs) == 1 else 1

        def task(number: int) -> int:
            chosen = [(page, _chosen(page, whole, cutter)) for page, whole in runs[number]]
            done[number] = self._packed(chosen, views, within)
            return sum(page.count if some is None else len(some) for page, some in chosen)

        views.decoded += self._threads.run(len(runs), threads, task, cancel)
        return [each for run in done for each in run]

    def _packed(
        self,
        pages: Sequence[tuple[AnchorPage, Int32Array | None]],
        views: FrameViews,
        threads: int,
    ) -> list[DecodedPage]:
        """Pages decoded, in the engine's memory, and kept."""
        anchors = sum(page.count if some is None else len(some) for page, some in pages)
        out = self._room_for(anchors * self.offsets)
        places = self._decoder.decode_many(pages, views.center, LEAST_OPACITY, out, threads)
        sizes = [self._page_size(page) for page, _ in pages]
        rows = [_rows_of(*place, size) for place, size in zip(places, sizes, strict=True)]
        parts: dict[int, Iterator[ScenePart]] = {}
        for size in set(sizes):
            those = [each for each, its in zip(rows, sizes, strict=True) if its == size]
            packed = self._pool_of(size).pack_many(out, np.concatenate(those), threads)
            parts[size] = map(ScenePart, packed)
        done = []
        for (page, some), size, its in zip(pages, sizes, rows, strict=True):
            kept = tuple(itertools.islice(parts[size], len(its)))
            missing = None
            if some is not None and views.derived is not None:
                missing = AnchorCuller.missing(page, some)
            size_bytes = len(kept) * self._pool_of(size).page_bytes
            size_bytes += 0 if missing is None else missing.nbytes
            done.append(DecodedPage(kept, size, missing, views.center, size_bytes))
        if views.derived is not None:
            views.derived.keep_all(
                (page.number, each, each.size_bytes)
                for (page, _), each in zip(pages, done, strict=True)
            )
        return done

    def _page_size(self, page: AnchorPage) -> int:
        """Room of the engine's pages for a page of anchors: a power of two."""
        most = max(1, page.count * self.offsets)
        return min(MOST_GAUSSIANS, max(LEAST_GAUSSIANS, 1 << (most - 1).bit_length()))

    def _room_for(self, count: int) -> Gaussians:
        """Memory that this thread keeps from page to page."""
        room: Gaussians | None = getattr(self._own, "room", None)
        if room is None or len(room) < count:
            room = self._own.room = Gaussians.allocate(count, 0)
        return room


def _chosen(page: AnchorPage, whole: bool, cutter: AnchorCuller) -> Int32Array | None:
    """Anchors of a page that are to be decoded; None for all of them."""
    if whole:
        return None
    chosen = cutter.anchors_in_view(page)
    return None if len(chosen) > WHOLE_SHARE * page.count else chosen


def _rows_of(first: int, count: int, size: int) -> NDArray[np.int64]:
    """[P, 2] first row and number of rows of each page that ``count`` Gaussians fill, from a row
    on."""
    rows = np.full((-(-count // size), 2), size, np.int64)
    rows[:, 0] = range(first, first + count, size)
    rows[-1:, 1] = first + count - rows[-1:, 0]
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where pages are; it keeps none of them.

    Attributes:
        numbers: Of the pages, in order; some may come again.
        firsts: [P] int64, where each of P pages comes first.
        boxes: [P, 3] low and high corners, and [P] largest deviations, of their Gaussians.
        spheres: Of their anchors.
        counts: [P] int64, of their anchors.
    """

    numbers: list[int]
    firsts: NDArray[np.int64]
    boxes: tuple[Float32Array, Float32Array, Float32Array]
    spheres: PageSpheres
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: list[int], pages: Sequence[AnchorPage]) -> _Places:
        first_of: dict[int, int] = {}
        for at, number in enumerate(numbers):
            first_of.setdefault(number, at)
        firsts = list(first_of.values())
        pages = [pages[at] for at in firsts]
        spheres = PageSpheres(
            np.array([page.number for page in pages], np.int64),
            np.array([page.middle for page in pages]).reshape(-1, 3),
            np.array([page.radius for page in pages]),
            # By where they are: as in the memories of other devices.
            np.array([zlib.crc32(page.middle.tobytes()) for page in pages], np.int64),
        )
        counts = np.array([page.count for page in pages], np.int64)
        return cls(numbers, np.array(firsts, np.int64), boxes_of(pages), spheres, counts)
