"""The cache that is bounded by bytes, against a slow model of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_cache.byte_cache import ByteCache, CacheStats
from render_cache.view_key import ViewKey
from splat.camera import Camera, CameraModel

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 6)),
        st.tuples(st.just("put"), st.integers(0, 6), st.integers(0, 12)),
        st.tuples(st.just("discard"), st.integers(0, 6)),
        st.tuples(st.just("budget"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_it_is_a_list_in_order_of_use(operations: list[tuple[object, ...]]) -> None:
    cache: ByteCache[int, str] = ByteCache(20)
    model: list[tuple[int, str, int]] = []  # the least recently used first
    budget, hits, misses = 20, 0, 0
    for step, (what, *rest) in enumerate(operations):
        key = int(str(rest[0]))
        found = [entry for entry in model if entry[0] == key]
        if what == "get":
            hits, misses = hits + len(found), misses + 1 - len(found)
            assert cache.get(key) == (found[0][1] if found else None)
            model = [e for e in model if e[0] != key] + found
        elif what == "put":
            size = int(str(rest[1]))
            model = [e for e in model if e[0] != key]
            assert cache.put(key, f"v{step}", size) == (size <= budget)
            if size <= budget:
                while sum(e[2] for e in model) + size > budget:
                    model.pop(0)
                model.append((key, f"v{step}", size))
        elif what == "discard":
            cache.discard(key)
            model = [e for e in model if e[0] != key]
        else:
            budget = key
            cache.set_budget(budget)
            while sum(e[2] for e in model) > budget:
                model.pop(0)
        held = sum(e[2] for e in model)
        assert cache.stats() == CacheStats(hits, misses, len(model), held, budget)
        assert held <= budget


def test_a_hit_rate_before_the_first_question() -> None:
    assert ByteCache[int, int](1).stats().hit_rate == 0
    cache: ByteCache[int, int] = ByteCache(8)
    cache.put(1, 10, 8)
    assert (cache.get(1), cache.get(2)) == (10, None)
    assert cache.stats().hit_rate == 0.5
    cache.clear()
    assert cache.stats() == CacheStats(1, 1, 0, 0, 8)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        ByteCache(-1)


def test_views_are_the_same_only_if_every_number_is() -> None:
    view = Camera.look_at((0, 0, -5), (0, 0, 0), (0, -1, 0), fov_y_rad=1.0, width=64, height=48)
    moved = view.viewmat.copy()
    moved[0, 3] = np.nextafter(moved[0, 3], 1)
    intrinsics = view.K.copy()
    intrinsics[0, 2] += 0.5
    others = [
        replace(view, viewmat=moved), replace(view, K=intrinsics), replace(view, width=65),
        replace(view, height=49), replace(view, near=0.02), replace(view, far=100.0),
        replace(view, model=CameraModel.ORTHO),
    ]  # fmt: skip
    keys = [ViewKey.of(camera) for camera in (view, *others)]
    assert len(set(keys)) == len(keys)
    assert ViewKey.of(replace(view, viewmat=0.0 - (0.0 - view.viewmat))) == keys[0]
