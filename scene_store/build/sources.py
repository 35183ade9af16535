"""What a build reads: one scene or several together, and whether it has changed meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scene_store.compose import ComposedSource, read_composition
from scene_store.formats.detect import COMPOSED_SUFFIXES
from scene_store.manifest import SourceFile
from scene_store.named_scene import open_named
from scene_store.sampling import SAMPLES, full_sample
from scene_store.scene import SceneSource
from splat.closing import Closing
from splat.errors import SceneError
from splat.gaussians import Float32Array, Gaussians

# Formats of many files name one of them; all lie in its folder.
_FOLDER_FILES = ("lod-meta.json", "meta.json")
_MOST_FILES = 100_000


class JoinedSource(Closing):
    """Several scenes in the same coordinates as one.

    Args:
        sources: At least one; closed with this.
    """

    def __init__(self, sources: Sequence[SceneSource]) -> None:
        self._sources = tuple(sources)
        metas = [source.meta for source in sources]
        notes = [note for meta in metas for note in meta.notes]
        self.meta = replace(
            metas[0],
            format_name=f"{len(metas)} scenes",
            count=sum(meta.count for meta in metas),
            sh_degree=max(meta.sh_degree for meta in metas),
            lod_counts=(),
            cameras=tuple(camera for meta in metas for camera in meta.cameras),
            notes=tuple(dict.fromkeys(notes)),
        )

    def batches(self, max_count: int) -> Iterator[Gaussians]:
        """All of the first scene, then of the next."""
        for source in self._sources:
            yield from source.batches(max_count)

    def sample_means(self) -> Float32Array:
        """Means of all scenes, of each as many as its share."""
        samples = [full_sample(source) for source in self._sources]
        total = max(1, self.meta.count)
        parts = []
        for source, sample in zip(self._sources, samples, strict=True):
            wanted = max(1, SAMPLES * source.meta.count // total)
            parts.append(sample[:: max(1, len(sample) // wanted)])
        return np.concatenate(parts)

    def close(self) -> None:
        """Closes all scenes."""
        for source in self._sources:
            source.close()


def open_sources(
    names: Sequence[str],
    *,
    lod: int | None = None,
    sh_degree: int | None = None,
    cache_bytes: int | None = None,
) -> SceneSource:
    """The scenes as one.

    Args:
        names: Files or folders of any format, ``town`` or ``town:N``.
        lod: Level of detail, 0 the finest.
        sh_degree: Highest degree that will be used: a town need not make more.
        cache_bytes: What compositions may keep together; None for what they choose.

    Raises:
        SceneError: If one cannot be read.
    """
    with ExitStack() as opened:
        sources: list[SceneSource] = []
        for name in names:
            source = open_named(name, lod=lod, sh_degree=sh_degree)
            opened.callback(source.close)
            sources.append(source)
        composed = [source for source in sources if isinstance(source, ComposedSource)]
        if cache_bytes is not None:
            for source in composed:
                source.cache_bytes = cache_bytes // len(composed)
        joined = sources[0] if len(sources) == 1 else JoinedSource(sources)
        opened.pop_all()
    return joined


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The files of some scenes as they were when the build began.

    Attributes:
        files: Those of each scene.
    """

    files: tuple[tuple[SourceFile, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str], without: Sequence[Path] = ()) -> Fingerprint:
        """Of all files that belong to these scenes, but nothing below ``without``."""
        excluded = {path.resolve() for path in without}
        return cls(
            tuple(
                tuple(_described(path) for path in dict.fromkeys(_files_of(name, excluded)))
                for name in names
            )
        )

    @property
    def all_files(self) -> tuple[SourceFile, ...]:
        """Of all scenes, each once."""
        return tuple(dict.fromkeys(file for files in self.files for file in files))

    def require_unchanged(self) -> None:
        """Sees whether the files still are what they were.

        Raises:
            SceneError: Naming the first that is not.
        """
        for file in self.all_files:
            if _described(Path(file.path)) != file:
                raise SceneError(
                    f"{file.path}: has changed since the build began; build again with "
                    f"--overwrite, which begins anew"
                )

    def summary(self, names: Sequence[str]) -> tuple[SourceFile, ...]:
        """What a store remembers: one entry for each scene, its files together."""
        return tuple(
            SourceFile(
                name,
                sum(file.size_bytes for file in files),
                max((file.modified_ns for file in files), default=0),
            )
            for name, files in zip(names, self.files, strict=True)
        )


def _files_of(name: str, excluded: Set[Path]) -> Iterator[Path]:
    path = Path(name)
    if not os.path.exists(path):  # a town
        return
    if path.suffix.lower() in COMPOSED_SUFFIXES:
        yield path
        for part in read_composition(path).names:
            yield from _files_of(part, excluded)
        return
    folder = path if os.path.isdir(path) else path.parent if path.name in _FOLDER_FILES else None
    if folder is None:
        yield path
        return
    count = 0
    for base, folders, found in os.walk(folder):
        folders[:] = sorted(f for f in folders if Path(base, f).resolve() not in excluded)
        for file in sorted(found):
            count += 1
            yield Path(base, file)
        if count > _MOST_FILES:
            raise SceneError(f"{folder}: holds more than {_MOST_FILES:,} files; name a scene in it")


def _described(path: Path) -> SourceFile:
    try:
        status = path.stat()
    except OSError:
        return SourceFile(str(path), -1, -1)
    return SourceFile(str(path), status.st_size, status.st_mtime_ns)
