"""Building a store from any scene: sorted along the Z-curve, merged bottom-up, out of core.

The parts, in the order in which a Gaussian meets them::

    sources     what is read: files, several of them, compositions, the town; has it changed?
    grid        cells of the Z-curve, from a sample
    partition   rows in sorted runs: in memory, or by way of bucket files
    feed        the runs as one sorted stream
    leaves      where the stream is cut into chunks
    merging     chunks and what stands in for them
    pyramid     the levels above, bottom-up, with only a few chunks of each in memory
    node_log    what is known of each node; the tree in the end
    journal     how far it all was, for a build that is continued
    estimate    how large the store will be, before any of it
    builder     the whole

``docs/adr/0006-store-build.md`` says why it is done this way.
"""

from __future__ import annotations

from scene_store.build.builder import build_store
from scene_store.build.estimate import estimate_build
from scene_store.build.options import (
    BuildEstimate,
    BuildOptions,
    BuildProgress,
    BuildReport,
    Stage,
)

__all__ = [
    "BuildEstimate",
    "BuildOptions",
    "BuildProgress",
    "BuildReport",
    "Stage",
    "build_store",
    "estimate_build",
]
