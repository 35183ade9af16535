"""What all tests share: the real scenes, and skips that are failures in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is loaded: the tensors of tests are small, and threads that wait for each other cost
# more than they bring, above all beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine may take its time over any example.
settings.register_profile("belvedere", deadline=None)
settings.load_profile("belvedere")

REPOSITORY = Path(__file__).resolve().parent.parent

# Tests with these marks need tools that a continuous integration must provide.
MUST_RUN_IN_CI = ("browser", "node")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real scenes (``BELVEDERE_DATA``, else ``../shared/data``)."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("BELVEDERE_DATA") or default)
    if not folder.is_dir():
        pytest.skip("no real scenes: set BELVEDERE_DATA to their folder")
    return folder


@pytest.fixture(autouse=True)
def _no_gpu_by_chance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests draw the same on every machine: but for those that are for GPUs, none is found."""
    if request.node.get_closest_marker("gpu") is None:
        from rendering import gpu_support
        from rendering.gpu_discovery import Absence, DriverReport

        report = DriverReport(absence=Absence.NO_GPU, problem="a test finds no GPU")
        monkeypatch.setattr(gpu_support, "_driver", lambda: report)


def require_or_skip(condition: object, reason: str) -> None:
    """Skips the test unless ``condition`` holds; in CI (variable ``CI`` set) fails it."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"must not be skipped in CI: {reason}")
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip of a browser or Node test is a failure in CI, however it came about."""
    report = yield
    if (
        report.skipped
        and os.environ.get("CI")
        and any(item.get_closest_marker(name) for name in MUST_RUN_IN_CI)
    ):
        report.outcome = "failed"
        report.longrepr = f"must not be skipped in CI: {report.longrepr}"
    return report
