"""What the panel does with what a person types."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import viser
from numpy.typing import ArrayLike

from rendering.frame import StreamStats
from viewer import panel
from viewer.panel import Panel, stats_html
from viewer.session import SessionStats, ViewOptions


@dataclass
class Recorder:
    """Remembers how it is told to draw."""

    options: list[ViewOptions] = field(default_factory=list)

    def set_options(self, options: ViewOptions) -> None:
        self.options.append(options)

    def set_fov(self, fov_y_rad: float) -> None:
        """Of no interest here, as are the others."""

    def set_speed(self, speed: float) -> None: ...

    def reset_view(self) -> None: ...

    def set_up(self, up: ArrayLike) -> None: ...

    def look_along(self, direction: ArrayLike) -> None: ...

    def go_to_camera(self, index: int) -> None: ...


def streamed(*, complete: bool = True, fading: bool = False, lost: int = 0) -> StreamStats:
    return StreamStats(
        complete=complete, fading=fading, missing=0 if complete else 3, lost=lost, error_px=1.0,
        chunks=2, gaussians_by_level=(980,), select_ms=0.1,
    )  # fmt: skip


def test_sharp_is_only_a_complete_picture_at_full_size() -> None:
    full = SessionStats(still=True)
    assert " · sharp" in stats_html(full)
    assert " · sharp" in stats_html(replace(full, stream=streamed()))
    for less in (
        replace(full, still=False),
        replace(full, full_size=False),
        replace(full, stream=streamed(complete=False)),
        replace(full, stream=streamed(fading=True)),
        replace(full, stream=streamed(lost=1)),
    ):
        assert "sharp" not in stats_html(less)
    assert "sharp" not in stats_html(full, provisional=True)


@pytest.mark.parametrize("typed", [-5.0, 0.0, float("nan"), 1e12])
def test_an_impossible_near_plane_gives_way_to_the_one_in_force(
    viser_server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch, typed: float
) -> None:
    monkeypatch.setattr(panel, "NEAR_SETTLES_S", 3600.0)
    actions = Recorder()
    shown = Panel(
        viser_server.gui, title="t", facts="f", options=ViewOptions(near=0.25), fov_y_rad=1.0,
        sh_degree=1, cameras=0, actions=actions,
    )  # fmt: skip
    shown._near.value = 0.5  # type: ignore[misc]
    shown._near.value = typed  # type: ignore[misc]
    assert actions.options[-1].near == 0.5
    shown.show_stats(SessionStats())
    assert shown._near.value != 0.5, "nobody is interrupted while typing"
    monkeypatch.setattr(panel, "NEAR_SETTLES_S", 0.0)
    shown.show_stats(SessionStats())
    assert shown._near.value == actions.options[-1].near == 0.5
