"""What an interrupted build left: whether it is this one, and can be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_store.build.dealing import Dealing
from scene_store.build.journal import DAMAGE, Checkpoint, Journal, Sorted
from scene_store.build.partition import Buckets
from scene_store.store_folder import SCRATCH_FOLDER
from scene_store.store_writer import StoreWriter

# Of an identity, what the user says it with.
_OPTIONS = {
    "profile": "--profile",
    "page_gaussians": "--page-gaussians",
    "sh_degree": "--sh-degree",
}


class UnusableStateError(Exception):
    """The files of an interrupted build are damaged; the text says how, as a phrase."""


@dataclass(frozen=True, slots=True, eq=False)
class Interrupted:
    """How far the interrupted build came.

    Attributes:
        dealing: While the sources were read, if it came no farther.
        sorted: After the sources were read, if it came so far.
        checkpoint: The last one, if there is one.
    """

    dealing: Dealing | None
    sorted: Sorted | None
    checkpoint: Checkpoint | None

    @classmethod
    def of(
        cls, journal: Journal, writer: StoreWriter, folders: Sequence[Path], width: int
    ) -> Interrupted:
        """What the journal names, every file of it seen.

        Args:
            journal: Of this very build.
            writer: Of its store.
            folders: Of the buckets of each of its streams.
            width: Values of a row in them.

        Raises:
            UnusableStateError: If some of it is damaged or missing.
        """
        try:
            dealing, state, checkpoint = journal.dealing, journal.sorted, journal.checkpoint()
            if dealing is not None:
                dealing.check(folders, width)
            if state is not None:
                _check_sorted(state, folders, width)
            if checkpoint is not None:
                _check_checkpoint(checkpoint, state, writer)
        except DAMAGE as error:
            raise UnusableStateError(str(error) or type(error).__name__) from None
        return cls(dealing, state, checkpoint)


def _check_sorted(state: Sorted, folders: Sequence[Path], width: int) -> None:
    if len(state.counts) != len(folders) or min(state.counts) < 0:
        raise ValueError("its journal makes no sense")
    if not state.bucket_counts:
        return
    for folder, total, counts in zip(folders, state.counts, state.bucket_counts, strict=True):
        if sum(counts) != total:
            raise ValueError("its journal makes no sense")
        buckets = Buckets(folder, width, counts)
        for bucket, count in enumerate(counts):
            if count and buckets.path(bucket).stat().st_size != 4 * width * count:
                raise ValueError(f"{buckets.path(bucket).name} has another size")


def _check_checkpoint(checkpoint: Checkpoint, state: Sorted | None, writer: StoreWriter) -> None:
    counts = () if state is None else state.counts
    for consumed, count in zip(checkpoint.consumed, counts, strict=True):
        if not 0 <= consumed <= count:
            raise ValueError("its journal makes no sense")
    if not writer.can_resume(checkpoint.writer):
        raise ValueError("a page file is shorter than it was, or missing")


def begun_scenes(folder: Path) -> tuple[str, ...]:
    """The scenes of which an unfinished build left this folder; none if there is nothing in it
    that a build could go on with.

    Args:
        folder: ``STORE.partial``.
    """
    identity = Journal(folder / SCRATCH_FOLDER, {}).other_identity() or {}
    scenes = identity.get("scenes")
    return tuple(map(str, scenes)) if isinstance(scenes, list) else ()


def what_is_left(folder: Path) -> str:
    """What becomes of a build that was interrupted, a phrase for people.

    Args:
        folder: ``STORE.partial``.
    """
    if not begun_scenes(folder):
        return "nothing was kept, the same command begins anew"
    return f"the same command continues the build from what is kept in {folder}"


def refusal(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why an interrupted build is neither continued nor thrown away.

    Args:
        path: The store of both.
        before: ``Journal.identity`` of the interrupted build.
        now: Of the one at hand, which is another.
    """
    if before.get("scenes") == now["scenes"]:
        known = {name: rest for name, *rest in now["files"]}
        for name, *rest in before.get("files", []):
            if known.get(name) != rest:
                return (
                    f"{name}: has changed since the build of {path} was interrupted; begin anew "
                    f"with --overwrite"
                )
    return (
        f"{path}: an unfinished build of it {_difference(before, now)}; ask for the same to "
        f"continue that, or begin anew with --overwrite"
    )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.get("scenes") != now["scenes"]:
        return "is of other scenes"
    for name, option in _OPTIONS.items():
        if before.get(name) != now[name]:
            return f"has {option} {before.get(name)}, not {now[name]}"
    if before.get("levels") != now["levels"]:
        return f"was begun {'without' if len(now['levels']) == 1 else 'with'} --rebuild-lod"
    return "is of fewer files"
