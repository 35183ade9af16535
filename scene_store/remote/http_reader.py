"""Ranges of files on a web server, by HTTP range requests (RFC 9110, section 14).

fsspec's HTTP file system gives the event loop, the pool of connections and the redirects.
The requests are made here, because its own read a body to the end whatever it is: a server
that ignores ranges would send a page file of gigabytes for each chunk.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from io import BytesIO
from typing import Any, TypeVar

import aiohttp
import fsspec
import yarl

from scene_store.chunks import Buffer
from scene_store.range_reader import ByteRange, RangeReadError, cut, extent, require_size
from scene_store.remote.address import Address
from scene_store.remote.identity import FileIdentity
from scene_store.remote.options import RemoteOptions
from scene_store.remote.rejections import Rejections

_T = TypeVar("_T")

_LOOK_EVERY_S = 0.02  # whether the read is still wanted
_CLOSING_S = 1.0
# On average, once the patience for a stall is over: else a server that sends a byte now and then
# would hold a reader for ever.
_LEAST_RATE = 1024  # bytes a second
_WAIT_AND_RETRY = frozenset({408, 425, 429})
_NEVER_BETTER = frozenset({501, 505})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d{1,19})")

_USE_RANGES = (
    "use a server that answers range requests with 206, such as nginx or S3 (docs/remote.md)"
)


class HttpReader:
    """The files below one address. Each read is one request on a pooled connection."""

    is_far = True

    def __init__(self, address: Address, options: RemoteOptions) -> None:
        self._address = address
        self._options = options
        self._identities: dict[str, FileIdentity] = {}
        self._rejections = Rejections()
        self._lock = threading.Lock()
        self._closed = False
        self._files = fsspec.filesystem(
            "http",
            skip_instance_cache=True,
            client_kwargs={
                "timeout": aiohttp.ClientTimeout(
                    total=None, sock_connect=options.connect_s, sock_read=options.stall_s
                ),
                # Ranges are of the bytes on disk, so nothing may be packed on the way.
                "headers": {"Accept-Encoding": "identity"},
                "auto_decompress": False,
                "requote_redirect_url": False,
                "trust_env": True,
            },
        )

    def location(self, name: str) -> str:
        """See ``RangeReader``."""
        return self._address.shown(name)

    def identity(self, name: str, cancelled: Callable[[], bool]) -> FileIdentity | None:
        """Which version of a file is read: what the first answer said, asked for if need be.
        None if ``cancelled`` said so meanwhile.

        Raises:
            RangeReadError: If the server does not tell.
        """
        known = self._identities.get(name)
        if known is None:
            # Not HEAD: addresses may be signed for GET alone.
            self._run(self._request(name, 0, 1, self._note_identity), cancelled)
            known = self._identities.get(name)
        return known

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """See ``RangeReader``."""
        if size == 0:
            return b""
        end = offset + size

        async def body(response: aiohttp.ClientResponse) -> bytes:
            self._require_range(response, name, offset, end)
            await self._note_identity(response, name)
            return await self._body(response, name, size)

        return self._run(self._request(name, offset, end, lambda r, _: body(r)), cancelled)

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """See ``RangeReader``."""
        data = self.read(name, *extent(ranges), cancelled)
        return None if data is None else cut(data, ranges)

    def read_file(self, name: str, most_bytes: int, cancelled: Callable[[], bool]) -> bytes | None:
        """See ``RangeReader``."""

        async def body(response: aiohttp.ClientResponse) -> bytes:
            if response.status != 200:
                raise self._failed(name, f"is answered with {_status(response)}")
            await self._note_identity(response, name)
            size = response.content_length
            if size is None:
                return await self._body_of_unknown_size(response, name, most_bytes)
            require_size(self.location(name), size, most_bytes)
            return await self._body(response, name, size)

        return self._run(self._request(name, 0, None, lambda r, _: body(r)), cancelled)

    def reject(self, name: str, offset: int, size: int) -> bool:
        """See ``RangeReader``."""
        return self._rejections.is_first(name, offset, size)

    def close(self) -> None:
        """See ``RangeReader``."""
        with self._lock:
            self._closed = True
        session = self._files._session
        if session is not None:
            closing = asyncio.run_coroutine_threadsafe(session.close(), self._files.loop)
            wait([closing], _CLOSING_S)

    # --- From threads to the event loop ------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, _T], cancelled: Callable[[], bool]) -> _T | None:
        """Waits for ``work``, and looks meanwhile whether it is still wanted."""
        if self._closed or cancelled():
            work.close()
            if self._closed:
                raise RangeReadError(self._address.shown(), "was closed")
            return None
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._files.loop)
        try:
            while not wait([future], _LOOK_EVERY_S).done:
                if cancelled():
                    return None
                if self._closed:
                    raise RangeReadError(self._address.shown(), "was closed")
        finally:
            future.cancel()  # nothing happens if it is done
        return future.result()

    async def _request(
        self,
        name: str,
        offset: int,
        end: int | None,
        take: Callable[[aiohttp.ClientResponse, str], Coroutine[Any, Any, _T]],
    ) -> _T:
        """What ``take`` makes of a good answer. Leaving early closes the connection, so nothing
        more than what ``take`` reads is ever transferred but for what the buffers hold."""
        headers = {} if end is None else {"Range": f"bytes={offset}-{end - 1}"}
        try:
            session = await self._files.set_session()
            # Redirects and headers may drip, too.
            response = await asyncio.wait_for(
                session.get(self._url(name), headers=headers), self._answer_s
            )
            async with response:
                self._require_success(response, name, end)
                return await take(response, name)
        except RangeReadError:
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise self._network_error(name, error) from None

    @property
    def _answer_s(self) -> float:
        """Patience for the head of an answer."""
        return self._options.connect_s + self._options.stall_s

    def _url(self, name: str) -> yarl.URL:
        text = self._address.file(name)
        # A valid address is sent as it is: quoting it anew could break its signature.
        return yarl.URL(text, encoded=text.isascii() and " " not in text)

    # --- What servers answer -----------------------------------------------------------------

    def _require_success(
        self, response: aiohttp.ClientResponse, name: str, end: int | None
    ) -> None:
        status = response.status
        if status in (404, 410):
            raise RangeReadError(
                self.location(name), f"is missing on the server ({_status(response)})", missing=True
            )
        if status in (401, 403, 407):
            raise self._failed(
                name,
                f"the server refuses access ({_status(response)})",
                "a token may be missing or expired",
            )
        if status == 416:
            found = _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            size = f"ends at byte {int(found[1]):,}" if found else "ends"
            raise self._failed(name, f"{size}, before byte {end or 0:,}")
        if status in _WAIT_AND_RETRY or (status >= 500 and status not in _NEVER_BETTER):
            raise RangeReadError(
                self.location(name), f"the server answered {_status(response)}", transient=True
            )
        if status not in (200, 206):
            raise self._failed(name, f"the server answered {_status(response)}")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise self._failed(
                name,
                f"is sent compressed ({encoding[:20]}), which was not asked for",
                "switch compression off for these files on the server",
            )

    def _require_range(
        self, response: aiohttp.ClientResponse, name: str, offset: int, end: int
    ) -> None:
        if response.status != 206:
            size = response.content_length
            whole = "the whole file" if size is None else f"the whole file of {size:,} bytes"
            raise self._failed(
                name,
                f"the server ignores ranges: asked for bytes {offset:,} to {end:,} it answered "
                f"{response.status} with {whole}",
                _USE_RANGES,
            )
        said = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(said.strip())
        if found is None:
            kind = response.headers.get("Content-Type", "")
            raise self._failed(
                name,
                f"the server answered 206 without saying which bytes it sends "
                f"(Content-Range {said[:60]!r}, Content-Type {kind[:60]!r})",
                _USE_RANGES,
            )
        first, last = int(found[1]), int(found[2])
        if first == offset and last + 1 < end and found[3] == str(last + 1):
            raise self._failed(name, f"ends at byte {last + 1:,}, before byte {end:,}")
        if (first, last + 1) != (offset, end):
            raise self._failed(
                name,
                f"the server sent bytes {first:,} to {last + 1:,} where {offset:,} to {end:,} "
                f"were asked for",
                _USE_RANGES,
            )
        length = response.content_length
        if length is not None and length != end - offset:
            raise self._failed(
                name,
                f"the server announced {length:,} bytes for a range of {end - offset:,}",
                _USE_RANGES,
            )

    async def _note_identity(self, response: aiohttp.ClientResponse, name: str) -> None:
        """Keeps what the first answer said of the file, and holds every later one against it."""
        headers = response.headers
        size = response.content_length if response.status == 200 else None
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if response.status == 206 and found is not None and found[3] != "*":
            size = int(found[3])
        seen = FileIdentity(size, headers.get("ETag", ""), headers.get("Last-Modified", ""))
        with self._lock:
            known = self._identities.setdefault(name, seen)
        if known.contradicts(seen):
            raise self._failed(
                name, "was changed on the server while it was open", "open the scene again"
            )

    async def _body(self, response: aiohttp.ClientResponse, name: str, size: int) -> bytes:
        body = BytesIO()  # gives its bytes away without a copy
        filled = 0
        try:
            async for part in self._parts(response, name):
                filled += body.write(part)
                if filled > size:
                    raise self._failed(
                        name, f"the server sent more than the {size:,} bytes asked for", _USE_RANGES
                    )
        except aiohttp.ClientPayloadError:
            pass  # the connection ended early: the count tells
        if filled < size:
            raise RangeReadError(
                self.location(name),
                f"the connection ended after {filled:,} of {size:,} bytes",
                transient=True,
            )
        return body.getvalue()

    async def _body_of_unknown_size(
        self, response: aiohttp.ClientResponse, name: str, most_bytes: int
    ) -> bytes:
        body = BytesIO()
        filled = 0
        async for part in self._parts(response, name):
            filled += body.write(part)
            require_size(self.location(name), filled, most_bytes)
        return body.getvalue()

    async def _parts(
        self, response: aiohttp.ClientResponse, name: str
    ) -> AsyncGenerator[bytes, None]:
        """The body as it comes, if it comes at ``_LEAST_RATE``."""
        start_s, filled = time.monotonic(), 0
        async for part in response.content.iter_any():
            filled += len(part)
            took_s = time.monotonic() - start_s
            if took_s > self._options.stall_s + filled / _LEAST_RATE:
                raise RangeReadError(
                    self.location(name),
                    f"the server sent only {filled:,} bytes in {took_s:.0f} s",
                    transient=True,
                )
            yield part

    def _failed(self, name: str, problem: str, remedy: str | None = None) -> RangeReadError:
        return RangeReadError(self.location(name), problem, remedy=remedy)

    def _network_error(self, name: str, error: Exception) -> RangeReadError:
        where = self.location(name)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            problem = f"no connection within {self._options.connect_s:g} s"
        elif isinstance(error, aiohttp.ServerTimeoutError):
            problem = f"the server sent nothing for {self._options.stall_s:g} s"
        elif isinstance(error, asyncio.TimeoutError):
            problem = f"no answer within {self._answer_s:g} s"
        elif isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
            return self._failed(name, f"the server's certificate is not accepted ({error})")
        elif isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
            return self._failed(name, "is not a valid address, or is redirected to one that is not")
        elif isinstance(error, aiohttp.TooManyRedirects):
            return self._failed(name, "the server redirects in circles")
        elif isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
            return self._failed(name, f"is not a valid address ({error})")
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            problem = "no server of this name can be found"
        elif isinstance(error, aiohttp.ClientConnectorError):
            problem = f"the server cannot be reached ({error.os_error.strerror or error.os_error})"
        elif isinstance(error, aiohttp.ClientResponseError):
            problem = f"the server does not speak HTTP properly ({error.message[:80]})"
        else:
            problem = f"the connection broke ({str(error) or type(error).__name__})"
        return RangeReadError(where, problem, transient=True)


def _status(response: aiohttp.ClientResponse) -> str:
    return f"{response.status} {(response.reason or '')[:40]}".strip()
