"""Processes that make the town's cells: laying a cell out is Python, which threads cannot share.

A worker is this module run by the same interpreter. It reads the indices of cells from its
standard input, a line each, and answers with the bytes of their arrays, whose number both
sides know from the plan. So nothing is pickled, nothing outlives its owner (a worker ends
with its input), and the owner's main module is not imported again, as ``multiprocessing``
would do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
from typing import IO

from scene_store.town.cell import make_cell
from scene_store.town.light import mirror_table
from scene_store.town.plan import TownPlan, plan_town
from splat.gaussians import Gaussians

logger = logging.getLogger(__name__)

# A worker must find what its owner finds, and share the cores with the other workers.
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class CellWorkers:
    """Makes cells of one plan, ``workers`` at a time: a process each, or this one alone.

    ``make`` may be called from any number of threads. A process that cannot be started, or
    that ends early, costs time only: its cells are made here.
    """

    def __init__(self, plan: TownPlan, sh_degree: int, workers: int) -> None:
        self._plan = plan
        self._degree = sh_degree
        self._all: list[_Process] = []
        self._idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(self._start() if workers > 1 else None)

    def make(self, index: int) -> Gaussians:
        """The Gaussians of the plan's cell ``index``."""
        worker = self._idle.get()
        try:
            if worker is not None:
                return worker.make(index, self._plan.quotas[index].count)
        except (OSError, EOFError) as error:
            logger.warning("a process that makes the town was lost (%s); going on without", error)
            worker = None
        finally:
            self._idle.put(worker)
        return make_cell(self._plan, index, self._degree)

    def _start(self) -> _Process | None:
        try:
            worker = _Process(self._plan, self._degree)
        except OSError as error:
            logger.warning("cannot start a process to make the town (%s)", error)
            return None
        self._all.append(worker)
        return worker

    def close(self) -> None:
        """End the processes."""
        for worker in self._all:
            worker.close()


class _Process:
    """One worker, seen from its owner."""

    def __init__(self, plan: TownPlan, sh_degree: int) -> None:
        self._degree = sh_degree
        search = os.pathsep.join(path or os.getcwd() for path in sys.path)
        settings = {"PYTHONPATH": search, "PYTHONSAFEPATH": "1"} | dict.fromkeys(
            _THREAD_COUNTS, "1"
        )
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", __name__),
                *(str(plan.count), str(plan.seed), str(sh_degree)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | settings,
            start_new_session=True,  # Ctrl-C is its owner's to answer
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout

    def make(self, index: int, count: int) -> Gaussians:
        """Ask for a cell and wait for it.

        Raises:
            OSError, EOFError: If the process is gone.
        """
        self._requests.write(b"%d\n" % index)
        gaussians = Gaussians.allocate(count, self._degree)
        for array in gaussians.arrays:
            _read_fully(self._replies, array.data.cast("B"))
        return gaussians

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._requests.close()
        self._replies.close()
        self._process.wait()


def _read_fully(file: IO[bytes], buffer: memoryview) -> None:
    while buffer:
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it ended early")
        buffer = buffer[count:]


def main() -> None:
    """What a worker does: cells on demand, until there is no more to ask."""
    count, seed, sh_degree = (int(word) for word in sys.argv[1:])
    plan = plan_town(count, seed)
    mirror_table(sh_degree)  # ahead of the first request
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            for array in make_cell(plan, int(line), sh_degree).arrays:
                sys.stdout.buffer.write(array.data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
