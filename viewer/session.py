"""One browser: its newest pose, the pictures drawn from it, and their way to the screen.

A session owns one thread. The page's callbacks store what they have to say and return;
the thread asks ``viewer.pacing`` what to do, submits to the engine, encodes, sends, and
waits for the browser's acknowledgement before it sends again. While a picture is on its
way the next one is already drawn, so one is in transit and one in the making, never more. One
that still waits for its turn is asked for anew when the camera has moved on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from rendering.base import RasterImage, RasterSettings
from rendering.engine import RenderEngine
from rendering.fairness import Urgency
from rendering.frame import Frame, FrameRequest
from rendering.stages import Stage
from rendering.timeline import SEND
from rendering.tint import Tint
from splat.camera import Camera
from splat.errors import BelvedereError, CameraError, RenderCancelled, RenderError
from viewer.images import Mode, Picture, UInt8Array, picture
from viewer.pacing import FramePlan, Pacer, PacingPolicy
from viewer.pose import Pose
from viewer.reductions import WHOLE
from viewer.session_stats import SessionStats
from viewer.stereo_view import StereoView

log = logging.getLogger(__name__)

RETRY_S = 1.0  # after a frame that failed
# A moving picture that has not had its turn by then would show what nobody looks at any more.
STALE_S = 1.0
# After a fault of ours; doubled with every one in a row.
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 5.0


class Screen(Protocol):
    """A browser's screen, as far as a session needs it."""

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        """Encode a picture and put it on its way; nothing happens if nobody is there."""

    def acknowledge(self, on_done: Callable[[], None]) -> None:
        """Call ``on_done`` once the browser has all that was sent, or after a timeout."""


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How one browser wants its pictures, apart from where from.

    Attributes:
        mode: What is shown.
        background: RGB behind everything.
        antialiased, sh_degree: As in ``RasterSettings``.
        near: Near plane, world units.
        max_scale: Highest resolution, a share of the canvas's, per side.
        tint: What the chunks of a streamed scene are coloured by.
        frozen: A pose whose view chooses the chunks of a streamed scene, wherever the camera is.
        stereo: Two eyes instead of one.
    """

    mode: Mode = Mode.COLOR
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False
    sh_degree: int | None = None
    near: float = 0.01
    max_scale: float = 1.0
    tint: Tint = Tint.NONE
    frozen: Pose | None = None
    stereo: StereoView | None = None

    def cameras(self, pose: Pose, width: int, height: int) -> tuple[Camera, ...]:
        """One camera, or both eyes, of a picture of this size.

        Raises:
            CameraError: If the browser sent nonsense.
        """
        if self.stereo is not None:
            return self.stereo.eyes(pose, width, height, self.near)
        return (pose.camera(width, height, self.near),)

    def picture(self, images: Sequence[RasterImage]) -> Picture:
        """What the page shows for the cameras' images."""
        if self.stereo is not None:
            return self.stereo.picture(images, self.mode, self.background)
        return picture(images[0], self.mode, self.background)

    def raster_settings(self, threads: int) -> RasterSettings:
        """The settings of a render for these options."""
        return RasterSettings(
            background=self.background,
            antialiased=self.antialiased,
            sh_degree=self.sh_degree,
            outputs=self.mode.outputs,
            threads=threads,
        )


@dataclass(slots=True)
class _Drawing:
    """A picture in the making."""

    plan: FramePlan
    options: ViewOptions
    pose: Pose
    posed_s: float
    future: Future[Frame]


