"""``belvedere info --check``: every chunk of a store held against its checksums."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from scene_store.failures import RetryPolicy, kind_of
from scene_store.store import Store
from splat.errors import ChunkReadError
from viewer.status_line import status_line

CheckProgress = Callable[[int, int], None]
"""Hears how many bytes were read, of how many."""

THREADS = 4
_BATCH_BYTES = 4 << 20
_ATTEMPTS = 4
_SHOWN_RUNS = 12


def check_chunks(
    store: Store, progress: CheckProgress = lambda done, total: None
) -> dict[int, ChunkReadError]:
    """Reads all chunks of a store. What may have gone wrong on the way is tried again.

    Args:
        store: An open one, without a cache between it and its files.
        progress: Hears how far it is; may raise, which ends it.

    Returns:
        The chunks that cannot be had as they were written, and why.
    """
    faults = _faults(store, store.file_order.tolist(), progress)
    jitter = random.Random()
    for attempt in range(1, _ATTEMPTS):
        again = [chunk for chunk, error in faults.items() if error.transient]
        if not again:
            break
        time.sleep(RetryPolicy().wait_s(attempt, jitter))
        for chunk in again:
            del faults[chunk]
        faults.update(_faults(store, again, lambda done, total: None))
    return dict(sorted(faults.items()))


def _faults(store: Store, chunks: list[int], progress: CheckProgress) -> dict[int, ChunkReadError]:
    batches = store.read_batches(chunks, _BATCH_BYTES)
    sizes = [sum(map(store.encoded_bytes, batch)) for batch in batches]
    faults: dict[int, ChunkReadError] = {}
    given_up, done, total = threading.Event(), 0, sum(sizes)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="check") as pool:
        try:
            found = pool.map(lambda batch: store.faults(batch, given_up.is_set), batches)
            for size, wrong in zip(sizes, found, strict=True):
                faults.update(wrong)
                done += size
                progress(done, total)
        except BaseException:
            given_up.set()
            pool.shutdown(cancel_futures=True)
            raise
    return faults


def summary(faults: Mapping[int, ChunkReadError]) -> list[str]:
    """A line for each file and problem, which names the chunks."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for chunk, error in faults.items():
        kinds.setdefault((error.path, kind_of(error.problem)), []).append(chunk)
    return [_line(chunks, faults[chunks[0]]) for chunks in kinds.values()]


def _line(chunks: list[int], first: ChunkReadError) -> str:
    file = first.path.rpartition("/")[2]
    if len(chunks) == 1:
        return f"{file}: chunk {chunks[0]} {first.problem}"
    return f"{file}: {len(chunks):,} chunks ({runs_text(chunks)}); the first {first.problem}"


def runs_text(numbers: list[int]) -> str:
    """Ascending 1, 2, 3, 7 as "1–3, 7"; of many runs the first ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if not runs or number != runs[-1][-1] + 1:
            runs.append([number, number])
        runs[-1][-1] = number
    shown = [f"{a}" if a == b else f"{a}–{b}" for a, b in runs[:_SHOWN_RUNS]]
    return ", ".join(shown) + (", …" if len(runs) > _SHOWN_RUNS else "")


@contextlib.contextmanager
def check_bar() -> Iterator[CheckProgress]:
    """A bar on standard error; off a terminal a line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        with status_line() as status:
            yield lambda done, total: status(done / max(total, 1), "Checking")
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        row = bar.add_task("Checking", total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)
