"""Schedules as data: how a frame is split, onto which devices, and what runs beside the next one.

A schedule is plain values: it is checked here, written and read by ``rendering.schedule_file``,
applied to devices by ``rendering.assignment``, played through by ``rendering.simulator`` and found
by ``rendering.schedule_search``. None of them draws, waits or reads a clock.

A frame passes the stages of ``rendering.stages``; those that draw are what a split divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rendering.stages import DRAWING, DRAWN_ONCE, SHAREABLE, STAGES, Stage
from splat.text import counted


class SplitBy(str, Enum):
    """What is divided among devices.

    FRAME: whole frames, in turn: more frames a second, each as slow as before.
    EYE: the two pictures of a binocular frame.
    BAND: horizontal bands of whole tile rows. Each repeats the projection of chunks that
    touch several; the picture is the same to the byte.
    SHARD: the Gaussians. Each device draws all pixels of its own, and the layers of colour and
    alpha are composited in the end (sort-last).
    """

    FRAME = "frame"
    EYE = "eye"
    BAND = "band"
    SHARD = "shard"


class Order(str, Enum):
    """How Gaussians are shared out.

    DEPTH: slabs of depth, near to far (``rendering.depth_slabs``).
    DEALT: chunks one after the other to each device, whatever their depth: even loads. Simulated
    only.
    """

    DEPTH = "depth"
    DEALT = "dealt"


class Fidelity(Enum):
    """How a schedule's picture compares with that of one device, best first."""

    IDENTICAL = "the same bytes"
    ORDERED = "the same within 1/10000 of the range of its colours"
    APPROXIMATE = "approximate: shards of mingled depth are composited one over the other"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return tuple(Fidelity).index(self)


class Shares(str, Enum):
    """How large the parts of bands and shards are, and whose turn a frame is.

    EQUAL: all alike; frames strictly in turn.
    MEASURED: by the weights of the devices; a frame goes to the fastest group that is free.
    BALANCED: so that all end together: by weight, less what each part repeats, and, in the engine,
    by what parts took in the frames before (``rendering.part_costs``); frames as MEASURED.
    """

    EQUAL = "equal"
    MEASURED = "measured"
    BALANCED = "balanced"


class Pick(str, Enum):
    """Which devices: every one, the first or the fastest few, or those of a list of names."""

    ALL = "all"
    FIRST = "first"
    FASTEST = "fastest"
    NAMED = "named"


class ScheduleProblem(ValueError):
    """A schedule that makes no sense.

    Args:
        key: The key at fault, such as ``split[1].parts``.
        problem: What is wrong with it, as a phrase.
        remedy: What to do.
    """

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        self.key, self.problem, self.remedy = key, problem, remedy
        super().__init__(f"{key}: {problem}; {remedy}")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The devices that a schedule uses, of those there are.

    Attributes:
        count: Of FIRST and FASTEST; where there are fewer, those.
        names: Of NAMED; all of them must be there.
    """

    pick: Pick = Pick.ALL
    count: int = 0
    names: tuple[str, ...] = ()


ALL_DEVICES = DeviceChoice()


@dataclass(frozen=True, slots=True)
class Split:
    """One level of dividing a frame.

    Attributes:
        by: What is divided.
        parts: Into how many; 0 for as many as there are devices. Two eyes are two parts.
        order: Of shards.
    """

    by: SplitBy
    parts: int = 0
    order: Order = Order.DEPTH

    @property
    def most_parts(self) -> int | None:
        """Parts at most, None for no limit but the devices."""
        if self.by is SplitBy.EYE:
            return 2
        return self.parts or None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who draws what, and when.

    Attributes:
        name: For people.
        about: The same in a sentence.
        split: Levels of dividing, the outermost first: frames before eyes before bands or
            shards. Without any, one device draws whole frames.
        devices: Which of the machine's.
        shares: How large the parts are.
        overlap: Stages that do not wait for the frame before to end, in the order of stages:
            the first ones (of the next frame, ahead), the last ones (of this frame, behind), or
            all. Every other stage waits until the frame before it on the same devices has
            passed all such stages.
        helpers: So many of the devices, the slowest, draw nothing and do what overlaps apart
            from drawing: choosing and decoding ahead, encoding behind.
        shared: Stages that a device does once for both eyes, beside those that are always so, if
            the request allows it (``RasterSettings.reuse``). The CPU engine shares projection and
            sorting together, or neither.

    Raises:
        ScheduleProblem: If it makes no sense.
    """

    name: str
    about: str = ""
    split: tuple[Split, ...] = ()
    devices: DeviceChoice = ALL_DEVICES
    shares: Shares = Shares.MEASURED
    overlap: tuple[Stage, ...] = ()
    helpers: int = 0
    shared: tuple[Stage, ...] = DRAWN_ONCE

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", tuple(s for s in STAGES if s in self.overlap))
        object.__setattr__(self, "shared", tuple(s for s in STAGES if s in self.shared))
        _require_name(self.name)
        _require_devices(self.devices, self.helpers)
        _require_split(self.split)
        _require_overlap(self.overlap, self.helpers)
        _require_shared(self.shared)

    @property
    def fidelity(self) -> Fidelity:
        """How its picture compares with that of one device."""
        orders = [split.order for split in self.split if split.by is SplitBy.SHARD]
        if not orders:
            return Fidelity.IDENTICAL
        return Fidelity.APPROXIMATE if Order.DEALT in orders else Fidelity.ORDERED

    @property
    def runs_ahead(self) -> bool:
        """Whether stages of the next frame begin before this one ends."""
        return Stage.SELECT in self.overlap

    def has(self, by: SplitBy) -> bool:
        """Whether something is split so."""
        return any(split.by is by for split in self.split)

    def describe_split(self) -> str:
        """``frame×2 > band``: the levels, with parts where they are given."""
        levels = [f"{s.by.value}×{s.parts}" if s.parts else s.by.value for s in self.split]
        return " > ".join(levels) or "none"

    def describe_overlap(self) -> str:
        """``select…decode, encode +1 helper``, or ``none``."""
        if not self.overlap:
            return "none"
        if self.overlap == STAGES:
            text = "all"
        else:
            ahead = [s.value for s in self.overlap if s is not Stage.ENCODE]
            first = f"{ahead[0]}…{ahead[-1]}" if len(ahead) > 1 else "".join(ahead)
            last = Stage.ENCODE.value if Stage.ENCODE in self.overlap else ""
            text = ", ".join(filter(None, (first, last)))
        if not self.helpers:
            return text
        return f"{text} +{counted(self.helpers, 'helpers')}"


