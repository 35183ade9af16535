"""The page's port against strangers: raw clients that claim to be others, or send nonsense."""

from __future__ import annotations

import contextlib
import gc
import http.client
import logging
import socket
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import viser
from websockets.exceptions import ConnectionClosed, InvalidStatus

from configs.loading import load_settings
from rendering.engine import RenderEngine
from splat.gaussians import Gaussians
from tests.fake_rasterizer import FakeRasterizer
from tests.viewer.conftest import blobs
from tests.viewer.wire import camera_message, open_socket
from viewer.client import BrowserView, ShownScene
from viewer.gate import CLOSED_WARNING, _Gate
from viewer.server import ViewerServer
from viewer.start_view import choose_start_view

WAIT_S = 10.0
TOKEN = "correct-horse-battery"
FOREIGN = "http://evil.example"

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of clients that are refused
    pytest.mark.filterwarnings(f"ignore:{CLOSED_WARNING}:UserWarning"),  # as in production
]


@pytest.fixture
def engine() -> Iterator[RenderEngine]:
    with RenderEngine(FakeRasterizer(), Gaussians.empty()) as engine:
        yield engine


def serving(engine: RenderEngine, **viewer: object) -> ViewerServer:
    overrides = {f"viewer.{key}": value for key, value in viewer.items()}
    server = ViewerServer(load_settings(None, {"viewer.port": 0, **overrides}), title="<Wall>")
    scene = blobs([(0, 0, 0), (1, 0, 0)], [(1, 0, 0), (0, 1, 0)])
    start = choose_start_view(scene, up=(0, -1, 0))
    server.show(ShownScene("Wall", "2 Gaussians", start, 0), engine)
    return server


@pytest.fixture
def server(engine: RenderEngine) -> Iterator[ViewerServer]:
    with serving(engine) as server:
        yield server


@pytest.fixture
def guarded(engine: RenderEngine) -> Iterator[ViewerServer]:
    with serving(engine, host="0.0.0.0", token=TOKEN) as server:
        yield server


