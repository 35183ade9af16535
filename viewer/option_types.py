"""What a word on the command line can be: counts, numbers, vectors, files, each with its error.

A default of None means that the settings file, or the scene, decides; the hint of an option
says what that comes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from tyro.conf import DisallowNone, FlagCreatePairsOff, arg
from tyro.constructors import PrimitiveConstructorSpec

from configs.sizes import parse_size
from viewer.text import short_count

T = TypeVar("T")


def parse_count(words: list[str]) -> int:
    """A size of the town such as ``2000000``, ``2_000_000``, ``2e6`` or ``2M``.

    Raises:
        ValueError: If it is none, or no town can have it.
    """
    from scene_store.town.plan import MAX_COUNT, MIN_COUNT  # its recipe takes a moment to load

    number = _counted(words[0])
    if not (MIN_COUNT <= number <= MAX_COUNT and number == int(number)):
        # Without spaces or commas, at which the message could be broken.
        least, most = (short_count(bound).replace(" ", "") for bound in (MIN_COUNT, MAX_COUNT))
        raise ValueError(
            f"{words[0]!r} is not a size of the town: {least} to {most} Gaussians, such as 500k"
        )
    return int(number)


def parse_amount(words: list[str]) -> int:
    """A number of things such as ``50000``, ``50k`` or ``1.5M``.

    Raises:
        ValueError: If it is none.
    """
    number = _counted(words[0])
    if not (math.isfinite(number) and number == int(number)):
        raise ValueError(f"{words[0]!r} is not a whole number, such as 50k")
    return int(number)


def _counted(word: str) -> float:
    text = word.replace("_", "").replace(",", "")
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text[-1:].lower(), 1.0)
    try:
        return float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        return math.nan


def parse_whole(words: list[str]) -> int:
    """A whole number.

    Raises:
        ValueError: If it is none.
    """
    try:
        return int(words[0])
    except ValueError:
        raise ValueError(f"{words[0]!r} is not a whole number") from None


def parse_number(words: list[str]) -> float:
    """A finite number.

    Raises:
        ValueError: If it is none.
    """
    try:
        number = float(words[0])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{words[0]!r} is not a number")
    return number


def parse_convergence(words: list[str]) -> float:
    """A finite number, or ``parallel`` for infinity.

    Raises:
        ValueError: If it is neither.
    """
    if words[0] == "parallel":
        return math.inf
    try:
        return parse_number(words)
    except ValueError:
        raise ValueError(f"{words[0]!r} is neither a number nor the word parallel") from None


def parse_level(words: list[str]) -> int | Literal["all"]:
    """A level of detail by its number, or the word ``all``.

    Raises:
        ValueError: If it is neither.
    """
    if words[0] == "all":
        return "all"
    try:
        return parse_whole(words)
    except ValueError:
        raise ValueError(f"{words[0]!r} is neither a whole number nor the word all") from None


def parse_bytes(words: list[str]) -> int:
    """A size such as ``2GiB``, ``500MB`` or plain bytes.

    Raises:
        ValueError: If it is none.
    """
    return parse_size(words[0])


def parse_vector(words: list[str]) -> tuple[float, float, float]:
    """Three finite numbers.

    Raises:
        ValueError: If they are none.
    """
    x, y, z = (parse_number([word]) for word in words)
    return x, y, z


def _spec(
    parse: Callable[[list[str]], T], metavar: str, nargs: int = 1
) -> PrimitiveConstructorSpec[T | None]:
    """How tyro reads a value that may be absent.

    A fixed number of words: left to itself, an optional vector would swallow the scene, too.
    """
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: value is None or isinstance(value, (int, float, str, tuple)),
        str_from_instance=_words,
    )


def _words(value: Any) -> list[str]:
    if value is None:
        return [""]
    return [f"{v:g}" for v in value] if isinstance(value, tuple) else [f"{value}"]


def choice(names: Any) -> PrimitiveConstructorSpec[Any]:
    """One word of a ``Literal`` that may be absent; left to itself, tyro takes "None", too."""
    words = get_args(names)

    def parse(given: list[str]) -> str:
        if given[0] not in words:
            raise ValueError(f"{given[0]!r} is none of {', '.join(words)}")
        return given[0]

    return _spec(parse, f"{{{','.join(words)}}}")


def hint(default: object) -> Any:
    """What an option comes to when it is not given."""
    return arg(help_behavior_hint=f"(default: {default})")


NO_HINT = arg(help_behavior_hint="")

Count = Annotated[int | None, _spec(parse_count, "COUNT")]
Amount = Annotated[int | None, _spec(parse_amount, "COUNT")]
Whole = Annotated[int | None, _spec(parse_whole, "INT")]
Level = Annotated[int | Literal["all"] | None, _spec(parse_level, "INT|all")]
Pixels = Annotated[int | None, _spec(parse_whole, "PIXELS")]
Number = Annotated[float | None, _spec(parse_number, "NUMBER")]
Convergence = Annotated[float | None, _spec(parse_convergence, "DISTANCE")]
Degrees = Annotated[float | None, _spec(parse_number, "DEGREES")]
Vector = Annotated[tuple[float, float, float] | None, _spec(parse_vector, "X Y Z", 3)]
Color = Annotated[tuple[float, float, float] | None, _spec(parse_vector, "R G B", 3)]
Bytes = Annotated[int | None, _spec(parse_bytes, "SIZE")]
Text = Annotated[str | None, _spec(lambda words: words[0], "TEXT")]
Flag = Annotated[bool, FlagCreatePairsOff, NO_HINT]  # off unless given
Switch = Annotated[bool | None, DisallowNone]  # --this, or --no-this
File = Annotated[Path | None, arg(metavar="FILE")]
MemoriesName = Literal["shared", "own"]
ProfileName = Literal["compact", "lossless"]
ModeName = Literal["color", "depth", "alpha", "count"]
LayoutName = Literal["side-by-side", "top-bottom", "anaglyph", "separate"]
PanoramaName = Literal["vr180", "ods"]
