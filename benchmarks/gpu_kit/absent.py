"""What this machine lacks is no failure."""

from __future__ import annotations


class Absent(Exception):
    """Something cannot be measured here; the text says why, in a line."""