def get(server: ViewerServer, target: str = "/", **headers: str) -> tuple[int, str, str]:
    """(status, body, Set-Cookie) of a plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    connection.request("GET", target, headers=headers)
    response = connection.getresponse()
    body = response.read().decode("latin-1")
    connection.close()
    return response.status, body, response.headers.get("Set-Cookie", "")


def assert_refused(server: ViewerServer, **claims: Any) -> None:
    with pytest.raises(InvalidStatus) as info:
        open_socket(server.port, **claims)
    assert info.value.response.status_code == 403
    assert info.value.response.body.count(b"\n") == 1


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def test_a_page_of_another_site_gets_no_socket(server: ViewerServer) -> None:
    assert_refused(server, origin=FOREIGN)
    assert_refused(server, origin="null")
    assert_refused(server, origin=f"http://localhost:{server.port}")  # addressed as 127.0.0.1
    open_socket(server.port, origin=f"http://127.0.0.1:{server.port}").close()
    open_socket(server.port).close()  # no browser


def test_a_name_made_to_point_here_gets_nothing(server: ViewerServer) -> None:
    status, body, _ = get(server, Host=f"evil.example:{server.port}")
    assert status == 403
    assert body.count("\n") == 1
    assert "evil.example" in body
    assert get(server, Host="localhost:1234")[0] == 200, "a forwarded port is one of ours"


def test_the_tab_bears_the_name_of_the_scene(server: ViewerServer) -> None:
    status, body, cookie = get(server)
    assert status == 200
    assert "<title>&lt;Wall&gt; · Belvedere</title>".encode().decode("latin-1") in body
    assert not cookie
    assert get(server, "/no/such/file")[0] == 404


@pytest.mark.parametrize("target", ["/" + 5000 * "x", "/a%00b", "/%ff%fe"])
def test_names_that_no_file_can_have_are_not_found(server: ViewerServer, target: str) -> None:
    assert get(server, target)[0] == 404


def test_no_other_site_may_frame_the_page(server: ViewerServer) -> None:
    with urllib.request.urlopen(server.url, timeout=WAIT_S) as page:
        assert page.headers["Content-Security-Policy"] == "frame-ancestors 'self'"


def test_mistyped_messages_are_no_warnings(engine: RenderEngine) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with serving(engine) as server, open_socket(server.port) as client:
            client.send(camera_message())
            wait_until(lambda: len(server.views) == 1, "the browser is served")
            client.send(camera_message(position=(1.0, 2.0)))
            time.sleep(0.2)
    assert [str(warning.message) for warning in said if "viser" in str(warning.message)] == []


def test_without_its_token_a_page_for_others_gives_nothing(guarded: ViewerServer) -> None:
    for target in ("/", "/?token=wrong", "/index.html"):
        status, body, cookie = get(guarded, target)
        assert (status, cookie) == (403, "")
        assert body.count("\n") == 1 and "token" in body and TOKEN not in body
    assert_refused(guarded)
    assert_refused(guarded, origin=f"http://127.0.0.1:{guarded.port}")
    assert_refused(guarded, Cookie=f"belvedere-token-{guarded.port}=wrong")


def test_the_token_of_the_address_becomes_a_cookie(guarded: ViewerServer) -> None:
    assert guarded.url == f"http://localhost:{guarded.port}/?token={TOKEN}"
    status, body, cookie = get(guarded, f"/?token={TOKEN}")
    assert status == 200 and "<title>" in body
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    kept = cookie.partition(";")[0]
    origin = f"http://127.0.0.1:{guarded.port}"
    open_socket(guarded.port, origin=origin, Cookie=kept).close()
    assert_refused(guarded, origin=FOREIGN, Cookie=kept)
    assert get(guarded, Cookie=kept)[0] == 200


def test_a_page_for_others_makes_a_token_of_its_own(engine: RenderEngine) -> None:
    with serving(engine, host="0.0.0.0") as server:
        token = server.url.partition("?token=")[2]
        assert len(token) > 20
        assert get(server)[0] == 403
        assert get(server, f"/?token={token}")[0] == 200


def update(control: object, **updates: object) -> bytes:
    """As if a control of the panel was moved to an impossible value."""
    uuid = control._impl.uuid  # type: ignore[attr-defined]
    return msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": uuid, "updates": updates})


NONSENSE: list[Callable[[BrowserView], bytes | str]] = [
    lambda view: "text",
    lambda view: b"",
    lambda view: b"\xc1" + np.random.default_rng(0).bytes(500),
    lambda view: msgspec.msgpack.encode({"type": "NoSuchMessage"}),
    lambda view: msgspec.msgpack.encode(["a", "list"]),
    lambda view: msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "x"}),
    lambda view: msgspec.msgpack.encode({"type": "ShareUrlDisconnect"}),
    lambda view: update(view._panel._mode, value="beauty"),
    lambda view: update(view._panel._mode, no_such=1),
    lambda view: update(view._panel._near, value="quick"),
    lambda view: update(view._panel._background, value=[1, 2]),
    lambda view: camera_message(position=(1.0, 2.0)),
    lambda view: camera_message(wxyz="upright"),
    lambda view: camera_message(image_width=10**15, image_height=None),
    lambda view: camera_message(image_width=-5, image_height=0),
    lambda view: camera_message(fov=float("nan")),
    lambda view: camera_message(position=(float("inf"), 0.0, 0.0)),
]


def test_nonsense_neither_ends_the_server_nor_reaches_the_terminal(
    server: ViewerServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as raw:
        raw.sendall(b"\x16\x03\x01\x00\xff\r\n\r\n" + bytes(range(256)))
        with contextlib.suppress(ConnectionError):
            while raw.recv(4096):
                pass
    good = open_socket(server.port)
    good.send(camera_message())
    wait_until(lambda: len(server.views) == 1, "the browser is served")
    (view,) = server.views
    for make in NONSENSE:
        with open_socket(server.port) as bad:
            bad.send(camera_message())
            wait_until(lambda: len(server.views) == 2, "the other browser is served")
            bad.send(make(server.views[1]))
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                while True:  # some of it ends the connection, some is merely ignored
                    bad.recv(timeout=0.1)
        wait_until(lambda: server.views == (view,), "only the good browser is left")
    with open_socket(server.port) as bad:
        bad.send(camera_message(position="nowhere"))  # before there is a view at all
        time.sleep(0.1)
    with open_socket(server.port, protocol="viser-v0.0.1") as old, pytest.raises(ConnectionClosed):
        old.recv(timeout=WAIT_S)
    shown = view.session.stats.shown
    good.send(camera_message(position=(0.5, 0.0, 4.0)))
    wait_until(lambda: view.session.stats.shown > shown, "it still gets pictures")
    assert view.session.options.mode.value == "color"
    assert get(server)[0] == 200
    good.close()
    wait_until(lambda: not server.views, "it left")
    gc.collect()  # tasks report their failures when they are collected
    time.sleep(0.1)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(record.name.startswith("viewer.") for record in said)
    assert not any(record.exc_info or "\n" in record.getMessage() for record in said)


def test_no_message_opens_a_tunnel(server: ViewerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnels: list[object] = []
    monkeypatch.setattr("viser._viser.ViserTunnel", lambda *words: tunnels.append(words))
    with open_socket(server.port) as client:
        client.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
        client.send(camera_message())
        wait_until(lambda: len(server.views) == 1, "the messages were handled")
        time.sleep(0.1)
    assert tunnels == []


def test_a_viser_that_serves_otherwise_is_not_let_loose(
    engine: RenderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if viser no longer called the function that the gate stands in for."""
    monkeypatch.setattr(_Gate, "serve", lambda gate, *words, **named: gate._serve(*words, **named))
    with pytest.raises(RuntimeError, match=f"viser {viser.__version__} cannot be guarded"):
        serving(engine)
