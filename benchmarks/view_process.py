"""``belvedere view`` as a process of its own, as a person starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scenes import data_folder, town_count
from splat.errors import BelvedereError, SceneNotFoundError

CLOSE_S = 20.0
_SERVING = re.compile(r"Serving (http://\S+)")
_COMPLAINT = re.compile(r"^belvedere: |Traceback|Error")  # what is logged is a warning or worse
_READY = re.compile(r"(?:Ready:|Streaming) ([\d,]+) Gaussians")


def scene_words(name: str) -> list[str]:
    """The words of the command line that open a scene of ``benchmarks.scenes``.

    Raises:
        SceneNotFoundError: If there is no such file.
        SettingsError: If it begins like a town's name and goes on like none.
    """
    count = town_count(name)
    if count is not None:
        return ["--gaussians", str(count)]
    path = data_folder() / "park" / "lod-meta.json" if name == "park" else Path(name)
    if not path.exists():
        raise SceneNotFoundError(f"{path}: no such file or folder")
    return [str(path)]


def served_url(line: str) -> str | None:
    """The page's address, if this line of the viewer's output tells it."""
    match = _SERVING.search(line)
    return match[1] if match else None


def gaussian_count(line: str) -> int | None:
    """The size of the scene, if this line of the viewer's output tells that all of it is there."""
    match = _READY.search(line)
    return int(match[1].replace(",", "")) if match else None


class ViewProcess:
    """A running viewer, to be closed. It keeps nothing from one run to the next.

    Args:
        words: What follows ``belvedere view``.

    Attributes:
        started_s: When the command was given, seconds since the epoch.
    """

    def __init__(self, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "viewer.cli", "view", "--port", "0", *words]
        self._changed = threading.Condition()
        self._url: str | None = None
        self._gaussians: int | None = None
        self._ended = False
        self._last_lines: deque[str] = deque(maxlen=3)
        self._complaints: list[str] = []
        self._whole_s: float | None = None
        self._cache = tempfile.TemporaryDirectory(prefix="belvedere-view-")
        self.started_s = time.time()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": self._cache.name},
        )
        self._reader = threading.Thread(target=self._read, name="view-output", daemon=True)
        self._reader.start()

    def url(self, timeout_s: float) -> str:
        """Where the page is, once it is served.

        Raises:
            BelvedereError: If the viewer ended instead, or takes too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._url is not None or self._ended, timeout_s)
            if self._url is None:
                raise BelvedereError(f"belvedere view serves nothing; {self._said()}")
            return self._url

    @property
    def gaussians(self) -> int | None:
        """How large the scene is, once all of it is there."""
        with self._changed:
            return self._gaussians

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def complaints(self) -> tuple[str, ...]:
        """Lines of its output that warn of something or tell an error."""
        with self._changed:
            return tuple(self._complaints)

    def wait_whole(self, timeout_s: float) -> float:
        """Waits until the scene is there, and not only a first look at it.

        Returns:
            When that was, seconds since the epoch.

        Raises:
            BelvedereError: If the viewer ended instead, or takes too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._whole_s is not None or self._ended, timeout_s)
            if self._whole_s is None:
                raise BelvedereError(f"belvedere view shows no whole scene; {self._said()}")
            return self._whole_s

    def require_running(self, grace_s: float = 0.0) -> None:
        """Raises ``BelvedereError`` if it has ended, or ends within ``grace_s``."""
        with self._changed:
            if self._changed.wait_for(lambda: self._ended, grace_s):
                raise BelvedereError(f"belvedere view ended; {self._said()}")

    def close(self) -> None:
        """End it as a polite kill does; without grace if that does not help."""
        self._process.terminate()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._cache.cleanup()

    def _said(self) -> str:
        return f"it said: {' / '.join(self._last_lines) or 'nothing'}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._changed:
                    self._last_lines.append(line.strip())
                    if _COMPLAINT.search(line):
                        self._complaints.append(line.strip())
                    self._url = self._url or served_url(line)
                    if self._gaussians is None and (count := gaussian_count(line)) is not None:
                        self._gaussians, self._whole_s = count, time.time()
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
