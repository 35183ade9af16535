"""What the panel says of a stream, and the lines around its chunks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import viser

from render_cache.reuse import Reuse
from rendering.frame import StreamStats
from rendering.tint import REUSE_TINTS, Tint
from scene_store.demands import Tier
from scene_store.failures import Failure, kind_of_error
from scene_store.ledger import Budgets, ChunkState
from scene_store.residency_stats import ResidencyStats, Tally
from splat.errors import BudgetError, ChunkReadError
from tests.store.small_stores import sample_chunks, sample_tree
from viewer.chunk_boxes import MOST_BOXES, box_lines, nearest_boxes
from viewer.client import is_yet_to_compare
from viewer.session_stats import SessionStats
from viewer.stream_panel import StreamBounds, StreamPanel, level_color, rgb_bytes, stream_html

MIB = 1 << 20
IN_FORCE = Budgets(64 * MIB, 512 * MIB)


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


def test_a_sketch_is_not_told_as_all_there_is() -> None:
    text = stream_html(held(), drawn(provisional=True))
    assert "what is built, a sketch of the rest<" in text
    assert "within" not in text and "complete" not in text
    assert "what is built, fading<" in stream_html(held(), drawn(provisional=True, fading=True))


@pytest.mark.parametrize(("lost", "said"), [(0, "complete"), (5, "all that can be had")])
def test_a_picture_is_complete_unless_it_would_show_what_is_lost(lost: int, said: str) -> None:
    elsewhere = (failed(1, "a", "is damaged"), failed(2, "a", "no answer", lost=False))
    text = stream_html(held(failures=elsewhere), drawn(lost=lost))
    assert f"within 0.25 px · {said}<" in text
    assert "1 failing" in text and ">1 chunk; coarser ones stand in<" in text


def failed(chunk: int, path: str, problem: str, *, lost: bool = True) -> Failure:
    error = ChunkReadError(path, chunk, problem, transient=not lost)
    return Failure(chunk, str(error), 1, None if lost else 12.0, kind_of_error(error))


def test_lost_chunks_are_named_and_harmless() -> None:
    lost = failed(7, "<b>geometry-00.bin", "is damaged")
    waiting = failed(8, "geometry-00.bin", "no answer", lost=False)
    text = stream_html(held(failures=(lost, waiting)), None)
    assert "1 chunk; coarser ones stand in" in text
    assert "&lt;b&gt;geometry-00.bin" in text and "<b>" not in text
    assert "no answer" in text


def test_one_cause_is_told_once_with_a_count() -> None:
    file = "https://example.org/a/town.bvs/geometry-00.bin"
    failures = tuple(failed(n, file, f"byte {n} is damaged") for n in range(40))
    text = stream_html(held(failures=failures), None)
    assert ">40 chunks; coarser" in text
    assert ">geometry-00.bin: chunk 0: byte 0 is damaged; 39 more such<" in text
    assert "example.org" not in text and "chunk 1:" not in text and "log" not in text


def test_of_many_causes_the_first_are_told() -> None:
    failures = tuple(
        failed(2 * n + i, f"/a/geometry-{n:02}.bin", "is damaged") for n in range(5) for i in (0, 1)
    )
    text = stream_html(held(failures=failures), None)
    assert ">geometry-02.bin: chunk 4: is damaged; 1 more such<" in text
    assert "geometry-03" not in text and "and 2 more such lines, in the log" in text


def test_one_chunk_is_not_called_chunks() -> None:
    lines = ("/a/town.bvs/geometry-01.bin: chunk 4: is missing; remade",)
    text = stream_html(
        held(tally=Tally(bytes_read=1000, reads=1), remade=lines),
        drawn(chunks=1, missing=1, complete=False),
    )
    for part in ("in 1 chunk<", ">1 chunk; made", ">1 chunk · within", "1 chunk missing"):
        assert part in text


def test_chunks_that_were_made_again_are_one_line_and_not_called_lost() -> None:
    lines = tuple(f"/a/town.bvs/geometry-01.bin: chunk {n}: is missing; remade" for n in range(5))
    text = stream_html(held(remade=lines), None)
    assert "5 chunks; made again of finer ones" in text and "Lost" not in text
    assert "geometry-01.bin" not in text


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


@dataclass
class Keeper:
    """Keeps the budgets it is given, unless they are too large."""

    budgets: Budgets = IN_FORCE
    max_gaussians: int = 2_000_000
    tints: list[Tint] = field(default_factory=list)

    def set_budgets(self, budgets: Budgets) -> None:
        if budgets.device_bytes > 900 * MIB:
            raise BudgetError("more than the 900 MiB that there are")
        self.budgets = budgets

    def set_max_gaussians(self, count: int) -> None:
        self.max_gaussians = count

    def tint(self, tint: Tint) -> None:
        self.tints.append(tint)

    def freeze(self, on: bool) -> None: ...

    def show_boxes(self, on: bool) -> None: ...


def panel_of(viser_server: viser.ViserServer, keeper: Keeper) -> StreamPanel:
    bounds = StreamBounds(Budgets(2 * MIB, 16 * MIB), 4096 * MIB, 4_000_000)
    return StreamPanel(
        viser_server.gui, bounds=bounds, budgets=keeper.budgets, max_gaussians=keeper.max_gaussians,
        actions=keeper, order=1,
    )  # fmt: skip


def moved(slider: Any, value: object) -> None:
    """As a person moves it."""
    slider._impl.value = value
    for callback in slider._impl.update_cb:
        callback(viser.GuiEvent(client_id=0, client=None, target=slider))


def test_sliders_follow_what_others_set(viser_server: viser.ViserServer) -> None:
    keeper = Keeper()
    panel = panel_of(viser_server, keeper)
    assert (panel._host.value, panel._device.value, panel._most_gaussians.value) == (64, 512, 2000)
    panel.show(held(budgets=Budgets(32 * MIB, 256 * MIB)), None, 1_000_000)
    assert (panel._host.value, panel._device.value, panel._most_gaussians.value) == (32, 256, 1000)
    assert keeper == Keeper(), "following changes nothing"
    panel.rebase(StreamBounds(Budgets(48 * MIB, 300 * MIB), 8192 * MIB, 500_000))
    panel.show(held(budgets=Budgets(32 * MIB, 256 * MIB)), None, 1_000_000)
    assert (panel._host.value, panel._device.value, panel._most_gaussians.value) == (48, 300, 500)


def test_a_slider_that_is_being_moved_is_left_alone(viser_server: viser.ViserServer) -> None:
    keeper = Keeper()
    panel = panel_of(viser_server, keeper)
    moved(panel._device, 700)
    moved(panel._most_gaussians, 3000)
    assert keeper == Keeper(Budgets(64 * MIB, 700 * MIB), 3_000_000)
    panel.show(held(), None, 2_000_000)
    assert (panel._device.value, panel._most_gaussians.value) == (700, 3000)


def test_more_than_there_is_is_said_and_undone(
    viser_server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper()
    panel = panel_of(viser_server, keeper)
    monkeypatch.setattr("viewer.stream_panel.SETTLES_S", 0.0)
    moved(panel._device, 1000)
    panel.show(held(), None, keeper.max_gaussians)
    assert "more than the 900 MiB" in panel._text
    assert panel._device.value == 512 and keeper == Keeper()
    moved(panel._device, 600)
    panel.show(held(budgets=keeper.budgets), None, keeper.max_gaussians)
    assert "more than" not in panel._text and panel._device.value == 600


@pytest.mark.parametrize(("control", "value"), [("_most_gaussians", 1), ("_tint", "By level")])
def test_a_refusal_is_forgotten_once_another_control_is_used(
    viser_server: viser.ViserServer, control: str, value: object
) -> None:
    keeper = Keeper()
    panel = panel_of(viser_server, keeper)
    moved(panel._device, 1000)
    panel.show(held(), None, keeper.max_gaussians)
    assert "more than the 900 MiB" in panel._text
    moved(getattr(panel, control), value)
    panel.show(held(), None, keeper.max_gaussians)
    assert "more than" not in panel._text


def test_chunks_are_coloured_by_what_is_chosen(viser_server: viser.ViserServer) -> None:
    keeper = Keeper()
    panel = panel_of(viser_server, keeper)
    for name in ("By level", "By reuse", "As they are"):
        moved(panel._tint, name)
    assert keeper.tints == [Tint.LEVELS, Tint.REUSE, Tint.NONE]


def test_a_picture_tinted_by_reuse_has_its_own_legend() -> None:
    text = stream_html(held(), drawn(reuse=(0, 12, 1)))
    places = [
        text.index(part)
        for answer, said in zip(Reuse, ("0 chunks", "12 chunks", "1 chunk<"), strict=True)
        for part in (f"rgb{rgb_bytes(REUSE_TINTS[answer])}", said)
    ]
    assert places == sorted(places) and "Level" not in text
    for name in ("Same", "Moved", "Anew"):
        assert name in text and name not in stream_html(held(), drawn())


def test_a_picture_at_rest_is_compared_with_itself_in_the_end() -> None:
    still = SessionStats(still=True, stream=drawn(reuse=(3, 1, 0)))
    assert is_yet_to_compare(still)
    assert not is_yet_to_compare(replace(still, still=False)), "it will be drawn again anyway"
    assert not is_yet_to_compare(replace(still, stream=drawn(reuse=(4, 0, 0))))
    assert not is_yet_to_compare(replace(still, stream=drawn())), "it has no such tint"
    assert not is_yet_to_compare(SessionStats(still=True))
