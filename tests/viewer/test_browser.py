"""The page in a headless Chromium: what a person sees, measured on screenshots."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.loading import load_settings
from configs.settings import Settings
from rendering.base import RasterImage
from rendering.engine import RenderEngine
from rendering.native.cpu import NativeRasterizer
from splat.gaussians import Gaussians
from tests.conftest import require_or_skip
from tests.viewer.conftest import checkered_wall
from viewer import cover
from viewer.client import BrowserView, ShownScene
from viewer.cover import COVER_PATH
from viewer.images import color_to_uint8
from viewer.ports import is_loopback, outward_address
from viewer.server import ViewerServer
from viewer.start_view import choose_start_view

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.browser,
    # Playwright closes its sockets when its process ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WAIT_S = 60.0
VIEWPORT = {"width": 1100, "height": 640}
# The panel takes the right; drags and comparisons stay away from it and from notices.
PICTURE = {"x": 320, "y": 20, "width": 400, "height": 600}
START, END = (640, 320), (480, 280)
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
        executable = found or playwright.chromium.executable_path
        require_or_skip(Path(executable).exists(), "no Chromium; run: make setup-browser")
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def wall() -> Gaussians:
    return checkered_wall(60)


@pytest.fixture(scope="module")
def settings() -> Settings:
    # A rate that cannot be held makes moving pictures small; a long delay lets them be seen.
    return load_settings(
        None,
        {
            "viewer.port": 0,
            "viewer.target_fps": 240,
            "viewer.min_scale": 0.1,
            "viewer.refine_delay_ms": 1000,
            "render.background": (0.2, 0.3, 0.4),
        },
    )


@pytest.fixture(scope="module")
def shown(wall: Gaussians) -> ShownScene:
    start = choose_start_view(wall, up=(0, -1, 0))
    return ShownScene("Wall", "3,600 Gaussians", start, wall.sh_degree)


@pytest.fixture
def server(settings: Settings, shown: ShownScene, wall: Gaussians) -> Iterator[ViewerServer]:
    engine = RenderEngine(NativeRasterizer(), wall)
    with ViewerServer(settings, title="Wall") as server:
        server.show(shown, engine)
        yield server
    engine.close()


@pytest.fixture
def page(browser: Browser, server: ViewerServer) -> Iterator[Page]:
    page = open_page(browser, server)
    yield page
    page.context.close()


def open_page(browser: Browser, server: ViewerServer) -> Page:
    page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
    count = len(server.views)
    page.goto(f"{server.url}/?fixedDpr=1")  # else a slow browser lowers its resolution
    wait_until(lambda: len(server.views) > count, "the page connected")
    page.wait_for_function("!document.getElementById('cover')", timeout=1e3 * WAIT_S)
    return page


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def wait_until_sharp(page: Page, view: BrowserView) -> None:
    """Until the full picture was sent, acknowledged and had time to be painted."""
    before = -1
    while before != view.session.stats.shown:
        before = view.session.stats.shown
        wait_until(lambda: view.session.stats.still and not view.session.moving, "it is sharp")
        page.wait_for_timeout(700)


def canvas_width(page: Page) -> int:
    """CSS pixels that the page leaves to the picture."""
    return round(page.locator("canvas[data-engine]").bounding_box()["width"])  # type: ignore[index]


def screenshot(page: Page) -> NDArray[np.uint8]:
    """[600, 400, 3] uint8, the part of the page that nothing covers."""
    png = np.frombuffer(page.screenshot(clip=PICTURE), np.uint8)  # type: ignore[arg-type]
    image = cv2.imdecode(png, cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image[..., ::-1], np.uint8)


def sharpness(image: NDArray[np.uint8]) -> float:
    """Energy of the high frequencies."""
    return float(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F).var())


def wall_in(image: NDArray[np.uint8], settings: Settings) -> NDArray[np.bool_]:
    """[H, W] where there is something else than the background."""
    background = 255 * np.array(settings.render.background)
    return np.asarray(np.abs(image - background).max(axis=2) > 20)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return float(np.abs(a.astype(np.float32) - b.astype(np.float32)).mean())


def drag(page: Page, steps: int = 8) -> None:
    page.mouse.move(*START)
    page.mouse.down()
    page.mouse.move(*END, steps=steps)
    page.mouse.up()


def test_the_page_shows_what_the_rasterizer_draws(
    page: Page, server: ViewerServer, shown: ShownScene, wall: Gaussians, settings: Settings
) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    stats = view.session.stats
    # Beside the picture, not over it.
    assert (stats.width, stats.height) == (canvas_width(page), VIEWPORT["height"])
    assert 0.7 * VIEWPORT["width"] < stats.width < VIEWPORT["width"]
    start = shown.start.fitted(stats.width / stats.height)
    camera = start.camera(stats.width, stats.height, view.session.options.near)
    rasterizer = NativeRasterizer()
    options = view.session.options.raster_settings(threads=0)
    drawn = rasterizer.render(rasterizer.prepare(wall), camera, options)
    assert drawn.color is not None
    x, y = PICTURE["x"], PICTURE["y"]
    expected = color_to_uint8(drawn.color)[y : y + PICTURE["height"], x : x + PICTURE["width"]]
    seen = screenshot(page)
    assert np.ptp(seen.reshape(-1, 3), axis=0).min() > 100, "more than the background"
    error = np.mean((seen.astype(np.float64) - expected) ** 2)
    psnr = 10 * np.log10(255**2 / error)
    assert psnr > 25, f"the page shows something else ({psnr:.1f} dB)"


def test_a_drag_turns_the_camera_and_the_picture_sharpens(page: Page, server: ViewerServer) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    before_pose, before = view.session.pose, screenshot(page)
    assert before_pose is not None
    drag(page)
    wait_until(lambda: not view.session.stats.still, "a moving picture was sent")
    moving_width = view.session.stats.width
    page.wait_for_timeout(300)
    moving = screenshot(page)
    assert not view.session.stats.still, "this machine is too slow for the test's delay"
    wait_until_sharp(page, view)
    after_pose, after = view.session.pose, screenshot(page)
    assert after_pose is not None
    assert np.linalg.norm(after_pose.position - before_pose.position) > 0.1
    assert difference(before, after) > 10
    assert moving_width < view.session.stats.width == canvas_width(page)
    assert sharpness(after) > 1.1 * sharpness(moving)


RECORDER = """
window.seen = [];
const record = () => {
  const root = document.getElementById("root"), cover = document.getElementById("cover");
  const canvas = document.querySelector("canvas[data-engine]");
  const shot = {covered: Boolean(cover) && !cover.classList.contains("lifted"), mounted: false};
  if (root && root.firstChild) {
    shot.mounted = true;
    shot.scheme = document.documentElement.dataset.mantineColorScheme;
  }
  if (document.body) window.seen.push(shot);
  requestAnimationFrame(record);
};
record();
"""


def test_the_first_picture_is_the_start_view_and_nothing_else_is_seen_before_it(
    browser: Browser,
    server: ViewerServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    render, seen_without = NativeRasterizer.render, threading.Event()

    def when_seen_without(*words: Any, **options: Any) -> RasterImage:
        seen_without.wait(WAIT_S)
        return render(*words, **options)

    monkeypatch.setattr(NativeRasterizer, "render", when_seen_without)
    page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
    page.add_init_script(RECORDER)
    page.goto(f"{server.url}/?fixedDpr=1", wait_until="commit")
    page.locator("#cover h1").get_by_text("Wall").wait_for(timeout=1e3 * WAIT_S)
    calm = screenshot(page)
    seen_without.set()
    assert calm.max() < 240 and calm.mean() < 60, "dark, with a few letters"
    page.wait_for_function("document.querySelector('#cover.lifted')", timeout=1e3 * WAIT_S)
    page.wait_for_timeout(300)  # it fades
    first = screenshot(page)
    (view,) = server.views
    wait_until_sharp(page, view)
    final = screenshot(page)
    page.wait_for_function("!document.getElementById('cover')")
    moved = wall_in(first, settings) != wall_in(final, settings)
    assert moved.mean() < 0.09, "coarser, but from the same place"
    assert wall_in(first, settings).mean() > 0.3
    seen = page.evaluate("window.seen")
    lifted = [shot["covered"] for shot in seen].index(False)
    assert all(shot["covered"] for shot in seen[:lifted]) and lifted > 3
    assert {shot["scheme"] for shot in seen if shot["mounted"]} == {"dark"}, "never a white page"
    page.context.close()


def test_while_nobody_moved_the_view_fits_the_window(page: Page, server: ViewerServer) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    before = view.session.pose
    page.set_viewport_size({"width": 640, "height": 640})
    wait_until(lambda: view.session.pose is not before, "the canvas changed")
    wait_until_sharp(page, view)
    narrow = view.session.pose
    assert before is not None and narrow is not None
    middle = np.zeros(3)
    further = np.linalg.norm(narrow.position - middle) / np.linalg.norm(before.position - middle)
    assert further > 1.2
    page.mouse.move(200, 320)
    page.mouse.down()
    page.mouse.move(120, 280, steps=4)
    page.mouse.up()
    wait_until(lambda: view.session.pose is not narrow, "the camera turned")
    wait_until_sharp(page, view)
    moved = view.session.pose
    page.set_viewport_size({"width": 900, "height": 640})
    wait_until(lambda: view.session.pose is not moved, "the canvas changed")
    page.wait_for_timeout(500)
    after = view.session.pose
    assert moved is not None and after is not None and after.canvas != moved.canvas
    assert after.position == pytest.approx(moved.position, abs=1e-3)


def test_another_window_takes_back_nothing_that_somebody_chose(
    page: Page, server: ViewerServer
) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    begun = view.session.pose
    view.set_fov(0.5)
    view.set_up((1.0, 0.0, 0.0))
    wait_until(lambda: view.session.pose is not begun, "the page looks otherwise")
    wait_until_sharp(page, view)
    chosen = view.session.pose
    page.set_viewport_size({"width": 640, "height": 640})
    wait_until(lambda: view.session.pose is not chosen, "the canvas changed")
    wait_until_sharp(page, view)
    after = view.session.pose
    assert begun is not None and chosen is not None and after is not None
    assert after.canvas != chosen.canvas
    assert after.fov_y_rad == pytest.approx(0.5, abs=1e-3)
    assert after.position == pytest.approx(chosen.position, abs=1e-3)
    assert abs(after.wxyz @ chosen.wxyz) == pytest.approx(1.0, abs=1e-4)
    assert abs(after.wxyz @ begun.wxyz) < 0.95, "it stands on its side"


def test_the_speed_of_walking_moves_no_camera(page: Page, server: ViewerServer) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    before = view.session.pose
    for pause_s in (0.005, 0.02, 0.05):
        for speed in (1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 2.5, 2.0, 1.5, 1.2, 1.0):
            view.set_speed(speed)
            time.sleep(pause_s)
        page.wait_for_timeout(1500)
        wait_until_sharp(page, view)
        after = view.session.pose
        assert before is not None and after is not None
        assert after.position == pytest.approx(before.position, abs=1e-3)
        assert abs(after.wxyz @ before.wxyz) == pytest.approx(1.0, abs=1e-5)


def test_on_a_phone_the_sheet_of_controls_begins_closed(
    browser: Browser, server: ViewerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VIEWPORT, "width", 390)
    monkeypatch.setitem(VIEWPORT, "height", 844)
    page = open_page(browser, server)
    (view,) = server.views
    wait_until_sharp(page, view)
    handle = page.get_by_text("Belvedere").first
    box = handle.bounding_box()
    assert box is not None and box["y"] > 760, "at the foot of the page"
    assert canvas_width(page) == 390
    handle.click()
    page.wait_for_timeout(600)
    opened = handle.bounding_box()
    assert opened is not None and opened["y"] < 600
    page.context.close()


def test_a_resting_page_costs_nothing(page: Page, server: ViewerServer) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    count = view.session.stats.shown
    page.wait_for_timeout(1500)
    assert view.session.stats.shown == count


def test_keys_walk(page: Page, server: ViewerServer, shown: ShownScene) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    before = view.session.pose
    page.keyboard.down("w")
    page.wait_for_timeout(800)
    page.keyboard.up("w")
    wait_until_sharp(page, view)
    after = view.session.pose
    assert before is not None and after is not None
    forward = shown.start.look_at - shown.start.position
    step = after.position - before.position
    assert step @ forward > 0.9 * np.linalg.norm(step) * np.linalg.norm(forward)
    # Half the scene's radius a second, whatever the scene's units.
    assert 0.1 * shown.start.radius < np.linalg.norm(step) < 3 * shown.start.radius


def test_in_a_narrow_window_the_panel_begins_closed(
    browser: Browser, server: ViewerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VIEWPORT, "width", 700)
    page = open_page(browser, server)
    (view,) = server.views
    wait_until_sharp(page, view)
    button = page.get_by_role("button", name="Reset view")
    assert button.count() == 0 or not button.first.is_visible()
    page.get_by_text("Belvedere").first.click()
    button.first.wait_for(state="visible", timeout=5000)
    page.context.close()


def test_every_browser_has_its_own_camera(
    page: Page, browser: Browser, server: ViewerServer
) -> None:
    other = open_page(browser, server)
    mine, others = server.views
    wait_until_sharp(page, mine)
    wait_until_sharp(other, others)
    before, pose = screenshot(page), mine.session.pose
    assert difference(before, screenshot(other)) < 2
    drag(other)
    wait_until(lambda: not others.session.stats.still, "the other browser moved")
    wait_until_sharp(other, others)
    assert mine.session.pose is pose
    assert difference(before, screenshot(page)) < 2
    assert difference(before, screenshot(other)) > 10
    other.context.close()


def test_a_lost_browser_is_forgotten_and_the_rest_goes_on(
    page: Page, browser: Browser, server: ViewerServer
) -> None:
    (mine,) = server.views
    lost = open_page(browser, server)
    (lost_view,) = (view for view in server.views if view is not mine)
    lost.mouse.move(*START)
    lost.mouse.down()
    lost.mouse.move(*END)  # gone in the middle of a motion
    lost.context.close()
    wait_until(lambda: server.views == (mine,), "the lost browser was forgotten")
    assert lost_view.session.join(WAIT_S)
    drag(page)
    wait_until(lambda: not mine.session.stats.still, "the remaining browser moves")
    wait_until_sharp(page, mine)
    newcomer = open_page(browser, server)
    assert len(server.views) == 2
    newcomer.context.close()


def test_controls_change_the_picture(page: Page, server: ViewerServer) -> None:
    (view,) = server.views
    wait_until_sharp(page, view)
    colored = screenshot(page)
    page.keyboard.press("3")  # alpha
    wait_until(lambda: view.session.options.mode.value == "alpha", "the mode changed")
    wait_until_sharp(page, view)
    grey = screenshot(page)
    assert np.ptp(grey.astype(int), axis=2).max() <= 12
    assert np.ptp(colored.astype(int), axis=2).max() > 60


def test_the_page_is_there_before_the_scene(
    browser: Browser, settings: Settings, shown: ShownScene, wall: Gaussians
) -> None:
    with (
        RenderEngine(NativeRasterizer(), wall) as engine,
        ViewerServer(settings, title="Wall") as server,
    ):
        page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
        page.goto(f"{server.url}/?fixedDpr=1")
        server.progress(0.4, "Reading 3,600 Gaussians")
        note = page.locator("#cover p").get_by_text("Reading 3,600 Gaussians")
        note.wait_for(timeout=1e3 * WAIT_S)
        page.wait_for_timeout(400)
        bar = page.locator("#cover div div").bounding_box()
        track = page.locator("#cover > div").bounding_box()
        assert bar is not None and track is not None
        assert bar["width"] / track["width"] == pytest.approx(0.4, abs=0.02)
        assert screenshot(page).mean() < 60, "dark, not a white screen"
        # The browser stands where it will start: showing the scene moves no camera.
        server._set_initial_camera(shown)
        page.wait_for_timeout(1000)
        server.show(shown, engine)
        wait_until(lambda: len(server.views) == 1, "the waiting browser is served")
        (view,) = server.views
        wait_until_sharp(page, view)
        assert page.get_by_text("Reading 3,600 Gaussians").count() == 0
        assert np.ptp(screenshot(page)) > 100
        page.context.close()


SILENCE = "SILENCE_MS = 10000"  # of assets/cover.html


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cover takes less for silence than a person would."""
    usual = COVER_PATH.read_text("utf-8")
    assert SILENCE in usual
    monkeypatch.setattr(cover, "_cover", lambda: usual.replace(SILENCE, "SILENCE_MS = 5000"))


