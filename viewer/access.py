"""Who may use the page: one pure rule over the headers of a request (``docs/adr/0005``).

The page speaks for the machine it runs on, so three kinds of stranger are kept out:

- a website in the same browser that opens a socket to the page: its ``Origin`` is not the
  host that the request was addressed to;
- a website whose name was made to point at this machine (DNS rebinding): without a token,
  only names of the loopback are answered;
- anyone else on the network, where the page listens wider than the loopback: a token is
  required, first in the address, then in a cookie.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from splat.errors import SettingsError
from viewer.ports import is_loopback

TOKEN_PARAMETER = "token"
# What may stand in an address and in a cookie without being quoted.
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9._~-]{8,128}")
RANDOM_TOKEN_BYTES = 16
DEFAULT_PORTS = {"http": 80, "https": 443}

Headers = Callable[[str], Sequence[str]]
"""All values that a request has under a header's name."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is answered.

    Attributes:
        reason: Why not, one line for the person who asks; "" if it is.
        set_cookie: Value of a ``Set-Cookie`` header for the answer, "" for none.
    """

    reason: str = ""
    set_cookie: str = ""

    @property
    def allowed(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The rule.

    Attributes:
        token: What a request must carry; None where only this machine can ask anyway.
    """

    token: str | None = None

    def judge(self, target: str, headers: Headers) -> Verdict:
        """Whether to answer a request.

        Args:
            target: Its path and query, such as ``/?token=…``.
            headers: Its headers, by name.
        """
        host = _only(headers("Host"))
        addressed = _split_host(host)
        if addressed is None:
            return Verdict("the request does not say which host it is for")
        name, port = addressed
        if self.token is None and not is_loopback(name):
            return Verdict(
                f"without a token this page answers to localhost only, not to {name}; start it "
                f"with --token"
            )
        for origin in headers("Origin"):
            if not _same_host(origin, name, port):
                return Verdict(f"a page of {origin} may not use this one")
        return Verdict() if self.token is None else self._judge_token(target, headers, port)

    def _judge_token(self, target: str, headers: Headers, port: int | None) -> Verdict:
        assert self.token is not None
        cookie = cookie_name(port)
        given = parse_qs(target.partition("?")[2]).get(TOKEN_PARAMETER, [])
        if any(_equal(token, self.token) for token in given):
            attributes = "Path=/; HttpOnly; SameSite=Strict"
            return Verdict(set_cookie=f"{cookie}={self.token}; {attributes}")
        kept = (value for line in headers("Cookie") for value in _cookies(line, cookie))
        if any(_equal(token, self.token) for token in kept):
            return Verdict()
        return Verdict("this page needs a token; open the address that belvedere printed")


def choose_policy(host: str, token: str | None) -> AccessPolicy:
    """The rule for a page that listens on ``host``.

    Args:
        host: The address to listen on.
        token: The user's; None for a random one where one is needed.

    Raises:
        SettingsError: If the token cannot stand in an address.
    """
    if token is None:
        needed = not is_loopback(host)
        return AccessPolicy(secrets.token_urlsafe(RANDOM_TOKEN_BYTES) if needed else None)
    if not TOKEN_PATTERN.fullmatch(token):
        raise SettingsError("the token must be 8 to 128 letters, digits or characters of . _ ~ -")
    return AccessPolicy(token)


def cookie_name(port: int | None) -> str:
    """Of the cookie that holds the token: cookies know no ports, pages of one host have many."""
    return "belvedere-token" if port is None else f"belvedere-token-{port}"


def _only(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else ""


def _split_host(text: str) -> tuple[str, int | None] | None:
    """(name, port) of ``name``, ``name:80`` or ``[::1]:80``; None if it is none of them."""
    if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", text):
        return None
    try:
        parts = urlsplit(f"//{text}")
        return (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:  # such as a port of 99999
        return None


def _same_host(origin: str, name: str, port: int | None) -> bool:
    """Whether an ``Origin`` header is that of a page served by the host it talks to."""
    scheme, _, host = origin.partition("://")
    parts = _split_host(host)
    default = DEFAULT_PORTS.get(scheme)
    if parts is None or default is None:  # "null", or another kind of page
        return False
    return (parts[0], parts[1] or default) == (name, port or default)


def _cookies(line: str, name: str) -> list[str]:
    """Values of the cookies of this name in a ``Cookie`` header."""
    pairs = (pair.strip().partition("=") for pair in line.split(";"))
    return [value for key, _, value in pairs if key == name]


def _equal(given: str, token: str) -> bool:
    """Compares in a time that does not tell how much of the token was right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
