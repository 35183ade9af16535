"""Who may use the page, by the headers of a request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from splat.errors import SettingsError
from viewer.access import AccessPolicy, Verdict, choose_policy

TOKEN = "correct-horse-battery"
LOCAL = AccessPolicy()
GUARDED = AccessPolicy(TOKEN)


def judge(policy: AccessPolicy, target: str = "/", **headers: str | Sequence[str]) -> Verdict:
    given: Mapping[str, str | Sequence[str]] = {key.lower(): v for key, v in headers.items()}

    def values(name: str) -> Sequence[str]:
        value = given.get(name.lower(), ())
        return [value] if isinstance(value, str) else value

    return policy.judge(target, values)


@pytest.mark.parametrize(
    "host",
    ["localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "127.0.0.2:80"],
)
def test_this_machine_is_answered_under_any_port(host: str) -> None:
    assert judge(LOCAL, host=host).allowed


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "127.0.0.1.evil.example:8080",
        "127.evil.example",
        "localhost.evil.example",
        "192.168.1.5:8080",
        "0.0.0.0:8080",
        "localhost:99999",
        "localhost:8080@evil.example",
        "evil.example#localhost",
        "",
    ],
)
def test_a_name_made_to_point_here_is_not(host: str) -> None:
    """DNS rebinding: the address is ours, the name is somebody else's."""
    assert not judge(LOCAL, host=host).allowed


def test_a_host_must_be_named_once() -> None:
    assert not judge(LOCAL).allowed
    assert not judge(LOCAL, host=["localhost", "localhost"]).allowed


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost"),
    ],
)
def test_the_page_itself_is_answered(host: str, origin: str) -> None:
    assert judge(LOCAL, host=host, origin=origin).allowed


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:8080",
        "http://localhost:8081",
        "http://localhost",
        "http://127.0.0.1:8080",
        "http://localhost:8080.evil.example",
        "http://localhost:8080/",
        "http://evil@localhost:8080",
        "file://",
        "chrome-extension://localhost:8080",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("policy", [LOCAL, GUARDED])
def test_a_page_of_another_host_is_not(policy: AccessPolicy, origin: str) -> None:
    target = f"/?token={TOKEN}"
    assert judge(policy, target, host="localhost:8080").allowed
    assert not judge(policy, target, host="localhost:8080", origin=origin).allowed


def test_one_foreign_origin_among_several_is_enough() -> None:
    origins = ["http://localhost:8080", "http://evil.example"]
    assert not judge(LOCAL, host="localhost:8080", origin=origins).allowed


def test_the_address_brings_a_cookie_and_the_cookie_is_enough() -> None:
    host = "192.168.1.5:8080"
    first = judge(GUARDED, f"/?fixedDpr=1&token={TOKEN}", host=host)
    assert first.allowed
    cookie, *attributes = first.set_cookie.split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    then = judge(GUARDED, host=host, origin=f"http://{host}", cookie=f"theme=dark; {cookie}")
    assert then == Verdict()


def test_pages_on_other_ports_keep_their_own_cookie() -> None:
    cookies = {
        judge(GUARDED, f"/?token={TOKEN}", host=host).set_cookie.partition("=")[0]
        for host in ("box:8080", "box:8081", "box")
    }
    assert len(cookies) == 3


@pytest.mark.parametrize(
    "target",
    ["/", "/?token=", "/?token=wrong", f"/?token={TOKEN}x", f"/?tokens={TOKEN}", "/?token=é"],
)
@pytest.mark.parametrize("host", ["192.168.1.5:8080", "localhost:8080"])
def test_without_the_token_nobody_is_answered(target: str, host: str) -> None:
    verdict = judge(GUARDED, target, host=host, cookie="belvedere-token-8080=wrong")
    assert not verdict.allowed
    assert "token" in verdict.reason
    assert "\n" not in verdict.reason
    assert TOKEN not in verdict.reason


def test_a_token_is_made_where_others_can_ask() -> None:
    assert choose_policy("127.0.0.1", None).token is None
    tokens = {choose_policy("0.0.0.0", None).token for _ in range(8)}
    assert len(tokens) == 8
    assert all(token is not None and len(token) >= 20 for token in tokens)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.168.1.5"])
def test_a_token_of_ones_own(host: str) -> None:
    assert choose_policy(host, TOKEN).token == TOKEN


@pytest.mark.parametrize(
    "token", ["", "short", "with space and more", "semi;colon-more", "x" * 129]
)
def test_a_token_that_does_not_fit_an_address_is_refused(token: str) -> None:
    with pytest.raises(SettingsError, match="token must be 8 to 128"):
        choose_policy("0.0.0.0", token)
