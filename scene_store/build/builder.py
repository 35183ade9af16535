"""From scenes to a store: the stages of a build, and how an interrupted one goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scene_store.build.dealing import Dealing, deal_out
from scene_store.build.estimate import cache_bytes, estimate_size, own_levels, store_degree
from scene_store.build.feed import Feed
from scene_store.build.grid import MortonGrid
from scene_store.build.interrupted import Interrupted, UnusableStateError, refusal, what_is_left
from scene_store.build.journal import Checkpoint, Journal, Sorted
from scene_store.build.leaves import next_leaf
from scene_store.build.node_log import NodeLog
from scene_store.build.options import (
    DEFAULT_OPTIONS,
    BuildOptions,
    BuildProgress,
    BuildReport,
    Stage,
    silent,
    suitable_page,
)
from scene_store.build.partition import (
    Buckets,
    bucket_count,
    bucket_limits,
    fits_in_memory,
    read_run,
)
from scene_store.build.pyramid import Pyramid
from scene_store.build.rows import row_bytes, row_width
from scene_store.build.sources import Fingerprint, open_sources
from scene_store.chunks import EncodedChunk
from scene_store.manifest import MAX_NOTES, MAX_SOURCES, MAX_TEXT, StoreInfo
from scene_store.outline import NO_SAMPLE, OutlineSampler, outline_of
from scene_store.page_codec import encode_chunk
from scene_store.sampling import Count, full_sample, quick_sample
from scene_store.scene import SceneSource
from scene_store.statistics import likely_up
from scene_store.store_folder import partial_folder, require_free
from scene_store.store_writer import StoreWriter, WriterState
from splat.atomic_file import cannot_write
from splat.errors import BudgetError, OutputError, SceneFormatError, SettingsError
from splat.gaussians import Gaussians
from splat.text import counted

logger = logging.getLogger(__name__)

_AHEAD_PER_WORKER = 4
_AHEAD_SHARE = 0.25  # of the memory, for nodes in the making


def build_store(
    scenes: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    options: BuildOptions = DEFAULT_OPTIONS,
    progress: BuildProgress = silent,
) -> BuildReport:
    """Builds a store of one scene, or of several in the same coordinates.

    The same scenes and options give the same bytes, whatever memory and threads there are and
    however often the build was interrupted. A build that was killed, or stopped by Ctrl-C or an
    exception of ``progress``, leaves ``PATH.partial``; the same call continues it.

    Args:
        scenes: Files or folders of any format, ``town`` or ``town:N``.
        path: The store to be, conventionally ``*.bvs``.
        options: How to build.
        progress: Hears what is done.

    Raises:
        SceneError: If a scene cannot be read, holds nothing, or has changed meanwhile.
        OutputError: If the store cannot be written, or the disk has no room for it.
        BudgetError: If memory runs out.
        SettingsError: If there are too many scenes.
    """
    started = time.monotonic()
    names = [os.fspath(scene) for scene in scenes]
    if len(names) > MAX_SOURCES:
        raise SettingsError(
            f"a store is built from at most {MAX_SOURCES:,} scenes, not {len(names):,}; build "
            f"stores of some of them"
        )
    target = Path(path)
    try:
        with _Build(names, target, options, progress) as build:
            return build.run(started)
    except MemoryError:
        raise BudgetError(
            f"{target}: the build ran out of memory; give it less to sort at once with --memory"
        ) from None
    except OSError as error:
        raise cannot_write(target, error) from None


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """One sorted sequence that goes into the store.

    Attributes:
        level: Of the tree; 0 for the originals.
        source: Where its Gaussians come from.
    """

    level: int
    source: SceneSource


class _Build:
    """One build, from opening its sources to the finished store."""

    def __init__(
        self, names: list[str], path: Path, options: BuildOptions, progress: BuildProgress
    ) -> None:
        self._names = names
        self._path = path
        self._options = options
        self._progress = progress
        # First of all: nothing is read for a store that cannot be written.
        require_free(path, options.replace)
        source = open_sources(names, sh_degree=options.sh_degree, cache_bytes=cache_bytes(options))
        self._streams = [_Stream(0, source)]
        self._meta = source.meta
        self._degree = store_degree(source, options)
        self._page = options.page_gaussians or suitable_page(source.meta.count)
        try:
            # The store may be built into the very folder that is read.
            self._fingerprint = Fingerprint.of(names, (path, partial_folder(path)))
            self._open_own_levels()
            self._writer = StoreWriter(
                path,
                sh_degree=self._degree,
                profile=options.profile,
                page_gaussians=self._page,
                replace=options.replace,
            )
        except BaseException:
            self._close_sources()
            raise
        self._total = sum(stream.source.meta.count for stream in self._streams)
        self._in_memory = fits_in_memory(self._total, self._degree, options.memory)
        self._dealing: Dealing | None = None
        self._journal = Journal(self._writer.scratch, self._identity())
        self._checkpoint = Checkpoint(
            (0,) * len(self._streams), WriterState(), NodeLog(), (), NO_SAMPLE
        )

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._journal.exists():  # there is nothing to continue
            self._writer.discard()
        self._writer.close()
        self._close_sources()

    def run(self, started: float) -> BuildReport:
        """All stages."""
        resumed, state = self._take_up()
        try:
            state, feeds = self._sorted(state)
            log, sample = self._merged(state, feeds)
            self._progress(Stage.FINISH, 0, 1)
            self._fingerprint.require_unchanged()
            tree, refs = log.tree()
            self._writer.finish(tree, refs, self._info(state, sample))
        except (OutputError, OSError) as error:
            problem = cannot_write(self._path, error) if isinstance(error, OSError) else error
            left = what_is_left(partial_folder(self._path))
            raise OutputError(f"{problem}; {left}") from None
        self._progress(Stage.FINISH, 1, 1)
        return BuildReport(
            path=self._path,
            gaussians=state.counts[0],
            dropped=self._meta.count - state.counts[0],
            nodes=len(tree),
            levels=int(tree.level.max()) + 1,
            store_bytes=sum(file.stat().st_size for file in self._path.iterdir()),
            seconds=time.monotonic() - started,
            resumed=resumed,
        )

    def _open_own_levels(self) -> None:
        for level, lod in own_levels(self._names, self._meta, self._options).items():
            self._streams.append(_Stream(level, open_sources(self._names, lod=lod)))

    def _close_sources(self) -> None:
        for stream in self._streams:
            stream.source.close()

    def _identity(self) -> dict[str, Any]:
        """All that the bytes of the store depend on."""
        options = self._options
        return {
            "scenes": [_place_of(name) for name in self._names],
            "files": [[f.path, f.size_bytes, f.modified_ns] for f in self._fingerprint.all_files],
            "profile": options.profile.value,
            "page_gaussians": self._page,
            "sh_degree": self._degree,
            "levels": [stream.level for stream in self._streams],
        }

    def _take_up(self) -> tuple[bool, Sorted | None]:
        """Whether an earlier build is continued, and what it had sorted.

        Otherwise the scratch folder is empty.
        """
        if self._journal.load():
            try:
                found = Interrupted.of(
                    self._journal, self._writer, self._bucket_folders, row_width(self._degree)
                )
            except UnusableStateError as error:
                self._begin_anew(str(error))
                return False, None
            self._checkpoint = found.checkpoint or self._checkpoint
            self._dealing = found.dealing
            if found.dealing or (found.sorted is not None and found.sorted.bucket_counts):
                self._in_memory = False  # whatever memory there is now: the files are there
            logger.info("%s: continuing an interrupted build", self._path)
            return True, found.sorted
        other = self._journal.other_identity()
        if other is not None and not self._options.replace:
            raise OutputError(refusal(self._path, other, self._identity()))
        readable = other is not None or not self._journal.exists()
        self._begin_anew("" if readable else "its journal is damaged or of another release")
        return False, None

    def _begin_anew(self, problem: str) -> None:
        """Clears what an earlier build left; ``problem`` says why it is of no use, if it should
        have been."""
        if problem:
            logger.warning(
                "%s: the interrupted build cannot be continued (%s); beginning anew",
                self._path,
                problem,
            )
        self._writer.clear()
        self._journal = Journal(self._writer.scratch, self._identity())
        self._require_disk()

    def _require_disk(self) -> None:
        estimate = estimate_size(self._streams[0].source, self._path, self._options, self._total)
        lack = estimate.lack_of_room()
        if lack:
            raise OutputError(f"{self._path}: {lack}")

    # ---- Reading and sorting --------------------------------------------------------------

    def _sorted(self, state: Sorted | None) -> tuple[Sorted, list[Feed]]:
        if self._in_memory:
            return self._sorted_in_memory(state)
        if state is None or not state.bucket_counts:
            state = self._dealt_out()
            self._journal.save_sorted(state)
        feeds = []
        for index, counts in enumerate(state.bucket_counts):
            buckets = Buckets(self._bucket_folders[index], row_width(self._degree), counts)
            # The feed skips what is left after whole buckets were skipped.
            skipped = buckets.whole(self._checkpoint.consumed[index])
            feeds.append(
                Feed(buckets.runs(state.grid, self._options.memory, skipped), consumed=skipped)
            )
        return state, feeds

    def _sorted_in_memory(self, state: Sorted | None) -> tuple[Sorted, list[Feed]]:
        grid = state.grid if state else self._quick_grid()
        feeds, counts, before = [], [], 0
        for stream in self._streams:
            run, found = read_run(stream.source, self._degree, grid, self._reading(before))
            grid = found
            before += stream.source.meta.count
            feeds.append(Feed(iter((run,))))
            counts.append(len(run.codes))
        self._require_some(counts[0])
        state = Sorted(found, tuple(counts), ())
        self._journal.save_sorted(state)
        return state, feeds

    def _quick_grid(self) -> MortonGrid | None:
        sample = quick_sample(self._streams[0].source)
        return None if sample is None else MortonGrid.around(sample)

    def _dealt_out(self) -> Sorted:
        state = deal_out(
            [stream.source for stream in self._streams],
            self._bucket_folders,
            self._dealing or self._looked_around(),
            self._degree,
            self._options.memory,
            self._reading(0),
            self._journal.save_dealing,
            self._options.checkpoint_s,
        )
        counts = tuple(map(sum, state.bucket_counts))
        self._require_some(counts[0])
        return Sorted(state.grid, counts, state.bucket_counts)

    def _looked_around(self) -> Dealing:
        """Before anything is dealt out: where the buckets begin."""
        began_s = time.monotonic()
        self._progress(Stage.SAMPLE, 0, 1)
        sample = full_sample(self._streams[0].source)
        grid = MortonGrid.around(sample)
        self._progress(Stage.SAMPLE, 1, 1)
        total_bytes = self._meta.count * row_bytes(self._degree)
        buckets = bucket_count(total_bytes, self._options.memory)
        limits = bucket_limits(grid.codes(sample), buckets)
        state = Dealing.begun(grid, limits, len(self._streams))
        if time.monotonic() - began_s >= self._options.checkpoint_s:
            self._journal.save_dealing(state)
        return state

    @property
    def _bucket_folders(self) -> list[Path]:
        """Of each stream."""
        return [self._writer.scratch / f"buckets-{i}" for i in range(len(self._streams))]

    def _reading(self, before: int) -> Count:
        return lambda done: self._progress(Stage.READ, before + done, self._total)

    def _require_some(self, count: int) -> None:
        if count == 0:
            raise SceneFormatError(
                self._meta.path,
                f"holds {self._meta.count:,} Gaussians, but none that can be drawn: each has a "
                f"value that is not finite or a scale that cannot be used",
                remedy="train or export it again",
            )

    # ---- Cutting and merging --------------------------------------------------------------

    def _merged(self, state: Sorted, feeds: list[Feed]) -> tuple[NodeLog, Gaussians]:
        """Makes all nodes, from the last checkpoint on; with a sample of the originals."""
        checkpoint, log = self._checkpoint, self._checkpoint.log
        sampler = OutlineSampler(state.counts[0], checkpoint.consumed[0], checkpoint.sample)
        # What was written after the checkpoint is cut off.
        self._writer.resume(checkpoint.writer)
        for feed, consumed in zip(feeds, checkpoint.consumed, strict=True):
            feed.skip(consumed - feed.consumed)
        own = {s.level: feed for s, feed in zip(self._streams, feeds, strict=True) if s.level}
        workers = self._options.workers
        ahead = nodes_ahead(workers, self._options.memory, self._page * row_bytes(self._degree))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="build")
        try:
            pyramid = Pyramid(self._writer, log, self._encode, pool, self._page, ahead, own)
            pyramid.restore(checkpoint.waiting)
            # What waited is not to be in memory any longer than it waits.
            self._checkpoint = checkpoint = replace(checkpoint, waiting=())
            self._add_leaves(state.counts[0], feeds, pyramid, log, sampler)
            pyramid.finish()
        finally:
            pool.shutdown(cancel_futures=True)
        return log, sampler.gaussians()

    def _add_leaves(
        self,
        total: int,
        feeds: list[Feed],
        pyramid: Pyramid,
        log: NodeLog,
        sampler: OutlineSampler,
    ) -> None:
        leaves = feeds[0]
        saved = time.monotonic()
        while count := next_leaf(leaves, self._page):
            codes = leaves.codes(0, count)
            leaf = leaves.take(count)
            sampler.add(count, leaf.means_and_opacities)
            pyramid.add_leaf(leaf, int(codes[0]), int(codes[-1]))
            self._progress(Stage.BUILD, leaves.consumed, total)
            if time.monotonic() - saved >= self._options.checkpoint_s:
                pyramid.settle()
                self._journal.save_checkpoint(
                    Checkpoint(
                        tuple(feed.consumed for feed in feeds),
                        self._writer.checkpoint(),
                        log,
                        tuple(tuple(level) for level in pyramid.waiting),
                        sampler.rows,
                    )
                )
                saved = time.monotonic()

    def _encode(self, gaussians: Gaussians) -> EncodedChunk:
        return encode_chunk(gaussians, self._options.profile)

    def _info(self, state: Sorted, sample: Gaussians) -> StoreInfo:
        options, meta = self._options, self._meta
        outline = outline_of(sample, up=likely_up(meta, sample), cameras=meta.cameras)
        dropped = self._meta.count - state.counts[0]
        notes = []
        if dropped:
            were = "was" if dropped == 1 else "were"
            notes.append(f"{counted(dropped, 'Gaussians')} that cannot be drawn {were} left out")
        if self._degree < self._meta.sh_degree:
            notes.append(f"harmonics above degree {self._degree} were left out")
        return StoreInfo(
            up=outline.up if meta.up is not None or meta.cameras else None,
            sources=(options.origin,) if options.origin else self._fingerprint.summary(self._names),
            settings=(
                ("profile", options.profile.value),
                ("page_gaussians", str(self._page)),
                ("sh_degree", str(self._degree)),
                ("levels", "merged" if len(self._streams) == 1 else "the source's own"),
            ),
            notes=brief_notes((*self._meta.notes, *notes)),
            outline=outline,
        )


def _place_of(name: str) -> str:
    """A path wherever one may be; the name of a town, which is the same everywhere."""
    return os.path.abspath(name) if os.path.exists(name) else name


def nodes_ahead(workers: int, memory: int, page_bytes: int) -> int:
    """Nodes that may be in the making, each up to a page, in this much memory."""
    return max(1, min(_AHEAD_PER_WORKER * workers, int(_AHEAD_SHARE * memory) // page_bytes))


def brief_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """As many notes, each as long, as a store can hold; the last ones if there are more."""
    kept = [note if len(note) <= MAX_TEXT else f"{note[: MAX_TEXT - 1]}…" for note in notes]
    if len(kept) > MAX_NOTES:
        left_out = len(kept) - MAX_NOTES + 1
        kept = [f"{left_out:,} more notes were left out", *kept[left_out:]]
    return tuple(kept)
