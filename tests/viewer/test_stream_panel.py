"""What the panel says of a stream, and the lines around its chunks."""

from __future__ import annotations

import numpy as np
import pytest

from rendering.frame import StreamStats
from scene_store.demands import Tier
from scene_store.failures import Failure
from scene_store.ledger import Budgets, ChunkState
from scene_store.residency_stats import ResidencyStats, Tally
from tests.store.small_stores import sample_chunks, sample_tree
from viewer.chunk_boxes import MOST_BOXES, box_lines, nearest_boxes
from viewer.stream_panel import level_color, stream_html

MIB = 1 << 20


def held(**more: object) -> ResidencyStats:
    chunks = dict.fromkeys(ChunkState, 0)
    chunks.update({ChunkState.DEVICE: 120, ChunkState.LOADING: 4, ChunkState.ABSENT: 261})
    values: dict[str, object] = {
        "budgets": Budgets(64 * MIB, 512 * MIB),
        "host_bytes": 3 * MIB,
        "device_bytes": 96 * MIB,
        "chunks": chunks,
        "device_bytes_by_tier": dict.fromkeys(Tier, 0),
        "chunks_by_level": (100, 20),
        "leased": 100,
        "tally": Tally(bytes_read=12_300_000, reads=123),
        "failures": (),
        **more,
    }
    return ResidencyStats(**values)  # type: ignore[arg-type]


def drawn(**more: object) -> StreamStats:
    values: dict[str, object] = {
        "complete": True, "fading": False, "missing": 0, "lost": 0, "error_px": 0.25,
        "chunks": 17, "gaussians_by_level": (250_000, 16_000), "select_ms": 0.1, **more,
    }  # fmt: skip
    return StreamStats(**values)  # type: ignore[arg-type]


def test_residency_and_levels_are_told() -> None:
    text = stream_html(held(), drawn())
    for part in (
        "96 MiB of 512 MiB", "3 MiB of 64 MiB", "385 · 120 drawable · 4 being read",
        "12.3 MB in 123 chunks", "17 chunks · within 0.25 px · complete",
        "Level 0", "250 k", "Level 1", "16 k", f"rgb{level_color(1)}",
    ):  # fmt: skip
        assert part in text
    assert "Lost" not in text


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (drawn(complete=False, missing=1234), "1,234 chunks missing"),
        (drawn(fading=True), "fading"),
    ],
)
def test_what_is_still_to_come_is_told(frame: StreamStats, said: str) -> None:
    text = stream_html(held(), frame)
    assert said in text and "complete" not in text


def test_lost_chunks_are_named_and_harmless() -> None:
    lost = Failure(7, "<b>geometry-00.bin</b>: chunk 7: is damaged", 1, None)
    waiting = Failure(8, "geometry-00.bin: chunk 8: no answer", 2, 12.0)
    text = stream_html(held(failures=(lost, waiting)), None)
    assert "1 chunks; coarser ones stand in" in text
    assert "&lt;b&gt;geometry-00.bin" in text and "<b>" not in text
    assert "no answer" in text


def test_a_box_is_twelve_edges_in_the_colour_of_its_level() -> None:
    tree = sample_tree(sample_chunks())
    ends, colors = box_lines(tree, np.array([0, 2]))
    assert ends.shape == colors.shape == (24, 2, 3)
    first = ends[:12]
    assert np.array_equal(first.min(axis=(0, 1)), tree.lo[0].astype(np.float64))
    assert np.array_equal(first.max(axis=(0, 1)), tree.hi[0].astype(np.float64))
    along = np.count_nonzero(np.diff(ends, axis=1), axis=2)
    assert (along == 1).all(), "edges run along the axes"
    assert len(np.unique(first.reshape(12, 6), axis=0)) == 12
    assert tuple(colors[0, 0]) == level_color(1) and tuple(colors[-1, 1]) == level_color(0)


def test_of_many_boxes_the_nearest_are_outlined(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = sample_tree(sample_chunks())
    monkeypatch.setattr("viewer.chunk_boxes.MOST_BOXES", 1)
    eye = tree.hi[2].astype(np.float64) + 10
    distances = [np.linalg.norm(eye - np.clip(eye, tree.lo[c], tree.hi[c])) for c in (1, 2, 3)]
    (nearest,) = nearest_boxes(tree, (1, 2, 3), eye)
    assert nearest == 1 + int(np.argmin(distances))
    assert MOST_BOXES < 2000
