"""A store, or a remote scene, as the commands open it: at once, whatever its size."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from configs.settings import StreamSettings
from rendering.streamed_scene import Rasterizers, StreamedScene, StreamPolicy, memory_count
from scene_store.chunk_sources import open_chunks
from scene_store.chunks import ChunkSource, NeuralSource, gaussians_of, row_bytes_of
from scene_store.ledger import Budgets
from scene_store.memory import available_bytes, gaussian_bytes
from scene_store.models import open_model
from scene_store.models.rooms import make_room, pageable
from scene_store.outline import first_camera, outline_of
from scene_store.remade_chunks import RemadeChunks
from scene_store.scene import SceneMeta, Vector3
from scene_store.statistics import likely_up
from scene_store.store import Store
from scene_store.streamed_sog_chunks import StreamedSogChunks
from scene_store.town_source import TOWN_NAME
from scene_store.tree import LodTree
from splat.errors import ChunkReadError, SceneError
from splat.gaussians import Gaussians
from splat.harmonics import rgb_to_sh0
from viewer.budgets import choose_budgets
from viewer.scenes import SceneChoice, check_exists, in_town
from viewer.start_view import StartView, view_of

log = logging.getLogger(__name__)

# Of the coarsest chunks, which the start view is chosen from.
MOST_OVERVIEW_CHUNKS = 8


@runtime_checkable
class _HasOverhead(Protocol):
    overhead_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class OpenedStream:
    """An open scene of chunks and a view of it; whoever draws it closes the source.

    Attributes:
        title: The scene's name, for people.
        cached: The store, if it is one that was made of the scene, and is kept in the cache.
    """

    title: str
    source: ChunkSource
    start: StartView
    cached: Path | None = None

    @property
    def meta(self) -> SceneMeta:
        """What its source says."""
        return self.source.meta

    @property
    def facts(self) -> str:
        """One line: format, size, harmonics."""
        return self.meta.facts


def open_stream(
    choice: SceneChoice, scene: SceneMeta | None = None, host_budget: int | None = None
) -> OpenedStream:
    """Open a store, a streamed SOG, a neural or a remote scene: its description and the coarsest
    chunks are read.

    Args:
        choice: Which one.
        scene: What a store of the cache was made of, as it says itself today: its training
            cameras may have changed since.
        host_budget: The user's; of a streamed SOG, fewer textures are kept where it is small.

    Raises:
        SceneError: If it is damaged, or an option does not go with it.
    """
    if choice.lod is not None:
        raise SceneError(
            f"{choice.shown}: all its levels are drawn, each where it is needed; leave out --lod"
        )
    chunks = open_chunk_source(choice)
    if isinstance(chunks, StreamedSogChunks) and host_budget is not None:
        chunks.leave_room(host_budget - _largest_bytes(chunks))
    if isinstance(chunks, NeuralSource):
        chunks = pageable(chunks)
    # The coarse chunks of others are no merged Gaussians, and cannot be made anew.
    source = chunks if isinstance(chunks, NeuralSource) else RemadeChunks(chunks)
    try:
        start = stream_start(choice, source, scene)
        if scene is not None and isinstance(source, RemadeChunks):
            source.meta = replace(
                source.meta, cameras=scene.cameras, up=scene.up, up_assumed=scene.up_assumed
            )
        return OpenedStream(choice.title, source, start)
    except BaseException:
        source.close()
        raise


def open_chunk_source(choice: SceneChoice) -> ChunkSource:
    """The chunks of a store, a streamed SOG, a neural or a remote scene.

    Raises:
        SceneError: If there are none, they are damaged or cannot be reached.
    """
    check_exists(choice)
    if choice.is_model:
        # It evaluates fields, which other scenes need not wait for.
        from rendering.models.field_stand_ins import make_stand_in

        assert choice.path is not None
        return open_model(choice.path, trust=choice.trust, make_stand_in=make_stand_in)
    if choice.address is None:
        return open_chunks(choice.store_folder)
    return open_chunks(choice.address, remote=choice.remote)


def streamed(
    opened: OpenedStream,
    rasterizer: Rasterizers,
    stream: StreamSettings,
    budgets: Budgets | None = None,
    reach_bytes: int | None = None,
) -> StreamedScene:
    """The scene to be drawn, within budgets that the machine has; it closes the source.

    Args:
        opened: The scene.
        rasterizer: What will draw it; by memory, if there are several.
        stream: How it is drawn, and the budgets if nothing else is said.
        budgets: Other ones.
        reach_bytes: As of ``StreamedScene``.

    Raises:
        BudgetError: If the budgets are more than there is, or too small for the scene; then
            the source is closed.
    """
    try:
        if budgets is None:
            budgets = stream_budgets(opened, stream, memory_count(rasterizer))
        make_room(
            opened.source, budgets.host_bytes // memory_count(rasterizer), budgets.device_bytes
        )
        policy = StreamPolicy(stream.max_gaussians, 1e-3 * stream.fade_ms)
        return StreamedScene(opened.source, rasterizer, budgets, policy, reach_bytes=reach_bytes)
    except BaseException:
        opened.source.close()
        raise


def stream_budgets(
    opened: OpenedStream,
    stream: StreamSettings,
    memories: int = 1,
    gpu_bytes: int | None = None,
) -> Budgets:
    """Those of the settings, or shares of what the machine has.

    Args:
        memories, gpu_bytes: As of ``choose_budgets``.

    Raises:
        BudgetError: If they are more than there is, or less than reading takes.
    """
    available, overhead = available_bytes(), overhead_bytes(opened.source)
    return choose_budgets(
        stream.host_budget, stream.device_budget, available, overhead, memories, gpu_bytes
    )


def overhead_bytes(source: ChunkSource) -> int:
    """Host memory that a source takes beside the chunks that residency counts, at most."""
    return source.overhead_bytes if isinstance(source, _HasOverhead) else 0


def reads_within(source: ChunkSource, host_budget: int | None) -> bool:
    """Whether each chunk of a scene can be read within the user's host budget, if there is one."""
    if host_budget is None:
        return True
    return overhead_bytes(source) + _largest_bytes(source) <= host_budget


