"""A viser server behind an access policy, with quiet logs: the one file that knows viser's inside.

viser 1.1.1 (pinned exactly) serves its page and its socket from one port and offers no hook
into either. It does so with ``websockets.asyncio.server.serve``, whose ``process_request``
sees every request before anything is answered, so while a server is constructed here, that
function is replaced by one that puts ours in front of viser's. Should a later viser serve
otherwise, the constructor fails; it never serves unguarded.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
import warnings
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from viewer.access import AccessPolicy
from viewer.cover import covered

log = logging.getLogger(__name__)
# What websockets has to say is about the other side: nothing that a terminal should show.
wire_log = logging.getLogger(f"{__name__}.wire")
wire_log.setLevel(logging.INFO)  # below that it lists every message
wire_log.addFilter(lambda record: log.isEnabledFor(logging.DEBUG))

Answer = Callable[[ServerConnection, Request], Response | None]
Handler = Callable[[ServerConnection], Awaitable[None]]

PROTOCOL_ERROR, INVALID_DATA = 1002, 1007
PROTOCOL = f"viser-v{viser.__version__}"
# What viser says of a picture drawn for a browser that has just left, and of messages of a
# page that it would not write itself: anyone can send those.
CLOSED_WARNING = "Queued a .* on a closed connection"
MISTYPED_WARNING = r"\[viser\] "

_replacing = threading.Lock()


class GuardedServer(viser.ViserServer):
    """A viser server that answers only whom ``policy`` allows.

    Args:
        host, port, label: As in viser.
        policy: Who may use the page.
        title: Of the browser's tab.
    """

    def __init__(
        self, host: str, port: int, *, label: str, policy: AccessPolicy, title: str
    ) -> None:
        for warning in (CLOSED_WARNING, MISTYPED_WARNING):
            warnings.filterwarnings("ignore", warning, UserWarning)
        gate = _Gate(policy, title)
        original = websockets.asyncio.server.serve
        with _replacing:
            websockets.asyncio.server.serve = gate.serve  # type: ignore[assignment,misc]
            try:
                super().__init__(host, port, label=label, verbose=False)
            finally:
                websockets.asyncio.server.serve = original  # type: ignore[misc]
        if not gate.in_place:
            self.stop()
            raise RuntimeError(f"viser {viser.__version__} cannot be guarded; install viser 1.1.1")

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Nothing: a page's message must not open a tunnel to this machine."""
        return None

    def disconnect_share_url(self) -> None:
        """Nothing to close."""


class _Gate:
    """Stands in for ``websockets.asyncio.server.serve``."""

    def __init__(self, policy: AccessPolicy, title: str) -> None:
        self.in_place = False
        self._policy = policy
        self._title = title
        self._serve = websockets.asyncio.server.serve
        self._pages: dict[bool, bytes] = {}  # by whether they are compressed

    def serve(
        self, handler: Handler, host: str, port: int, *, process_request: Answer, **options: Any
    ) -> websockets.asyncio.server.serve:
        asyncio.get_running_loop().set_exception_handler(_note_failed_task)
        self.in_place = True
        return self._serve(
            _contained(handler),
            host,
            port,
            process_request=lambda connection, request: self._answer(
                process_request, connection, request
            ),
            logger=wire_log,
            **options,
        )

    def _answer(
        self, answer: Answer, connection: ServerConnection, request: Request
    ) -> Response | None:
        verdict = self._policy.judge(request.path, request.headers.get_all)
        if not verdict.allowed:
            log.info("refused: %s", verdict.reason)
            return connection.respond(HTTPStatus.FORBIDDEN, f"{verdict.reason}\n")
        compress = any("gzip" in value for value in request.headers.get_all("Accept-Encoding"))
        if "Accept-Encoding" in request.headers:  # the page is compressed after its title is set
            del request.headers["Accept-Encoding"]
        try:
            response = answer(connection, request)
        except (OSError, ValueError):  # no file can have such a name
            return connection.respond(HTTPStatus.NOT_FOUND, "not found\n")
        if response is None:  # a socket
            return None
        if response.headers.get("Content-Type", "").startswith("text/html"):
            response = self._page(response, compress)
        if verdict.set_cookie:
            response.headers["Set-Cookie"] = verdict.set_cookie
        return response

    def _page(self, response: Response, compress: bool) -> Response:
        """viser's page behind our cover; its address, which may hold a token, stays here."""
        if compress not in self._pages:
            body = covered(bytes(response.body or b"").decode(), self._title).encode()
            self._pages[compress] = gzip.compress(body, 6) if compress else body
        body = self._pages[compress]
        headers = Headers(
            {
                "Content-Type": response.headers["Content-Type"],
                "Content-Length": str(len(body)),
                "Content-Encoding": "gzip" if compress else "identity",
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                # No other site may show the page and have its visitors click on it unawares.
                "Content-Security-Policy": "frame-ancestors 'self'",
            }
        )
        return Response(response.status_code, response.reason_phrase, headers, body)


def _contained(handler: Handler) -> Handler:
    """``handler``, for clients that may send anything: nonsense ends their connection only."""

    async def contained(connection: ServerConnection) -> None:
        if connection.subprotocol != PROTOCOL:  # viser would say so on the terminal
            log.info("refused a client of another version: %s", connection.subprotocol)
            await connection.close(PROTOCOL_ERROR, "Version mismatch; reload the page")
            return
        try:
            await handler(connection)
        except Exception as error:
            log.info("a client sent nonsense and was disconnected: %s", type(error).__name__)
            log.debug("details", exc_info=True)
            await connection.close(INVALID_DATA, "not a message of this page")

    return contained


def _note_failed_task(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A message of a known kind with impossible values ends here, among others."""
    log.debug("server: %s", context.get("message"), exc_info=context.get("exception"))
