"""How far frames reuse of each other is chosen once for a request."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from configs.settings import RenderSettings
from render_cache.derived_rule import DEFAULT_LIMITS, EXACT, FrameCosts
from rendering.fairness import Urgency
from rendering.frame import FrameRequest
from rendering.models.anchor_reuse import ReuseChoices
from rendering.models.anchors import AnchorRasterizer
from rendering.models.mixed import MixedRasterizer
from rendering.models.renderers import ModelWishes, renderer_of
from rendering.native.cpu import NativeRasterizer
from scene_store.models.mixed_chunks import MixedModel, MixedPart
from scene_store.placement import Placement
from splat.errors import SettingsError
from splat.fields import FieldModel
from tests.models.anchor_scenes import random_anchors
from tests.models.small_fields import view
from viewer.engines import open_drawers

SLOW, FAST = FrameCosts(100.0, 10.0), FrameCosts(1.0, 10.0)


class Device:
    """One that draws."""


def ask(sequence: int, client: str = "a", urgency: Urgency = Urgency.MOVING) -> FrameRequest:
    return FrameRequest(client, sequence, (view(),), urgency=urgency, rate_hz=30.0)


def test_the_slowest_device_decides_for_all_from_the_next_request_on() -> None:
    choices, slow, fast = ReuseChoices(), Device(), Device()
    first, second = ask(0), ask(1)
    assert choices.choice_of(first, DEFAULT_LIMITS).reuse == EXACT
    choices.tell("a", slow, SLOW)
    choices.tell("a", fast, FAST)
    assert choices.choice_of(first, DEFAULT_LIMITS).reuse == EXACT
    chosen = choices.choice_of(second, DEFAULT_LIMITS)
    assert chosen.reuse.depth == 4  # 10 + 100 / 5 of 33 ms
    choices.tell("a", slow, FAST)
    assert choices.choice_of(second, DEFAULT_LIMITS) is chosen
    assert choices.choice_of(ask(2), DEFAULT_LIMITS).reuse == EXACT
    assert chosen.number == 2


def test_devices_that_are_gone_and_other_clients_do_not_count() -> None:
    choices, gone = ReuseChoices(), Device()
    choices.tell("a", gone, SLOW)
    assert choices.choice_of(ask(0, "b"), DEFAULT_LIMITS).reuse == EXACT
    assert choices.choice_of(ask(0, urgency=Urgency.STILL), DEFAULT_LIMITS).reuse == EXACT
    assert choices.choice_of(ask(1), DEFAULT_LIMITS).reuse.depth == 4
    del gone
    gc.collect()
    assert choices.choice_of(ask(2), DEFAULT_LIMITS).reuse == EXACT


def test_whoever_asks_at_once_is_told_the_same() -> None:
    choices, request = ReuseChoices(), ask(0)
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda _: choices.choice_of(request, DEFAULT_LIMITS), range(100)))
    assert all(each is told[0] for each in told)
    assert told[0].number == 1


def test_the_devices_of_a_scene_share_one() -> None:
    model, _ = random_anchors("scaffold", 20)
    render = RenderSettings(devices="2", memories="own")
    drawers = open_drawers(render, model=model, only_processor=True)
    drawing = [each for each in drawers.by_memory.values() if isinstance(each, AnchorRasterizer)]
    choices = [each._frames._choices for each in drawing]
    assert len(choices) == 2 and choices[0] is choices[1]
    others = open_drawers(render, model=model, only_processor=True)
    assert isinstance(others.first, AnchorRasterizer)
    assert others.first._frames._choices is not choices[0]


def test_parts_of_mixed_scenes_heed_the_wishes() -> None:
    looks, plain = (random_anchors(name, 20)[0] for name in ("scaffold-appearance", "scaffold"))
    field = FieldModel(("Instant-NGP",))
    mixed = MixedModel(tuple(MixedPart(m, Placement(), 16, 0) for m in (looks, plain, field)))
    wishes = ModelWishes(appearance=2, choices=ReuseChoices())
    rasterizer = renderer_of(mixed, NativeRasterizer(), wishes)
    assert isinstance(rasterizer, MixedRasterizer)
    for drawing in rasterizer._drawing[:2]:
        assert drawing._frames._choices is wishes.choices
    with pytest.raises(SettingsError, match="appearance: 99"):
        renderer_of(mixed, NativeRasterizer(), ModelWishes(appearance=99))
