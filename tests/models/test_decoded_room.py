"""What renderers keep of decoded anchors stays within the budget that all of them have together."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.fitting.anchor_files import write_folder
from configs.settings import RenderSettings, Settings, StreamSettings
from rendering.base import RasterSettings
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.models import anchors_device
from rendering.models.decoded_room import RECENT_FRAMES, DecodedRoom, MemoryRoom
from rendering.models.renderers import anchor_parts
from scene_store.chunks import ChunkSource, NeuralSource, model_of
from scene_store.ledger import Budgets
from scene_store.models import anchor_tree, open_model
from splat.camera import Camera
from tests.fake_driver import H200
from tests.fake_gpu import FakeGpus
from tests.models.anchor_scenes import random_anchors
from tests.models.anchors_torch import AnchorConfig, random_net
from tests.models.test_anchors_drawing import Pages, request, view
from tests.models.test_composed import BOTH, compose, folder
from tests.rasterizer_contract import bytes_of
from viewer.engines import open_drawers
from viewer.opening import Ready, open_first
from viewer.scenes import SceneChoice

__all__ = ["folder"]  # a fixture

WAIT_S = 20.0
MIB = 1 << 20
SIDES = np.array([(0, 0, -1), (1, 0, 0), (0, 0, 1), (-1, 0, 0)])


class Fixed:
    """Keeps things of a size, some of which its last frame drew."""

    def __init__(self, room: MemoryRoom) -> None:
        self.account = room.shared.account()
        self.used, self.trimmed = 0, 0

    @property
    def held_bytes(self) -> int:
        return self.account.held_bytes

    def keep(self, size_bytes: int, *, used: int = 0) -> bool:
        self.used = used
        return self.account.take(size_bytes)

    def shed(self) -> None:
        self.account.give(self.held_bytes - self.used)

    def clear(self) -> None:
        self.used = 0
        self.shed()

    def trim(self) -> None:
        self.trimmed += 1


def test_who_draws_takes_what_nobody_else_uses() -> None:
    room = MemoryRoom()
    first, second, third = Fixed(room), Fixed(room), Fixed(room)
    room.drew(first, 1)
    assert first.keep(1 << 50), "no limit yet"
    room.set_bytes(100)
    assert first.held_bytes == 0 and first.trimmed == 1
    assert first.keep(90, used=60)
    room.drew(second, 1)
    assert not second.keep(20) and room.held_bytes == 90
    room.drew(second, 2)
    assert first.held_bytes == 60, "it drew that lately"
    assert second.keep(40, used=40) and not third.keep(1)
    for number in range(3, 3 + RECENT_FRAMES):
        room.drew(second, number)
    assert first.held_bytes == 60, "its own last frame drew it"
    assert not second.keep(1)
    room.drew(second, "next")
    assert first.held_bytes == 0, "it is idle"
    room.set_bytes(50)
    assert room.held_bytes == 40 and second.trimmed == 1
    room.set_bytes(30)
    assert room.held_bytes == 0, "what was drawn lately goes, too"


def test_who_is_gone_keeps_nothing() -> None:
    room = MemoryRoom(100)
    keeper, other = Fixed(room), Fixed(room)
    room.drew(keeper, 1)
    assert keeper.keep(70) and not other.keep(40)
    del keeper
    gc.collect()
    assert room.held_bytes == 0 and other.keep(100)


def test_parts_of_a_frame_are_one_frame() -> None:
    room = MemoryRoom(100)
    first, second = Fixed(room), Fixed(room)
    room.drew(first, "a")
    assert first.keep(100, used=100)
    for _ in range(2 * RECENT_FRAMES):
        assert not second.keep(1)
        room.drew(second, "b")
    assert first.held_bytes == 100


def test_each_memory_has_the_budget() -> None:
    room = DecodedRoom()
    here, there = room.of("cpu"), room.of("cuda:0")
    assert room.of("cpu") is here
    room.set_bytes(10)
    keepers = [Fixed(memory) for memory in (here, there, room.of("cuda:1"))]
    assert all(keeper.keep(10) and not keeper.keep(1) for keeper in keepers)
    assert room.held_bytes == 30
    for refuses in (room, here):
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            refuses.set_bytes(-1)


def test_renderers_keep_no_more_than_their_room_and_draw_the_same() -> None:
    model, rows = random_anchors("scaffold", 400)
    room = MemoryRoom()
    kept, bare = Pages(model, rows, room=room), Pages(model, rows)
    room.set_bytes(1 << 18)
    for number in range(4):
        asked = request(view(0.5 * number), sequence=number)
        assert bytes_of(kept.draw(asked)) == bytes_of(bare.draw(asked))
        assert 0 < room.held_bytes == kept.rasterizer.held_bytes <= 1 << 18
    assert bare.rasterizer.held_bytes > 1 << 18
    room.set_bytes(0)
    assert room.held_bytes == 0
    asked = request(view(), sequence=9)
    assert bytes_of(kept.draw(asked)) == bytes_of(bare.draw(asked))
    assert room.held_bytes == 0
    # What the limits say counts, too.
    room.set_bytes(MIB)
    kept.rasterizer.limits = type(kept.rasterizer.limits)(budget_bytes=1 << 16)
    kept.draw(asked)
    assert room.held_bytes <= 1 << 16


def test_two_that_draw_in_turn_share_the_room() -> None:
    model, rows = random_anchors("scaffold", 400)
    room = MemoryRoom(1 << 18)
    both = [Pages(model, rows, room=room) for _ in range(2)]
    bare = Pages(model, rows)
    for number in range(6):
        asked = request(view(0.5 * (number // 2)), sequence=number)
        expected = bytes_of(bare.draw(asked))
        for pages in both:
            assert bytes_of(pages.draw(asked)) == expected
            assert 0 < room.held_bytes <= 1 << 18
    assert room.held_bytes == sum(pages.rasterizer.held_bytes for pages in both)


@pytest.mark.parametrize(("devices", "memories"), [("2", "shared"), ("2", "own"), ("cpu", "own")])
def test_parts_of_a_composition_and_devices_of_a_memory_share_the_room(
    folder: Path, devices: str, memories: Any
) -> None:
    source = open_model(compose(folder, BOTH))
    model = model_of(source)
    assert anchor_parts(model) == 2 and anchor_parts(None) == 0
    drawers = open_drawers(RenderSettings(devices=devices, memories=memories), model=model)
    room = drawers.decoded
    assert room is not None
    made = [drawers.rasterizers(device) for device in drawers.choice.devices]
    parts = [part._room for each in made for part in cast(Any, each)._drawing[:2]]
    assert len(parts) == 2 * len(drawers.choice.devices)
    assert {id(each) for each in parts} == {id(room.of(m)) for m in drawers.choice.memories}
    source.close()


def test_who_draws_no_anchors_has_no_room_for_them() -> None:
    assert open_drawers(RenderSettings()).decoded is None


def test_a_copy_that_is_seen_has_the_room_of_those_that_are_not(tmp_path: Path) -> None:
    write_folder(random_net(AnchorConfig(feat_dim=8, n_offsets=4), 2_000), tmp_path / "anchors")
    text = "scenes: [{path: anchors, grid: {counts: [9, 1, 1], pitch: [500, 0, 0]}}]"
    (tmp_path / "many.yaml").write_text(text)
    with opened(tmp_path / "many.yaml", 8 * MIB) as ready:
        room = ready.drawers.decoded
        assert room is not None
        source = ready.shown.stream.source  # type: ignore[union-attr]
        for number in range(6):
            at = (0.01 * number, 0.0, -8.0)
            camera = Camera.look_at(
                at, (0, 0, 0), (0, -1, 0), fov_y_rad=0.9, width=96, height=64, far=200.0
            )
            draw(ready, camera, number)
        assert len(source.tree) == 9
        assert room.held_bytes > 8 * MIB / 4 / 9, "more than a ninth of it"


@contextlib.contextmanager
def opened(path: Path, budget_bytes: int, **render: Any) -> Iterator[Ready]:
    """A scene as ``view`` shows it."""
    settings = Settings(
        render=RenderSettings(**render),
        stream=StreamSettings(device_budget=budget_bytes, fade_ms=0),
    )
    choice = SceneChoice.of(str(path), 0, None, None, 60.0)
    with contextlib.ExitStack() as stack:
        ready = open_first(choice, settings, stack, lambda share, what: None)
        stack.callback(ready.close)
        yield ready


@pytest.fixture
def anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene of anchors that takes some MiB."""
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 256)
    net = random_net(AnchorConfig(feat_dim=8, n_offsets=4), 12_000)
    return write_folder(net, tmp_path / "anchors")


