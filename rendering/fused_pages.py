"""Gaussians in a GPU's memory: pages that kernels read where they lie.

A page is one allocation of single-precision words: a header of 16 (the corners of the box of the
means, then the largest scale), and rows of as many words as the page has room for Gaussians: 3 of
means, 4 of quats (wxyz, unit length), 3 of scales, 1 of log2 of the opacity, 3 of SH of degree 0.
With harmonics beyond that, a row of scales follows, and half a row of 16-bit integers for each
coefficient: colours are as far off as in the CPU engine, by half of such a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rendering.base import ALPHA_CUT
from splat.errors import BudgetError
from splat.gaussians import Gaussians

PAGE_GAUSSIANS = 1024
HEADER_WORDS = 16
GEOMETRY_ROWS = 14
MOST_INT16 = 32767.0


def rest_rows(sh_degree: int) -> int:
    """Coefficients of a Gaussian beyond degree 0, of all three channels."""
    return 3 * ((sh_degree + 1) ** 2 - 1)


def page_words(sh_degree: int, room: int = PAGE_GAUSSIANS) -> int:
    """Length of a page, in words of four bytes."""
    rows = rest_rows(sh_degree)
    words = HEADER_WORDS + GEOMETRY_ROWS * room
    return words + room + rows * room // 2 if rows else words


@dataclass(frozen=True, slots=True, eq=False)
class DevicePage:
    """Gaussians in a page.

    Attributes:
        words: [page_words] float32, on the device.
        count: So many.
        room: For so many, an even number.
        sh_degree: Of what it holds.
    """

    words: Tensor
    count: int
    room: int
    sh_degree: int

    @property
    def address(self) -> int:
        """Where kernels find it."""
        return self.words.data_ptr()


@dataclass(frozen=True, slots=True, eq=False)
class DeviceScene:
    """Pages in the scene's order."""

    pages: tuple[DevicePage, ...]

    @property
    def count(self) -> int:
        """Gaussians in all of them."""
        return sum(page.count for page in self.pages)


def upload(
    gaussians: Gaussians, device: torch.device, room: int = PAGE_GAUSSIANS
) -> tuple[DevicePage, ...]:
    """Consecutive Gaussians in pages of their own, on a device.

    Raises:
        BudgetError: If the device has no memory for them.
    """
    runs = [slice(first, first + room) for first in range(0, len(gaussians), room)]
    try:
        return tuple(_page(gaussians[run], device, room) for run in runs)
    except torch.OutOfMemoryError as error:
        raise BudgetError(
            f"{device} has no memory for {len(gaussians):,} Gaussians; use a smaller device budget"
        ) from error


def _page(gaussians: Gaussians, device: torch.device, room: int) -> DevicePage:
    words = torch.from_numpy(pack_words(gaussians, room)).to(device)
    return DevicePage(words, len(gaussians), room, gaussians.sh_degree)


def pack_words(gaussians: Gaussians, room: int = PAGE_GAUSSIANS) -> NDArray[np.float32]:
    """[page_words] of up to ``room`` Gaussians, in host memory.

    Raises:
        ValueError: If they are more.
    """
    count, degree = len(gaussians), gaussians.sh_degree
    if count > room:
        raise ValueError(f"{count:,} Gaussians are more than a page of {room:,} holds")
    words = np.zeros(page_words(degree, room), np.float32)
    with np.errstate(divide="ignore"):
        log2_opacity = np.log2(gaussians.opacities.clip(min=0))
    words[:7] = _bounds(gaussians, log2_opacity)
    quats = gaussians.quats / np.linalg.norm(gaussians.quats, axis=1, keepdims=True)
    columns = [gaussians.means, quats, gaussians.scales, log2_opacity[:, None], gaussians.sh[:, 0]]
    tail = HEADER_WORDS + GEOMETRY_ROWS * room
    rows = words[HEADER_WORDS:tail].reshape(GEOMETRY_ROWS, room)
    rows[:, :count] = np.concatenate(columns, axis=1).T
    if degree:
        scales, rest = _quantized(gaussians.sh[:, 1:].reshape(count, -1))
        words[tail : tail + count] = scales
        halves = words[tail + room :].view(np.int16).reshape(-1, room)
        halves[:, :count] = rest.T
    return words


def _quantized(rest: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """A scale for each Gaussian, and its coefficients in units of that."""
    largest = np.abs(rest).max(axis=1)
    shown = largest > np.finfo(np.float32).tiny * MOST_INT16  # else as good as black
    inverse = np.divide(MOST_INT16, largest, out=np.zeros_like(largest), where=shown)
    scales = np.where(shown, largest / MOST_INT16, 0).astype(np.float32)
    return scales, np.rint(rest * inverse[:, None]).astype(np.int16)


def _bounds(gaussians: Gaussians, log2_opacity: NDArray[np.floating]) -> NDArray[np.float32]:
    """[7] box of the means, and the largest scale, larger where an opacity is above 1."""
    if not len(gaussians):
        return np.zeros(7, np.float32)
    reach = np.sqrt(1 - np.maximum(log2_opacity, 0) / np.log2(ALPHA_CUT))
    largest = (gaussians.scales.max(axis=1) * reach).max()
    lo, hi = gaussians.means.min(axis=0), gaussians.means.max(axis=0)
    return np.array([*lo, *hi, largest], np.float32)
