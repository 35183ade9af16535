"""All kinds of pictures that a viewer draws are drawn in small before they are asked for."""

from __future__ import annotations

import importlib.util
import os

import pytest

from rendering.base import DILATION_PX2, TRANSMITTANCE_STOP, Outputs
from rendering.compile_ahead import CompileAhead, Kind, kinds_of_a_viewer
from splat.stereo import is_pair


def drawn_by(ahead: CompileAhead, degree: int) -> bool:
    thread = ahead.begin(degree)
    if thread is not None:
        thread.join(60)
    return thread is not None


def test_each_kind_is_drawn_once_a_degree() -> None:
    drawn: list[tuple[Kind, int]] = []
    ahead = CompileAhead(lambda kind, degree: drawn.append((kind, degree)))
    assert drawn_by(ahead, 3)
    assert [kind for kind, _ in drawn] == list(kinds_of_a_viewer())
    assert not drawn_by(ahead, 3)
    assert drawn_by(ahead, 0)
    assert {degree for _, degree in drawn[len(drawn) // 2 :]} == {0}


def test_what_fails_is_left_to_who_needs_it() -> None:
    asked: list[Kind] = []

    def fail(kind: Kind, degree: int) -> None:
        asked.append(kind)
        raise RuntimeError("no compiler")

    assert drawn_by(CompileAhead(fail), 0)
    assert len(asked) == 1


def test_kinds_differ_in_what_kernels_are_compiled_for() -> None:
    kinds = list(kinds_of_a_viewer())
    compiled = {
        (
            kind.eyes,
            kind.settings.transmittance_stop > TRANSMITTANCE_STOP,
            kind.settings.kept_dilation_px2 < DILATION_PX2,
            kind.settings.outputs,
        )
        for kind in kinds
    }
    assert len(compiled) == len(kinds)
    assert {kind.eyes for kind in kinds} == {1, 2}
    assert any(kind.settings.outputs == Outputs.ALL for kind in kinds)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no Triton")
def test_the_fused_engine_draws_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("TRITON_INTERPRET says not to interpret")
    from rendering.fused_cuda import FusedRasterizer, Tuning
    from rendering.gpu_trial import sample_eyes

    assert is_pair(*sample_eyes())
    fused = FusedRasterizer("cpu", Tuning(tile=32, stride=1))
    for kind in kinds_of_a_viewer():
        fused._draw_sample(kind, 3)
    assert fused.scratch_bytes == 0  # of the processor
