"""The documentation says nothing that is not there: links, headings, commands, options, files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.options import parse_options
from tests.conftest import REPOSITORY
from viewer.cli import OVERVIEW
from viewer.cli import main as belvedere
from viewer.panel import HELP, MODE_NAMES

DOCUMENTS = sorted(
    path.relative_to(REPOSITORY)
    for path in (
        *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *(REPOSITORY / "docs").rglob("*.md"),
    )
)
# bench has a parser of its own
COMMANDS = ("view", "build", "export", "info", "bake", "town", "cache", "schedule")

FENCE = re.compile(r"^( *)(```+|~~~+)[^\n]*\n(.*?)^ *\2[ ]*$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")
FILE = re.compile(r"[\w.]+(?:/[\w.]+)+\.(?:py|cpp|h|pyi|sh|md|yaml|toml)")
AMERICAN = re.compile(
    r"\b(?:(?:colo|favo|behavio|neighbo)r(?:s|ed|ing|hood)?|grays?|meters?"
    r"|center(?:s|ed|ing)?|labeled|canceled|traveled|catalogs?)\b"
    r"|\b(?:optim|organ|quant|normal|visual|recogn|initial|vector|raster)is(?:e[sd]?|ing)\b",
    re.IGNORECASE,
)
MODULE = re.compile(r"python -m ([a-z_.]+)")


@dataclass(frozen=True, slots=True)
class Document:
    """Markdown, taken apart.

    Attributes:
        prose: What is neither a code block nor a code span.
        code: Lines of code blocks, and code spans.
    """

    prose: str
    code: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Document:
        """Of a file's text."""
        blocks = [line.strip() for match in FENCE.finditer(text) for line in match[3].split("\n")]
        rest = FENCE.sub("", text)
        spans = [" ".join(match[1].split()) for match in SPAN.finditer(rest)]
        return cls(SPAN.sub("`code`", rest), tuple(filter(None, (*blocks, *spans))))


def read(path: Path) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a file."""
    seen: Counter[str] = Counter()
    found = set()
    for match in HEADING.finditer(FENCE.sub("", text)):
        title = LINK.sub(lambda link: link[0][1 : link[0].index("](")], match[1])
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(path: Path, text: str, root: Path = REPOSITORY) -> list[str]:
    """Relative links and images of a document that lead nowhere."""
    broken = []
    for match in LINK.finditer(Document.of(text).prose):
        target, _, anchor = unquote(match[1]).partition("#")
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        file = (root / path.parent / target).resolve() if target else root / path
        inside = root.resolve() in (file.resolve(), *file.resolve().parents)
        if not (inside and file.exists()):
            broken.append(f"{path}: there is no {target}")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            broken.append(f"{path}: {match[1]}: there is no such heading")
    return broken


def words_after(program: str, code: tuple[str, ...]) -> Iterator[list[str]]:
    """The words of every command line of ``program``, comments and what they are fed left out."""
    for line in code:
        command = re.sub(r"^(?:\$ |\.venv/bin/|[A-Z_]+=\S+ )*", "", line)
        if command.split(" ")[0] != program or command == program:
            continue
        yield shlex.split(re.split(r" [|>&]|;", command)[0].replace("…", ""), comments=True)[1:]


def wrong_targets(code: tuple[str, ...], makefile: str) -> list[str]:
    """Words of ``make`` command lines that the Makefile does not know."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \??:?=", makefile, re.MULTILINE))
    wrong = []
    for words in words_after("make", code):
        for word in words:
            name, assigned, _ = word.partition("=")
            if name not in (variables if assigned else targets):
                wrong.append(f"make {' '.join(words)}: the Makefile has no {name}")
    return wrong


