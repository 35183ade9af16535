"""A client that speaks the page's protocol, or claims to, without a browser."""

from __future__ import annotations

import msgspec
import zstandard
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from viewer.gate import PROTOCOL

WAIT_S = 10.0
HEADER_BYTES = 16


def open_socket(
    port: int, *, origin: str | None = None, protocol: str = PROTOCOL, **headers: str
) -> ClientConnection:
    """A socket to the page on this machine, with headers of one's choice."""
    return connect(
        f"ws://127.0.0.1:{port}",
        origin=None if origin is None else Origin(origin),
        subprotocols=[Subprotocol(protocol)],
        additional_headers=headers,
        open_timeout=WAIT_S,
        proxy=None,
    )


def camera_message(**changes: object) -> bytes:
    """What a page says when it is there, and when its camera moves."""
    message = {
        "type": "ViewerCameraMessage",
        "wxyz": (0.0, 1.0, 0.0, 0.0),
        "position": (0.0, 0.0, 4.0),
        "fov": 1.0,
        "near": 0.01,
        "far": 1000.0,
        "image_height": 48,
        "image_width": 64,
        "look_at": (0.0, 0.0, 0.0),
        "up_direction": (0.0, -1.0, 0.0),
    }
    return msgspec.msgpack.encode({**message, **changes})


def unpacked(message: str | bytes) -> bytes:
    """The MessagePack part of what the server sends, without its pictures."""
    assert isinstance(message, bytes)
    size = int.from_bytes(message[8:HEADER_BYTES], "little")
    return zstandard.decompress(message[HEADER_BYTES : HEADER_BYTES + size])
