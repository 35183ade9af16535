"""Numbers of bytes as people write them."""

from __future__ import annotations

import math
import re

_SIZE = re.compile(r"([0-9.]+) *([kmgt]?)(i?)b?")


def parse_size(text: str) -> int:
    """Bytes of ``2GiB``, ``1.5GB``, ``512 MiB`` or plain ``1000000``.

    Raises:
        ValueError: If it is none of these, or nothing.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or not number > 0:
        raise ValueError(f"{text!r} is not a size such as 2GiB or 500MB")
    return int(number * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
