"""A web server with ranges, and with every way to get them wrong."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")

Fault = Callable[["_Handler", bytes, "tuple[int, int] | None"], None]
"""Answers a request in place of the server: (handler, the file, first byte and end)."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may hang up; anything else is worth a word."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@dataclass(eq=False)
class RangeServer:
    """Serves a folder on a free port of this machine while its ``with`` block lasts.

    Attributes:
        folder: What is served.
        latency_s: Time before each answer.
        etag: Of every file; none is sent if empty.
        ranges: Whether the ranges of requests are heeded.
        faults: What the next requests for a file (by its name, or "*") meet, in this order.
        requests: How often each file was asked for.
        queries: The queries of all requests.
        sent: Bytes of bodies handed to the system.
        connections: How many were made.
        most_at_once: Requests that were under way together.
    """

    folder: Path
    latency_s: float = 0.0
    etag: str = '"1"'
    ranges: bool = True
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    sent: int = 0
    connections: int = 0
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> RangeServer:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault_for(self, name: str) -> Fault | None:
        """The next fault of a file, taken from its list."""
        with self._lock:
            for key in (name, "*"):
                if self.faults.get(key):
                    return self.faults[key].pop(0)
        return None

    def note(self, name: str, query: str) -> None:
        """Counts a request that begins."""
        with self._lock:
            self.requests[name] += 1
            self.queries.append(query)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def note_end(self) -> None:
        """Counts a request that ended."""
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    owner: RangeServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = unquote(parts.path).lstrip("/")
        self.owner.note(name, parts.query)
        try:
            self._answer(name)
        except OSError:
            self.close_connection = True  # the client left
        finally:
            self.owner.note_end()

    def _answer(self, name: str) -> None:
        if self.owner.latency_s:
            time.sleep(self.owner.latency_s)
        file = self.owner.folder / name
        if not file.is_file():
            self.answer(404, b"no such file", {})
            return
        content = file.read_bytes()
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        wanted = (int(found[1]), int(found[2]) + 1) if found and self.owner.ranges else None
        fault = self.owner.fault_for(name)
        if fault is not None:
            fault(self, content, wanted)
        elif wanted is None:
            self.answer(200, content, {})
        elif wanted[0] >= len(content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.answer_range(content, wanted[0], min(wanted[1], len(content)))

    def answer_range(self, content: bytes, start: int, end: int) -> None:
        """A proper answer to a range request."""
        span = f"bytes {start}-{end - 1}/{len(content)}"
        self.answer(206, content[start:end], {"Content-Range": span})

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], *, announced: int | None = None
    ) -> None:
        """Any answer; ``announced`` bytes are promised in the place of the body's length."""
        self.send_response(status)
        if self.owner.etag and status in (200, 206):
            self.send_header("ETag", self.owner.etag)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        for start in range(0, len(body), 1 << 16):
            part = body[start : start + (1 << 16)]
            self.owner.sent += len(part)  # first, as the client may look at once
            self.wfile.write(part)

    def drip(self, data: bytes) -> None:
        """A byte every tenth of a second until the test ends."""
        for byte in data:
            if self.owner.released.wait(0.1):
                break
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _body(content: bytes, wanted: tuple[int, int] | None) -> bytes:
    return content if wanted is None else content[wanted[0] : wanted[1]]


def _headers(content: bytes, wanted: tuple[int, int] | None) -> dict[str, str]:
    if wanted is None:
        return {}
    return {"Content-Range": f"bytes {wanted[0]}-{wanted[1] - 1}/{len(content)}"}


def _status(wanted: tuple[int, int] | None) -> int:
    return 200 if wanted is None else 206


def answers(status: int, headers: dict[str, str] | None = None) -> Fault:
    """A status and nothing else."""
    return lambda handler, _content, _wanted: handler.answer(status, b"", headers or {})


def whole_file(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """200 and the whole file, as servers do that know no ranges."""
    handler.answer(200, content, {})


def stalls(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """Half of the body, then nothing until the test ends."""
    body = _body(content, wanted)
    half = body[: len(body) // 2]
    handler.answer(_status(wanted), half, _headers(content, wanted), announced=len(body))
    handler.owner.released.wait(20)
    handler.close_connection = True


def drips(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """A byte of the body now and then, until the test ends."""
    body = _body(content, wanted)
    handler.answer(_status(wanted), b"", _headers(content, wanted), announced=len(body))
    handler.drip(body)


def drips_headers(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """A byte of the answer's head now and then, until the test ends."""
    handler.drip(b"HTTP/1.1 206 Partial Content\r\nX: " + 10_000 * b"x")


def resets(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """Half of the body, then a reset of the connection."""
    body = _body(content, wanted)
    half = body[: len(body) // 2]
    handler.answer(_status(wanted), half, _headers(content, wanted), announced=len(body))
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True


def truncates(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """Half of the body, then an orderly end of the connection."""
    body = _body(content, wanted)
    half = body[: len(body) // 2]
    handler.answer(_status(wanted), half, _headers(content, wanted), announced=len(body))
    handler.close_connection = True


def other_range(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """The same number of bytes from another place, and says so."""
    assert wanted is not None
    size = wanted[1] - wanted[0]
    handler.answer_range(content, wanted[0] + 1, wanted[0] + 1 + size)


def no_content_range(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """206 without a word on what it is."""
    handler.answer(206, _body(content, wanted), {})


def wrong_length(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """The right Content-Range with fewer bytes than it says, announced as such."""
    handler.answer(206, _body(content, wanted)[:-1], _headers(content, wanted))


def gzipped(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """Packed, whatever was asked for."""
    headers = {**_headers(content, wanted), "Content-Encoding": "gzip"}
    handler.answer(_status(wanted), gzip.compress(_body(content, wanted)), headers)


def garbled(handler: _Handler, content: bytes, wanted: tuple[int, int] | None) -> None:
    """One bit of the body is wrong."""
    body = bytearray(_body(content, wanted))
    body[len(body) // 2] ^= 1
    handler.answer(_status(wanted), bytes(body), _headers(content, wanted))
