"""Two eyes by one launch of the GPU kernels, under Triton's interpreter, against the oracle."""

from __future__ import annotations

import importlib.util
import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

from rendering.fused_cuda import FusedRasterizer, Tuning
from tests.fused_memory import spoil_new_memory
from tests.fused_pair_contract import FusedPairContract

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of numpy, in lanes that are masked
    pytest.mark.skipif(
        os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET says not to interpret"
    ),
]


@pytest.fixture(autouse=True)
def _spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_new_memory(monkeypatch)


class TestInterpretedPair(FusedPairContract):
    tuning = Tuning(tile=32, stride=4)  # which is quick to interpret

    def make(self, tuning: Tuning) -> FusedRasterizer:
        return FusedRasterizer("cpu", tuning)
