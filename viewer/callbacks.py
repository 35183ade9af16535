"""Callbacks of controls that a browser may give anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def contained(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """``callback``, whose failure is a line in the log.

    The values come from a browser, which may send anything; viser would print a traceback.
    """

    def call(event: Any) -> None:
        try:
            callback(event)
        except Exception as error:
            log.info("a control was given something impossible: %s", error)
            log.debug("details", exc_info=True)

    return call