@pytest.mark.usefixtures("impatient")
def test_a_covered_page_says_when_its_viewer_is_gone_and_goes_on_when_it_is_back(
    browser: Browser, settings: Settings, shown: ShownScene, wall: Gaussians
) -> None:
    page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
    note = page.locator("#cover p")
    with ViewerServer(settings, title="Wall") as server:
        port = server.port
        server.progress(0.3, "Reading for long")
        page.goto(f"{server.url}/?fixedDpr=1")
        note.get_by_text("Reading for long").wait_for(timeout=1e3 * WAIT_S)
        page.wait_for_timeout(8000)  # nothing new to be said, but it lives
        assert note.inner_text() == "Reading for long"
    note.get_by_text("The viewer has stopped").wait_for(timeout=1e3 * WAIT_S)
    assert not page.locator("#cover div div").is_visible()
    again = replace(settings, viewer=replace(settings.viewer, port=port))
    with (
        RenderEngine(NativeRasterizer(), wall) as engine,
        ViewerServer(again, title="Wall", explicit_port=True) as server,
    ):
        server.progress(0.6, "Reading once more")
        note.get_by_text("Reading once more").wait_for(timeout=1e3 * WAIT_S)
        server.show(shown, engine)
        page.wait_for_function("!document.getElementById('cover')", timeout=1e3 * WAIT_S)
        wait_until_sharp(page, server.views[0])
        assert np.ptp(screenshot(page)) > 100
    page.context.close()


