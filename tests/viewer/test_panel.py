"""What the panel does with what a person types."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import viser
from numpy.typing import ArrayLike

from rendering.frame import StreamStats
from viewer import panel
from viewer.panel import LoadingPanel, Panel, stats_html
from viewer.session import ViewOptions
from viewer.session_stats import SessionStats


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


def test_a_picture_on_the_way_to_the_sharp_one_says_so() -> None:
    coming = SessionStats(width=400, height=300, sharpening=True)
    assert "400 × 300 · sharpening" in stats_html(coming)
    assert "sharpening" in stats_html(coming, provisional=True)


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


def test_detail_for_which_there_is_no_room_is_no_sharpness() -> None:
    limited = SessionStats(still=True, stream=replace(streamed(), error_px=3.9))
    assert "sharp" not in stats_html(limited)
    assert " · as the limits allow" in stats_html(limited)
    assert "limits" not in stats_html(limited, provisional=True)
    assert "limits" not in stats_html(replace(limited, full_size=False))


def test_what_fades_out_is_not_counted() -> None:
    """As when all of a scene is drawn, and the last of what stood in for it."""
    stats = SessionStats(gaussians=4_310_000, visible=4_270_000)
    fading = replace(streamed(fading=True), wanted_gaussians=4_250_000)
    beginning = replace(stats, gaussians=980, visible=970, stream=fading)
    assert ">970 of 980 · fading<" in stats_html(beginning)
    assert ">4.25 M of 4.25 M · fading<" in stats_html(replace(stats, stream=fading))
    whole = replace(stats, gaussians=4_250_000, visible=4_200_000, stream=streamed())
    assert ">4.2 M of 4.25 M<" in stats_html(whole)
    assert ">4.27 M of 4.31 M<" in stats_html(stats)


def test_pictures_that_were_kept_are_told() -> None:
    stats = SessionStats(render_ms=12.0)
    assert ">12 ms<" in stats_html(stats)
    assert ">kept from before<" in stats_html(replace(stats, reused=1))
    both = replace(stats, pictures=2)
    assert ">12 ms<" in stats_html(both)
    assert ">12 ms · 1 of 2 eyes kept<" in stats_html(replace(both, reused=1))
    assert ">kept from before<" in stats_html(replace(both, reused=2))


def test_the_cover_is_told_when_there_is_a_picture(viser_server: viser.ViserServer) -> None:
    shown = Panel(
        viser_server.gui, title="<t>", facts="f", options=ViewOptions(), fov_y_rad=1.0,
        sh_degree=0, cameras=0, actions=Recorder(),
    )  # fmt: skip
    assert 'data-cover="drawing"' in shown._heading.content
    shown.uncover()
    shown.show_facts("other facts")
    assert 'data-cover="shown"' in shown._heading.content
    assert "other facts" in shown._heading.content and "<t>" not in shown._heading.content


def test_the_cover_is_told_how_far_the_opening_is(viser_server: viser.ViserServer) -> None:
    loading = LoadingPanel(viser_server.gui, "t")
    loading.progress(0.4, "Reading")
    assert 'data-cover="opening" data-share="0.400"' in loading._heading.content
    loading.progress(7.0, "Reading")
    assert 'data-share="1.000"' in loading._heading.content
    loading.remove()


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
