"""Every error a user can meet, and nothing else.

::

    BelvedereError                 anything this project reports on purpose
    ├── SceneError                 a scene cannot be used
    │   ├── SceneNotFoundError     no such file or folder
    │   │   └── SceneUnreachableError  nobody can tell: its server does not answer
    │   ├── SceneFormatError       it is there, but broken or of an unknown kind
    │   └── ChunkReadError         one chunk of a streamed scene cannot be had
    ├── SettingsError              a configuration file or option is wrong
    ├── CameraError                a camera, pose or camera file makes no sense
    ├── OutputError                a result cannot be written
    ├── PortInUseError             the address to serve on is taken
    ├── BudgetError                the work cannot fit the memory it was given
    ├── BackendUnavailable         an engine needs something this machine lacks
    └── RenderError                a frame failed; the engine lives on
        └── RenderCancelled        a newer request replaced this one

The command line prints ``str(error)`` on one line and exits with status 2, so a
message names the file, the place in it, what is wrong, and the remedy. Whatever a file or
its name brings into a message, it stays one line that a terminal can show (``one_line``).
"""

from __future__ import annotations

from os import PathLike, fspath

MAX_MESSAGE = 480


def one_line(text: str) -> str:
    """``text`` without anything that breaks a line or that a terminal would obey.

    Such characters are written as escapes; the middle of a text of more than ``MAX_MESSAGE``
    characters is left out, since files are named at the start and remedies at the end.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(shown) <= MAX_MESSAGE:
        return shown
    half = (MAX_MESSAGE - 3) // 2
    return f"{shown[:half]} … {shown[-half:]}"


class BelvedereError(Exception):
    """Base of all errors raised on purpose; its text is one line, meant for the user."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class SceneError(BelvedereError):
    """A scene cannot be used."""


class SceneNotFoundError(SceneError):
    """The scene's file or folder does not exist or cannot be read."""


class SceneUnreachableError(SceneNotFoundError):
    """A scene may be there, but whoever has it did not answer as it should; later it may."""


class SceneFormatError(SceneError):
    """A scene file is broken, truncated, or of a kind we do not read.

    Args:
        path: The file at fault.
        problem: What is wrong, as a phrase: ``"ends after 12 of 62 bytes"``.
        where: The place in the file: ``"header line 3"``, ``"byte 1024"``.
        remedy: What the user can do about it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        problem: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.path = fspath(path)
        self.problem = problem
        self.where = where
        self.remedy = remedy
        place = f" ({where})" if where else ""
        advice = f"; {remedy}" if remedy else ""
        super().__init__(f"{self.path}{place}: {problem}{advice}")


class ChunkReadError(SceneError):
    """One chunk of a streamed scene cannot be read or is damaged; the others can go on.

    Args:
        path: The file or address that was read.
        chunk: Index of the chunk in its tree.
        problem: What is wrong, as a phrase.
        transient: Whether another attempt may succeed (a stalled server), or not (damage).
    """

    def __init__(
        self, path: str | PathLike[str], chunk: int, problem: str, *, transient: bool = False
    ) -> None:
        self.path = fspath(path)
        self.chunk = chunk
        self.problem = problem
        self.transient = transient
        super().__init__(f"{self.path}: chunk {chunk}: {problem}")


class SettingsError(BelvedereError):
    """A configuration file or a command-line option is wrong."""


class CameraError(BelvedereError):
    """A camera, a pose or a camera file makes no sense."""


class OutputError(BelvedereError):
    """A result cannot be written where the user asked for it."""


class PortInUseError(BelvedereError):
    """The address to serve on is taken by another process."""


class BudgetError(BelvedereError):
    """The work cannot fit into the memory it was given."""


class BackendUnavailable(BelvedereError):
    """A rendering engine needs something that this machine lacks."""


class RenderError(BelvedereError):
    """One frame failed; the engine that raised it keeps serving others."""


class RenderCancelled(RenderError):
    """The frame was abandoned because a newer request replaced it."""
