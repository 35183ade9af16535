"""From scenes to a store: the stages of a build, and how an interrupted one goes on."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_store.build.feed import Feed
from scene_store.build.grid import MortonGrid
from scene_store.build.journal import Checkpoint, Journal, Sorted
from scene_store.build.leaves import next_leaf
from scene_store.build.node_log import NodeLog
from scene_store.build.options import (
    BuildEstimate,
    BuildOptions,
    BuildProgress,
    BuildReport,
    Stage,
    silent,
    suitable_page,
)
from scene_store.build.own_levels import plan_own_levels
from scene_store.build.partition import (
    Buckets,
    bucket_count,
    bucket_limits,
    deal_out,
    fits_in_memory,
    read_run,
)
from scene_store.build.pyramid import MERGE_RATIO, Pyramid
from scene_store.build.rows import from_rows, row_bytes, row_width, usable_rows
from scene_store.build.sources import Fingerprint, open_sources
from scene_store.chunks import EncodedChunk
from scene_store.manifest import StoreInfo
from scene_store.page_codec import encode_chunk
from scene_store.sampling import Count, RandomAccess, full_sample, quick_sample
from scene_store.scene import SceneSource
from scene_store.store_folder import partial_folder
from scene_store.store_writer import StoreWriter, WriterState
from splat.atomic_file import cannot_write
from splat.errors import BudgetError, OutputError, SceneFormatError
from splat.gaussians import Gaussians

logger = logging.getLogger(__name__)

DEFAULT_OPTIONS = BuildOptions()

_AHEAD_PER_WORKER = 4
# Beside what was estimated, for the journal and for errors of the estimate.
_SPARE = 1.1
_SAMPLE_COUNT = 1 << 16


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
    """
    started = time.monotonic()
    names = [os.fspath(scene) for scene in scenes]
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


def estimate_build(
    scenes: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    options: BuildOptions = DEFAULT_OPTIONS,
) -> BuildEstimate:
    """What ``build_store`` would make, and what room it would need; writes nothing.

    Raises:
        SceneError: If a scene cannot be read.
    """
    with open_sources([os.fspath(s) for s in scenes], sh_degree=options.sh_degree) as source:
        return _estimate(source, Path(path), options)


def _estimate(source: SceneSource, path: Path, options: BuildOptions) -> BuildEstimate:
    count, degree = source.meta.count, _degree(source, options)
    sample = from_rows(usable_rows(_sample_gaussians(source), degree))
    each = encode_chunk(sample, options.profile).nbytes / len(sample) if len(sample) else 0.0
    in_memory = fits_in_memory(count, degree, options.memory)
    return BuildEstimate(
        gaussians=count,
        sh_degree=degree,
        store_bytes=int(each * count * MERGE_RATIO / (MERGE_RATIO - 1)),
        scratch_bytes=0 if in_memory else count * row_bytes(degree),
        free_bytes=shutil.disk_usage(path.resolve().parent).free,
    )


