"""``bench --only nerf`` on a field of a test's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.nerf import NerfFigures, occupied_share, procedural, reader_of, run_field, table_of
from scene_store.models.field_checks import require_valid
from splat.fields import OccupancySampler
from tests.models.small_fields import ball_field


def test_a_field_is_measured() -> None:
    row = run_field("balls", ball_field, (32, 24), 1, lambda: None)
    assert row["same_bytes"] and row["psnr_db"] >= 90
    assert row["share_held"] < 1 and row["off_samples"] > 4 * row["on_samples"]
    assert table_of([row]).row_count == 1


def test_the_procedural_field_is_one_and_sparse() -> None:
    field = procedural()
    require_valid(field)
    assert isinstance(field.sampler, OccupancySampler)
    assert 0.01 < occupied_share(field) < 0.05
    again = procedural().sampler
    assert isinstance(again, OccupancySampler)
    np.testing.assert_array_equal(field.sampler.occupied, again.occupied)


def test_what_is_no_field_is_not_measured(tmp_path: Path) -> None:
    assert reader_of(str(tmp_path)) is None


def test_the_bar_is_for_sparse_fields_and_right_pictures() -> None:
    def figures(speedup: float, psnr: float, occupied: float, same: bool | None) -> bool:
        return NerfFigures(1, 1, 1, 1, speedup, psnr, 1, occupied, same, 0.5).passed

    assert figures(6, 60, 0.01, True) and figures(2, 60, 0.5, None)
    assert not figures(4, 60, 0.01, True)
    assert not figures(6, 40, 0.01, True)
    assert not figures(6, 60, 0.01, False)
