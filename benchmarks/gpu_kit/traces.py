"""A frame of each variant in Chrome's trace viewer, or Perfetto: launches, copies, gaps."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench, Tell

TRACE_FILE = "trace.json.gz"
MOST_BYTES = 15 << 20


def record(bench: Bench, tell: Tell) -> None:
    """One file; the frame of a variant is the event of its name.

    Raises:
        Absent: If the file is too large to be kept.
    """
    name, size = bench.plan.scenes[0], bench.plan.sizes[0]
    camera = bench.views(name, bench.plan.paths[0], size)[0]
    frames = []
    for place, variant in enumerate(bench.plan.variants):
        try:
            engine = bench.fused(place)
        except (TypeError, ValueError):  # it has no such tuning, which its own step has told
            continue
        scene, settings = bench.prepared(engine, name), bench.settings(place)
        engine.render(scene, camera, settings)  # compiled, and warm
        frames.append((variant.label, engine, scene, settings))
    activities = [ProfilerActivity.CPU, *([] if bench.plan.dry else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as trace:
        for label, engine, scene, settings in frames:
            with record_function(f"frame {label}"):
                engine.render(scene, camera, settings)
            bench.board.wait()
    packed = _packed(trace)
    if len(packed) > MOST_BYTES:
        raise Absent(f"the trace of {len(frames)} frames takes {len(packed):,} bytes")
    (bench.out / TRACE_FILE).write_bytes(packed)
    tell({"table": "traces", "frames": len(frames), "bytes": len(packed)})


def _packed(trace: torch.profiler.profile) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        return gzip.compress(path.read_bytes())
