"""The whole product as a person meets it: from the command to the picture, then a drag.

A process of ``belvedere view`` is started and visited twice: by a headless Chromium, as a
person does, and by a client that answers like the page but draws nothing. On a machine
without a GPU the browser composes the page in software on the same cores, so the first says
what such a person gets, the second what the viewer itself can do.

A visitor opens the page as soon as it is served, waits for the picture to be full and at
rest, drags the camera, and waits again. The bars are the acceptance of the viewer on two
cores; unlike all others they are absolute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Protocol

from rich.progress import Progress
from rich.table import Table

from benchmarks.chromium import ChromiumPage, running_chromium
from benchmarks.report import Row, new_table, record, skipped, verdict
from benchmarks.scenes import SIZE, Size, data_folder
from benchmarks.view_process import ViewProcess, scene_words
from benchmarks.visit import Motion, Visit, motion_of
from splat.cores import usable_cores
from splat.errors import BackendUnavailable, BelvedereError
from viewer.pacing import PacingPolicy, full_size

MAX_FIRST_PICTURE_S = 15.0
MIN_PICTURES_PER_S = 10.0
DRAG_S = 10.0
QUIET_S = 1.5  # without a new picture: the camera rests, and what is drawn is final
PATIENCE_S = 180.0
MOTION_PATIENCE_S = 10.0  # for a page to tell of the first camera of a drag
GRACE_S = 5.0
POLL_S = 0.1
SCENE, SCENE_WITHOUT_DATA = "park", "town-2M"
STEPS = 3  # of progress a visit


class Visitor(Protocol):
    """Somebody who looks at the page."""

    @property
    def name(self) -> str:
        """Who."""

    def visit(self) -> Visit:
        """All that was seen until now."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""

    def drag(self, seconds: float) -> None:
        """Move the camera for so long."""

    def close(self) -> None:
        """Leave the page."""


Enter = Callable[[str, Size], Visitor]
Prepare = Callable[[ExitStack], Enter]


@dataclass(frozen=True, slots=True)
class ViewFigures:
    """A visit in figures.

    Attributes:
        visitor: Who looked.
        first_picture_s: From the command to the arrival of the first picture, of a large
            scene a coarse one.
        whole_s: From the command to the moment when all of the scene can be shown.
        pictures_per_s: Pictures that arrived while the camera moved, over that time.
        interval_ms_p50, interval_ms_p95: From the first motion to the first of them, and
            from each to the next.
        moving_width, moving_height: The median size of them.
        full_picture_s: From the last motion to the arrival of the full picture.
        poses_per_s: How often the visitor told of a new pose; no bound if well above
            ``pictures_per_s``.
        drag_s: From the first motion to the last.
    """

    visitor: str
    first_picture_s: float
    whole_s: float
    pictures_per_s: float
    interval_ms_p50: float
    interval_ms_p95: float
    moving_width: int
    moving_height: int
    full_picture_s: float
    poses_per_s: float
    drag_s: float
    first_picture_bar_s: float = MAX_FIRST_PICTURE_S
    pictures_per_s_bar: float = MIN_PICTURES_PER_S

    @classmethod
    def of(
        cls, visitor: str, first_picture_s: float, whole_s: float, motion: Motion
    ) -> ViewFigures:
        """Of a visit with one drag."""
        return cls(
            visitor=visitor,
            first_picture_s=first_picture_s,
            whole_s=whole_s,
            pictures_per_s=motion.pictures_per_s,
            interval_ms_p50=motion.interval_ms.p50,
            interval_ms_p95=motion.interval_ms.p95,
            moving_width=motion.moving_size[0],
            moving_height=motion.moving_size[1],
            full_picture_s=motion.full_picture_s,
            poses_per_s=motion.poses_per_s,
            drag_s=motion.duration_s,
        )

    @property
    def passed(self) -> bool:
        """Whether both bars are reached."""
        return (
            self.first_picture_s <= self.first_picture_bar_s
            and self.pictures_per_s >= self.pictures_per_s_bar
        )


def in_browser(stack: ExitStack) -> Enter:
    """A browser that is up before the command is given.

    Raises:
        BackendUnavailable: If there is none.
    """
    browser = stack.enter_context(running_chromium())
    return lambda url, size: ChromiumPage(browser, url, size)


def without_browser(stack: ExitStack) -> Enter:
    """A client that is ready at once."""
    from benchmarks.bare_client import BareClient

    return BareClient


VISITORS: tuple[Prepare, ...] = (in_browser, without_browser)


def run(
    scenes: Sequence[str] | None = None,
    *,
    size: Size = SIZE,
    threads: int = 0,
    drag_s: float = DRAG_S,
    visitors: Sequence[Prepare] = VISITORS,
    progress: Progress | None = None,
) -> list[Row]:
    """Start the viewer on every scene, for each kind of visitor anew.

    Args:
        scenes: Names as in ``benchmarks.scenes``; None for the usual one.
        size: Of the page's canvas.
        threads: As ``belvedere view --threads``.
        drag_s: How long the camera is moved.
        visitors: Who looks.
        progress: Shows how far it is.

    Returns:
        ``ViewFigures`` with the verdict, or the reason why there is no browser.

    Raises:
        BelvedereError: If the viewer does not do what it should.
    """
    chosen = usual_scenes() if scenes is None else tuple(scenes)
    words_of = {scene: scene_words(scene) for scene in chosen}  # fail before anything starts
    task = (
        progress.add_task("view", total=len(visitors) * STEPS * len(chosen)) if progress else None
    )

    def advance(what: str) -> None:
        if progress is not None and task is not None:
            progress.update(task, advance=1, description=f"view {what}")

    rows: list[Row] = []
    for scene, words in words_of.items():
        for prepare in visitors:
            with ExitStack() as stack:
                try:
                    enter = prepare(stack)
                except BackendUnavailable as error:
                    rows.append(skipped("view", scene, "browser", str(error)))
                    continue
                flags = ["--threads", str(threads), *words]
                rows.append(_measure(scene, flags, enter, size, drag_s, advance))
    return rows