def test_what_a_page_shows_of_anchors_stays_within_the_device_budget(anchors: Path) -> None:
    budget = 4 * MIB
    with opened(anchors, budget) as ready:
        stream, shares, room = ready.shown.stream, ready.shown.shares, ready.drawers.decoded
        assert stream is not None and shares is not None and room is not None
        assert shares.budgets.device_bytes == budget
        assert stream.budgets.device_bytes == budget - budget // 8 - budget // 4
        most = 0
        for number, camera in enumerate(around(stream.source)):
            draw(ready, camera, number)
            held = stream.stats().device_bytes + shares.kept_bytes
            assert held <= budget and room.held_bytes <= budget // 4
            assert shares.kept_bytes == room.held_bytes + ready.engine.pictures.held_bytes
            most = max(most, room.held_bytes)
        assert most > 0.5 * budget // 4, "it is in use"
        shares.set_budgets(Budgets(shares.budgets.host_bytes, budget * 3 // 4))
        assert room.held_bytes <= budget * 3 // 16


@pytest.mark.parametrize("is_dead", [False, True])
def test_a_device_that_was_lost_leaves_nothing_in_the_budget(
    anchors: Path, monkeypatch: pytest.MonkeyPatch, is_dead: bool
) -> None:
    """It starts anew, or the processor draws in its place; either keeps what it decodes."""
    gpus = FakeGpus([H200]).install(monkeypatch)
    monkeypatch.setattr(anchors_device, "can_decode", lambda model: False)
    budget = 4 * MIB
    with opened(anchors, budget) as ready:
        stream, shares = ready.shown.stream, ready.shown.shares
        assert stream is not None and shares is not None
        cameras = around(stream.source)
        card = gpus.cards["cuda:0"]
        for number, camera in enumerate(cameras):
            if number in (8, 16):
                card.dead = is_dead
                card.lose()
            draw(ready, camera, number)
            assert stream.stats().device_bytes + shares.kept_bytes <= budget
        engines = ready.engine.rasterizers.values()
        assert sum(cast(Any, engine).held_bytes for engine in engines) > budget // 16


def around(source: ChunkSource) -> Sequence[Camera]:
    """Views of a scene from all sides."""
    assert isinstance(source, NeuralSource)
    means = source.overview().means
    middle, far = means.mean(axis=0), 2 * float(means.std())
    return [
        Camera.look_at(
            tuple(middle + far * side),
            tuple(middle),
            (0, -1, 0),
            fov_y_rad=0.9,
            width=96,
            height=64,
        )
        for side in SIDES
        for _ in range(8)
    ]


def draw(ready: Ready, camera: Camera, number: int) -> None:
    settings = RasterSettings(threads=1)
    asked = FrameRequest("a", number, (camera,), settings, urgency=Urgency.STILL)
    ready.engine.submit(asked).result(WAIT_S)
    assert ready.shown.stream is not None
    ready.shown.stream.wait_until_settled(5)
