"""What lies in memory that nobody has written yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rendering.fused_frame import FusedFrame


def spoil_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have frames find the worst there: no numbers, and large integers."""

    def spoilt(self: FusedFrame, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        worst = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        return torch.full((shape,) if isinstance(shape, int) else shape, worst, dtype=dtype)

    monkeypatch.setattr(FusedFrame, "_empty", spoilt)
