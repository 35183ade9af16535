"""Schedules as YAML, read and written; ``docs/schedules.md`` describes the language.

::

    name: eyes in bands
    about: Each eye on half of the devices, in bands
    split: [eye, band]             # or none, or one of them, or {by: frame, parts: 2}
    devices: all                   # or 2, {fastest: 2}, [cpu:0, cpu:1]
    shares: balanced               # or equal, measured
    overlap: [encode]              # with the next frame
    helpers: 0                     # devices that only do what overlaps
    shared: [project, sort]        # once for both eyes of a device
"""

from __future__ import annotations

from os import PathLike

from rendering import marked_yaml
from rendering.marked_yaml import Marked
from rendering.schedule import (
    ALL_DEVICES,
    DeviceChoice,
    Order,
    Pick,
    Schedule,
    ScheduleProblem,
    Shares,
    Split,
    SplitBy,
)
from rendering.stages import DRAWN_ONCE, STAGES, Stage
from splat.errors import SettingsError

KEYS = ("name", "about", "split", "devices", "shares", "overlap", "helpers", "shared")
SPLIT_KEYS = ("by", "parts", "order")
NONE, ALL = "none", "all"
MAX_DEVICES = 1024


def read_schedule(path: str | PathLike[str]) -> Schedule:
    """The schedule of a file.

    Raises:
        SettingsError: Naming the file, the line, the key, and what to do.
    """
    return _schedule(marked_yaml.read(path))


def parse_schedule(text: str, source: str) -> Schedule:
    """The same of a text; ``source`` is its name in errors."""
    return _schedule(marked_yaml.parse(text, source))


def schedule_text(schedule: Schedule) -> str:
    """A schedule as YAML, which ``parse_schedule`` reads as the same one."""
    values: dict[str, object] = {"name": schedule.name}
    if schedule.about:
        values["about"] = schedule.about
    values["split"] = [_split_value(level) for level in schedule.split] or NONE
    values["devices"] = _devices_value(schedule.devices)
    values["shares"] = schedule.shares.value
    if schedule.overlap:
        values["overlap"] = _stages_value(schedule.overlap)
    if schedule.helpers:
        values["helpers"] = schedule.helpers
    if schedule.shared != DRAWN_ONCE:
        values["shared"] = _stages_value(schedule.shared) if schedule.shared else NONE
    return marked_yaml.dump(values)


def _schedule(top: Marked) -> Schedule:
    fields = top.section(KEYS)
    if "name" not in fields:
        raise top.error("has no name", "add a line such as name: mine")
    try:
        return Schedule(
            fields["name"].text(),
            fields["about"].text() if "about" in fields else "",
            _levels(fields["split"]) if "split" in fields else (),
            _devices(fields["devices"]) if "devices" in fields else ALL_DEVICES,
            fields["shares"].choice(Shares) if "shares" in fields else Shares.MEASURED,
            _stages(fields["overlap"]) if "overlap" in fields else (),
            fields["helpers"].whole(0, MAX_DEVICES) if "helpers" in fields else 0,
            _stages(fields["shared"]) if "shared" in fields else DRAWN_ONCE,
        )
    except ScheduleProblem as error:
        raise _located(top, error) from None


def _located(top: Marked, error: ScheduleProblem) -> SettingsError:
    """A rule that was broken, at the line of the key that breaks it."""
    place = top.at(error.key)
    return Marked(top.source, error.key, place.node).error(error.problem, error.remedy)


def _levels(value: Marked) -> tuple[Split, ...]:
    if value.is_list:
        return tuple(_level(item) for item in value.items())
    if not value.is_section and value.text() == NONE:
        return ()
    return (_level(value),)


def _level(value: Marked) -> Split:
    if not value.is_section:
        return Split(value.choice(SplitBy))
    fields = value.section(SPLIT_KEYS)
    if "by" not in fields:
        raise value.error("does not say by what to split", "add a line such as by: band")
    return Split(
        fields["by"].choice(SplitBy),
        fields["parts"].whole(1, MAX_DEVICES) if "parts" in fields else 0,
        fields["order"].choice(Order) if "order" in fields else Order.DEPTH,
    )


def _devices(value: Marked) -> DeviceChoice:
    if value.is_list:
        return DeviceChoice(Pick.NAMED, names=tuple(item.text() for item in value.items()))
    if value.is_section:
        fields = value.section((Pick.FIRST.value, Pick.FASTEST.value))
        if len(fields) != 1:
            raise value.error("names more or less than one kind", "write {fastest: 2}")
        ((name, count),) = fields.items()
        return DeviceChoice(Pick(name), count.whole(0, MAX_DEVICES))
    if value.text() == ALL:
        return ALL_DEVICES
    if value.text().isdecimal():
        return DeviceChoice(Pick.FIRST, value.whole(0, MAX_DEVICES))
    raise value.error(
        f"{value.shown()} names no devices",
        "write all, a number, {fastest: 2}, or a list such as [cpu:0, cpu:1]",
    )


def _stages(value: Marked) -> tuple[Stage, ...]:
    if value.is_list:
        return tuple(item.choice(Stage) for item in value.items())
    if not value.is_section and value.text() in (NONE, ALL):
        return STAGES if value.text() == ALL else ()
    raise value.error(
        f"expected a list of stages, got {value.shown()}", "write [encode], all or none"
    )


def _split_value(level: Split) -> object:
    if not level.parts and level.order is Order.DEPTH:
        return level.by.value
    values: dict[str, object] = {"by": level.by.value}
    if level.parts:
        values["parts"] = level.parts
    if level.order is not Order.DEPTH:
        values["order"] = level.order.value
    return values


def _devices_value(choice: DeviceChoice) -> object:
    if choice.pick is Pick.ALL:
        return ALL
    if choice.pick is Pick.NAMED:
        return list(choice.names)
    return choice.count if choice.pick is Pick.FIRST else {Pick.FASTEST.value: choice.count}


def _stages_value(stages: tuple[Stage, ...]) -> object:
    return ALL if stages == STAGES else [stage.value for stage in stages]
