"""Ranges of files on whatever else fsspec knows: S3 and other stores of objects, FTP, SSH."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem

from scene_store.chunks import Buffer, never_cancelled
from scene_store.range_reader import ByteRange, RangeReadError, cut, extent, require_size
from scene_store.remote.address import Address
from scene_store.remote.identity import FileIdentity
from scene_store.remote.options import RemoteOptions
from scene_store.remote.rejections import Rejections
from splat.errors import BackendUnavailable, SceneNotFoundError, SceneUnreachableError

_PART_BYTES = 4 << 20  # between two looks at whether a read that blocks is still wanted
_LOOK_EVERY_S = 0.02
# How the services that fsspec knows name the mark of a version, and its time.
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "sftp": "paramiko"}


class _Worker:
    """Makes calls that block, one after the other: file systems of that kind have a single
    connection. A daemon, so that one that hangs keeps nobody from leaving."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What ``call`` returns or raises, in the end; cancelled ones are left out."""
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """No more calls after those that wait."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


class ObjectReader:
    """The files below one address.

    Requests, credentials and retries within a request are the file system's; this gives them a
    bound in time, a way to be abandoned, and words.

    Raises:
        BackendUnavailable: If the file system needs a package that is not installed.
        SceneNotFoundError: If there is no file system for such addresses.
        SceneUnreachableError: If there is nobody at the address; some connect at once.
    """

    is_far = True

    def __init__(self, address: Address, options: RemoteOptions) -> None:
        self._address = address
        self._options = options
        self._identities: dict[str, FileIdentity] = {}
        self._rejections = Rejections()
        self._lock = threading.Lock()
        self._closed = False
        self._worker = _Worker(f"files-{address.scheme}")
        try:
            self._files = self._connected()
        except BaseException:
            self._worker.close()
            raise

    def location(self, name: str) -> str:
        """See ``RangeReader``."""
        return self._address.shown(name)

    def identity(self, name: str, cancelled: Callable[[], bool]) -> FileIdentity | None:
        """Which version of a file is read; asked for once. None if ``cancelled`` said so.

        Raises:
            RangeReadError: If the file is not there, or cannot be asked for.
        """
        with self._lock:
            known = self._identities.get(name)
        if known is not None:
            return known
        info = self._call(name, cancelled, "info")
        if info is None:
            return None
        seen = FileIdentity(info.get("size"), _first(info, _ETAGS), _first(info, _TIMES))
        with self._lock:
            return self._identities.setdefault(name, seen)

    def read(
        self, name: str, offset: int, size: int, cancelled: Callable[[], bool]
    ) -> bytes | None:
        """See ``RangeReader``."""
        identity = self.identity(name, cancelled)
        if identity is None:
            return None
        end = offset + size
        if identity.size is not None and end > identity.size:
            problem = f"ends at byte {identity.size:,}, before byte {end:,}"
            raise RangeReadError(self.location(name), problem)
        parts: list[bytes] = []
        for start in range(offset, end, _PART_BYTES):
            stop = min(start + _PART_BYTES, end)
            part = self._call(name, cancelled, "cat_file", start=start, end=stop)
            if part is None:
                return None
            if len(part) != stop - start:
                raise RangeReadError(
                    self.location(name),
                    f"gave {len(part):,} bytes where {stop - start:,} were asked for",
                    transient=True,
                )
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_ranges(
        self, name: str, ranges: Sequence[ByteRange], cancelled: Callable[[], bool]
    ) -> list[Buffer] | None:
        """See ``RangeReader``."""
        data = self.read(name, *extent(ranges), cancelled)
        return None if data is None else cut(data, ranges)

    def read_file(self, name: str, most_bytes: int, cancelled: Callable[[], bool]) -> bytes | None:
        """See ``RangeReader``."""
        identity = self.identity(name, cancelled)
        if identity is None:
            return None
        size = most_bytes + 1 if identity.size is None else identity.size
        require_size(self.location(name), size, most_bytes)
        return self.read(name, 0, size, cancelled)

    def reject(self, name: str, offset: int, size: int) -> bool:
        """See ``RangeReader``."""
        return self._rejections.is_first(name, offset, size)

    def close(self) -> None:
        """See ``RangeReader``. Connections end with the file system's last user."""
        self._closed = True
        self._worker.close()

    def _connected(self) -> Any:
        kind = _kind_of_file_system(self._address)
        future = self._worker.submit(lambda: _file_system(kind, self._address))
        try:
            return self._wait("", never_cancelled, future)
        except RangeReadError as error:
            raise SceneUnreachableError(f"{error.location}: {error.advice}") from None
        except Exception as error:  # each file system has errors of its own
            failure = self._failed("", error)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            said = f"cannot be reached: {reason}"
            advice = failure.advice if failure.remedy else said
            raise SceneUnreachableError(f"{failure.location}: {advice}") from None

    def _path(self, name: str) -> str:
        return str(self._files._strip_protocol(self._address.bare(name)))

    def _call(self, name: str, cancelled: Callable[[], bool], method: str, **options: Any) -> Any:
        """What a method of the file system says of a file; None if it is not wanted any more."""
        if self._closed:
            raise RangeReadError(self.location(name), "was closed")
        if cancelled():
            return None
        path = self._path(name)
        future: Future[Any]
        try:
            if isinstance(self._files, AsyncFileSystem):
                work = getattr(self._files, f"_{method}")(path, **options)
                future = asyncio.run_coroutine_threadsafe(work, self._files.loop)
            else:
                call = getattr(self._files, method)
                future = self._worker.submit(lambda: call(path, **options))
            return self._wait(name, cancelled, future)
        except RangeReadError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise self._failed(name, error) from None

    def _wait(self, name: str, cancelled: Callable[[], bool], future: Future[Any]) -> Any:
        patience_s = self._options.connect_s + self._options.stall_s
        deadline = time.monotonic() + patience_s
        try:
            while not wait([future], _LOOK_EVERY_S).done:
                if cancelled():
                    return None
                if self._closed:
                    raise RangeReadError(self.location(name), "was closed")
                if time.monotonic() > deadline:
                    problem = f"no answer within {patience_s:g} s"
                    raise RangeReadError(self.location(name), problem, transient=True)
        finally:
            future.cancel()  # nothing happens if it is done
        return future.result()

    def _failed(self, name: str, error: Exception) -> RangeReadError:
        where = self.location(name)
        if isinstance(error, FileNotFoundError):
            return RangeReadError(where, "is missing", missing=True)
        if isinstance(error, PermissionError):
            return RangeReadError(
                where,
                "access is refused",
                remedy="check the credentials and their rights (docs/remote.md)",
            )
        said = str(error) or type(error).__name__
        passing = isinstance(error, (OSError, asyncio.TimeoutError))
        return RangeReadError(where, f"cannot be read: {said}", transient=passing)


def _kind_of_file_system(address: Address) -> Any:
    scheme = address.scheme
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError:
        package = _PACKAGES.get(scheme)
        advice = f": pip install {package}" if package else " that fsspec names for them"
        raise BackendUnavailable(
            f"{address.shown()}: reading {scheme}:// addresses needs another package{advice}"
        ) from None
    except ValueError:
        raise SceneNotFoundError(
            f"{address.shown()}: addresses that begin with {scheme}:// are not known"
        ) from None


def _file_system(kind: Any, address: Address) -> Any:
    """One of our own: others' caches of listings would hide what changed. May connect."""
    arguments = kind._get_kwargs_from_urls(address.bare())
    return kind(skip_instance_cache=True, **arguments)


def _first(info: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(info[name]) for name in names if info.get(name)), "")
