"""What renderers keep of decoded anchors stays within the budget that all of them have together."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fitting.anchor_files import write_folder
from configs.settings import RenderSettings, Settings, StreamSettings
from rendering.base import RasterSettings
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.models.decoded_room import DecodedRoom
from rendering.models.renderers import anchor_parts
from scene_store.chunks import NeuralSource, model_of
from scene_store.ledger import Budgets
from scene_store.models import anchor_tree, open_model
from splat.camera import Camera
from splat.gaussians import Gaussians
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
    """Keeps as much as it may."""

    held_bytes = 0

    def set_room(self, most_bytes: int) -> None:
        self.held_bytes = most_bytes


def test_all_who_keep_something_share_equally() -> None:
    room = DecodedRoom()
    first = Fixed()
    room.add(first)
    assert first.held_bytes > 1 << 50, "no limit yet"
    room.set_bytes(1000)
    room.set_sharers(3)
    others = Fixed(), Fixed()
    for other in others:
        room.add(other)
    assert [each.held_bytes for each in (first, *others)] == [333] * 3
    assert room.held_bytes == 999
    room.set_bytes(30)
    assert room.held_bytes == 30
    del others, other
    gc.collect()
    assert room.held_bytes == 10, "who is gone keeps nothing"


def test_budgets_that_make_no_sense_are_refused() -> None:
    room = DecodedRoom()
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        room.set_bytes(-1)
    with pytest.raises(ValueError, match="somebody must share the room, got 0"):
        room.set_sharers(0)


def test_renderers_keep_no_more_than_their_room_and_draw_the_same() -> None:
    model, rows = random_anchors("scaffold", 400)
    room = DecodedRoom()
    kept, bare = Pages(model, rows, room=room), Pages(model, rows)
    room.set_bytes(1 << 18)
    for number in range(4):
        asked = request(view(0.5 * number), sequence=number)
        assert bytes_of(kept.draw(asked)) == bytes_of(bare.draw(asked))
        assert 0 < room.held_bytes == kept.rasterizer.cache_stats().held_bytes <= 1 << 18
    assert bare.rasterizer.cache_stats().held_bytes > 1 << 18
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


def test_parts_of_a_composition_and_devices_of_a_memory_share_the_room(folder: Path) -> None:
    source = open_model(compose(folder, BOTH))
    model = model_of(source)
    assert anchor_parts(model) == 2 and anchor_parts(None) == 0
    for devices, memories, sharers in (("cpu", "shared", 2), ("2", "shared", 4), ("2", "own", 2)):
        render = RenderSettings(devices=devices, memories=memories)  # type: ignore[arg-type]
        room = open_drawers(render, model=model).decoded
        assert room is not None
        keeper = Fixed()
        room.add(keeper)
        room.set_bytes(1200)
        assert keeper.held_bytes == 1200 // sharers
    assert open_drawers(RenderSettings()).decoded is None
    source.close()


def test_what_a_page_shows_of_anchors_stays_within_the_device_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_tree, "LEAF_ANCHORS", 256)
    net = random_net(AnchorConfig(feat_dim=8, n_offsets=4), 12_000)
    path = write_folder(net, tmp_path / "anchors")
    budget = 4 * MIB
    settings = Settings(stream=StreamSettings(device_budget=budget, fade_ms=0))
    choice = SceneChoice.of(str(path), 0, None, None, 60.0)
    with contextlib.ExitStack() as stack:
        ready = open_first(choice, settings, stack, lambda share, what: None)
        stack.callback(ready.close)
        stream, shares, room = ready.shown.stream, ready.shown.shares, ready.drawers.decoded
        assert stream is not None and shares is not None and room is not None
        assert shares.budgets.device_bytes == budget
        assert stream.budgets.device_bytes == budget - budget // 8 - budget // 4
        assert isinstance(stream.source, NeuralSource)
        most = 0
        for number, camera in enumerate(around(stream.source.overview())):
            draw(ready, camera, number)
            held = stream.stats().device_bytes + shares.kept_bytes
            assert held <= budget and room.held_bytes <= budget // 4
            assert shares.kept_bytes == room.held_bytes + ready.engine.pictures.held_bytes
            most = max(most, room.held_bytes)
        assert most > 0.5 * budget // 4, "it is in use"
        shares.set_budgets(Budgets(shares.budgets.host_bytes, budget * 3 // 4))
        assert room.held_bytes <= budget * 3 // 16


def around(scene: Gaussians) -> Sequence[Camera]:
    """Views of a scene from all sides."""
    middle = scene.means.mean(axis=0)
    far = 2 * float(scene.means.std())
    eyes = [middle + far * side for side in SIDES]
    return [
        Camera.look_at(tuple(eye), tuple(middle), (0, -1, 0), fov_y_rad=0.9, width=96, height=64)
        for eye in eyes
        for _ in range(8)
    ]


def draw(ready: Ready, camera: Camera, number: int) -> None:
    settings = RasterSettings(threads=1)
    asked = FrameRequest("a", number, (camera,), settings, urgency=Urgency.STILL)
    ready.engine.submit(asked).result(WAIT_S)
    assert ready.shown.stream is not None
    ready.shown.stream.wait_until_settled(5)
