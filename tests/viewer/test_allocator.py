"""The process-wide setting is tried in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these thresholds"
)

# Whether a block of 8 MiB is a mapping of its own after one of 24 MiB came and went: by then
# glibc takes it from an arena, unless told not to.
SCRIPT = """
import ctypes, sys
from viewer.allocator import return_freed_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
took = return_freed_blocks() if sys.argv[1] == "set" else None

class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
                .split()]

libc.mallinfo.restype = Info
libc.free(libc.malloc(24 << 20))
before = libc.mallinfo().hblks
block = libc.malloc(8 << 20)
print(took, libc.mallinfo().hblks - before)
"""


def outcome(how: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return done.stdout.strip()


def test_large_blocks_are_mappings_of_their_own() -> None:
    assert outcome("leave") == "None 0"
    assert outcome("set") == "True 1"


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_MMAP_THRESHOLD_": "33554432"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432"},
    ],
    ids=["variable", "tunable"],
)
def test_what_the_environment_says_goes_first(variables: dict[str, str]) -> None:
    assert outcome("set", **variables) == "False 0"