def test_what_the_cover_hides_is_out_of_reach_of_the_keyboard(
    browser: Browser, settings: Settings, shown: ShownScene, wall: Gaussians
) -> None:
    page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
    with (
        RenderEngine(NativeRasterizer(), wall) as engine,
        ViewerServer(settings, title="Wall") as server,
    ):
        server.progress(0.3, "Reading")
        page.goto(f"{server.url}/?fixedDpr=1")
        page.wait_for_function("document.querySelector('[data-cover]')", timeout=1e3 * WAIT_S)
        page.evaluate("keys = 0; addEventListener('keydown', () => keys++)")
        for _ in range(4):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement === document.body")
        page.keyboard.press("w")
        assert page.evaluate("keys") == 0
        server.show(shown, engine)
        page.wait_for_function("!document.getElementById('cover')", timeout=1e3 * WAIT_S)
        assert page.locator("body > [inert]").count() == 0
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body")
        assert page.evaluate("keys") == 1
    page.context.close()


BLIND = """
const usual = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.startsWith("webgl") ? null : usual.call(this, kind, ...rest);
};
"""


def test_a_browser_that_cannot_show_pictures_says_so_at_once(
    browser: Browser, server: ViewerServer
) -> None:
    page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
    page.add_init_script(BLIND)
    page.goto(server.url, wait_until="commit")
    page.locator("#cover p").get_by_text("WebGL").wait_for(timeout=5000)
    page.wait_for_timeout(6000)  # whatever the panel says meanwhile
    assert "WebGL" in page.locator("#cover > p").inner_text()
    page.context.close()


