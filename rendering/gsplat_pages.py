"""Gaussians in a device's memory as gsplat reads them: a contiguous array for each quantity.

A page has such arrays of its own. gsplat knows nothing of pages, so those of a frame are copied
together before it is drawn; the copy of the last list of pages is kept, and serves every frame
until another list is drawn. It is memory beside the pages, as much as what is drawn takes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from rendering.base import ScenePart
from rendering.cuda_faults import faults_of
from splat.errors import BudgetError
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

_SERIALS = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """N Gaussians, all arrays contiguous float32 on one device; as ``splat.gaussians.Gaussians``.

    Attributes:
        means: [N, 3].
        quats: [N, 4].
        scales: [N, 3].
        opacities: [N]; those of merged Gaussians may exceed 1.
        sh: [N, K, 3].
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    @classmethod
    def of(cls, gaussians: Gaussians, device: torch.device) -> Columns:
        """A copy on a device."""
        return cls(*(torch.tensor(array, device=device) for array in gaussians.arrays))

    @classmethod
    def together(cls, parts: Sequence[Columns]) -> Columns:
        """One after the other; zeros for the harmonics that some lack."""
        bases = max(part.sh.shape[1] for part in parts)
        return cls(
            torch.cat([part.means for part in parts]),
            torch.cat([part.quats for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat([part.opacities for part in parts]),
            torch.cat([_with_bases(part.sh, bases) for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Of what they hold."""
        return SH_COUNT_OF_DEGREE.index(self.sh.shape[1])


def _with_bases(sh: Tensor, bases: int) -> Tensor:
    lacking = bases - sh.shape[1]
    return pad(sh, (0, 0, 0, lacking)) if lacking else sh


@dataclass(frozen=True, slots=True, eq=False)
class GsplatPage:
    """Gaussians that come and go together.

    Attributes:
        columns: The Gaussians.
        most_opacity: The largest of their opacities.
        serial: That no other page of this process ever has.
    """

    columns: Columns
    most_opacity: float
    serial: int

    @classmethod
    def of(cls, gaussians: Gaussians, device: torch.device) -> GsplatPage:
        """A copy on a device."""
        most = float(gaussians.opacities.max(initial=0.0))
        return cls(Columns.of(gaussians, device), most, next(_SERIALS))


@dataclass(frozen=True, slots=True, eq=False)
class DrawList:
    """Pages to draw together, in this order, and how each of them looks.

    Attributes:
        pages: Kept for as long as the list is.
        weights: [n] float32, multiply opacities.
        tints: [n, 4] float32, RGB and its share.
    """

    pages: tuple[GsplatPage, ...]
    weights: NDArray[np.float32]
    tints: NDArray[np.float32]

    @classmethod
    def plain(cls, pages: Sequence[GsplatPage]) -> DrawList:
        """Pages as they are."""
        count = len(pages)
        return cls(tuple(pages), np.ones(count, np.float32), np.zeros((count, 4), np.float32))

    @classmethod
    def of(cls, parts: Sequence[ScenePart]) -> DrawList:
        """Pages and whole scenes, each with its look."""
        pages: list[GsplatPage] = []
        looks: list[tuple[float, ...]] = []
        for part in parts:
            its = part.scene.pages if isinstance(part.scene, DrawList) else (part.scene,)
            pages.extend(its)
            looks.extend([(part.weight, *part.tint, part.tint_share)] * len(its))
        table = np.array(looks, np.float32).reshape(-1, 5)
        return cls(tuple(pages), table[:, 0], table[:, 1:])

    def __len__(self) -> int:
        return sum(len(page.columns) for page in self.pages)

    @property
    def most_opacity(self) -> float:
        """The largest opacity of any Gaussian, with its weight."""
        return max(
            (
                page.most_opacity * float(w)
                for page, w in zip(self.pages, self.weights, strict=True)
            ),
            default=0.0,
        )

    def weight_column(self, device: torch.device) -> Tensor | None:
        """[N] of each Gaussian; None if all are 1."""
        return self._spread(self.weights, device) if (self.weights != 1).any() else None

    def tint_column(self, device: torch.device) -> Tensor | None:
        """[N, 4] of each Gaussian; None if nothing is tinted."""
        return self._spread(self.tints, device) if self.tints[:, 3].any() else None

    def _spread(self, values: NDArray[np.float32], device: torch.device) -> Tensor:
        counts = torch.tensor([len(page.columns) for page in self.pages], device=device)
        each = torch.tensor(values, device=device)
        return torch.repeat_interleave(each, counts, dim=0, output_size=len(self))


class Gathered:
    """The columns of the list that was drawn last. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serials: tuple[int, ...] = ()
        self._columns: Columns | None = None

    def columns_of(self, draws: DrawList) -> Columns:
        """Of all pages together, of which there is at least one; a copy only if they are new."""
        if len(draws.pages) == 1:
            return draws.pages[0].columns
        serials = tuple(page.serial for page in draws.pages)
        with self._lock:
            if self._columns is None or serials != self._serials:
                self._columns = None  # there is room for one
                self._columns = Columns.together([page.columns for page in draws.pages])
                self._serials = serials
            return self._columns

    def forget(self) -> None:
        """Give the memory back, once no frame needs it."""
        with self._lock:
            self._columns = None


class GsplatPagePool:
    """Pages in a device's memory; see ``rendering.base.PagePool``.

    Args:
        device: Where.
        page_gaussians: That a page holds at most.
        sh_degree: Of their harmonics, at most.
        gathered: Given up when there is no memory left for a page.
    """

    def __init__(
        self, device: torch.device, page_gaussians: int, sh_degree: int, gathered: Gathered
    ) -> None:
        self._device, self._page_gaussians = device, page_gaussians
        self._sh_degree, self._gathered = sh_degree, gathered

    @property
    def page_bytes(self) -> int:
        """Memory that one page takes when it is full."""
        return 4 * self._page_gaussians * (11 + 3 * SH_COUNT_OF_DEGREE[self._sh_degree])

    def pack(self, gaussians: Gaussians) -> GsplatPage:
        """Gaussians in a page of their own; see ``rendering.base.PagePool``."""
        if len(gaussians) > self._page_gaussians:
            raise ValueError("more Gaussians than fit a page")
        return upload(gaussians, self._device, self._gathered)

    def pack_many(
        self, gaussians: Gaussians, rows: NDArray[np.int64], threads: int = 1
    ) -> Sequence[GsplatPage]:
        """Rows of Gaussians in pages of their own; see ``rendering.base.PagePool``."""
        if (rows[:, 1] > self._page_gaussians).any():
            raise ValueError("more Gaussians than fit a page")
        return [self.pack(gaussians[slice(first, first + count)]) for first, count in rows.tolist()]

    def keep_free(self, pages: int) -> None:
        """Torch's allocator keeps what was freed for the next pages."""


def upload(gaussians: Gaussians, device: torch.device, gathered: Gathered) -> GsplatPage:
    """Gaussians in a page; if there is no memory for it, that of ``gathered`` is given up first.

    Raises:
        BudgetError: If the device has no memory for them.
        DeviceLost: If it is gone.
    """
    doing = f"{len(gaussians):,} Gaussians"
    try:
        with faults_of(device, doing):
            return GsplatPage.of(gaussians, device)
    except BudgetError:
        gathered.forget()
        with faults_of(device, doing):
            return GsplatPage.of(gaussians, device)
