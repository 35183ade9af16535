"""How many processors are ours: affinity, and the quotas of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splat.cores import cpu_quota, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_affinity_counts_and_not_the_machine(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


def test_without_affinity_the_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 64


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 8)],
)
def test_a_quota_is_rounded_up(tmp_path: Path, quota: str, cores: int) -> None:
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota}
    assert usable_cores(write(tmp_path, files)) == cores


def test_any_group_around_the_process_limits_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b",
        "sys/fs/cgroup/a/cpu.max": "300000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000",
    }
    assert usable_cores(write(tmp_path, files)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 8)])
def test_version_1_limits_too(tmp_path: Path, quota: str, cores: int) -> None:
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc",
        "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000",
    }
    assert usable_cores(write(tmp_path, files)) == cores


def test_what_is_no_quota() -> None:
    for text in ("", "100000", "100000 0", "-1 100000", "lots 100000", "1 2 3"):
        assert cpu_quota(text) is None
