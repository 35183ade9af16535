"""Compositions in which neural scenes stand: the YAML of ``scene_store.compose``, with Gaussians,
anchors and fields side by side.

Each copy of a scene is a source of its own in one ``MixedChunks``. Scenes of Gaussians that are no
stores are read whole, and their levels of detail made in memory: large ones are to be built first.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scene_store.build.memory_levels import MemoryChunks, build_levels
from scene_store.chunk_sources import can_stream, open_chunks
from scene_store.chunks import ChunkSource
from scene_store.compose import Composition, Part, read_composition
from scene_store.formats.detect import COMPOSED_SUFFIXES
from scene_store.loading import load_scene
from scene_store.models.field_chunks import FieldChunks, MakeStandIn
from scene_store.models.mixed_chunks import MixedChunks
from scene_store.models.scene import NeuralScene
from scene_store.neural_store import is_neural_store
from splat.errors import SceneError, SceneFormatError, SceneNotFoundError
from splat.fields import Field

MOST_COPIES = 1_000


def recognizes(path: Path) -> bool:
    """Whether it is a composition that names a neural scene."""
    if path.suffix.lower() not in COMPOSED_SUFFIXES or not path.is_file():
        return False
    try:
        composition = read_composition(path)
    except SceneError:
        return False  # whoever opens it as another composition will say what is wrong
    return any(part.blocks or _is_neural(Path(part.name)) for part in composition.parts)


def open_blocks(
    path: Path, *, trust: bool = False, make_stand_in: MakeStandIn | None = None
) -> NeuralScene:
    """All of its scenes, each where it stands.

    Args:
        path: The YAML file.
        trust: As of the readers of its scenes.
        make_stand_in: Coarse forms of fields, which are drawn while the fields come. Without, all
            fields stay in memory.

    Raises:
        SceneError: If it, or one of its scenes, cannot be read.
    """
    composition = read_composition(path)
    _require_few(composition)
    with contextlib.ExitStack() as opened:
        sources, placements = [], []
        for part in composition.parts:
            open_part = functools.partial(_opened, composition, part, trust, make_stand_in, opened)
            first = open_part()
            for number, placement in enumerate(part.placements):
                # What is in memory is there once; of the others each copy has files of its own.
                shared = number == 0 or isinstance(first, MemoryChunks)
                sources.append(first if shared else open_part())
                placements.append(placement)
        chunks = MixedChunks(sources, placements, path)
        if composition.up is not None:
            chunks.meta = replace(chunks.meta, up=composition.up)
        opened.pop_all()
    return NeuralScene(chunks)


def _require_few(composition: Composition) -> None:
    """Every copy has chunks of its own."""
    copies = sum(len(part.placements) for part in composition.parts)
    if copies > MOST_COPIES:
        raise SceneFormatError(
            composition.path,
            f"places {copies:,} scenes, more than {MOST_COPIES:,} with neural ones among them",
            remedy="build a store of the copies of Gaussians, and name that",
        )


def _opened(
    composition: Composition,
    part: Part,
    trust: bool,
    make_stand_in: MakeStandIn | None,
    opened: contextlib.ExitStack,
) -> ChunkSource:
    """A scene, closed with others if not all can be opened."""
    source = _open(composition.path, part, trust, make_stand_in)
    return opened.enter_context(contextlib.closing(source))


def _open(
    composed: Path, part: Part, trust: bool, make_stand_in: MakeStandIn | None
) -> ChunkSource:
    # The readers are found there, and this is one of them.
    from scene_store.models import find_reader, open_model

    path = Path(part.name)
    reader = find_reader(path)
    if part.lod is not None and (reader is not None or is_neural_store(path)):
        raise SceneFormatError(
            composed,
            f"chooses level {part.lod} of {part.name}, of which each view draws what it needs",
            remedy="leave out lod",
        )
    if part.blocks or (reader is not None and hasattr(reader, "read_field")):
        reads = [_field_reader(composed, name, trust) for name in part.blocks or (part.name,)]
        return FieldChunks.of_fields(
            path, reads, border=part.border, make_stand_in=make_stand_in, always=True
        )
    if reader is not None:
        return open_model(path, trust=trust)
    if part.lod is None and can_stream(path):
        return open_chunks(path)
    scene = load_scene(part.name, lod=part.lod)
    levels = build_levels(scene.gaussians, part.name)
    levels.meta = scene.meta
    return levels


def _field_reader(composed: Path, name: str, trust: bool) -> Callable[[], Field]:
    """What reads one field.

    Raises:
        SceneFormatError: If it is none.
    """
    from scene_store.models import find_reader

    reader = find_reader(Path(name))
    if reader is None or not hasattr(reader, "read_field"):
        if not Path(name).exists():
            raise SceneNotFoundError(
                f"{composed}: names {name}, where there is nothing; check the spelling"
            )
        raise SceneFormatError(composed, f"names {name} as a block, which is no radiance field")
    return functools.partial(reader.read_field, Path(name), trust=trust)


def _is_neural(path: Path) -> bool:
    from scene_store.models import is_model

    return is_model(path) or is_neural_store(path)
