"""The first lines of the panel: the scene's name, and what the page's cover is told.

A page whose server is gone keeps what it was shown last, so silence must mean something: while a
page is covered, its heading changes every ``BEAT_S``, though nothing that a person sees does.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable

import viser

from viewer.cover import CoverState

# The cover takes five times this long for silence (assets/cover.html).
BEAT_S = 2.0


class Heading:
    """Thread-safe.

    Args:
        gui: Where to build.
        title: The scene's name.
        facts: The line below it.
        cover: What the cover is told.
        share: Of the opening, in [0, 1].
        clock: Seconds.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        title: str,
        facts: str,
        cover: CoverState,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._title, self._facts = title, facts
        self._cover, self._share = cover, share
        self._beats = 0
        self._beat_s = clock()
        self._removed = False
        self._html = gui.add_html(self._content(), order=0)

    @property
    def content(self) -> str:
        """What the page has, or will have."""
        with self._lock:
            return self._html.content

    def say(
        self,
        *,
        facts: str | None = None,
        cover: CoverState | None = None,
        share: float | None = None,
    ) -> None:
        """Change what is given."""
        with self._lock:
            self._facts = self._facts if facts is None else facts
            self._cover = self._cover if cover is None else cover
            self._share = self._share if share is None else share
            self._show()

    def beat(self) -> None:
        """Tell a covered page that the viewer lives; to be called at least every ``BEAT_S``."""
        with self._lock:
            now_s = self._clock()
            if self._cover is CoverState.SHOWN or now_s < self._beat_s + BEAT_S:
                return
            self._beat_s = now_s
            self._beats += 1
            self._show()

    def remove(self) -> None:
        """Take it off the panel."""
        with self._lock:
            self._removed = True
            self._html.remove()

    def _show(self) -> None:
        if not self._removed:
            self._html.content = self._content()

    def _content(self) -> str:
        """What the cover is told stands in attributes."""
        told = f'data-cover="{self._cover.value}" data-share="{self._share:.3f}"'
        return (
            f'<div {told} data-beat="{self._beats}" style="padding:2px 14px 4px">'
            f'<div style="font-weight:600;overflow-wrap:anywhere">{html.escape(self._title)}</div>'
            f'<div style="opacity:0.7;font-size:0.85em">{html.escape(self._facts)}</div></div>'
        )