def test_a_browser_without_scripts_says_so(browser: Browser, server: ViewerServer) -> None:
    context = browser.new_context(viewport=VIEWPORT, java_script_enabled=False)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(server.url)
    page.locator("#cover noscript p").wait_for(timeout=5000)  # visible
    assert not page.get_by_text("Loading the page").is_visible()
    context.close()


def test_the_token_lets_a_browser_in_from_another_address(
    browser: Browser, settings: Settings, shown: ShownScene, wall: Gaussians
) -> None:
    address = outward_address()
    require_or_skip(not is_loopback(address), "no address but the loopback")
    everywhere = replace(settings, viewer=replace(settings.viewer, host="0.0.0.0"))
    with (
        RenderEngine(NativeRasterizer(), wall) as engine,
        ViewerServer(everywhere, title="Wall") as server,
    ):
        server.show(shown, engine)
        page = browser.new_context(viewport=VIEWPORT).new_page()  # type: ignore[arg-type]
        base, _, _ = server.url_from(address).partition("/?")
        refused = page.goto(base)
        assert refused is not None and refused.status == 403
        assert "token" in page.inner_text("body")
        page.goto(f"{server.url_from(address)}&fixedDpr=1")
        wait_until(lambda: len(server.views) == 1, "the page connected with its cookie")
        (view,) = server.views
        wait_until_sharp(page, view)
        assert np.ptp(screenshot(page)) > 100
        assert page.title() == "Wall · Belvedere"
        assert page.evaluate("document.cookie") == "", "the token is out of reach of scripts"
        page.goto(base)  # the cookie is enough
        wait_until(lambda: len(server.views) == 1 and server.views != (view,), "it came again")
        page.context.close()