class Session:
    """Keeps one browser's picture up to date. Thread-safe; ``close`` ends it.

    Args:
        client: The name under which it asks the engine.
        engine: Shared by all sessions.
        screen: Where pictures go.
        policy: Bounds of what is drawn.
        options: How pictures are wanted at the start.
        threads: CPU threads a frame may use; 0 for one a core.
        moving_error_px: Detail of a streamed scene that any moving picture may lack.
        clock: Seconds, the clock of ``FrameRequest.submitted_s``.
    """

    def __init__(
        self,
        client: str,
        engine: RenderEngine,
        screen: Screen,
        policy: PacingPolicy,
        options: ViewOptions,
        *,
        threads: int = 0,
        moving_error_px: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self._engine = engine
        self._screen = screen
        self._threads = threads
        self._policy = policy
        self._clock = clock
        self._wake = threading.Condition()
        # Guarded by _wake:
        self._pacer = Pacer(policy, moving_error_px)
        self._options = options
        self._pose: Pose | None = None
        self._posed_s = 0.0
        self._closed = False
        self._stats = SessionStats()
        self._sent_at: deque[float] = deque()
        # Owned by the session's thread:
        self._drawing: _Drawing | None = None
        self._sequence = 0
        self._faults = 0  # in a row
        self._thread = threading.Thread(target=self._run, name=f"session-{client}", daemon=True)

    def start(self) -> None:
        """Begin to draw as soon as there is a pose."""
        self._thread.start()

    def close(self) -> None:
        """End the session; returns at once. The thread ends by itself."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread ended; False if it did not in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def look(self, pose: Pose) -> None:
        """The browser looks from here now."""
        with self._wake:
            self._pose = pose
            self._changed()

    @property
    def pose(self) -> Pose | None:
        """Where the browser looks from."""
        with self._wake:
            return self._pose

    @property
    def options(self) -> ViewOptions:
        """How pictures are drawn at present."""
        with self._wake:
            return self._options

    def set_options(self, options: ViewOptions) -> None:
        """Draw differently from now on.

        What shows how a streamed scene is drawn redraws a picture at rest as it is: a quick one
        with less detail would show something else.
        """
        with self._wake:
            before, self._options = self._options, options
            if options == before:
                return
            self._pacer.max_scale = options.max_scale
            if options == replace(before, tint=options.tint, frozen=options.frozen):
                self._pacer.replaced()
                self._wake.notify_all()
            else:
                self._changed()

    def refresh(self) -> None:
        """The scene has another form, or is drawn within other limits: draw it again."""
        with self._wake:
            self._pacer.replaced()
            self._wake.notify_all()

    def arrived(self) -> None:
        """More of a streamed scene can be drawn; returns at once."""
        with self._wake:
            self._pacer.arrived()
            self._wake.notify_all()

    @property
    def moving(self) -> bool:
        """Whether the camera moves at present."""
        with self._wake:
            return self._pacer.moving(self._clock())

    @property
    def stats(self) -> SessionStats:
        """The newest numbers."""
        with self._wake:
            now_s = self._clock()
            while self._sent_at and now_s - self._sent_at[0] > 1.0:
                self._sent_at.popleft()
            return replace(self._stats, fps=float(len(self._sent_at)))

    def _changed(self) -> None:
        if self._pose is not None:
            self._posed_s = self._clock()
            self._pacer.change(self._posed_s, self._pose.canvas)
        self._wake.notify_all()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._step()
            except Exception as error:  # a fault of ours; the browser's picture must go on
                self._recover(error)
        self._leave()

    def _leave(self) -> None:
        """Have the engine forget this client, but not before its last frame ended."""
        drawing = self._drawing
        if drawing is None:
            self._engine.forget(self.client)
        else:
            drawing.future.cancel()
            drawing.future.add_done_callback(lambda _: self._engine.forget(self.client))

    def _recover(self, error: Exception) -> None:
        """Say what happened, pause, and start afresh from the newest pose."""
        what = " ".join(f"unexpected {type(error).__name__}: {error}".split())
        self._note_error(what, logging.ERROR)
        log.debug("%s: details", self.client, exc_info=error)
        if self._drawing is not None:
            self._drawing.future.cancel()
            self._drawing = None
        backoff_s = min(FIRST_BACKOFF_S * 2**self._faults, LAST_BACKOFF_S)
        self._faults = min(self._faults + 1, 16)
        with self._wake:
            self._pacer.start_over()
            self._wake.wait_for(lambda: self._closed, backoff_s)

    def _step(self) -> None:
        """Send what is ready, start what is due, or sleep until there is something to do."""
        drawing = self._drawing
        if drawing is not None and drawing.future.done():
            if not self._wait_for_transit():
                return
            self._drawing = None
            self._deliver(drawing)
            return
        with self._wake:
            if self._closed:
                return
            self._pacer.set_details(self._engine.detail_counts)
            due: FramePlan | float | None = None
            if drawing is None or self._outdated(drawing):
                due = self._pacer.plan(self._clock())
            if isinstance(due, FramePlan) and not self._gives_way():
                due = None
            if not isinstance(due, FramePlan):
                if drawing is None or not drawing.future.done():
                    self._wake.wait(due)
                return
            pose, options, posed_s = self._pose, self._options, self._posed_s
            if due.repeated:  # what is new in it came with no pose
                posed_s = self._clock()
        assert pose is not None
        self._submit(due, pose, options, posed_s)

    def _outdated(self, drawing: _Drawing) -> bool:
        """Whether a drawing should give way: a refinement, or what was not begun yet."""
        may = drawing.plan.still or not drawing.future.running()
        return may and drawing.plan.version != self._pacer.version

    def _gives_way(self) -> bool:
        """Whether a newer picture may be asked for now: the engine gives up a refinement by itself,
        but a moving picture that was begun just now is completed."""
        drawing = self._drawing
        if drawing is None or drawing.plan.still:
            return True
        if not drawing.future.cancel():
            return False
        self._drawing = None
        return True

    def _wait_for_transit(self) -> bool:
        """Sleep while a picture is on its way; True when there is none."""
        with self._wake:
            if self._pacer.in_transit and not self._closed:
                self._wake.wait(RETRY_S)
            return not self._pacer.in_transit

    def _submit(self, plan: FramePlan, pose: Pose, options: ViewOptions, posed_s: float) -> None:
        try:
            cameras = options.cameras(pose, plan.width, plan.height)
            frozen = options.frozen
            choosers = options.cameras(frozen, plan.width, plan.height) if frozen else ()
        except CameraError as error:
            self._note_error(str(error))
            with self._wake:
                self._pacer.start(replace(plan, still=True), self._clock())
            return
        self._sequence += 1
        request = FrameRequest(
            self.client,
            self._sequence,
            cameras,
            self._policy.raster_settings(options.raster_settings(self._threads), plan),
            urgency=Urgency.STILL if plan.still else Urgency.MOVING,
            preemptible=plan.still,
            deadline_s=None if plan.still else self._clock() + STALE_S,
            rate_hz=plan.rate_hz,
            reduced_to=plan.reduced_to,
            detail=plan.reduction.detail,
            max_error_px=plan.reduction.error_px,
            frozen=choosers,
            tint=options.tint,
        )
        try:
            future = self._engine.submit(request)
        except RenderError:  # the engine was closed: the viewer shuts down
            self.close()
            return
        with self._wake:
            self._pacer.start(plan, self._clock())
            self._drawing = _Drawing(plan, options, pose, posed_s, future)
        future.add_done_callback(lambda _: self._notify())

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def _deliver(self, drawing: _Drawing) -> None:
        try:
            frame = drawing.future.result()
        except RenderCancelled:
            with self._wake:
                self._pacer.abandon()
            return
        except BelvedereError as error:
            self._note_error(str(error))
            with self._wake:
                # Whatever else happens meanwhile: another pose would fail as this one did.
                self._wake.wait_for(lambda: self._closed, RETRY_S)
                self._pacer.abandon()
            return
        started_s = self._clock()
        shown = drawing.options.picture(frame.images)
        with self._wake:
            # Before sending: the acknowledgement may arrive at once.
            self._pacer.sent(self._clock())
        self._screen.show(shown.rgb, drawing.plan.jpeg_quality)
        sent_s, sequence = self._clock(), frame.request.sequence
        self._engine.recorder.did(
            self.client, Stage.ENCODE.value, started_s, sent_s, self.client, sequence
        )
        self._screen.acknowledge(lambda: self._acknowledged(drawing, sequence, sent_s))
        self._record(drawing, frame, shown, 1e3 * (sent_s - started_s))
        self._faults = 0

    def _acknowledged(self, drawing: _Drawing, sequence: int, sent_s: float) -> None:
        with self._wake:
            now_s = self._clock()
            self._engine.recorder.did(self.client, SEND, sent_s, now_s, self.client, sequence)
            self._pacer.acknowledged(now_s)
            age_ms = 1e3 * (now_s - drawing.posed_s)
            self._stats = replace(self._stats, age_ms=age_ms, seen=drawing.pose)
            self._wake.notify_all()

    def _record(self, drawing: _Drawing, frame: Frame, shown: Picture, encode_ms: float) -> None:
        raster, plan, stream = frame.stats.raster[0], drawing.plan, frame.stats.stream
        share = self._engine.share_of(self.client)
        with self._wake:
            self._pacer.drawn(plan, frame.stats.drawing_ms, encode_ms, share=share, stream=stream)
            self._sent_at.append(self._clock())
            self._stats = SessionStats(
                shown=self._stats.shown + 1,
                age_ms=self._stats.age_ms,
                width=plan.width,
                height=plan.height,
                still=plan.still and plan.reduction == WHOLE,
                sharpening=plan.still and plan.reduction != WHOLE,
                full_size=drawing.options.max_scale >= 1.0,
                gaussians=raster.gaussians,
                visible=raster.visible,
                samples=raster.tile_pairs if raster.is_marched else None,
                queue_ms=frame.stats.queue_ms,
                render_ms=frame.stats.render_ms,
                pictures=len(frame.images),
                reused=frame.stats.reused,
                encode_ms=encode_ms,
                stage_ms=dict(raster.stage_ms),
                legend=shown.legend,
                stream=stream,
                seen=self._stats.seen,
            )

    def _note_error(self, message: str, level: int = logging.WARNING) -> None:
        """Show it in the panel, and log it once while it lasts."""
        with self._wake:
            repeated = self._stats.error == message
            self._stats = replace(self._stats, error=message)
        log.log(logging.DEBUG if repeated else level, "%s: %s", self.client, message)
