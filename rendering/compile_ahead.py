"""Kernels compiled before they are needed: the first picture in motion must not wait for them.

Triton compiles a kernel for each kind of picture at its first use, for seconds, and keeps it on
disk for the next session. Once the first picture of a scene is drawn, those of the other kinds that
a viewer asks for are drawn in small, in the background.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from render_cache.reuse import ReuseLimits
from rendering.base import Outputs, RasterSettings

log = logging.getLogger(__name__)

EXACT = RasterSettings()
MOVING = RasterSettings(transmittance_stop=0.02, reuse=ReuseLimits())
COARSE = replace(MOVING, resolution=0.5)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of picture, as far as it needs kernels of its own.

    Attributes:
        settings: How it is drawn.
        eyes: One or two.
    """

    settings: RasterSettings
    eyes: int = 1


def kinds_of_a_viewer() -> Iterator[Kind]:
    """Most urgent first: in motion, at rest, for two eyes, other images."""
    for settings in (COARSE, MOVING, EXACT):
        yield Kind(settings)
    for settings in (COARSE, MOVING):
        yield Kind(settings, eyes=2)
    for outputs in (Outputs.COLOR | Outputs.DEPTH, Outputs.DEPTH, Outputs.ALL):
        yield Kind(replace(EXACT, outputs=outputs))


class CompileAhead:
    """Draws samples of all kinds, once for each degree of harmonics, on a thread of its own.

    No daemon: the interpreter must not go while a compiler runs in it.

    Args:
        draw: Draws a small picture of a kind, of a scene of such a degree.
    """

    def __init__(self, draw: Callable[[Kind, int], None]) -> None:
        self._draw = draw
        self._begun: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, sh_degree: int) -> threading.Thread | None:
        """See to it that pictures of scenes of this degree need wait for no compiler.

        Returns:
            The thread that does so; None if there was one before.
        """
        with self._lock:
            if sh_degree in self._begun:
                return None
            self._begun.add(sh_degree)
        thread = threading.Thread(target=self._draw_all, args=(sh_degree,), name="compile-ahead")
        thread.start()
        return thread

    def _draw_all(self, sh_degree: int) -> None:
        for kind in kinds_of_a_viewer():
            if (
                not threading.main_thread().is_alive()
            ):  # the program ends, and waits for this thread
                return
            try:
                self._draw(kind, sh_degree)
            except Exception as error:  # who needs such a picture is told then
                log.debug("compiling ahead: %s", error, exc_info=error)
                return
