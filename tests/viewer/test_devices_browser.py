"""The folder on devices in a headless Chromium: what a person sees of it, and does with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from configs.loading import load_settings
from configs.settings import Settings
from rendering.device import cpu_devices
from rendering.engine import RenderEngine
from rendering.native.cpu import NativeRasterizer
from splat.gaussians import Gaussians
from tests.engine_devices import BANDS
from tests.trace_rules import broken_rules
from tests.viewer.conftest import checkered_wall
from tests.viewer.test_browser import browser, drag, open_page, wait_until, wait_until_sharp
from viewer.client import ShownScene
from viewer.device_panel import PAGE
from viewer.server import ViewerServer
from viewer.start_view import choose_start_view

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["browser"]

pytestmark = [
    pytest.mark.browser,
    # Playwright closes its sockets when its process ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SOON_MS = 20_000


@pytest.fixture(scope="module")
def wall() -> Gaussians:
    return checkered_wall(40)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(None, {"viewer.port": 0, "viewer.refine_delay_ms": 100})


def served(settings: Settings, wall: Gaussians, devices: int) -> Iterator[ViewerServer]:
    start = choose_start_view(wall, up=(0, -1, 0))
    shown = ShownScene("Wall", "1,600 Gaussians", start, wall.sh_degree)
    engine = RenderEngine(
        NativeRasterizer(),
        wall,
        picture_bytes=8 << 20,
        devices=cpu_devices(devices, devices),
        schedule=BANDS,
    )
    with ViewerServer(settings, title="Wall") as server:
        server.show(shown, engine)
        yield server
    engine.close()


@pytest.fixture
def two(settings: Settings, wall: Gaussians) -> Iterator[ViewerServer]:
    yield from served(settings, wall, 2)


@pytest.fixture
def one(settings: Settings, wall: Gaussians) -> Iterator[ViewerServer]:
    yield from served(settings, wall, 1)


@pytest.fixture
def page(browser: Browser, two: ViewerServer) -> Iterator[Page]:
    page = open_page(browser, two)
    yield page
    page.context.close()


def timeline(page: Page) -> Locator:
    """The picture; the page has others, of its buttons."""
    return page.locator("svg", has_text="cpu:0")


def lanes(page: Page) -> list[str]:
    ends = timeline(page).locator("text[text-anchor=end]").all_text_contents()
    return [text for text in ends if not text[0].isdigit()]


def test_devices_and_their_timeline_are_seen(page: Page, two: ViewerServer) -> None:
    (view,) = two.views
    wait_until_sharp(page, view)
    timeline(page).wait_for(timeout=SOON_MS)
    wait_until(lambda: lanes(page) == ["cpu:0", "cpu:1", PAGE], "all lanes are there")
    bars = timeline(page).locator("rect:has(title)")
    assert bars.count() >= 4
    stages = {text.split(", ")[1] for text in bars.locator("title").all_text_contents()}
    assert {"project", "composite", "encode", "send"} <= stages
    picture = timeline(page).bounding_box()
    assert picture is not None and picture["width"] > 150
    for bar in bars.all()[:6]:
        box = bar.bounding_box()
        assert box is not None and picture["x"] <= box["x"] <= picture["x"] + picture["width"]
    # The view at rest stays as it is, and so does what is told of it.
    page.wait_for_timeout(1200)
    before = timeline(page).inner_html()
    page.wait_for_timeout(1200)
    assert timeline(page).inner_html() == before
    drag(page)
    wait_until(lambda: timeline(page).inner_html() != before, "it follows the pictures")


def test_a_schedule_is_chosen_and_another_browser_follows(
    browser: Browser, page: Page, two: ViewerServer
) -> None:
    other = open_page(browser, two)
    page.get_by_role("combobox", name="Schedule").click()
    page.get_by_role("option", name="alternate-frame").click()
    page.get_by_text("Whole frames in turn").wait_for(timeout=SOON_MS)
    other.get_by_text("Whole frames in turn").wait_for(timeout=SOON_MS)
    chosen = other.get_by_role("combobox", name="Schedule")
    assert chosen.input_value() == "alternate-frame"
    other.context.close()


def test_the_trace_is_saved_by_the_button(page: Page, two: ViewerServer, tmp_path: Path) -> None:
    (view,) = two.views
    wait_until_sharp(page, view)
    with page.expect_download(timeout=SOON_MS) as download:
        page.get_by_role("button", name="Download trace").click()
    assert download.value.suggested_filename == "belvedere-trace.json"
    download.value.save_as(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    assert broken_rules(trace) == []
    assert trace["otherData"]["scene"] == "Wall" and trace["otherData"]["schedule"] == "bands"
    stages = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    assert {"select", "project", "sort", "composite", "join", "encode", "send"} <= stages


def test_the_picture_is_there_only_while_it_is_wanted(page: Page, two: ViewerServer) -> None:
    timeline(page).wait_for(timeout=SOON_MS)
    page.get_by_label("Timeline").click()
    timeline(page).wait_for(state="detached", timeout=SOON_MS)
    page.get_by_label("Timeline").click()
    timeline(page).wait_for(timeout=SOON_MS)


def test_of_one_device_the_folder_is_folded(browser: Browser, one: ViewerServer) -> None:
    page = open_page(browser, one)
    page.get_by_text("Devices", exact=True).wait_for(timeout=SOON_MS)
    facts = page.get_by_text("One device draws all pictures.")
    assert not facts.is_visible()
    page.get_by_text("Devices", exact=True).click()
    facts.wait_for(timeout=SOON_MS)
    assert page.locator("svg", has_text="cpu:0").count() == 0
    assert page.get_by_text("Schedule", exact=True).count() == 0
    page.context.close()
