"""A visitor without a browser: answers the page's socket as the page does, and draws nothing.

It tells the viewer's own speed from that of a browser, which on a machine without a GPU
composes the page in software on the very same cores. It speaks the protocol of the pinned
viser: frames of Zstandard-compressed MessagePack from the server, MessagePack to it. A
picture is acknowledged by answering the request that follows it (``viewer.display``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec.msgpack
import zstandard
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.drag import camera_quaternion, drag_offset, orbit
from benchmarks.scenes import Size
from benchmarks.visit import ShownPicture, Visit, jpeg_size
from splat.errors import BelvedereError

POSE_INTERVAL_S = 0.02  # the page tells of no more than 50 poses a second
CONNECT_TIMEOUT_S = 10.0
Message = dict[str, Any]
Vector3 = tuple[float, float, float]


@dataclass(slots=True)
class PageCamera:
    """The page's camera as the server moves it; at first where the page puts it."""

    position: Vector3 = (3.0, 3.0, 3.0)
    look_at: Vector3 = (0.0, 0.0, 0.0)
    up_direction: Vector3 = (0.0, 0.0, 1.0)
    fov: float = 1.0

    def follow(self, message: Message) -> bool:
        """Do what the server says; whether it was about the camera."""
        match message["type"]:
            case "SetCameraPositionMessage":
                self.position = tuple(message["position"])
            case "SetCameraLookAtMessage":
                self.look_at = tuple(message["look_at"])
            case "SetCameraUpDirectionMessage":
                self.up_direction = tuple(message["position"])
            case "SetCameraFovMessage":
                self.fov = message["fov"]
            case _:
                return False
        return True

    def dragged(self, offset: tuple[float, float], height: int) -> PageCamera:
        """Where a drag by so many pixels takes it."""
        x, y, z = orbit(self.position, self.look_at, self.up_direction, offset, height).tolist()
        return PageCamera((x, y, z), self.look_at, self.up_direction, self.fov)

    def message(self, size: Size) -> Message:
        """What the page tells the server of it."""
        quaternion = camera_quaternion(self.position, self.look_at, self.up_direction)
        return {
            "type": "ViewerCameraMessage",
            "wxyz": quaternion.tolist(),
            "position": self.position,
            "fov": self.fov,
            "near": 0.01,
            "far": 1000.0,
            "image_width": size[0],
            "image_height": size[1],
            "look_at": self.look_at,
            "up_direction": self.up_direction,
        }


def decode_frame(frame: bytes) -> list[Message]:
    """The messages of a frame from the server; arrays that follow them are left out."""
    compressed = frame[16 : 16 + int.from_bytes(frame[8:16], "little")]
    size = int.from_bytes(frame[:8], "little")
    inner = zstandard.ZstdDecompressor().decompress(compressed, max_output_size=size)
    messages: list[Message] = msgspec.msgpack.decode(inner)["messages"]
    return messages


def answer_to(message: Message) -> Message | None:
    """What the page would answer at once."""
    if message["type"] != "LocalStorageGetItemRequestMessage":
        return None
    return {
        "type": "LocalStorageGetItemResponseMessage",
        "value": None,
        "error": None,
        "request_uuid": message["request_uuid"],
    }


def picture_in(message: Message) -> bytes | None:
    """The JPEG, if the message brings a drawn picture (what is seen before is a PNG)."""
    if message["type"] != "BackgroundImageMessage" or message["format"] != "jpeg":
        return None
    data: bytes | None = message["rgb_data"]
    return data


class BareClient:
    """A visit to the page at ``url`` with a canvas of ``size``, to be closed.

    Raises:
        BelvedereError: If there is no such page.
    """

    name = "no browser"

    def __init__(self, url: str, size: Size) -> None:
        self._size = size
        self._camera = PageCamera()
        self._lock = threading.Lock()
        self._pictures: list[ShownPicture] = []
        self._motions_s: list[float] = []
        self._socket = _connect(url)
        self._listener = threading.Thread(target=self._listen, name="bare-client", daemon=True)
        self._tell(self._camera)
        self._listener.start()

    def visit(self) -> Visit:
        """All that was seen until now."""
        with self._lock:
            return Visit(tuple(self._pictures), tuple(self._motions_s))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def drag(self, seconds: float) -> None:
        """Move the camera for so long."""
        pressed, began_s = self._camera, time.monotonic()
        at_s = 0.0
        while at_s < seconds:
            self._camera = pressed.dragged(drag_offset(at_s, self._size), self._size[1])
            self._tell(self._camera)
            time.sleep(POSE_INTERVAL_S)
            at_s = time.monotonic() - began_s

    def close(self) -> None:
        """Leave the page."""
        self._socket.close()
        self._listener.join()

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for frame in self._socket:
                assert isinstance(frame, bytes)
                self._take(decode_frame(frame), time.time())

    def _take(self, messages: list[Message], at_s: float) -> None:
        moved = False
        for message in messages:
            picture, answer = picture_in(message), answer_to(message)
            if picture is not None:
                with self._lock:
                    self._pictures.append(ShownPicture(at_s, jpeg_size(picture)))
            if answer is not None:
                self._send(answer)
            moved = self._camera.follow(message) or moved
        if moved:
            self._tell(self._camera)

    def _tell(self, camera: PageCamera) -> None:
        with self._lock:
            self._motions_s.append(time.time())
        self._send(camera.message(self._size))

    def _send(self, message: Message) -> None:
        self._socket.send(msgspec.msgpack.encode(message))


def _connect(url: str) -> ClientConnection:
    try:
        return connect(
            url.replace("http", "ws", 1),
            subprotocols=[Subprotocol(f"viser-v{version('viser')}")],
            compression=None,
            max_size=None,
            open_timeout=CONNECT_TIMEOUT_S,
            ping_interval=None,
        )
    except (OSError, WebSocketException) as error:
        raise BelvedereError(f"{url}: cannot be visited: {error}") from None
