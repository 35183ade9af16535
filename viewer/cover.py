"""What a browser shows before the page's first picture: a calm cover with a note.

The page is a single script that takes its time, and shows itself with other colours, another
camera and controls of its own before it has heard anything. The cover lies over all of that from
the first paint on; it lifts when the panel says that there is a picture (``CoverState``).
"""

from __future__ import annotations

import html
from enum import Enum
from functools import cache
from pathlib import Path

COVER_PATH = Path(__file__).resolve().parents[1] / "assets" / "cover.html"
PAGE_TITLE = "<title>Viser</title>"
# The page, in the head of its document, is one script between these.
_SCRIPT, _SCRIPT_END = "<script data-p=", "</script></head>"
_BODY, _BODY_END = "<body>", "</body>"


class CoverState(str, Enum):
    """What the panel tells the cover, in its attribute ``data-cover``."""

    OPENING = "opening"
    DRAWING = "drawing"
    SHOWN = "shown"


def covered(page: str, title: str) -> str:
    """viser's page with our title, and the cover to be painted before its script is even read.

    A page that is built in another way only gets the title.
    """
    page = page.replace(PAGE_TITLE, f"<title>{html.escape(title)}</title>", 1)
    head, script, rest = page.partition(_SCRIPT)
    code, end, rest = rest.partition(_SCRIPT_END)
    before, body, rest = rest.partition(_BODY)
    content, body_end, after = rest.partition(_BODY_END)
    if not (script and end and body and body_end):
        return page
    start = f"{head}</head>{before}{body}{_cover()}{content}"
    return f"{start}{script}{code}</script>{body_end}{after}"


@cache
def _cover() -> str:
    return COVER_PATH.read_text(encoding="utf-8")
