"""What a frame draws, as the GPU kernels read it: pages and how each of them looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import ScenePart
from rendering.fused_pages import DevicePage, rest_rows

PLAIN = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class DrawList:
    """Pages to draw together, in this order.

    Attributes:
        pages: Kept for as long as the list is.
        chunks: [n, 4] int32: Gaussians, index of the first, rows of harmonics, room of the page.
        looks: [n, 5] float32: log2 of the weight, tint, its share.
        count: Gaussians.
        largest: Gaussians in the fullest page.
        sh_degree: The highest of any page.
    """

    pages: tuple[DevicePage, ...]
    chunks: NDArray[np.int32]
    looks: NDArray[np.float32]
    count: int
    largest: int
    sh_degree: int
    _sent: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """What its pages take of the device."""
        return sum(page.words.nbytes for page in self.pages)

    @classmethod
    def plain(cls, pages: Sequence[DevicePage]) -> DrawList:
        """Pages as they are."""
        looks = np.zeros((len(pages), len(PLAIN)), np.float32)
        return cls._of(tuple(pages), looks)

    @classmethod
    def of(cls, parts: Sequence[ScenePart]) -> DrawList:
        """Pages and whole scenes, each with its look."""
        pages: list[DevicePage] = []
        looks: list[tuple[float, ...]] = []
        for part in parts:
            look = (math.log2(part.weight), *part.tint, part.tint_share)
            its = part.scene.pages if isinstance(part.scene, DrawList) else (part.scene,)
            pages.extend(its)
            looks.extend([look] * len(its))
        return cls._of(tuple(pages), np.array(looks, np.float32).reshape(-1, len(PLAIN)))

    @classmethod
    def _of(cls, pages: tuple[DevicePage, ...], looks: NDArray[np.float32]) -> DrawList:
        counts = np.array([page.count for page in pages], np.int32)
        chunks = np.zeros((len(pages), 4), np.int32)
        chunks[:, 0] = counts
        chunks[1:, 1] = counts.cumsum()[:-1]
        chunks[:, 2] = _numbers(rest_rows(page.sh_degree) for page in pages)
        chunks[:, 3] = _numbers(page.room for page in pages)
        degree = max((page.sh_degree for page in pages), default=0)
        return cls(pages, chunks, looks, int(counts.sum()), int(counts.max(initial=0)), degree)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """[n] addresses of the pages, chunks and looks; sent once."""
        there = self._sent.get(device)
        if there is None:
            addresses = np.array([page.address for page in self.pages], np.int64)
            arrays = (addresses, self.chunks, self.looks)
            first, second, third = (torch.from_numpy(array).to(device) for array in arrays)
            there = self._sent[device] = (first, second, third)
        return there


def _numbers(values: Iterable[int]) -> NDArray[np.int32]:
    return np.fromiter(values, np.int32)
