"""What is said of files that were opened for neural scenes, and hold none that is read."""

from __future__ import annotations

from pathlib import Path

from splat.errors import SceneFormatError

MODELS = "Scaffold-GS, Octree-GS, Instant-NGP, Nerfacto, GridNeRF and NeRF"

# How what holds checkpoints begins: zip, pickle, gzip.
_CONTAINERS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b")
_ENDED_CHARACTER = 4  # bytes that a character may have, of which the head may hold some


def unread_checkpoint(path: Path, head: bytes) -> SceneFormatError:
    """Of a file that is a checkpoint by its name or content.

    Args:
        path: The file.
        head: Its first bytes.
    """
    remedy = "docs/models.md tells which files of neural models are read"
    if head.startswith(_CONTAINERS) or _is_map(head):
        remedy = "docs/models.md tells which files each of them needs"
        problem = f"holds none of the neural models that are read ({MODELS})"
        return SceneFormatError(path, problem, remedy=remedy)
    if _is_text(head):
        return SceneFormatError(path, "is text, no checkpoint", remedy=remedy)
    return SceneFormatError(path, f"is no checkpoint (it begins with {head[:8]!r})", remedy=remedy)


def _is_map(head: bytes) -> bool:
    """Whether it begins as a map of MessagePack does: so do snapshots of Instant-NGP."""
    return head[:1] in (b"\xde", b"\xdf") or (0x81 <= head[0] <= 0x8F if head else False)


def _is_text(head: bytes) -> bool:
    for cut in range(min(_ENDED_CHARACTER, len(head))):
        try:
            text = head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return all(each.isprintable() or each.isspace() for each in text)
    return False
