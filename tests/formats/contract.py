"""What every reader promises, as a class of tests that each format inherits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_store.formats import open_scene
from splat.errors import SceneError, SceneFormatError
from splat.gaussians import Gaussians
from tests.formats.samples import (
    Tolerance,
    assert_close,
    assert_identical,
    copy_of,
    random_gaussians,
    read_all,
)


class ReaderContract:
    """Subclasses say how a sample is written and how exactly it must come back."""

    COUNT = 300
    SH_DEGREE = 3
    FORMAT_NAME: str
    UP: tuple[float, float, float] = (0.0, -1.0, 0.0)
    TOLERANCE: Tolerance

    @classmethod
    def make(cls) -> Gaussians:
        """The Gaussians to write."""
        return random_gaussians(cls.COUNT, cls.SH_DEGREE, seed=7)

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        """Writes a file (or files) of the format and returns the path to open."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def gaussians(cls) -> Gaussians:
        return cls.make()

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, gaussians: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.write(tmp_path_factory.mktemp("scene"), gaussians)

    def test_values_come_back_within_the_quantization(
        self, path: Path, gaussians: Gaussians
    ) -> None:
        with open_scene(path) as source:
            assert_close(read_all(source), gaussians, self.TOLERANCE)

    def test_meta_agrees_with_the_batches(self, path: Path) -> None:
        with open_scene(path) as source:
            batches = list(source.batches(64))
            meta = source.meta
        assert meta.path == path
        assert meta.format_name == self.FORMAT_NAME
        assert meta.up == self.UP
        assert meta.count == sum(len(batch) for batch in batches) == self.COUNT
        assert meta.sh_degree == max(batch.sh_degree for batch in batches) == self.SH_DEGREE

    @pytest.mark.parametrize("max_count", [1, 7, 256, 1 << 20])
    def test_batches_are_bounded_and_do_not_change_the_values(
        self, path: Path, max_count: int
    ) -> None:
        with open_scene(path) as source:
            batches = list(source.batches(max_count))
            whole = read_all(source)
        assert all(1 <= len(batch) <= max_count for batch in batches)
        assert_identical(Gaussians.concatenate(batches), whole)

    def test_two_passes_and_interleaved_passes_are_equal(self, path: Path) -> None:
        with open_scene(path) as source:
            first, second = source.batches(50), source.batches(50)
            for a, b in zip(first, second, strict=True):
                assert_identical(a, b)

    def test_values_are_finite_and_quaternions_unit(self, path: Path) -> None:
        with open_scene(path) as source:
            whole = read_all(source)
        for values in (whole.means, whole.quats, whole.scales, whole.opacities, whole.sh):
            assert np.isfinite(values).all()
        np.testing.assert_allclose(np.linalg.norm(whole.quats, axis=1), 1.0, atol=1e-5)
        assert (whole.scales > 0).all()
        assert ((whole.opacities >= 0) & (whole.opacities <= 1)).all()

    def test_closing_twice_is_harmless_and_batches_outlive_it(self, path: Path) -> None:
        source = open_scene(path)
        batch = next(source.batches(10))
        copy = copy_of(batch)
        source.close()
        source.close()
        assert_identical(batch, copy)
        with pytest.raises(ValueError, match="closed"):
            source.batches(10)

    def test_batches_need_a_positive_size(self, path: Path) -> None:
        with open_scene(path) as source, pytest.raises(ValueError, match="at least 1"):
            source.batches(0)

    def test_a_missing_level_of_detail_is_refused(self, path: Path) -> None:
        with pytest.raises(SceneError, match="level"):
            open_scene(path, lod=9)


class FileContract(ReaderContract):
    """What also holds for a scene that is opened by a file (not a folder)."""

    # Whether a shorter file can be told from a whole one at every cut.
    TRUNCATION_SHOWS = True

    @pytest.mark.parametrize("name", ["scene.bin", "scene.ply", "scene.spz", "scene.json", "scene"])
    def test_a_wrong_name_does_not_matter(self, path: Path, name: str) -> None:
        other = path.with_name(f"renamed-{name}")
        other.write_bytes(path.read_bytes())
        with open_scene(other) as source:
            assert source.meta.format_name == self.FORMAT_NAME
            assert source.meta.count == self.COUNT

    def test_a_truncated_file_is_an_error_that_names_it(self, path: Path) -> None:
        content = path.read_bytes()
        cut_at = {1, 5, 20, 100, len(content) // 3, len(content) // 2, len(content) - 1}
        for size in sorted(size for size in cut_at if 0 < size < len(content)):
            if not self.TRUNCATION_SHOWS and size % 32 == 0:
                continue
            cut = path.with_name(f"truncated-{path.name}")
            cut.write_bytes(content[:size])
            with pytest.raises(SceneFormatError, match=cut.name), open_scene(cut) as source:
                read_all(source)
