"""Neural anchors as chunks, straight from the ``point_cloud.ply`` of their trainer.

Opening reads the file once, to sort the anchors and to build the tree (``anchor_tree``); what is
kept is where each chunk's anchors are in the file, 6 to 8 bytes of an anchor. A chunk is then
read by gathering its records. The file is read, not mapped: a trainer that writes it anew is an
error of one chunk, not the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk, never_cancelled
from scene_store.models.anchor_file import AnchorFile, Measures
from scene_store.models.anchor_tree import AnchorTree, build_tree
from scene_store.morton import morton_order
from scene_store.scene import SceneMeta
from scene_store.tree import LodTree
from splat.anchors import AnchorModel
from splat.errors import ChunkReadError, SceneError, SceneFormatError
from splat.gaussians import Gaussians
from splat.rows import Rows
from splat.text import counted

Float32Array = NDArray[np.float32]

# A leaf takes four pages: smaller ones would be many, larger ones half empty.
PAGE_ANCHORS = 1024
OVERVIEW_ANCHORS = 4096


class AnchorChunks:
    """The anchors of a file; a ``NeuralSource``.

    Attributes:
        meta: What is known of the scene; ``count`` is that of the anchors that can be drawn.
        model: What the rows mean.
        tree: The chunks, of anchors.
        sh_degree: 0.
        page_gaussians: Anchors of a device page.
        row_bytes: Of an anchor.

    Args:
        file: The anchors.
        measures: Of the same.
        model: Of the same layout.
        meta: Count and notes are completed here.

    Raises:
        SceneFormatError: If no anchor can be drawn.
    """

    sh_degree = 0
    page_gaussians = PAGE_ANCHORS

    def __init__(
        self, file: AnchorFile, measures: Measures, model: AnchorModel, meta: SceneMeta
    ) -> None:
        self._file = file
        self.model = model
        self.row_bytes = file.row_bytes
        usable = np.flatnonzero(measures.usable).astype(np.uint32)
        if len(usable) == 0:
            raise SceneFormatError(
                file.path,
                f"holds {file.count:,} anchors, but none that can be drawn: each has a value "
                f"that is not finite or a scale that cannot be used",
                remedy="train or export it again",
            )
        order = usable[morton_order(measures.means[usable])]
        measures = measures[order]
        self._anchors: AnchorTree = build_tree(measures, order, model.levels)
        self._overview = _overview(measures)
        self.meta = _completed(meta, len(usable), file.count)

    @property
    def tree(self) -> LodTree:
        """See ``ChunkSource``."""
        return self._anchors.tree

    def overview(self) -> Gaussians:
        """See ``NeuralSource``: grey Gaussians at some anchors, as large as their clusters."""
        return self._overview

    def encoded_bytes(self, chunk: int) -> int:
        """See ``ChunkSource``."""
        return len(self._anchors.rows[chunk]) * self.row_bytes

    def decoded_bytes(self, chunk: int) -> int:
        """See ``Measured``."""
        return self.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        """See ``ChunkSource``."""
        if cancelled():
            return None
        try:
            rows = self._file.rows(self._anchors.rows[chunk].places.astype(np.int64))
        except SceneFormatError as error:
            raise ChunkReadError(error.path, chunk, error.problem) from None
        except SceneError as error:
            raise ChunkReadError(self._file.path, chunk, str(error), transient=True) from None
        return EncodedChunk((rows.data.cast("B"),))

    def decode(self, chunk: int, encoded: EncodedChunk) -> Rows:
        """See ``ChunkSource``. Anchors that cannot be drawn are in no chunk; what is not finite
        now was when the file was opened."""
        here = self._anchors.rows[chunk]
        if encoded.nbytes != self.encoded_bytes(chunk):
            raise ChunkReadError(
                self._file.path,
                chunk,
                f"{encoded.nbytes:,} bytes where {self.encoded_bytes(chunk):,} are needed",
            )
        rows: Float32Array = np.frombuffer(encoded.parts[0], np.float32).reshape(len(here), -1)
        if not np.isfinite(rows).all():
            raise ChunkReadError(self._file.path, chunk, "has changed since it was opened")
        if here.gains is not None:
            rows = rows.copy()
            rows[:, self._file.layout.scales] += np.log(here.gains)[:, None]
        return Rows(rows)

    def close(self) -> None:
        """See ``ChunkSource``."""

    def __enter__(self) -> AnchorChunks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _overview(measures: Measures) -> Gaussians:
    some = measures[:: max(1, len(measures) // OVERVIEW_ANCHORS)]
    count = len(some)
    quats = np.zeros((count, 4), np.float32)
    quats[:, 0] = 1
    return Gaussians(
        means=some.means,
        quats=quats,
        scales=np.repeat(np.maximum(some.spread, 1e-12)[:, None], 3, axis=1),
        opacities=np.ones(count, np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
    )


def _completed(meta: SceneMeta, count: int, in_file: int) -> SceneMeta:
    notes = meta.notes
    if count < in_file:
        notes = (*notes, f"left out {counted(in_file - count, 'anchors')} that cannot be drawn")
    return replace(meta, count=count, sh_degree=0, unit="anchors", notes=notes)
