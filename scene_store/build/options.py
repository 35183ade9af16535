"""What a build is asked for, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from scene_store.manifest import (
    MAX_PAGE_GAUSSIANS,
    PAGE_GRANULARITY,
    Profile,
    SourceFile,
)
from scene_store.memory import available_bytes
from splat.cores import usable_cores
from splat.errors import SettingsError
from splat.gaussians import MAX_SH_DEGREE
from splat.text import byte_size

MIN_MEMORY_BYTES = 64 << 20
_MOST_MEMORY_BYTES = 2 << 30
_CHECKPOINT_S = 30.0
_MOST_NODES = 50_000  # 3.6 MB of node table
_MOST_THREADS_PER_CORE = 4
_NODES_PER_PAGEFUL = 1.55  # levels above the leaves, and pages that are not full


class Stage(str, Enum):
    """What a build is doing; the texts are for people."""

    SAMPLE = "Looking around"
    READ = "Reading"
    BUILD = "Building"
    FINISH = "Finishing"


BuildProgress = Callable[[Stage, int, int], None]
"""Called with the stage, the Gaussians done in it, and their total."""


def silent(stage: Stage, done: int, total: int) -> None:
    """Progress for nobody."""


def suitable_page(count: int) -> int:
    """Gaussians of a chunk, for a scene of ``count``: as few as the size of its tree allows.

    The smaller the chunks, the closer a cut through the tree follows the view, and the better
    is a picture of a given number of Gaussians (docs/adr/0006). But all nodes are read when a
    scene is opened.
    """
    page = PAGE_GRANULARITY
    while page < MAX_PAGE_GAUSSIANS and count * _NODES_PER_PAGEFUL > _MOST_NODES * page:
        page *= 2
    return page


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. Only the first four change what is built.

    Attributes:
        profile: How chunks are encoded.
        page_gaussians: Most Gaussians of a chunk; None for what suits the scene's size
            (``suitable_page``).
        sh_degree: Highest degree of the harmonics that is kept; None for all.
        rebuild_lod: Merge all levels, even where the source brings its own.
        memory_bytes: Scenes that fit are sorted in memory, others through files; None for a
            quarter of what is available, at most 2 GiB.
        threads: 0 for one a core; more than a few on each core are not used.
        replace: Whether a store of that name may be replaced.
        checkpoint_s: Seconds between the points from which a killed build can be continued.
        origin: What the store says that it was built from, if not the scenes: what was made of
            them only to be built.

    Raises:
        SettingsError: If a value makes no sense.
    """

    profile: Profile = Profile.COMPACT
    page_gaussians: int | None = None
    sh_degree: int | None = None
    rebuild_lod: bool = False
    memory_bytes: int | None = None
    threads: int = 0
    replace: bool = False
    checkpoint_s: float = _CHECKPOINT_S
    origin: SourceFile | None = None

    def __post_init__(self) -> None:
        page = self.page_gaussians
        if page is not None and (page % PAGE_GRANULARITY or not 0 < page <= MAX_PAGE_GAUSSIANS):
            raise SettingsError(
                f"a page holds a multiple of {PAGE_GRANULARITY:,} Gaussians, at most "
                f"{MAX_PAGE_GAUSSIANS:,}; got {page:,}"
            )
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_SH_DEGREE:
            raise SettingsError(f"SH degree must be 0 to {MAX_SH_DEGREE}, got {self.sh_degree}")
        if self.memory_bytes is not None and self.memory_bytes < MIN_MEMORY_BYTES:
            raise SettingsError(
                f"--memory: a build needs at least {MIN_MEMORY_BYTES >> 20} MiB, "
                f"got {self.memory_bytes:,} bytes"
            )
        if self.threads < 0:
            raise SettingsError(f"threads must be 0 or more, got {self.threads}")

    @property
    def memory(self) -> int:
        """Bytes that sorting may take."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        available = available_bytes()
        quarter = _MOST_MEMORY_BYTES if available is None else available // 4
        return max(MIN_MEMORY_BYTES, min(_MOST_MEMORY_BYTES, quarter))

    @property
    def workers(self) -> int:
        """Threads that merge and encode."""
        cores = usable_cores()
        return min(self.threads or cores, _MOST_THREADS_PER_CORE * cores)


DEFAULT_OPTIONS = BuildOptions()


@dataclass(frozen=True, slots=True)
class BuildEstimate:
    """What a build would make, found from a sample.

    Attributes:
        gaussians: In the source.
        sh_degree: Of the store.
        store_bytes: Of the finished store, roughly.
        scratch_bytes: Of the files that are removed in the end; 0 where memory does.
        free_bytes: On the disk.
        needed_bytes: What must be free for the build to begin: both, and some to spare.
    """

    gaussians: int
    sh_degree: int
    store_bytes: int
    scratch_bytes: int
    free_bytes: int
    needed_bytes: int

    def lack_of_room(self) -> str:
        """Why the build would not begin, and the remedy; empty if there is room."""
        if self.needed_bytes <= self.free_bytes:
            return ""
        return (
            f"building it needs about {byte_size(self.needed_bytes)}, and the disk has "
            f"{byte_size(self.free_bytes)} free; free some space or choose another folder"
        )


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built.

    Attributes:
        path: The store.
        gaussians: Originals in it.
        dropped: Left out because a value was not finite or a scale not usable.
        nodes, levels: Of the tree.
        store_bytes: Of all its files.
        seconds: That it took, of this run.
        resumed: Whether an earlier, interrupted build was continued.
    """

    path: Path
    gaussians: int
    dropped: int
    nodes: int
    levels: int
    store_bytes: int
    seconds: float
    resumed: bool
