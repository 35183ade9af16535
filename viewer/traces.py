"""Traces of what an engine did, as Chrome trace events in a file or for a browser."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rendering.chrome_trace import chrome_trace, chrome_trace_text
from rendering.engine import RenderEngine
from rendering.frame_spans import timeline_of
from splat.atomic_file import atomic_file, check_writable
from splat.errors import OutputError

TRACE_NAME = "belvedere-trace.json"


def trace_text(engine: RenderEngine, scene: str = "") -> str:
    """All that the engine remembers, as the text of a trace (``docs/schedules.md``).

    Args:
        scene: Its name, for who opens the trace.
    """
    recording, devices = engine.recorder.recording(), engine.devices
    about = {
        "scene": scene,
        "schedule": engine.schedule.name,
        "weights": {status.device.name: status.weight for status in devices},
        "frames": len(recording.frames),
        "earlier frames, not recorded": recording.forgotten,
    }
    timeline = timeline_of(recording, [status.device.name for status in devices])
    return chrome_trace_text(chrome_trace(timeline, about=about))


def check_trace(path: Path, others: Iterable[Path] = (), scene: Path | None = None) -> None:
    """Sees, before any work is done, whether a trace can be written.

    Args:
        others: What else will be written.
        scene: What is drawn, if it is a file.

    Raises:
        OutputError: If it cannot.
    """
    if any(os.path.realpath(path) == os.path.realpath(other) for other in others):
        raise OutputError(f"{path}: --trace cannot be the same file as a picture")
    if scene is not None and os.path.realpath(path) == os.path.realpath(scene):
        raise OutputError(f"{path}: --trace would replace the scene; name another file")
    check_writable(path)


def write_trace(path: Path, engine: RenderEngine, scene: str = "") -> None:
    """The trace as a file, which is whole or absent.

    Raises:
        OutputError: If it cannot be written.
    """
    with atomic_file(path) as file:
        file.write_text(trace_text(engine, scene), encoding="utf-8")
