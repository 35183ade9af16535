"""What may still be taken: the machine's free memory, control groups, and refusals."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from scene_store import memory
from scene_store.memory import (
    available_bytes,
    group_headroom,
    parse_mem_available,
    require_memory,
)
from splat.cgroups import parse_memberships
from splat.errors import BudgetError
from splat.gaussians import Gaussians

GIB = 1 << 30
MEMINFO = """\
MemTotal:       24684128 kB
MemFree:        18000000 kB
MemAvailable:   20971520 kB
Buffers:          104512 kB
HugePages_Total:       0
"""
V1_MEMBERSHIPS = """\
12:pids:/docker/abc
9:cpu,cpuacct:/docker/abc
4:memory:/docker/abc
1:name=systemd:/docker/abc
"""
HYBRID_MEMBERSHIPS = "5:cpu,memory:/batch\n0::/user.slice/batch\n"
V1_UNLIMITED = "9223372036854771712\n"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_available_memory_is_read() -> None:
    assert parse_mem_available(MEMINFO) == 20 * GIB
    assert parse_mem_available("MemTotal: 24684128 kB\n") is None
    assert parse_mem_available("") is None
    assert parse_mem_available("MemAvailable:\nMemAvailable: lots kB") is None


def test_memberships_are_read() -> None:
    assert parse_memberships(V1_MEMBERSHIPS, "memory") == [(1, PurePosixPath("docker/abc"))]
    assert parse_memberships("0::/user.slice/a:b\n", "memory") == [
        (2, PurePosixPath("user.slice/a:b"))
    ]
    assert parse_memberships(HYBRID_MEMBERSHIPS, "memory") == [
        (1, PurePosixPath("batch")),
        (2, PurePosixPath("user.slice/batch")),
    ]
    assert parse_memberships("nonsense\n\n", "memory") == []


def test_headroom_counts_cached_files_as_free() -> None:
    assert group_headroom("1000\n", "700\n", "") == 300
    assert group_headroom("1000\n", "700\n", "anon 1\ninactive_file 200\n") == 500
    v1 = "inactive_file 5\ntotal_inactive_file 300\n"
    assert group_headroom("1000\n", "700\n", v1) == 600
    assert group_headroom("1000\n", "1700\n", "") == 0
    assert group_headroom("max\n", "700\n", "") is None
    assert group_headroom("", "", "") is None


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, {"proc/meminfo": MEMINFO})) == 20 * GIB


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c"])
def test_any_group_around_the_process_limits_it(tmp_path: Path, limited: str) -> None:
    files: dict[str, object] = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b/c"}
    for group in ("a", "a/b", "a/b/c"):
        files[f"sys/fs/cgroup/{group}/memory.max"] = 3 * GIB if group == limited else "max"
        files[f"sys/fs/cgroup/{group}/memory.current"] = GIB
    assert available_bytes(write(tmp_path, files)) == 2 * GIB


@pytest.mark.parametrize("membership", ["0::/", "0::/system.slice/docker-abc.scope", "0::/../x"])
def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path, membership: str) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": membership,
        "sys/fs/cgroup/memory.max": 4 * GIB,
        "sys/fs/cgroup/memory.current": 2 * GIB,
        "sys/fs/cgroup/memory.stat": f"inactive_file {GIB}",
    }
    assert available_bytes(write(tmp_path, files)) == 3 * GIB


def test_version_1_limits_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": V1_MEMBERSHIPS,
        f"{group}/memory.limit_in_bytes": V1_UNLIMITED,
        f"{group}/memory.usage_in_bytes": GIB,
        f"{group}/docker/abc/memory.limit_in_bytes": 8 * GIB,
        f"{group}/docker/abc/memory.usage_in_bytes": GIB,
    }
    assert available_bytes(write(tmp_path, files)) == 7 * GIB


def test_a_system_without_these_files_tells_its_physical_memory(tmp_path: Path) -> None:
    physical = available_bytes(tmp_path)
    assert physical is None or physical > 1 << 26


def test_this_machine_has_some_memory() -> None:
    available = available_bytes()
    assert available is not None and 1 << 26 < available < 1 << 50


def test_what_cannot_fit_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    each = memory.PEAK_FACTOR * Gaussians.allocate(1, 3).nbytes
    fits = int((10**9 - 10**8) / each)
    require_memory("a.ply", fits, 3, working_bytes=10**8, remedy="buy some")
    with pytest.raises(BudgetError) as info:
        require_memory("a.ply", 10_000_000, 3, working_bytes=10**8, remedy="buy some")
    needed = (10_000_000 * each + 10**8) / 1e9
    assert str(info.value) == (
        f"a.ply: 10,000,000 Gaussians need {needed:.1f} GB of memory, and 1.0 GB are available, "
        f"enough for {fits:,}; buy some"
    )


def test_what_is_used_while_working_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: memory.WORKING_BYTES // 2)
    with pytest.raises(BudgetError, match="enough for 0"):
        require_memory("a.ply", 1, 0, remedy="buy some")


def test_nothing_is_refused_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    require_memory("a.ply", 10**12, 3, remedy="buy some")