def usual_scenes() -> tuple[str, ...]:
    """The park, or the town where there are no real scenes."""
    return (SCENE if (data_folder() / SCENE).exists() else SCENE_WITHOUT_DATA,)


def _moved(visitor: Visitor, since_s: float) -> bool:
    """Whether a visitor's page told of a camera; a slow one does so late."""
    end_s = time.monotonic() + MOTION_PATIENCE_S
    while True:
        if any(at_s >= since_s for at_s in visitor.visit().motions_s):
            return True
        if time.monotonic() >= end_s:
            return False
        visitor.wait(0.1)


def _measure(
    scene: str,
    words: Sequence[str],
    enter: Enter,
    size: Size,
    drag_s: float,
    advance: Callable[[str], None],
) -> Row:
    with (
        closing(ViewProcess(words)) as process,
        closing(_entered(process, enter, size)) as visitor,
    ):
        wait_for_rest(visitor, process.require_running, size)
        first_picture_s = visitor.visit().pictures[0].at_s - process.started_s
        advance(f"{scene}, {visitor.name}, first picture")
        whole_at_s = process.wait_whole(PATIENCE_S)
        wait_for_rest(visitor, process.require_running, size)
        since_s = time.time()
        visitor.drag(drag_s)
        if not _moved(visitor, since_s):
            raise BelvedereError(
                f"view {scene}, {visitor.name}: the drag moved no camera; a page of "
                f"{size[0]}×{size[1]} may be too small for its panel"
            )
        advance(f"{scene}, {visitor.name}, dragged")
        wait_for_rest(visitor, process.require_running, size, since_s)
        advance(f"{scene}, {visitor.name}, at rest")
        try:
            motion = motion_of(visitor.visit(), since_s)
        except ValueError as error:
            raise BelvedereError(f"view {scene}, {visitor.name}: {error}") from None
        whole_s = whole_at_s - process.started_s
        figures = ViewFigures.of(visitor.name, first_picture_s, whole_s, motion)
        return record("view", figures, _describe(scene, process, size))


def _entered(process: ViewProcess, enter: Enter, size: Size) -> Visitor:
    url = process.url(PATIENCE_S)
    try:
        return enter(url, size)
    except BelvedereError:
        process.require_running(GRACE_S)  # if it goes down, its own words tell more
        raise


def _describe(scene: str, process: ViewProcess, size: Size) -> dict[str, Any]:
    return {
        "scene": scene,
        "gaussians": process.gaussians,
        "width": size[0],
        "height": size[1],
        "cores": usable_cores(),
    }


def wait_for_rest(
    visitor: Visitor, check: Callable[[], None], size: Size, since_s: float = 0.0
) -> None:
    """Until a full picture has come after ``since_s`` and nothing more for a while.

    Args:
        check: Called again and again; raises if waiting is in vain.
        size: Of the canvas.

    Raises:
        BelvedereError: If it takes too long.
    """
    full = full_size(size, PacingPolicy().max_side)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        visit = visitor.visit()
        if visit.rests(full, time.time(), QUIET_S) and visit.pictures[-1].at_s > since_s:
            return
        check()
        if time.monotonic() > deadline_s:
            newest = visit.pictures[-1].size if visit.pictures else None
            raise BelvedereError(
                f"view, {visitor.name}: after {PATIENCE_S:.0f} s no picture of {full[0]}×{full[1]}"
                f" at rest; the newest of {len(visit.pictures)} has the size {newest}"
            )
        visitor.wait(POLL_S)


def table_of(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    table = new_table(
        f"view: the first picture, bar ≤ {MAX_FIRST_PICTURE_S:.0f} s, and a drag, "
        f"bar ≥ {MIN_PICTURES_PER_S:.0f} pictures a second",
        ["scene", "visitor"],
        [
            "Gaussians",
            "canvas",
            "first picture s",
            "whole scene s",
            "pictures/s",
            "interval ms p50",
            "p95",
            "size while moving",
            "full picture after s",
            "poses/s",
            "bar",
        ],
    )
    for row in rows:
        table.add_row(
            row["scene"],
            row["visitor"],
            f"{row['gaussians']:,}",
            f"{row['width']}×{row['height']}",
            f"{row['first_picture_s']:.1f}",
            f"{row['whole_s']:.1f}",
            f"{row['pictures_per_s']:.1f}",
            f"{row['interval_ms_p50']:.0f}",
            f"{row['interval_ms_p95']:.0f}",
            f"{row['moving_width']}×{row['moving_height']}",
            f"{row['full_picture_s']:.2f}",
            f"{row['poses_per_s']:.0f}",
            verdict(row),
        )
    return table
