"""The command line: ``belvedere`` and one of ``COMMANDS``.

Starting must be quick, and Ctrl-C quiet from the start, so nothing of weight is imported
before ``main`` runs; only ``view`` imports viser, and none but the reference rasterizer torch.
Errors meant for the user are one line and exit status 2; anything else is a fault of ours:
one line, status 1, details with ``--debug``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TextIO, cast

from splat.errors import BelvedereError, OutputError, SettingsError
from viewer.allocator import return_freed_blocks

PROGRAM = "belvedere"
DEBUG_VARIABLE = "BELVEDERE_DEBUG"
LOG_FORMAT = "belvedere: %(message)s"
DEBUG_LOG_FORMAT = "belvedere: %(levelname)s: %(name)s: %(message)s"
HELP_WORDS = ("-h", "--help")
INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT or SIGTERM, as shells have it

COMMANDS = ("view", "build", "export", "info", "bake", "town", "cache", "schedule", "bench")
OVERVIEW = """usage: belvedere COMMAND [OPTIONS]

A viewer for 3D Gaussian Splatting and NeRF scenes, fast on machines without a GPU.

  belvedere view [SCENE]           explore a scene in the browser
  belvedere build SCENE -o STORE   write a store, which opens at once whatever its size
  belvedere export [SCENE] -o FILE draw one view into image files, without a browser
  belvedere info [SCENE]           what is in a scene, and what is wrong with it
  belvedere bake SCENE -o FILE     a neural scene as plain Gaussians, which any viewer can show
  belvedere town -o FILE           write the built-in town as a 3DGS .ply file
  belvedere cache [--clear]        what is kept on disk for the next time; remove it
  belvedere schedule [FILE]        how several devices would best share the frames, simulated
  belvedere bench                  measure speed and exactness on this machine

SCENE is a file or folder: 3DGS .ply, .compressed.ply, .splat, .ksplat, .spz, .sog, a streamed
lod-meta.json, a training folder, a composition (.yaml), or a store (.bvs); the address of a
store, a streamed SOG or a single file (https://, s3://); or town:N, a procedural town of N
Gaussians, which is also what is shown without a scene. Neural ones too, as their trainers write
them: anchors (Scaffold-GS, Octree-GS) and NeRFs (Instant-NGP, Nerfacto, GridNeRF, plain ones);
see docs/models.md.

  belvedere COMMAND --help         the options of a command, with units and defaults
  belvedere --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return_freed_blocks()
    debug = "--debug" in words or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format=DEBUG_LOG_FORMAT if debug else LOG_FORMAT,
    )
    with _terminated_as_interrupted() as terminated:
        status = guarded(lambda: _dispatch(words), debug)
    return TERMINATED if status == INTERRUPTED and terminated else status


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[list[int]]:
    """Let a polite kill end any command as Ctrl-C does: nothing half done is left behind.

    Once only, so that a second one does not interrupt the tidying up.

    Yields:
        A list that is no longer empty after a SIGTERM.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are the business of the main thread
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in HELP_WORDS:
        print(OVERVIEW, end="")
        return 0
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"{PROGRAM} {_version()}")
        return 0
    if name not in COMMANDS:
        raise SettingsError(_unknown_command(name))
    if name == "bench":
        from benchmarks.__main__ import main as bench

        return int(bench(rest) or 0)
    return int(parse_command(name, rest).run(lambda line: print(line, flush=True)) or 0)


def parse_command(name: str, words: Sequence[str]) -> Any:
    """A command with its options; prints its help if that is asked for.

    Raises:
        SettingsError: If an option is unknown or its value impossible.
        SystemExit: After the help.
    """

    import io

    import tyro

    from viewer.commands import CLASSES

    config = (tyro.conf.OmitArgPrefixes,)

    def parse() -> Any:
        return tyro.cli(CLASSES[name], args=words, prog=f"{PROGRAM} {name}", config=config)

    if any(word in HELP_WORDS for word in words):
        return parse()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit:
        raise SettingsError(f"{one_line(said.getvalue())}; see {PROGRAM} {name} --help") from None


def one_line(box: str) -> str:
    """What tyro draws as a box of a title and several sections, as a phrase.

    The first section says what is wrong; of the others only a name to try instead is of use.
    """
    import re

    _, problem, *others = [*_sections(box), "", ""]
    problem = problem.removesuffix(".").removeprefix("Error parsing ")
    phrase = problem if problem.startswith("-") else problem[:1].lower() + problem[1:]
    meant = re.search(r"Perhaps you meant: (-[\w-]+)", " ".join(others))
    return f"{phrase}; perhaps you meant {meant[1]}" if meant else phrase


def _sections(box: str) -> list[str]:
    """The texts between the rules of a box, the title first; drawn as UTF-8 or ASCII."""
    import re

    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│╭╮╰╯ ")
        if line.startswith("╭"):
            sections += [[]]
            sections[-2].append(text.strip("─ "))
        elif text and not text.strip("─-"):
            sections.append([])
        elif text:
            sections[-1].append(text)
    return [" ".join(lines) for lines in sections]


def _unknown_command(name: str) -> str:
    if name.startswith("-"):
        return f"{name} is no command; options follow the command: {PROGRAM} view {name}"
    if _names_scene(name):
        import shlex

        return f"{name} is no command; to look at it: {PROGRAM} view {shlex.quote(name)}"
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f"; perhaps you meant {close[0]}" if close else ""
    return f"{name} is no command{meant}; there are {', '.join(COMMANDS)}"


def _names_scene(word: str) -> bool:
    """Whether somebody left out the command before a scene."""
    from viewer.scenes import looks_like_scene

    return os.path.exists(word) or looks_like_scene(word)


def guarded(run: Callable[[], int | None], debug: bool = False) -> int:
    """``run``'s status; errors become one line and a status."""
    try:
        with contextlib.redirect_stdout(cast("TextIO", _Output(sys.stdout))):
            try:
                return run() or 0
            finally:
                sys.stdout.flush()  # now, while something can be said about it
    except BelvedereError as error:
        return _complain(f"error: {error}", 2, debug)
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "interrupted", INTERRUPTED, debug)
    except BrokenPipeError:  # such as `belvedere info … | head`
        _discard_output()
        return 1
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}".replace("\n", " ")
        hint = "" if debug else f"; run again with {DEBUG_VARIABLE}=1 for details"
        return _complain(f"error: {message}{hint}", 1, debug)


class _Output:
    """Standard output, of which a full disk is an error like that of any other file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._failing_as_output():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._failing_as_output():
            self._stream.flush()

    @contextlib.contextmanager
    def _failing_as_output(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            _discard_output()
            reason = error.strerror or str(error)
            raise OutputError(f"standard output: cannot write: {reason}") from None


def _discard_output() -> None:
    """Let the interpreter end without another try to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str, status: int, debug: bool) -> int:
    if debug:
        logging.getLogger(__name__).debug("details", exc_info=True)
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return status


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
