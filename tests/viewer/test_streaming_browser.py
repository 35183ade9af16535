"""A flight through a store, in a headless Chromium and before the engine: never a hole.

The store is read slowly and within budgets that hold a small part of it, so chunks come and go
all the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from configs.loading import load_settings
from rendering.base import RasterSettings
from rendering.engine import RenderEngine
from rendering.frame import FrameRequest
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.build import BuildOptions, build_store
from scene_store.chunks import EncodedChunk, gaussians_of, never_cancelled
from scene_store.ledger import Budgets
from scene_store.store import Store, open_store
from splat.camera import Camera
from splat.gaussians import Gaussians
from tests.viewer.test_browser import browser, drag, open_page, screenshot, wait_until
from viewer.opening import shown_stream
from viewer.scenes import SceneChoice
from viewer.server import ViewerServer
from viewer.streams import OpenedStream, stream_start

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

GAUSSIANS = 300_000
BUDGETS = Budgets(6 << 20, 12 << 20)
READ_S = 0.004
FRAMES = 90
SIZE = (160, 90)
# Fine Gaussians end where they are; merged ones reach a little further, so a pixel at the edge
# of what is covered may lose its cover when the fine ones come.
COVERED, STILL_COVERED = 0.95, 0.5
MOST_LOST = 0.01


class SlowStore:
    """A store whose reads take their time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.meta, self.tree = store.meta, store.tree
        self.sh_degree, self.page_gaussians = store.sh_degree, store.page_gaussians

    def encoded_bytes(self, chunk: int) -> int:
        return self._store.encoded_bytes(chunk)

    def read(
        self, chunk: int, cancelled: Callable[[], bool] = never_cancelled
    ) -> EncodedChunk | None:
        time.sleep(READ_S)
        return self._store.read(chunk, cancelled)

    def decode(self, chunk: int, encoded: EncodedChunk) -> Gaussians:
        return self._store.decode(chunk, encoded)

    def close(self) -> None:
        self._store.close()


@pytest.fixture(scope="module")
def town_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("town") / "town.bvs"
    options = BuildOptions(page_gaussians=4096, sh_degree=0, threads=2)
    build_store([f"town:{GAUSSIANS}"], path, options)
    return path


@pytest.fixture
def opened(town_store: Path) -> OpenedStream:
    source: Any = SlowStore(open_store(town_store))
    choice = SceneChoice(town_store, gaussians=1)
    return OpenedStream("Town", source, stream_start(choice, source))


def flight(opened: OpenedStream) -> list[Camera]:
    """From the start view over the town, turning all the time."""
    start = opened.start
    ahead = start.look_at - start.position
    eyes = [start.position + share * 1.2 * ahead for share in np.linspace(0, 1, FRAMES)]
    angles = np.linspace(0.0, 2 * np.pi, FRAMES)
    side = np.cross(ahead, start.up)
    targets = [
        eye + np.cos(angle) * ahead + np.sin(angle) * side
        for eye, angle in zip(eyes, angles, strict=True)
    ]
    width, height = SIZE
    return [
        Camera.look_at(eye, target, start.up, fov_y_rad=1.0, width=width, height=height, near=0.05)
        for eye, target in zip(eyes, targets, strict=True)
    ]


def roots_of(opened: OpenedStream) -> Gaussians:
    chunks = []
    for root in opened.source.tree.roots.tolist():
        encoded = opened.source.read(root)
        assert encoded is not None
        chunks.append(gaussians_of(opened.source.decode(root, encoded)))
    return Gaussians.concatenate(chunks)


def test_what_the_coarsest_chunks_cover_is_covered_all_the_way(opened: OpenedStream) -> None:
    rasterizer = NativeRasterizer()
    settings = RasterSettings(threads=1)
    coarsest = rasterizer.prepare(roots_of(opened))
    scene = StreamedScene(opened.source, rasterizer, BUDGETS, StreamPolicy(fade_s=0.1))
    lost, covered_pixels, levels = [], 0, np.zeros(0)
    drawn: set[int] = set()
    with RenderEngine(rasterizer, scene) as engine:
        cameras = flight(opened)
        request = FrameRequest("flyer", 0, (cameras[0],), settings)
        while engine.submit(request).result(10).stats.stream.chunks == 0:  # type: ignore[union-attr]
            time.sleep(0.01)
        for sequence, camera in enumerate(cameras, start=1):
            request = FrameRequest("flyer", sequence, (camera,), settings, max_error_px=1.0)
            frame = engine.submit(request).result(10)
            stream = frame.stats.stream
            assert stream is not None
            expected = rasterizer.render(coarsest, camera, settings).alpha > COVERED
            hole = expected & (frame.images[0].alpha < STILL_COVERED)
            covered_pixels += int(expected.sum())
            lost.append(float(hole.sum()) / hole.size)
            drawn.update(scene.drawn_chunks("flyer"))
            counts = np.array(stream.gaussians_by_level)
            levels = counts if not levels.size else levels + counts
            assert scene.stats().device_bytes <= BUDGETS.device_bytes
            assert scene.stats().host_bytes <= BUDGETS.host_bytes
        tally = scene.stats().tally
    assert covered_pixels > 0.3 * FRAMES * SIZE[0] * SIZE[1], "the flight looks at the town"
    assert tally.evicted > 0, "the budgets are tight"
    assert len(drawn) > 50 and np.count_nonzero(levels) >= 2, "detail came and went"
    assert max(lost) <= MOST_LOST, f"holes of up to {100 * max(lost):.1f} % of the picture"


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_browser_flies_through_a_store_and_sees_no_hole(
    browser: Browser, opened: OpenedStream
) -> None:
    settings = load_settings(
        None,
        {
            "viewer.port": 0,
            "viewer.mode": "alpha",
            "viewer.max_side": 640,
            "stream.host_budget": BUDGETS.host_bytes,
            "stream.device_budget": BUDGETS.device_bytes,
        },
    )
    rasterizer = NativeRasterizer()
    scene = StreamedScene(opened.source, rasterizer, BUDGETS, StreamPolicy(fade_s=0.1))
    with (
        RenderEngine(rasterizer, scene) as engine,
        ViewerServer(settings, title="Town") as server,
    ):
        server.show(shown_stream(opened, scene), engine)
        page = open_page(browser, server)
        (view,) = server.views
        wait_until(lambda: view.session.stats.settled, "all that fits was streamed")
        page.wait_for_timeout(500)
        page.get_by_text("Streaming").first.wait_for()
        rest = screenshot(page)
        # Alpha: white where something is. Below the horizon the town has no holes.
        ground = slice(rest.shape[0] // 2 + 120, rest.shape[0])
        assert rest[ground].mean() > 240
        worst = 255.0
        page.keyboard.down("w")
        for index in range(12):
            if index % 4 == 2:
                drag(page, steps=4)
            worst = min(worst, float(np.percentile(screenshot(page)[ground], 2)))
        page.keyboard.up("w")
        assert worst > 128, f"a hole: alpha of {worst / 255:.2f} on the ground"
        wait_until(lambda: view.session.stats.settled, "it comes to rest")
        count = view.session.stats.shown
        page.wait_for_timeout(1500)
        assert view.session.stats.shown == count, "a resting page costs nothing"
        stats = view.session.stats.stream
        assert stats is not None and stats.missing == 0
        assert scene.stats().tally.evicted > 0
        client = view.session.client
        page.context.close()
        wait_until(lambda: scene.drawn_chunks(client) == (), "the browser was forgotten")
