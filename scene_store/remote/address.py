"""Addresses of remote folders, and what of them may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from splat.errors import SceneNotFoundError

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_remote(text: str) -> bool:
    """Whether a text is an address rather than a local path."""
    return _REMOTE.match(text) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """A remote folder.

    A query (a token, a signature) belongs to every file of the folder; like a password it is
    never shown.
    """

    _parts: SplitResult

    @classmethod
    def of(cls, text: str, main_file: str = "") -> Address:
        """The folder that ``text`` names, by itself or by its ``main_file``.

        Raises:
            SceneNotFoundError: If it is no address.
        """
        try:
            parts = urlsplit(text)
            parts.port  # noqa: B018 - checks the number
        except ValueError:
            raise SceneNotFoundError(f"{_without_query(text)}: is not a valid address") from None
        if not parts.netloc and parts.scheme in ("http", "https", "s3"):
            raise SceneNotFoundError(f"{_without_query(text)}: names no server; check the address")
        path = parts.path
        if main_file and path.endswith(f"/{main_file}"):
            path = path[: -len(main_file)]
        return cls(parts._replace(path=path.rstrip("/"), fragment=""))

    @property
    def scheme(self) -> str:
        """``"http"``, ``"s3"`` and so on."""
        return self._parts.scheme.lower()

    @property
    def path(self) -> str:
        """The folder's path on its server, without a final slash."""
        return self._parts.path

    def file(self, name: str = "") -> str:
        """The full address of a file, secrets included; of the folder without a name."""
        return self._joined(name).geturl()

    def bare(self, name: str = "") -> str:
        """The same without a query, for what keeps secrets elsewhere."""
        return self._joined(name)._replace(query="").geturl()

    def shown(self, name: str = "") -> str:
        """The same for people and for logs: without user, password and query."""
        host = self._parts.netloc.rpartition("@")[2]
        return self._joined(name)._replace(netloc=host, query="").geturl()

    def _joined(self, name: str) -> SplitResult:
        return self._parts._replace(path=f"{self._parts.path}/{name}") if name else self._parts


def _without_query(text: str) -> str:
    return text.partition("?")[0]
