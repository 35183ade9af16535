"""A viser client as a ``Screen``, and its camera as a ``Pose``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import viser

from viewer.images import UInt8Array
from viewer.pose import PageSpace, Pose

log = logging.getLogger(__name__)

# Never set: reading a missing key makes the shortest in-order round trip viser offers.
ACK_KEY = "belvedere-ack"


class ViserScreen:
    """Sends pictures as the page's background image.

    viser bounds what waits in its own buffer (a newer picture replaces an unsent one), but
    not what waits in the socket, so on a slow link pictures would age by seconds. Messages
    are handled in order: the answer to a request sent after a picture says that the
    browser has the picture.

    Args:
        client: The browser.
        ack_timeout_s: Give up waiting for an answer after this time.
        on_answer: Called after each answer, when whoever waited for it was told.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        ack_timeout_s: float,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._ack_timeout_s = ack_timeout_s
        self._on_answer = on_answer
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix=f"ack-{client.client_id}")

    def show(self, rgb: UInt8Array, jpeg_quality: int) -> None:
        """Encode and send; a browser that is gone is ignored."""
        self._client.scene.set_background_image(rgb, format="jpeg", jpeg_quality=jpeg_quality)
        self._client.flush()

    def acknowledge(self, on_done: Callable[[], None]) -> None:
        """Call ``on_done`` on another thread after the round trip or its timeout."""
        try:
            self._waiter.submit(self._round_trip, on_done)
        except RuntimeError:  # closed
            on_done()

    def close(self) -> None:
        """Stop waiting for answers."""
        self._waiter.shutdown(wait=False, cancel_futures=True)

    def _round_trip(self, on_done: Callable[[], None]) -> None:
        try:
            self._client.local_storage.get_item(ACK_KEY, timeout=self._ack_timeout_s)
        except (RuntimeError, TimeoutError) as error:
            # Gone, slow, or not allowed to use its storage (which is an answer, too).
            log.debug("acknowledgement of client %d: %s", self._client.client_id, error)
        finally:
            on_done()
            self._on_answer()


def read_pose(camera: viser.CameraHandle, space: PageSpace) -> Pose:
    """Where the browser looks from, in world coordinates."""
    position = space.to_world(camera.position)
    focus = float(np.linalg.norm(space.to_world(camera.look_at) - position))
    return Pose(
        wxyz=np.array(camera.wxyz, np.float64),
        position=position,
        fov_y_rad=float(camera.fov),
        canvas=(int(camera.image_width), int(camera.image_height)),
        focus=focus if np.isfinite(focus) and focus > 0 else 1.0,
    )
