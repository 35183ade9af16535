"""The control groups around this process: a container's limits are theirs (Linux).

There are two versions, which a system may mix, and groups lie within groups, so that every
limit of a group and of those around it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MOUNT = "sys/fs/cgroup"


def group_folders(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, folder) of each group that limits this process, the innermost first.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
        controller: What is limited: ``"memory"`` or ``"cpu"``.
    """
    memberships = parse_memberships(read_text(root / "proc/self/cgroup"), controller)
    for version, group in memberships:
        mount = root / _MOUNT / (controller if version == 1 else "")
        for folder in _outwards(mount, group):
            yield version, folder


def parse_memberships(text: str, controller: str) -> list[tuple[int, PurePosixPath]]:
    """(version, group) of the groups that may limit ``controller``, of ``/proc/self/cgroup``."""
    groups = []
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        group = PurePosixPath(path.lstrip("/"))
        if controller in controllers.split(","):
            groups.append((1, group))
        elif hierarchy == "0" and not controllers:
            groups.append((2, group))
    return groups


def read_text(path: Path) -> str:
    """A file of the system, "" where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _outwards(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    """A group's folder and those around it, whose limits hold as well.

    In a container the path may be the host's and lead nowhere; the innermost folder that is
    there is the container's own.
    """
    if ".." in group.parts:  # a group outside of what this process can see
        group = PurePosixPath()
    folder = mount / group
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder
