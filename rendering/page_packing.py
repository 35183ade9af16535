"""Gaussians as words of pages: the layout that the GPU kernels read.

A page is single-precision words: a header of 16 (the corners of the box of the means, then the
largest scale), and rows of as many words as the page has room for Gaussians: 3 of means, 4 of quats
(wxyz, unit length), 3 of scales, 1 of log2 of the opacity, 3 of SH of degree 0. With harmonics
beyond that, a row of scales follows, and half a row of 16-bit integers for each coefficient:
colours are as far off as in the CPU engine, by half of such a scale.

Several pages are written at once, and each array is turned from Gaussians to rows first: what
follows then works on whole rows, which numpy does without its interpreter lock, several threads
beside one another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rendering.base import ALPHA_CUT
from splat.gaussians import Gaussians

Words = NDArray[np.float32]

PAGE_GAUSSIANS = 1024
HEADER_WORDS = 16
GEOMETRY_ROWS = 14
MOST_INT16 = 32767.0
# Written at once; what is between fits a core's cache.
BLOCK_GAUSSIANS = 4096


def rest_rows(sh_degree: int) -> int:
    """Coefficients of a Gaussian beyond degree 0, of all three channels."""
    return 3 * ((sh_degree + 1) ** 2 - 1)


def page_words(sh_degree: int, room: int = PAGE_GAUSSIANS) -> int:
    """Length of a page, in words of four bytes."""
    rows = rest_rows(sh_degree)
    words = HEADER_WORDS + GEOMETRY_ROWS * room
    return words + room + rows * room // 2 if rows else words


def pack_pages(gaussians: Gaussians, rows: NDArray[np.int64], room: int, out: Words) -> None:
    """Write pages.

    Args:
        gaussians: Those of all pages.
        rows: [P, 2] first row and number of rows of each page, at most ``room``.
        room: Of a page, an even number of Gaussians.
        out: [P, at least page_words] where to; what is beyond a page stays as it is.
    """
    for page, end, first, count in _runs(rows.tolist(), max(1, BLOCK_GAUSSIANS // room)):
        _pack_run(gaussians, first, count, room, out[page:end])


def _runs(rows: list[list[int]], most: int) -> Iterator[tuple[int, int, int, int]]:
    """Pages of as many Gaussians each, one after the other: first and end page, first row, and
    Gaussians of each."""
    page = 0
    while page < len(rows):
        first, count = rows[page]
        end = page + 1
        while end < min(len(rows), page + most) and rows[end] == [
            first + (end - page) * count,
            count,
        ]:
            end += 1
        yield page, end, first, count
        page = end


def _pack_run(gaussians: Gaussians, first: int, count: int, room: int, out: Words) -> None:
    pages, degree = len(out), gaussians.sh_degree
    if not count:
        out[:, : page_words(degree, room)] = 0
        return
    of_run = slice(first, first + pages * count)

    def in_rows(values: Words) -> Words:
        """[pages, columns, count] of a view of [pages · count, ...]."""
        turned: Words = values[of_run].reshape(pages, count, -1).transpose(0, 2, 1)
        return turned

    tail = HEADER_WORDS + GEOMETRY_ROWS * room
    rows = out[:, HEADER_WORDS:tail].reshape(pages, GEOMETRY_ROWS, room)  # a view
    geometry = rows[..., :count]
    geometry[:, 0:3] = in_rows(gaussians.means)
    geometry[:, 3:7] = in_rows(gaussians.quats)
    geometry[:, 3:7] /= np.sqrt(np.square(geometry[:, 3:7]).sum(axis=1, keepdims=True))
    geometry[:, 7:10] = in_rows(gaussians.scales)
    with np.errstate(divide="ignore"):
        geometry[:, 10:11] = np.log2(in_rows(gaussians.opacities).clip(min=0))
    geometry[:, 11:14] = in_rows(gaussians.sh[:, 0])
    rows[..., count:] = 0
    out[:, :HEADER_WORDS] = 0
    out[:, :7] = _bounds(geometry)
    if degree:
        _pack_rest(in_rows(gaussians.sh[:, 1:]), room, out[:, tail:])


def _pack_rest(rest: Words, room: int, out: Words) -> None:
    """[pages, coefficients, count], in units of a scale for each Gaussian."""
    pages, coefficients, count = rest.shape
    rest = rest.copy(order="C")  # of one Gaussian it would be the scene itself
    largest = np.abs(rest).max(axis=1)
    shown = largest > np.finfo(np.float32).tiny * MOST_INT16  # else as good as black
    inverse = np.divide(MOST_INT16, largest, out=np.zeros_like(largest), where=shown)
    out[:, :count] = np.where(shown, largest / MOST_INT16, 0)
    out[:, count:room] = 0
    rest *= inverse[:, None]
    np.rint(rest, out=rest)
    for page in range(pages):  # a view of other words must be of one page
        words = out[page, room : room + coefficients * room // 2]
        halves = words.view(np.int16).reshape(coefficients, room)
        halves[:, :count] = rest[page]
        halves[:, count:] = 0


def _bounds(geometry: Words) -> Words:
    """[pages, 7] box of the means, and the largest scale, larger where an opacity is above 1.

    What is not a number is left out: it cannot be seen, and others of its page can.
    """
    means, scales, log2_opacity = geometry[:, 0:3], geometry[:, 7:10], geometry[:, 10]
    reach = np.sqrt(1 - np.maximum(log2_opacity, 0) / np.float32(np.log2(ALPHA_CUT)))
    each = np.fmax.reduce(scales, axis=1) * reach
    largest = np.fmax.reduce(each, axis=1, keepdims=True)
    low, high = np.fmin.reduce(means, axis=2), np.fmax.reduce(means, axis=2)
    return np.concatenate([low, high, largest], axis=1)