def _require_name(name: str) -> None:
    if not name or not all(c.isalnum() or c in "-_. +" for c in name):
        raise ScheduleProblem(
            "name", f"{name!r} is no name", "use letters, digits, spaces and - _ . +"
        )


def _require_devices(choice: DeviceChoice, helpers: int) -> None:
    if choice.pick is Pick.NAMED:
        if not choice.names:
            raise ScheduleProblem("devices", "names no device", "list some, or write: all")
        twice = {name for name in choice.names if choice.names.count(name) > 1}
        if twice:
            raise ScheduleProblem("devices", f"names {min(twice)} twice", "name each once")
    elif choice.pick is not Pick.ALL and choice.count < 1:
        raise ScheduleProblem("devices", f"{choice.count} devices draw nothing", "use 1 or more")
    limit = {Pick.ALL: None, Pick.NAMED: len(choice.names)}.get(choice.pick, choice.count)
    if helpers < 0:
        raise ScheduleProblem("helpers", f"{helpers} is no number of devices", "use 0 or more")
    if limit is not None and helpers >= limit:
        raise ScheduleProblem(
            "helpers",
            f"{helpers} of {limit} devices leave none to draw",
            f"use at most {limit - 1}",
        )


def _require_split(levels: tuple[Split, ...]) -> None:
    outermost_first = (SplitBy.FRAME, SplitBy.EYE, SplitBy.BAND, SplitBy.SHARD)
    ranks = [outermost_first.index(level.by) for level in levels]
    for at, level in enumerate(levels):
        key = f"split[{at}]"
        if level.by in (earlier.by for earlier in levels[:at]):
            raise ScheduleProblem(key, f"splits by {level.by.value} twice", "remove one of them")
        if ranks[at] < max(ranks[:at], default=-1):
            raise ScheduleProblem(
                key,
                f"{level.by.value} comes after {levels[at - 1].by.value}",
                "order them frame, eye, then band or shard",
            )
    for at, level in enumerate(levels):
        _require_parts(f"split[{at}]", level, is_last=at == len(levels) - 1)
    if {SplitBy.BAND, SplitBy.SHARD} <= {level.by for level in levels}:
        raise ScheduleProblem("split", "has both bands and shards", "keep one of them")


def _require_parts(key: str, level: Split, *, is_last: bool) -> None:
    if level.by is SplitBy.EYE and level.parts not in (0, 2):
        raise ScheduleProblem(f"{key}.parts", "there are two eyes", "leave out parts")
    if level.parts < 0 or level.parts == 1:
        raise ScheduleProblem(
            f"{key}.parts", f"{level.parts} is no number of parts", "use 2 or more, or leave it out"
        )
    if level.by is not SplitBy.EYE and not level.parts and not is_last:
        raise ScheduleProblem(
            key, "leaves no devices for the next level", "say how many parts, such as parts: 2"
        )
    if level.by is not SplitBy.SHARD and level.order is not Order.DEPTH:
        raise ScheduleProblem(f"{key}.order", "is for shards", "remove it")


def _require_overlap(overlap: tuple[Stage, ...], helpers: int) -> None:
    places = [STAGES.index(stage) for stage in overlap]
    ahead = 0
    while ahead in places:
        ahead += 1
    behind = len(STAGES)
    while behind - 1 in places:
        behind -= 1
    for place in places:
        if ahead <= place < behind:
            stage, before = STAGES[place].value, STAGES[place - 1].value
            raise ScheduleProblem(
                "overlap",
                f"{stage} cannot overlap the next frame alone",
                f"add {before} and what is before it, or all that is after {stage}",
            )
    if helpers and not any(stage not in DRAWING for stage in overlap):
        raise ScheduleProblem(
            "helpers",
            "have nothing to do where nothing overlaps",
            f"add overlap: [{Stage.ENCODE.value}], or remove helpers",
        )


def _require_shared(shared: tuple[Stage, ...]) -> None:
    for stage in shared:
        if stage not in SHAREABLE:
            raise ScheduleProblem(
                "shared",
                f"{stage.value} cannot be shared between eyes",
                f"use {', '.join(s.value for s in SHAREABLE)}",
            )
