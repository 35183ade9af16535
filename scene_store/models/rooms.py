"""Scenes that can do with less memory than they take: fields, alone or in a composition."""

from __future__ import annotations

from pathlib import Path

from scene_store.chunks import ChunkSource, NeuralSource
from scene_store.models.mixed_chunks import MixedChunks
from scene_store.models.paged_fields import PagedFields, TableFile
from splat.fields import FieldModel


def pageable(source: NeuralSource, folder: Path | None = None) -> NeuralSource:
    """The same scene, such that ``make_room`` counts; as it is, if it has no fields of its own.

    Args:
        source: Any; closed with the result.
        folder: For a file of what is not in memory; None for the user's cache.
    """
    if isinstance(source, MixedChunks):
        return source.pageable(TableFile(folder))
    is_field = type(source.model) is FieldModel
    return PagedFields(source, TableFile(folder)) if is_field else source


def make_room(source: ChunkSource, host_bytes: int, device_bytes: int) -> None:
    """Keep on disk what there is no memory for; before anything is loaded.

    Args:
        source: As ``pageable`` made it; nothing is done for others.
        host_bytes, device_bytes: What there is for all of the scene.

    Raises:
        ChunkReadError: If a field cannot be read.
        SceneError: If the file cannot be written.
    """
    if isinstance(source, PagedFields | MixedChunks):
        source.make_room(host_bytes, device_bytes)
