"""Which port is taken, and what is said when none is."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from splat.errors import PortInUseError, SettingsError
from viewer.ports import choose_port, is_free, is_loopback, outward_address

HOST = "127.0.0.1"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_free_port_is_taken_as_it_is(taken_port: int) -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    assert choose_port(HOST, port, attempts=1) == port


def test_the_next_free_port_is_found(taken_port: int) -> None:
    assert not is_free(HOST, taken_port)
    found = choose_port(HOST, taken_port, attempts=50)
    assert taken_port < found < taken_port + 50
    assert is_free(HOST, found)


def test_an_explicit_port_in_use_is_an_error(taken_port: int) -> None:
    with pytest.raises(PortInUseError, match=rf"port {taken_port} on {HOST} is in use.*--port"):
        choose_port(HOST, taken_port, attempts=1)


def test_any_port_is_left_to_the_system() -> None:
    assert choose_port(HOST, 0, attempts=1) == 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_impossible_address_is_not_a_busy_port(host: str) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {host}"):
        choose_port(host, 8080, attempts=3)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "::1", "127.3.2.1"])
def test_only_this_machine_reaches_the_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "", "127.evil.example"])
def test_anything_else_may_be_reached_by_others(host: str) -> None:
    assert not is_loopback(host)


def test_others_know_this_machine_by_some_name() -> None:
    assert outward_address()
