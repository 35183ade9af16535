"""What glibc's allocator does with memory that was freed: give it back to the system.

Pictures and decoded chunks come and go in blocks of megabytes, on many threads. By default
glibc takes the first few from the system and then, having seen them freed, takes blocks of
up to 32 MiB from its arenas, which fill with holes: after minutes of five viewers a server
held 1.7 times the memory that it used. Above a fixed threshold each block is a mapping of its
own and leaves with its last reference; frames were as fast.
"""

from __future__ import annotations

import ctypes
import os

# Numbers of ``malloc.h``, and what the environment calls the same.
_TRIM_THRESHOLD = (-1, "MALLOC_TRIM_THRESHOLD_")
_MMAP_THRESHOLD = (-3, "MALLOC_MMAP_THRESHOLD_")
OWN_MAPPING_BYTES = 1 << 20
KEPT_FREE_BYTES = 16 << 20


def return_freed_blocks() -> bool:
    """Let freed blocks of ``OWN_MAPPING_BYTES`` and more return to the system at once.

    Call it once, as a program begins: it holds for the whole process. What the environment or
    ``GLIBC_TUNABLES`` says of the same thresholds goes first.

    Returns:
        Whether the allocator took it; others than glibc's have their own ways.
    """
    if any(name in os.environ for _, name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)):
        return False
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    own = mallopt(_MMAP_THRESHOLD[0], OWN_MAPPING_BYTES)
    return bool(own and mallopt(_TRIM_THRESHOLD[0], KEPT_FREE_BYTES))
