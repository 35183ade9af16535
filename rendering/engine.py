"""The engine: requests for frames go in, futures of frames come out."""

from __future__ import annotations

import atexit
import threading
import time
from concurrent.futures import Future

from render_cache.byte_cache import CacheStats
from rendering.base import CancelFlag, Rasterizer
from rendering.drawable import DrawableScene
from rendering.frame import Frame, FrameRequest
from rendering.scheduler import FrameScheduler
from rendering.worker import Worker
from splat.closing import Closing
from splat.errors import BelvedereError, RenderCancelled, RenderError
from splat.gaussians import Gaussians


class RenderEngine(Closing):
    """Draws frames for many clients on one worker thread.

    ``rendering.scheduler`` says whose turn it is; this class only moves requests and
    results between threads. Every future that ``submit`` returns is resolved, with a
    ``Frame``, a ``RenderCancelled`` or another ``BelvedereError``; no failure of a frame ends
    the engine. Callbacks on futures run on the worker thread, so they must be quick.

    An engine that nobody closed is closed when the interpreter exits: its thread would be
    frozen there with all it holds, and native scenes be reported as leaked.

    Args:
        rasterizer: What draws.
        scene: Gaussians, to which the engine keeps no reference, or a scene made for
            ``rasterizer``, which the engine closes.
        picture_bytes: Memory for finished pictures, which are not drawn again.
    """

    def __init__(
        self,
        rasterizer: Rasterizer,
        scene: Gaussians | DrawableScene,
        *,
        picture_bytes: int = 0,
    ) -> None:
        self._worker = Worker(rasterizer, scene, picture_bytes=picture_bytes)
        self._rasterizer = rasterizer
        self._scheduler = FrameScheduler()
        self._futures: dict[FrameRequest, Future[Frame]] = {}
        self._running_cancel: CancelFlag | None = None
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="render-worker", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, request: FrameRequest) -> Future[Frame]:
        """Ask for a frame; returns at once.

        The future raises ``RenderCancelled`` if a newer request of the same client took
        its place, another ``BelvedereError`` if drawing failed. Cancelling a future whose
        frame has not been started takes the request back.

        Raises:
            RenderError: If the engine is closed.
        """
        future: Future[Frame] = Future()
        with self._wake:
            if self._closed:
                raise RenderError("the render engine is closed")
            admission = self._scheduler.admit(request)
            dropped = future if admission.dropped is request else None
            if dropped is None:
                self._futures[request] = future
            if admission.dropped is not None and dropped is None:
                dropped = self._futures.pop(admission.dropped)
            if admission.cancel_running and self._running_cancel is not None:
                self._running_cancel.set()
            self._wake.notify_all()
        if dropped is not None:
            _fail(dropped, RenderCancelled("a newer request replaced this frame"))
        return future

    def replace_scene(self, scene: Gaussians | DrawableScene) -> None:
        """Draw another scene from the next frame on. Returns when that is so."""
        self._worker.replace_scene(scene)

    def add_coarser(self, gaussians: Gaussians) -> bool:
        """Offer a coarser form of the scene as the next level of detail.

        Returns:
            Whether it was taken: not if the scene streams, or was replaced in the meantime.
        """
        return self._worker.add_coarser(gaussians)

    @property
    def pictures(self) -> CacheStats:
        """What is kept of finished pictures."""
        return self._worker.pictures.stats()

    @property
    def detail_counts(self) -> tuple[int, ...]:
        """Gaussians by level of detail, finest first."""
        return self._worker.detail_counts

    def forget(self, client: str) -> None:
        """The client is gone and will ask for nothing more."""
        self._worker.forget(client)

    def close(self) -> None:
        """Abandon the running frame and the waiting ones, and end the thread."""
        atexit.unregister(self.close)
        with self._wake:
            self._closed = True
            waiting = [self._futures.pop(request) for request in self._scheduler.drain()]
            if self._running_cancel is not None:
                self._running_cancel.set()
            self._wake.notify_all()
        for future in waiting:
            _fail(future, RenderCancelled("the render engine was closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._worker.close()

    def _work(self) -> None:
        while self._serve_next():
            pass  # nothing of a frame is kept while waiting for the next

    def _serve_next(self) -> bool:
        """Wait for a request and answer it; False once the engine is closed."""
        job = self._next_job()
        if job is None:
            return False
        request, future, cancel = job
        started_s = time.monotonic()
        try:
            if future.set_running_or_notify_cancel():
                self._draw(request, future, cancel)
        finally:
            with self._wake:
                self._running_cancel = None
                self._scheduler.finish(time.monotonic() - started_s)
        return True

    def _next_job(self) -> tuple[FrameRequest, Future[Frame], CancelFlag] | None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed or len(self._scheduler) > 0)
            request = None if self._closed else self._scheduler.start_next()
            if request is None:
                return None
            self._running_cancel = cancel = self._rasterizer.new_cancel_flag()
            return request, self._futures.pop(request), cancel

    def _draw(self, request: FrameRequest, future: Future[Frame], cancel: CancelFlag) -> None:
        try:
            frame = self._worker.draw(request, cancel)
        except BelvedereError as error:
            future.set_exception(error)
        else:
            future.set_result(frame)


def _fail(future: Future[Frame], error: RenderError) -> None:
    """Resolve a future whose frame was never started, unless its owner cancelled it."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