def wrong_commands(code: tuple[str, ...], options: Mapping[str, set[str]]) -> list[str]:
    """``belvedere`` command lines with a command or an option that there is not.

    Args:
        options: By command.
    """
    wrong = []
    for words in words_after("belvedere", code):
        command, given = words[0], words[1:]
        if command.startswith("-"):
            known, given = {"--version", "--help", "-h"}, words
        elif command == "COMMAND":  # any of them
            known = set.intersection(*options.values())
        elif command in options:
            known = options[command]
        else:
            wrong.append(f"belvedere {' '.join(words)}: there is no command {command}")
            continue
        flags = [word for word in given if OPTION.fullmatch(word.partition("=")[0])]
        missing = [flag for flag in flags if flag.partition("=")[0] not in known]
        wrong += [f"belvedere {' '.join(words)}: there is no option {flag}" for flag in missing]
    return wrong


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every command, as its help tells them."""
    return {command: set(OPTION.findall(help_of(command))) for command in (*COMMANDS, "bench")}


def help_of(command: str) -> str:
    """What ``belvedere COMMAND --help`` prints."""
    printed = capture(lambda: belvedere([command, "--help"]))
    assert "--help" in printed, f"no help of {command}"
    return printed


def capture(run: Callable[[], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        run()
    return output.getvalue()


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path, read(path)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_texts_are_in_british_english(path: Path) -> None:
    assert AMERICAN.findall(Document.of(read(path)).prose) == []


@pytest.mark.parametrize("names", [tuple(MODE_NAMES), (HELP,), (OVERVIEW,)])
def test_labels_are_in_british_english(names: tuple[str, ...]) -> None:
    assert AMERICAN.findall(" ".join(names)) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_make_knows_its_targets(path: Path) -> None:
    assert wrong_targets(Document.of(read(path)).code, read(Path("Makefile"))) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_commands_and_options_exist(path: Path, options: dict[str, set[str]]) -> None:
    assert wrong_commands(Document.of(read(path)).code, options) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_options_that_are_mentioned_alone_exist(path: Path, options: dict[str, set[str]]) -> None:
    known = set.union(*options.values())
    spans = Document.of(read(path)).code
    alone = {words[0] for words in (span.split() for span in spans) if words[0][:2] == "--"}
    assert {flag.partition("=")[0] for flag in alone} <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_benchmarks_that_are_named_can_be_run(path: Path) -> None:
    for words in words_after("belvedere", Document.of(read(path)).code):
        if words[0] == "bench" and "--help" not in words:
            parse_options(words[1:], tuple(BENCHMARKS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_files_and_modules_that_are_named_exist(path: Path) -> None:
    for code in Document.of(read(path)).code:
        if FILE.fullmatch(code):
            assert (REPOSITORY / code).is_file(), code
        for module in MODULE.findall(code):
            assert module == "pip" or importlib.util.find_spec(module), code


# The checks themselves


def test_every_document_is_looked_at() -> None:
    names = {path.as_posix() for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "docs/benchmarks.md"} <= names
    assert any(name.startswith("docs/adr/") for name in names)


LINKS = """# One & two: `three`

[good](docs/a.md) [good](docs/a.md#the-first-heading) ![good](b.png "A title")
[good](#one--two-three) [good](https://example.com/none.md) `[code](none.md)` [![good](b.png)](docs)

```
[code](none.md)
# No heading
```

[bad](none.md) [bad](docs/a.md#no-heading) ![bad](none.png) [bad](#no-heading) [bad](../outside.md)
[bad](docs/a.md#again-2) [good](docs/a.md#again-1)
"""


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "outside.md").touch()
    (root / "b.png").touch()
    (root / "docs" / "a.md").write_text("## The first heading\n# Again\n# Again\n", "utf-8")
    (root / "README.md").write_text(LINKS, encoding="utf-8")
    broken = broken_links(Path("README.md"), LINKS, root)
    places = ("none.md", "docs/a.md#no", "none.png", "#no-heading", "../outside.md", "#again-2")
    assert len(broken) == len(places)
    assert all(place in line for place, line in zip(places, broken, strict=True))


COMMAND_LINES = """
    make run SCENE=a.ply
```
belvedere view my.ply --up 0 -1 0   # --not-an-option: a comment
belvedere veiw my.ply
belvedere view my.ply --upp 0 1 0 | less --chop
$ belvedere export -o out.png
make run test ARGS='--only raster'
make rnu PYTHONN=python3
```
`belvedere` alone, `belvedere --version`, `belvedere info SCENE --jsn`, `X=1 make tset`,
`belvedere COMMAND --debug`, `belvedere COMMAND --up`
"""


def test_a_wrong_command_is_found() -> None:
    code = Document.of(COMMAND_LINES).code
    own = {"view": {"--up"}, "export": {"-o"}, "info": {"--json"}}
    known = {command: {"--debug", *flags} for command, flags in own.items()}
    assert [line.split(": ")[1] for line in wrong_commands(code, known)] == [
        "there is no command veiw",
        "there is no option --upp",
        "there is no option --jsn",
        "there is no option --up",
    ]
    makefile = "PYTHON ?= python3\nARGS ?=\nSCENE ?=\nrun: setup\ntest:\n"
    assert [line.split()[-1] for line in wrong_targets(code, makefile)] == [
        "rnu",
        "PYTHONN",
        "tset",
    ]
