"""A web server of one folder at the end of a slow line: latency and bandwidth as told."""

from __future__ import annotations

import re
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from splat.closing import Closing

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE_BYTES = 1 << 15


@dataclass(frozen=True, slots=True)
class Line:
    """What lies between a client and the server.

    Attributes:
        latency_s: From a request to the first byte of its answer, at least.
        bytes_per_s: Of all answers together.
    """

    latency_s: float
    bytes_per_s: float


class SlowServer(Closing):
    """Serves a folder's files, whole or in ranges, on a free port of this machine.

    Attributes:
        url: The folder's address.
        bytes_sent: Of the files.
    """

    def __init__(self, folder: Path, line: Line) -> None:
        self.folder = folder
        self.line = line
        self.bytes_sent = 0
        self._free_at_s = 0.0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def wait_for_line(self, size: int) -> None:
        """Until so many more bytes have gone through."""
        with self._lock:
            start_s = max(self._free_at_s, time.monotonic())
            self._free_at_s = start_s + size / self.line.bytes_per_s
            self.bytes_sent += size
            free_at_s = self._free_at_s
        time.sleep(max(0.0, free_at_s - time.monotonic()))

    def close(self) -> None:
        """Ends the server; answers under way may be cut."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: SlowServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may hang up; anything else is worth a word."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """A file, or a range of it."""
        owner = self.server.owner
        time.sleep(owner.line.latency_s)
        file = owner.folder / self.path.rpartition("/")[2].partition("?")[0]
        if not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = file.stat().st_size
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        first = int(match[1]) if match else 0
        last = min(int(match[2] or size), size - 1) if match else size - 1
        if match and first > last:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if match else HTTPStatus.OK)
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{size:x}-{file.stat().st_mtime_ns:x}"')
        self.end_headers()
        self._send(file, first, last - first + 1)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to know."""

    def _send(self, file: Path, offset: int, size: int) -> None:
        with file.open("rb") as source:
            source.seek(offset)
            while size > 0:
                piece = source.read(min(size, _PIECE_BYTES))
                if not piece:
                    return
                self.server.owner.wait_for_line(len(piece))
                try:
                    self.wfile.write(piece)
                except OSError:  # the client wants no more
                    self.close_connection = True
                    return
                size -= len(piece)