def _largest_bytes(source: ChunkSource) -> int:
    """Host memory that reading and decoding the largest chunk takes."""
    counts = source.tree.count
    encoded = max(source.encoded_bytes(chunk) for chunk in range(len(counts)))
    return encoded + int(counts.max()) * (row_bytes_of(source) or gaussian_bytes(source.sh_degree))


def stream_start(
    choice: SceneChoice, source: ChunkSource, scene: SceneMeta | None = None
) -> StartView:
    """The view that the scene itself would begin with, where its outline is remembered; else
    one chosen from the coarsest chunks.

    Args:
        choice: The scene.
        source: Its chunks.
        scene: As in ``open_stream``.
    """
    meta = source.meta if scene is None else scene
    outline = source.meta.outline
    wanted = choice.up if choice.up is not None else _known_up(source, scene)
    if outline is None or (wanted is not None and not outline.stands_up(wanted)):
        coarse = overview(source)
        up = choice.up if choice.up is not None else likely_up(meta, coarse)
        outline = outline_of(coarse, up=up, cameras=meta.cameras)
    elif scene is not None:
        outline = replace(outline, camera=first_camera(scene.cameras))
    start = view_of(outline, math.radians(choice.fov_deg))
    return in_town(start) if _is_town(source) else start


def _known_up(source: ChunkSource, scene: SceneMeta | None) -> Vector3 | None:
    """What is up in the outline that is remembered, if that is still known; None if nothing
    speaks against what it says."""
    if scene is None:
        return source.meta.up
    outline = source.meta.outline
    if not scene.cameras and (outline is None or outline.camera is None):
        return None
    return likely_up(scene, overview(source))  # cameras tell it, or told it before


def overview(source: ChunkSource) -> Gaussians:
    """Gaussians that show where the scene is: some of the coarsest chunks, or their boxes."""
    if isinstance(source, NeuralSource):
        return source.overview()
    roots = source.tree.roots
    step = -(-len(roots) // MOST_OVERVIEW_CHUNKS)
    chunks = []
    for root in roots[::step].tolist():
        try:
            encoded = source.read(root)
            if encoded is not None:
                chunks.append(gaussians_of(source.decode(root, encoded)))
        except ChunkReadError as error:
            log.info("%s", error)  # whoever wants it will tell
    return Gaussians.concatenate(chunks) if chunks else _boxes(source.tree, source.meta)


def _boxes(tree: LodTree, meta: SceneMeta) -> Gaussians:
    """A Gaussian for each leaf's box: where no chunk can be read, the tree still tells."""
    leaves = np.flatnonzero(tree.is_leaf)
    lo, hi = tree.lo[leaves], tree.hi[leaves]
    count = len(leaves)
    log.debug("%s: the start view is chosen from %d boxes", meta.path, count)
    return Gaussians(
        means=(0.5 * (lo + hi)).astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.maximum(0.25 * (hi - lo), 1e-6).astype(np.float32),
        opacities=np.ones(count, np.float32),
        sh=rgb_to_sh0(np.full((count, 3), 0.5, np.float32))[:, None, :].astype(np.float32),
    )


def _is_town(source: ChunkSource) -> bool:
    """Whether a store was built from the built-in town, and nothing else."""
    store = source.source if isinstance(source, RemadeChunks) else source
    sources = store.manifest.info.sources if isinstance(store, Store) else ()
    names = [file.path for file in sources if file.size_bytes == 0]
    return len(sources) == 1 and len(names) == 1 and names[0].split(":")[0] == TOWN_NAME
