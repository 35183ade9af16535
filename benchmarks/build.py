"""How quickly are levels of detail built, and in how much memory?

A town is written as a 3DGS PLY, and ``belvedere build`` makes a store of it, in a process of its
own. The peer is PlayCanvas's splat-transform on the same file and the same cores: it decimates
the file to a quarter, that to a quarter, and so on to as many levels as the store has (at least
one), and then writes all of them as a streamed SOG scene (``lod-meta.json``): either ends with
what can be streamed. Writing SOG is much quicker with a GPU, so decimating alone is told apart.
Whole processes are timed, so a process's start counts against both. Bar: at least 20 times as
many Gaussians a second.

A peer that does not end in time is measured as if it had ended then: it is slower than that.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.peer import Peer, find_node_package
from benchmarks.report import Row, new_table, record, verdict
from benchmarks.scenes import REPOSITORY
from benchmarks.stores import source_of, store_bytes
from benchmarks.subject import Advance, ignore_progress
from scene_store.formats import write_ply
from scene_store.named_scene import open_named
from scene_store.store import open_store
from splat.cores import usable_cores
from splat.errors import BackendUnavailable, RenderError

MIN_SPEEDUP = 20.0
PEER_RATIO = "25%"  # of a level to the next, as in a store
PEER_TIMEOUT_S = 900.0  # all of its levels together
OWN_TIMEOUT_S = 3600.0
STEPS = 3  # that ``run`` reports: the file, our build, the peer's
_BATCH = 1 << 18
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended, or was ended.

    Attributes:
        seconds: Wall clock.
        peak_bytes: Most memory it had at any time; with its children's, the largest of them.
        ended: Whether it ended by itself.
    """

    seconds: float
    peak_bytes: int
    ended: bool


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """One file.

    Attributes:
        m_per_s: Million Gaussians a second, of a whole ``belvedere build``.
        seconds, peak_mb: Of it.
        bytes_each: Of the store, all levels, a Gaussian of the source.
        file_bytes_each: Of the file.
        levels: Of the store.
        peer: Who it is set against; why not, if it could not.
        peer_seconds: All of the peer's work; None if it could not.
        peer_decimate_s: Of that, decimating to the same number of levels.
        peer_peak_mb: Of its largest process.
        peer_ended: Whether it ended in time.
        speedup: Its seconds over ours; at least that, where it did not end.
    """

    cores: int
    m_per_s: float
    seconds: float
    peak_mb: float
    bytes_each: float
    file_bytes_each: float
    levels: int
    peer: str
    peer_seconds: float | None = None
    peer_decimate_s: float | None = None
    peer_peak_mb: float | None = None
    peer_ended: bool | None = None
    speedup: float | None = None
    bar: float = MIN_SPEEDUP

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None without a peer."""
        return None if self.speedup is None else self.speedup >= self.bar


@dataclass(frozen=True, slots=True)
class PeerBuild:
    """What the peer did, and whether it came to its end."""

    seconds: float
    decimate_s: float
    peak_bytes: int
    ended: bool


def run(scene: str, advance: Advance = ignore_progress) -> Row:
    """Build one scene of ``benchmarks.scenes`` with both; ``BuildFigures`` with the verdict.

    Raises:
        SceneError: If it cannot be read.
        RenderError: If our build fails.
    """
    with tempfile.TemporaryDirectory(prefix="belvedere-bench-") as name:
        folder = Path(name)
        file = folder / "scene.ply"
        with open_named(source_of(scene)) as source:
            count, degree = source.meta.count, source.meta.sh_degree
            write_ply(file, source.batches(_BATCH), count, degree)
        advance()
        store = folder / "scene.bvs"
        own = own_build(file, store)
        with open_store(store) as opened:
            levels = len(opened.manifest.levels)
        advance()
        peer_name, peer = "", None
        try:
            found = find_node_package()
            peer_name = f"splat-transform {found.version}"
            peer = peer_build(found, file, max(1, levels - 1))
        except BackendUnavailable as error:
            peer_name = f"not measured: {error}"
        advance()
        figures = BuildFigures(
            cores=usable_cores(),
            m_per_s=1e-6 * count / own.seconds,
            seconds=own.seconds,
            peak_mb=1e-6 * own.peak_bytes,
            bytes_each=store_bytes(store) / count,
            file_bytes_each=file.stat().st_size / count,
            levels=levels,
            peer=peer_name,
            peer_seconds=peer.seconds if peer else None,
            peer_decimate_s=peer.decimate_s if peer else None,
            peer_peak_mb=1e-6 * peer.peak_bytes if peer else None,
            peer_ended=peer.ended if peer else None,
            speedup=peer.seconds / own.seconds if peer else None,
        )
    return record("build", figures, {"scene": scene, "path": "", "gaussians": count})


def own_build(file: Path, store: Path) -> Finished:
    """``belvedere build`` as a process.

    Raises:
        RenderError: If it fails.
    """
    words = ["-m", "viewer.cli", "build", str(file), "-o", str(store)]
    done = run_process([sys.executable, *words], OWN_TIMEOUT_S)
    if not done.ended:
        raise RenderError(f"{file}: its build took more than {OWN_TIMEOUT_S:.0f} s")
    return done


def peer_build(peer: Peer, file: Path, levels: int, timeout_s: float = PEER_TIMEOUT_S) -> PeerBuild:
    """The peer's levels of the same file, one from the other, and their scene.

    Raises:
        BackendUnavailable: If it fails.
    """
    command = [str(peer.node), str(peer.cli), "--quiet", "--overwrite", "--gpu", "cpu"]
    seconds, peak, files = 0.0, 0, [file]
    for level in range(1, levels + 1):
        target = file.with_name(f"level{level}.ply")
        done = run_process(
            [*command, str(files[-1]), "--decimate", PEER_RATIO, str(target)], timeout_s - seconds
        )
        seconds, peak = seconds + done.seconds, max(peak, done.peak_bytes)
        if not done.ended or seconds >= timeout_s:
            return PeerBuild(seconds, seconds, peak, False)
        files.append(target)
    tagged = [word for n, each in enumerate(files) for word in (str(each), "--tag-lod", str(n))]
    target = file.parent / "lod" / "lod-meta.json"
    target.parent.mkdir()
    done = run_process([*command, *tagged, str(target)], timeout_s - seconds)
    peak = max(peak, done.peak_bytes)
    return PeerBuild(seconds + done.seconds, seconds, peak, done.ended)


def run_process(command: Sequence[str], timeout_s: float) -> Finished:
    """Run a program to its end, or until its time is over.

    Raises:
        BackendUnavailable: If it fails.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        except OSError as error:
            raise BackendUnavailable(f"{command[0]} does not run: {error}") from None
        ended = _wait(process, timeout_s)
        seconds = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if ended and process.returncode != 0:
            said.seek(0)
            lines = said.read().decode("utf-8", "replace").strip().splitlines() or ["nothing"]
            raise BackendUnavailable(f"{Path(command[0]).name} failed and said: {lines[-1]}")
    return Finished(seconds, _KIB * usage.ru_maxrss, ended)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Until it ends, without collecting it; ends it after the time."""
    deadline_s = time.monotonic() + timeout_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline_s:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return False
        time.sleep(0.01)
    return True


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"build: a store with its levels of detail, bar ≥ {MIN_SPEEDUP:.0f} times as quick as the "
        "peer's levels",
        ["scene", "peer"],
        [
            "M/s",
            "s",
            "peak MB",
            "bytes each",
            "in the file",
            "levels",
            "its s",
            "decimating s",
            "its peak MB",
            "times as quick",
            "bar",
        ],
    )
    for row in rows:
        more = "" if row["peer_ended"] else "> "
        table.add_row(
            row["scene"],
            row["peer"],
            f"{row['m_per_s']:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_mb']:.0f}",
            f"{row['bytes_each']:.1f}",
            f"{row['file_bytes_each']:.0f}",
            str(row["levels"]),
            _figure(row["peer_seconds"], ".1f", more),
            _figure(row["peer_decimate_s"], ".1f", more),
            _figure(row["peer_peak_mb"], ".0f"),
            _figure(row["speedup"], ".0f", more),
            verdict(row),
        )
    return table


def _figure(value: float | None, form: str, before: str = "") -> str:
    return "—" if value is None else f"{before}{value:{form}}"
