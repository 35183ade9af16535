"""What ``belvedere bench`` is asked on its command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from benchmarks.scenes import PATH_NAMES, SIZE, Size, town_count
from benchmarks.subject import Sampling
from splat.errors import SettingsError

USUAL_SAMPLING = Sampling()
USUAL_SIZES = (2_000_000, 20_000_000)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said.

    Attributes:
        only: Names of benchmarks; None for all.
        scenes: None for those of each benchmark.
        paths: Of ``PATH_NAMES``; None for those of each benchmark.
        size: Of the pictures (width, height), where the benchmark leaves the choice.
        sampling: Of ``raster`` and ``frame``; the threads also of ``view``.
        pictures: Folder in which ``formats`` leaves its pictures.
        work: Folder in which stores stay for the next run.
        sizes: Gaussians of the towns of ``scale``.
        json: Where records go instead of standard output.
        markdown: Print Markdown, and no records, on standard output.
        strict: Exit with 1 if a bar was missed.
    """

    only: tuple[str, ...] | None = None
    scenes: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    size: Size = SIZE
    sampling: Sampling = USUAL_SAMPLING
    pictures: Path | None = None
    work: Path | None = None
    sizes: tuple[int, ...] = USUAL_SIZES
    json: Path | None = None
    markdown: bool = False
    strict: bool = False

    def command(self) -> str:
        """The command line that measures the same again and prints it as Markdown."""
        words = ["belvedere", "bench", "--markdown"]
        for flag, names in (("only", self.only), ("scene", self.scenes), ("path", self.paths)):
            if names is not None:
                words += [f"--{flag}", *names]
        if self.size != SIZE:
            words += ["--size", "{}x{}".format(*self.size)]
        usual = asdict(USUAL_SAMPLING)
        for name, value in asdict(self.sampling).items():
            if value != usual[name]:
                words += [f"--{name}", str(value)]
        if self.sizes != USUAL_SIZES:
            words += ["--sizes", *(str(size) for size in self.sizes)]
        return shlex.join(words)


class _Parser(argparse.ArgumentParser):
    """Complains as the other commands do: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")


def parse_options(argv: Sequence[str], benchmarks: Sequence[str]) -> Options:
    """The command line as options.

    Args:
        benchmarks: Names of those that there are.

    Raises:
        SettingsError: If it makes no sense.
    """
    words = parser_of(benchmarks).parse_args(argv)
    return Options(
        only=_chosen(words.only),
        scenes=_chosen(words.scene),
        paths=_chosen(words.path),
        size=words.size,
        sampling=Sampling(words.cameras, words.repeats, words.threads),
        pictures=words.pictures,
        work=words.work,
        sizes=tuple(words.sizes) if words.sizes else USUAL_SIZES,
        json=words.json,
        markdown=words.markdown,
        strict=words.strict,
    )


def parser_of(benchmarks: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog="belvedere bench",
        description="Measure this machine; docs/benchmarks.md says what the figures mean.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        choices=tuple(benchmarks),
        metavar="NAME",
        help=f"some of: {', '.join(benchmarks)} (all; 'peer' takes minutes)",
    )
    parser.add_argument(
        "--scene",
        nargs="+",
        action="extend",
        metavar="SCENE",
        help="town-N such as town-150K, park, or a path, instead of the usual ones",
    )
    parser.add_argument(
        "--path", nargs="+", action="extend", choices=PATH_NAMES, help="some of the camera paths"
    )
    parser.add_argument(
        "--device", choices=("cpu",), default="cpu", help="what is measured: the native engine"
    )
    parser.add_argument(
        "--size", type=_size, default=SIZE, metavar="WxH", help="of the pictures (1280x720)"
    )
    usual = USUAL_SAMPLING
    parser.add_argument(
        "--cameras", type=_positive, default=usual.cameras, metavar="N", help="views of a path"
    )
    parser.add_argument(
        "--repeats", type=_positive, default=usual.repeats, metavar="N", help="frames a view"
    )
    parser.add_argument(
        "--threads",
        type=_count,
        default=usual.threads,
        metavar="N",
        help="a frame's threads; 0: one a core",
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="leave the pictures of 'formats' here"
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keep the stores that are built here"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=_gaussians,
        metavar="N",
        help="towns of 'scale', such as 2e6 20e6 (the usual ones) 200e6 (an hour, 5 GB)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON records here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown and no JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--debug", action="store_true", help="log more, show tracebacks")
    return parser


def _chosen(names: list[str] | None) -> tuple[str, ...] | None:
    return tuple(names) if names else None


def _size(text: str) -> Size:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as {SIZE[0]}x{SIZE[1]}")
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def _gaussians(text: str) -> int:
    count = town_count(f"town-{text}") if "e" not in text.lower() else _count(f"{float(text):.0f}")
    return _positive(str(count))


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)
