"""What the compact profile costs on real scenes: bytes of a Gaussian, and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_store.manifest import DEFAULT_PAGE_GAUSSIANS, Profile
from scene_store.page_codec import decode_chunk, encode_chunk
from scripts.measure_codec import CASES, Case, Painter, load, psnr_db
from splat.gaussians import Gaussians

SMALL_CASES = ("coast", "truck", "biker")
FLOOR_DB = 46.0
MOST_GEOMETRY_BYTES, MOST_SH_BYTES = 14.0, 18.0


@pytest.mark.parametrize("case", [c for c in CASES if c.name in SMALL_CASES], ids=lambda c: c.name)
def test_compact_chunks_are_small_and_look_the_same(case: Case, data_dir: Path) -> None:
    gaussians = load(case, data_dir)
    count, page = len(gaussians), DEFAULT_PAGE_GAUSSIANS
    runs = [slice(start, min(start + page, count)) for start in range(0, count, page)]
    chunks = [encode_chunk(gaussians[run], Profile.COMPACT) for run in runs]
    geometry, harmonics = (sum(len(c.parts[i]) for c in chunks) / count for i in (0, 1))
    assert geometry < MOST_GEOMETRY_BYTES
    assert harmonics < MOST_SH_BYTES

    decoded = Gaussians.concatenate(
        [
            decode_chunk(chunk, run.stop - run.start, gaussians.sh_degree)
            for chunk, run in zip(chunks, runs, strict=True)
        ]
    )
    painter = Painter(case)
    pairs = zip(painter.pictures(decoded), painter.pictures(gaussians), strict=True)
    quality = [psnr_db(picture, reference) for picture, reference in pairs]
    assert len(quality) == 8
    assert np.min(quality) > FLOOR_DB
