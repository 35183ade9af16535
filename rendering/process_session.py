"""Processes that end with who started them, with all that these started in turn.

A process that is started as the leader of a session (``start_new_session``) is its root. To end the
process group is not enough: ninja gives each compiler a group of its own, and does not end them
when it is killed. Sessions they do not leave.

Run as a program, this starts a command in such a session and ends all of it when the other end of
its standard input is closed, as it is when who holds it dies, however that comes about. It needs
nothing but Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def guarded(command: Sequence[str]) -> list[str]:
    """A command that ends, with all that it started, at the end of its standard input.

    It must be started as the leader of a session. Its status is that of ``command``.
    """
    return [sys.executable, "-I", os.path.abspath(__file__), *command]


def end_session(leader: int) -> None:
    """End a session: all processes that its leader started, and the leader at last.

    Does not wait until they have ended, which a process that waits for a device may put off.

    Args:
        leader: Its process. It may have ended already.
    """
    ended: set[int] = set()
    # What is started while the others are looked at is found by looking again.
    while members := _members(leader) - ended:
        for process in members:
            _kill(process)
        ended |= members
    _kill(leader)


def _members(leader: int) -> set[int]:
    """Of a session, but for the leader."""
    found = set()
    with contextlib.suppress(FileNotFoundError):  # where there is no /proc
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != leader and _is_member(int(name), leader):
                found.add(int(name))
    return found


def _is_member(process: int, leader: int) -> bool:
    try:
        return os.getsid(process) == leader
    except OSError:  # it has ended meanwhile
        return False


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, signal.SIGKILL)


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    if os.getsid(0) == os.getpid():
        end_session(os.getpid())
    os._exit(1)


def main(command: Sequence[str]) -> int:
    """Run a command; see the module's text."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
