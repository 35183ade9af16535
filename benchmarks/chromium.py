"""A visitor with a browser: headless Chromium, driven through Playwright."""

from __future__ import annotations

import base64
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.drag import drag_offset
from benchmarks.scenes import Size
from benchmarks.visit import ShownPicture, Visit, jpeg_size
from splat.errors import BackendUnavailable, BelvedereError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_HINT = "run: make setup-browser"
FLAGS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Where the mouse is pressed, shares of the canvas: beside what the page warns of in its upper left,
# of which nobody knows how long it stays.
PRESS = (0.6, 0.7)
# What the panel takes of the window, beside the canvas, pixels.
PANEL_PX = 260
MOUSE_INTERVAL_S = 1 / 60
LEAST_MOVES = 8  # of a drag, however long a page takes for each

# The page's socket lives in a worker. Between that and the page all messages pass here, so
# a picture counts when the page itself has it. Only its head is kept, for its size.
WATCH = """
(() => {
  const seen = { pictures: [], motions: [] };
  const now = () => performance.timeOrigin + performance.now();
  const head = (bytes) => btoa(String.fromCharCode(...bytes.subarray(0, 1024)));
  const PageWorker = window.Worker;
  window.Worker = class extends PageWorker {
    constructor(...words) {
      super(...words);
      this.addEventListener("message", ({ data }) => {
        if (data?.type !== "message_batch") return;
        for (const message of data.messages)
          if (message.type === "BackgroundImageMessage" && message.format === "jpeg")
            seen.pictures.push([now(), head(message.rgb_data)]);
      });
    }
    postMessage(data, ...rest) {
      if (data?.type === "send" && data.message.type === "ViewerCameraMessage")
        seen.motions.push(now());
      super.postMessage(data, ...rest);
    }
  };
  window.belvedereSeen = seen;
})();
"""


@contextlib.contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless Chromium, up and waiting.

    Raises:
        BackendUnavailable: If there is none, or it cannot be driven.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise BackendUnavailable("no Playwright to drive a browser; run: make setup") from None
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        executable = found or playwright.chromium.executable_path
        if not Path(executable).exists():
            raise BackendUnavailable(f"no Chromium; {INSTALL_HINT}")
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        except Error as error:
            line = str(error).splitlines()[0]
            raise BackendUnavailable(f"{executable} does not start: {line}") from None
        with browser:
            yield browser


class ChromiumPage:
    """A visit to the page at ``url``, whose canvas is to be of ``size``; to be closed.

    Raises:
        BelvedereError: If there is no such page.
    """

    def __init__(self, browser: Browser, url: str, size: Size) -> None:
        from playwright.sync_api import Error

        self.name = f"Chromium {browser.version.partition('.')[0]}"
        self._size = size
        context = browser.new_context(viewport={"width": size[0] + PANEL_PX, "height": size[1]})
        self._context = context
        context.add_init_script(WATCH)
        self._page: Page = context.new_page()
        try:
            self._page.goto(f"{url}/?fixedDpr=1")  # else a slow page lowers its own resolution
        except Error as error:
            line = str(error).splitlines()[0]
            raise BelvedereError(f"{url}: cannot be visited: {line}") from None

    def visit(self) -> Visit:
        """All that was seen until now."""
        seen = self._page.evaluate("belvedereSeen")
        pictures = (
            ShownPicture(1e-3 * at_ms, jpeg_size(base64.b64decode(head)))
            for at_ms, head in seen["pictures"]
        )
        return Visit(tuple(pictures), tuple(1e-3 * at_ms for at_ms in seen["motions"]))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._page.wait_for_timeout(1e3 * seconds)

    def drag(self, seconds: float) -> None:
        """Move the camera with the mouse for so long, or for as long as a few moves take."""
        self._page.wait_for_function("!document.getElementById('cover')")
        mouse = self._page.mouse
        x, y = PRESS[0] * self._size[0], PRESS[1] * self._size[1]
        mouse.move(x, y)
        mouse.down()
        began_s = time.monotonic()
        at_s, moves = 0.0, 0
        while at_s < seconds or moves < LEAST_MOVES:
            right, down = drag_offset(at_s, self._size)
            mouse.move(x + right, y + down)
            self.wait(MOUSE_INTERVAL_S)
            moves += 1
            at_s = time.monotonic() - began_s
        mouse.up()

    def choose(self, folder: str, control: str, value: str) -> None:
        """Open a folder of the panel and choose from a dropdown in it."""
        self._page.wait_for_function("!document.getElementById('cover')")
        self._page.get_by_text(folder, exact=True).click()
        label = f"xpath=//*[normalize-space(text())='{control}']"
        self._page.locator(f"{label}/following::input[1]").first.click()
        self._page.get_by_role("option", name=value).click()

    def close(self) -> None:
        """Leave the page."""
        self._context.close()
