"""Which port to listen on."""

from __future__ import annotations

import errno
import ipaddress
import socket

from configs.settings import ViewerSettings
from splat.errors import PortInUseError, SettingsError

LAST_PORT = 65_535


def find_port(viewer: ViewerSettings, *, explicit: bool) -> int:
    """The port to serve on: as configured, or a later one unless it was asked for.

    Raises:
        PortInUseError: If there is none.
        SettingsError: If the address cannot be listened on at all.
    """
    attempts = 1 if explicit else viewer.port_attempts
    return choose_port(viewer.host, viewer.port, attempts=attempts)


def choose_port(host: str, port: int, *, attempts: int) -> int:
    """``port`` if it is free, else the next free one of ``attempts``; 0 stays 0.

    Raises:
        PortInUseError: If none of them is free.
        SettingsError: If the address cannot be listened on at all.
    """
    if port == 0:
        return 0
    candidates = range(port, min(port + attempts, LAST_PORT + 1))
    for candidate in candidates:
        if is_free(host, candidate):
            return candidate
    if len(candidates) == 1:
        raise PortInUseError(
            f"port {port} on {host} is in use; stop the program that listens there or pass "
            f"another --port (0 takes any free one)"
        )
    raise PortInUseError(
        f"ports {port} to {candidates[-1]} on {host} are all in use; pass another --port "
        f"(0 takes any free one)"
    )


def is_free(host: str, port: int) -> bool:
    """Whether ``port`` can be listened on now.

    Raises:
        SettingsError: If the reason is the address or a permission, not the port's use.
    """
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], address[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        reason = error.strerror or str(error)
        raise SettingsError(f"cannot listen on {host}, port {port}: {reason}") from None
    return True


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for anything
        return False


def outward_address() -> str:
    """The address under which other machines probably know this one, or its name."""
    try:
        # Chooses a way out without sending anything: 192.0.2.0/24 is nobody's (RFC 5737).
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
