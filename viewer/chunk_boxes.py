"""The boxes of chunks as lines in the page, coloured by their level of detail."""

from __future__ import annotations

import numpy as np
import viser
from numpy.typing import NDArray

from scene_store.tree import LodTree
from viewer.pose import PageSpace
from viewer.stream_panel import level_color

NODE = "/belvedere/chunk-boxes"
LINE_PX = 1.5
MOST_BOXES = 500  # more are a carpet of lines
# The page takes the colours of lines for linear light, and encodes them once more.
PAGE_GAMMA = 2.2

# Pairs of a box's corners, numbered by the bits of (x, y, z): those that differ in one bit.
EDGES = np.array([(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit])  # [12, 2]


class ChunkBoxes:
    """The boxes in one browser.

    Args:
        client: The browser.
        tree: The chunks.
    """

    def __init__(self, client: viser.ClientHandle, tree: LodTree) -> None:
        self._client = client
        self._tree = tree
        self._shown: tuple[object, ...] = ()
        self._lines: viser.LineSegmentsHandle | None = None

    def show(self, chunks: tuple[int, ...], eye: NDArray[np.float64], space: PageSpace) -> None:
        """Outline these chunks, the nearest if they are many; sends nothing when they are the
        same as before."""
        if self._shown == (chunks, space.scale):
            return
        self._shown = (chunks, space.scale)
        if not chunks:
            self._take_away()
            return
        points, colors = box_lines(self._tree, nearest_boxes(self._tree, chunks, eye))
        self._lines = self._client.scene.add_line_segments(
            NODE,
            space.to_page(points).astype(np.float32),
            np.round(255.0 * (colors / 255.0) ** PAGE_GAMMA).astype(np.uint8),
            thickness=LINE_PX,
            thickness_units="screen",
        )

    def hide(self) -> None:
        """Take them away."""
        self._shown = ()
        self._take_away()

    def _take_away(self) -> None:
        if self._lines is not None:
            self._lines.remove()
            self._lines = None


def nearest_boxes(
    tree: LodTree, chunks: tuple[int, ...], eye: NDArray[np.float64]
) -> NDArray[np.int_]:
    """At most ``MOST_BOXES`` of the chunks, those whose boxes are nearest to ``eye`` [3]."""
    index = np.array(chunks, np.int_)
    nearest = np.clip(eye, tree.lo[index], tree.hi[index])
    order = np.argsort(np.linalg.norm(nearest - eye, axis=1), kind="stable")
    return index[order[:MOST_BOXES]]


def box_lines(
    tree: LodTree, chunks: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The edges of chunks' boxes.

    Returns:
        [12 M, 2, 3] world coordinates of their ends, and [12 M, 2, 3] uint8 RGB.
    """
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1  # [8, 3]
    lo, hi = tree.lo[chunks].astype(np.float64), tree.hi[chunks].astype(np.float64)
    corners = lo[:, None] + bits * (hi - lo)[:, None]
    ends = corners[:, EDGES].reshape(-1, 2, 3)
    colors = np.array([level_color(level) for level in tree.level[chunks].tolist()], np.uint8)
    return ends, np.broadcast_to(colors[:, None, None], (len(chunks), 12, 2, 3)).reshape(-1, 2, 3)
