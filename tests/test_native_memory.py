"""The native engine where memory runs out."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import require_or_skip

# 4000 Gaussians that fill the picture: half a gigabyte of records without a budget.
PROGRAM = textwrap.dedent(
    """
    import resource
    import numpy as np
    from rendering.native.cpu import NativeRasterizer
    from splat.camera import Camera
    from splat.gaussians import Gaussians

    count = 4000
    means = np.zeros((count, 3), np.float32) + np.float32([0, 0, 1])
    quats = np.zeros((count, 4), np.float32) + np.float32([1, 0, 0, 0])
    scales = np.full((count, 3), 0.5, np.float32)
    opacities = np.full(count, 0.01, np.float32)
    scene = Gaussians(means, quats, scales, opacities, np.zeros((count, 1, 3), np.float32))
    camera = Camera.look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), fov_y_rad=1, width=1920, height=1080)
    careless = NativeRasterizer(record_budget_bytes=1 << 40)
    careful = NativeRasterizer(record_budget_bytes=32 << 20)
    prepared = careful.prepare(scene)
    expected = careful.render(prepared, camera).alpha

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + (192 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        careless.render(prepared, camera)
    except MemoryError:
        print("refused")
    print("same" if np.array_equal(careful.render(prepared, camera).alpha, expected) else "differs")
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.skipif(
    "BELVEDERE_NATIVE_EXTENSION" in os.environ, reason="sanitizers reserve all address space"
)
def test_out_of_memory_is_an_exception_and_the_next_frame_is_drawn() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120
    )
    missing = "not built for this Python" in result.stderr
    require_or_skip(not missing, "the native engine is not built")
    assert result.stdout.split() == ["refused", "same"], result.stderr