def _sample_gaussians(source: SceneSource) -> Gaussians:
    """Some that lie next to each other in the source."""
    count = source.meta.count
    if isinstance(source, RandomAccess):
        middle = max(0, (count - _SAMPLE_COUNT) // 2)
        return source.decode(middle, min(count, middle + _SAMPLE_COUNT))
    batches = source.batches(_SAMPLE_COUNT)
    return next(batches, Gaussians.empty())


def _degree(source: SceneSource, options: BuildOptions) -> int:
    """Of the store's harmonics."""
    highest = options.sh_degree
    return source.meta.sh_degree if highest is None else min(highest, source.meta.sh_degree)


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
        source = open_sources(names, sh_degree=options.sh_degree)
        self._streams = [_Stream(0, source)]
        self._meta = source.meta
        self._degree = _degree(source, options)
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
        self._journal = Journal(self._writer.scratch, self._identity())

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *error: object) -> None:
        began = self._journal.exists()
        self._writer.close()
        self._close_sources()
        if not began:  # there is nothing to continue
            shutil.rmtree(partial_folder(self._path), ignore_errors=True)

    def run(self, started: float) -> BuildReport:
        """All stages."""
        resumed = self._take_up()
        state, feeds = self._sorted()
        log = self._merged(state, feeds)
        self._progress(Stage.FINISH, 0, 1)
        self._fingerprint.require_unchanged()
        tree, refs = log.tree()
        self._writer.finish(tree, refs, self._info(state))
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
        if len(self._names) > 1 or self._options.rebuild_lod:
            return
        for level, lod in plan_own_levels(self._meta.lod_counts).items():
            self._streams.append(_Stream(level, open_sources(self._names, lod=lod)))

    def _close_sources(self) -> None:
        for stream in self._streams:
            stream.source.close()

    def _identity(self) -> dict[str, Any]:
        """All that the bytes of the store depend on."""
        options = self._options
        return {
            "scenes": [os.path.abspath(name) for name in self._names],
            "files": [[f.path, f.size_bytes, f.modified_ns] for f in self._fingerprint.all_files],
            "profile": options.profile.value,
            "page_gaussians": self._page,
            "sh_degree": self._degree,
            "levels": [stream.level for stream in self._streams],
        }

    def _take_up(self) -> bool:
        """Whether an earlier build is continued; otherwise the scratch folder is empty."""
        if self._journal.load():
            before = self._journal.sorted
            if before is not None and before.bucket_counts:
                self._in_memory = False  # whatever memory there is now: the files are there
            logger.info("%s: continuing an interrupted build", self._path)
            return True
        self._require_same_files()
        self._writer.clear()
        self._require_disk()
        return False

    def _require_same_files(self) -> None:
        """An interrupted build of files that changed since is not silently thrown away."""
        before = self._journal.other_identity()
        if before is None or self._options.replace:
            return
        if before.get("scenes") == self._identity()["scenes"]:
            known = {file.path: file for file in self._fingerprint.all_files}
            for name, size, modified in before.get("files", []):
                file = known.get(name)
                if file is None or (file.size_bytes, file.modified_ns) != (size, modified):
                    raise OutputError(
                        f"{name}: has changed since the build of {self._path} was interrupted; "
                        f"begin anew with --overwrite"
                    )

    def _require_disk(self) -> None:
        estimate = _estimate(self._streams[0].source, self._path, self._options)
        scratch = 0 if self._in_memory else self._total * row_bytes(self._degree)
        needed = int((estimate.store_bytes + scratch) * _SPARE)
        if needed > estimate.free_bytes:
            raise OutputError(
                f"{self._path}: building it needs about {needed / 1e9:.1f} GB, and the disk has "
                f"{estimate.free_bytes / 1e9:.1f} GB free; free some space or choose another "
                f"folder"
            )

    # ---- Reading and sorting --------------------------------------------------------------

    def _sorted(self) -> tuple[Sorted, list[Feed]]:
        state = self._journal.sorted
        if self._in_memory:
            return self._sorted_in_memory(state)
        if state is None or not state.bucket_counts:
            state = self._dealt_out()
            self._journal.save_sorted(state)
        checkpoint = self._journal.checkpoint()
        consumed = checkpoint.consumed if checkpoint else (0,) * len(self._streams)
        feeds = []
        for index, counts in enumerate(state.bucket_counts):
            buckets = Buckets(self._bucket_folder(index), row_width(self._degree), counts)
            # The feed skips what is left after whole buckets were skipped.
            skipped = buckets.whole(consumed[index])
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
        self._progress(Stage.SAMPLE, 0, 1)
        sample = full_sample(self._streams[0].source)
        grid = MortonGrid.around(sample)
        self._progress(Stage.SAMPLE, 1, 1)
        memory = self._options.memory
        total_bytes = self._meta.count * row_bytes(self._degree)
        limits = bucket_limits(grid.codes(sample), bucket_count(total_bytes, memory))
        dealt, before = [], 0
        for index, stream in enumerate(self._streams):
            dealt.append(
                deal_out(
                    stream.source,
                    self._degree,
                    grid,
                    limits,
                    self._bucket_folder(index),
                    memory,
                    self._reading(before),
                )
            )
            before += stream.source.meta.count
        counts = tuple(buckets.total for buckets in dealt)
        self._require_some(counts[0])
        return Sorted(grid, counts, tuple(buckets.counts for buckets in dealt))

    def _bucket_folder(self, stream: int) -> Path:
        return self._writer.scratch / f"buckets-{stream}"

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

    def _merged(self, state: Sorted, feeds: list[Feed]) -> NodeLog:
        """Makes all nodes, from the last checkpoint on."""
        checkpoint = self._journal.checkpoint()
        log = checkpoint.log if checkpoint else NodeLog()
        # What was written after the checkpoint is cut off.
        self._writer.resume(checkpoint.writer if checkpoint else WriterState())
        if checkpoint:
            for feed, consumed in zip(feeds, checkpoint.consumed, strict=True):
                feed.skip(consumed - feed.consumed)
        own = {s.level: feed for s, feed in zip(self._streams, feeds, strict=True) if s.level}
        workers = self._options.workers
        pool = ThreadPoolExecutor(workers, thread_name_prefix="build")
        try:
            pyramid = Pyramid(
                self._writer,
                log,
                self._encode,
                pool,
                self._page,
                _AHEAD_PER_WORKER * workers,
                own,
            )
            if checkpoint:
                pyramid.restore(checkpoint.waiting)
            self._add_leaves(state.counts[0], feeds, pyramid, log)
            pyramid.finish()
        finally:
            pool.shutdown(cancel_futures=True)
        return log

    def _add_leaves(self, total: int, feeds: list[Feed], pyramid: Pyramid, log: NodeLog) -> None:
        leaves = feeds[0]
        saved = time.monotonic()
        while count := next_leaf(leaves, self._page):
            codes = leaves.codes(0, count)
            pyramid.add_leaf(leaves.take(count), int(codes[0]), int(codes[-1]))
            self._progress(Stage.BUILD, leaves.consumed, total)
            if time.monotonic() - saved >= self._options.checkpoint_s:
                pyramid.settle()
                self._journal.save_checkpoint(
                    Checkpoint(
                        tuple(feed.consumed for feed in feeds),
                        self._writer.checkpoint(),
                        log,
                        tuple(tuple(level) for level in pyramid.waiting),
                    )
                )
                saved = time.monotonic()

    def _encode(self, gaussians: Gaussians) -> EncodedChunk:
        return encode_chunk(gaussians, self._options.profile)

    def _info(self, state: Sorted) -> StoreInfo:
        options = self._options
        dropped = self._meta.count - state.counts[0]
        notes = list(self._meta.notes)
        if dropped:
            notes.append(f"{dropped:,} Gaussians that cannot be drawn were left out")
        if self._degree < self._meta.sh_degree:
            notes.append(f"harmonics above degree {self._degree} were left out")
        return StoreInfo(
            up=self._meta.up,
            sources=self._fingerprint.summary(self._names),
            settings=(
                ("profile", options.profile.value),
                ("page_gaussians", str(self._page)),
                ("sh_degree", str(self._degree)),
                ("levels", "merged" if len(self._streams) == 1 else "the source's own"),
            ),
            notes=tuple(notes),
        )
