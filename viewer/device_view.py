"""What people see of devices, schedules and kept pictures: a table and a timeline. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from enum import Enum

from configs.schedules import shipped_texts
from render_cache.byte_cache import CacheStats
from rendering.assignment import RatedDevice, assign
from rendering.demand import Load
from rendering.device import GPU_PREFIX, Device
from rendering.device_roster import SINGLE, DeviceRoster
from rendering.elastic import Decision
from rendering.engine import DeviceStatus
from rendering.frame_spans import timeline_of
from rendering.gpu_support import GPU_ENGINES
from rendering.recorder import Recording
from rendering.scene_holder import MemoryStatus
from rendering.schedule import Schedule
from rendering.schedule_explanation import describe
from rendering.schedule_file import parse_schedule
from rendering.timeline_picture import PANEL, folded, last_frames, to_svg
from splat.errors import SettingsError
from viewer.text import memory_size

SHOWN_FRAMES = 8
SHOWN_MS = 1500.0
BAR_EM = 3.0


class Role(Enum):
    """What a device is at: a word, and what it means."""

    DRAWING = "draws", "Draws its part of the pictures"
    HELPING = "helps", "Draws nothing, so that its processor is free for what runs beside"
    SPARE = "spare", "Has nothing to do by this schedule"
    RELEASED = "released", "Not needed to hold the frame rate; comes back when it is"
    RESTARTING = "starts anew", "It failed; others do its work meanwhile"
    RETIRED = "retired", "It failed again and again, and is no longer used"

    @property
    def word(self) -> str:
        """For a table."""
        return self.value[0]

    @property
    def meaning(self) -> str:
        """For who wonders."""
        return self.value[1]


def drawable_schedules(devices: Sequence[Device], own: Schedule) -> dict[str, Schedule]:
    """By name, what can be drawn on these devices: ``own``, and those that Belvedere comes with.

    On one device all of them come to the same.
    """
    shipped = [parse_schedule(text, name) for name, text in shipped_texts().items()]
    if len(devices) == 1:
        shipped = [SINGLE]
    found = {schedule.name: schedule for schedule in shipped if _can_draw(devices, schedule)}
    return found | {own.name: own}


def _can_draw(devices: Sequence[Device], schedule: Schedule) -> bool:
    try:
        DeviceRoster(devices, schedule)
    except SettingsError:
        return False
    return True


def roles(schedule: Schedule, devices: Sequence[DeviceStatus]) -> dict[str, Role]:
    """What each device is at by the schedule, by name."""
    out = {status.device.name: _role_without_work(status) for status in devices}
    rated = [RatedDevice(s.device.name, s.weight) for s in devices if s.ready and s.in_use]
    try:
        assignment = assign(schedule, rated) if rated else None
    except SettingsError:  # it names one that is not there now; others do its work
        return {name: Role.DRAWING if role is Role.SPARE else role for name, role in out.items()}
    if assignment is not None:
        out |= {device.name: Role.DRAWING for device in assignment.devices}
        out |= {device.name: Role.HELPING for device in assignment.helpers}
    return out


def _role_without_work(status: DeviceStatus) -> Role:
    if status.retired:
        return Role.RETIRED
    if not status.ready:
        return Role.RESTARTING
    return Role.SPARE if status.in_use else Role.RELEASED


def devices_html(
    schedule: Schedule,
    devices: Sequence[DeviceStatus],
    decision: Decision | None,
    pictures: CacheStats,
    load: Load | None = None,
    note: str = "",
    memories: Sequence[MemoryStatus] = (),
) -> str:
    """The schedule, a line for each device, what is in their memories, and what is kept of finished
    pictures.

    Args:
        decision: Why so many devices are in use, where their number changes.
        load: How busy they are.
        note: What a control was answered.
        memories: What the scene takes of each; told where there are several, or a GPU's.
    """
    about = schedule.about or describe(schedule)
    at = roles(schedule, devices)
    parts = [_line(f"{about}." if len(devices) > 1 else "One device draws all pictures.")]
    rows = [_device_row(status, at[status.device.name]) for status in devices]
    parts.append(_table(rows))
    parts += [_line(gpu_line(status)) for status in devices if status.device.is_gpu]
    if decision is not None:
        parts.append(_line(f"{decision.reason[:1].upper()}{decision.reason[1:]}."))
    if load is not None and load.overloaded:
        parts.append(_line(busy_line(load), "Pictures in motion get coarser until all fit"))
    if len(memories) > 1 or any(of.memory.startswith(GPU_PREFIX) for of in memories):
        parts.append(_table([_fact_row(*row) for row in memory_rows(memories)]))
    parts.append(_table([_fact_row(*row) for row in cache_rows(pictures)]))
    if note:
        parts.append(_line(note))
    style = "margin:0 14px 6px;font-size:0.8em;line-height:1.5;font-variant-numeric:tabular-nums"
    return f'<div style="{style}">{"".join(parts)}</div>'


def gpu_line(status: DeviceStatus) -> str:
    """What a GPU is, and by which engine it draws."""
    name = status.device.title or "a GPU"
    if status.retired:
        return f"{status.device.name}: {name}, which is gone."
    if status.engine not in GPU_ENGINES:
        return f"{status.device.name}: {name} is gone; the processor draws in its place."
    return f"{status.device.name}: {name}, by the engine {status.engine}."


def busy_line(load: Load) -> str:
    """That there is more to draw than devices."""
    return f"Busy: views in motion want {load.wanted / load.capacity:.1f} times what there is."


def memory_rows(memories: Sequence[MemoryStatus]) -> tuple[tuple[str, str, str], ...]:
    """What the scene takes of each memory: name, text, hint."""
    return tuple(
        (
            f"In {of.memory}",
            memory_size(_rounded(of.held_bytes))
            + (f" of {memory_size(of.budget_bytes)}" if of.budget_bytes else ""),
            f"What there is of the scene in the memory of {', '.join(of.devices)}",
        )
        for of in memories
    )


def cache_rows(pictures: CacheStats) -> tuple[tuple[str, str, str], ...]:
    """What is kept of finished pictures, and how often one was there: name, text, hint."""
    if not pictures.budget_bytes:
        return (("Kept pictures", "none", "render.picture_cache gives them memory"),)
    asked = pictures.hits + pictures.misses
    held, most = memory_size(_rounded(pictures.held_bytes)), memory_size(pictures.budget_bytes)
    return (
        (
            "Kept pictures",
            f"{pictures.entries:,} · {held} of {most}",
            "A view that is asked for again, by whomever, is not drawn again",
        ),
        (
            "Used again",
            f"{pictures.hit_rate:.0%} of {asked:,} asked for" if asked else "none yet",
            "How many of the pictures that were asked for had been drawn before",
        ),
    )


def _rounded(size: int) -> int:
    """To whole MiB, where it is several."""
    mib = 1 << 20
    return size // mib * mib if size >= 10 * mib else size


def _line(text: str, hint: str = "") -> str:
    title = f' title="{html.escape(hint)}"' if hint else ""
    return f'<div style="overflow-wrap:anywhere;opacity:0.85"{title}>{html.escape(text)}</div>'


def _table(rows: Sequence[str]) -> str:
    return (
        '<table style="margin:4px 0;border-spacing:0;border-collapse:collapse">'
        f"{''.join(rows)}</table>"
    )


def _device_row(status: DeviceStatus, role: Role) -> str:
    failed = f" · failed {_times(status.faults)}" if status.faults else ""
    dim = "" if role in (Role.DRAWING, Role.HELPING) else ";opacity:0.55"
    bar = (
        f'<span style="display:inline-block;width:{BAR_EM + 0.5:g}em"><span style="display:block;'
        f"height:0.6em;background:#56b4e9;width:{BAR_EM * min(1.0, status.weight):.2f}em"
        f'"></span></span>{status.weight:.2f}'
    )
    cell = "padding:0 0.9em 0 0;white-space:nowrap"
    return (
        f'<tr style="vertical-align:baseline{dim}"><td style="{cell}">'
        f"{html.escape(status.device.name)}</td>"
        f'<td style="{cell}" title="Measured speed; the fastest has 1">{bar}</td>'
        f'<td style="padding:0" title="{html.escape(role.meaning)}">'
        f"{html.escape(role.word + failed)}</td></tr>"
    )


def _fact_row(name: str, text: str, hint: str) -> str:
    return (
        f'<tr title="{html.escape(hint)}"><td style="opacity:0.7;padding:0 1em 0 0">{name}</td>'
        f'<td style="padding:0">{html.escape(text)}</td></tr>'
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def timeline_svg(
    recording: Recording,
    devices: Sequence[str],
    client: str,
    names: Mapping[str, str] | None = None,
) -> str:
    """The last frames of all clients: a lane for each device, one for this client's page, and one
    each for reading and decoding chunks; "" before the first frame.

    Args:
        client: Whose page; other clients' have no lanes.
        names: What lanes are called, if not as they are.
    """
    spans = folded(timeline_of(recording.last(SHOWN_FRAMES), devices).spans, devices)
    if not spans:
        return ""
    there = {span.lane for span in spans}
    others = [lane for lane in ("reading", "decoding", client) if lane in there]
    window = last_frames(spans, SHOWN_FRAMES, SHOWN_MS)
    return to_svg(spans, [*devices, *others], window, names=names, style=PANEL)
