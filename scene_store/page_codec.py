"""Gaussians as the bytes of a chunk, and back."""

from __future__ import annotations

from scene_store.chunks import EncodedChunk
from scene_store.manifest import Profile
from splat.gaussians import Gaussians


def encode_chunk(gaussians: Gaussians, profile: Profile) -> EncodedChunk:
    """The two streams of a chunk: geometry with colour, and harmonics above degree 0.

    Deterministic, on any thread; the interpreter's lock is released for most of it.

    Raises:
        ValueError: If there are none, or a value is not finite or a scale not positive.
    """
    raise NotImplementedError


def decode_chunk(encoded: EncodedChunk, sh_degree: int) -> Gaussians:
    """The Gaussians of a chunk.

    Raises:
        CorruptChunk: If the bytes are no chunk.
    """
    raise NotImplementedError
