"""What every neural scene keeps, whatever its kind: the test that a new model inherits from.

Give a class the fixture ``scene`` (a path), and it is asked all of this.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.base import Outputs, RasterImage, RasterSettings
from rendering.frame import FrameRequest
from rendering.memory_shares import least_budgets
from rendering.models.renderers import renderer_of
from rendering.native.cpu import NativeRasterizer
from rendering.streamed_scene import StreamedScene, StreamPolicy
from scene_store.chunks import NeuralSource, model_of
from scene_store.ledger import Budgets
from scene_store.models import find_reader, is_model, open_model
from scene_store.neural_store import build_neural_store, neural_store_bytes
from scene_store.outline import outline_of
from scene_store.statistics import likely_up
from scene_store.store import open_store
from splat.camera import Camera
from splat.errors import SceneError
from splat.rows import Rows
from viewer.start_view import view_of

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 40, 32
SETTINGS = RasterSettings(outputs=Outputs.COLOR | Outputs.DEPTH, threads=2)
AMPLE = Budgets(1 << 30, 1 << 30)


def camera_of(source: NeuralSource) -> Camera:
    """Where ``view`` would begin, for a small picture."""
    seen, meta = source.overview(), source.meta
    outline = meta.outline or outline_of(seen, up=likely_up(meta, seen), cameras=meta.cameras)
    start = view_of(outline, 1.0)
    return Camera.look_at(
        start.position, start.look_at, start.up, fov_y_rad=1.0, width=WIDTH, height=HEIGHT
    )


@contextlib.contextmanager
def streaming(source: NeuralSource, budgets: Budgets = AMPLE) -> Iterator[StreamedScene]:
    """The source, drawn by the processor."""
    engine = renderer_of(model_of(source), NativeRasterizer())
    scene = StreamedScene(source, engine, budgets, StreamPolicy(fade_s=0.0))
    try:
        yield scene
    finally:
        scene.close()


def picture(
    source: NeuralSource, budgets: Budgets = AMPLE, settings: RasterSettings = SETTINGS
) -> RasterImage:
    """The complete picture of where ``view`` begins; closes the source."""
    camera = camera_of(source)
    with streaming(source, budgets) as scene:
        (memory,) = scene._memories.values()
        for sequence in range(100):
            request = FrameRequest("test", sequence, (camera,), settings)
            with scene.acquire(request) as drawable:
                assert drawable.stream is not None
                if drawable.stream.complete:
                    return memory.rasterizer.render(drawable.scene, camera, settings)
            memory.loader.wait_until_settled(10.0)
    raise AssertionError("the picture never was complete")


def color_of(image: RasterImage) -> NDArray[np.float32]:
    """[H, W, 3]."""
    assert image.color is not None
    return image.color


class ModelContract:
    """To be inherited from, with a fixture ``scene``: the path of a model of the kind.

    Attributes:
        reader: The module that is to read it.
        files: Of the scene, those that are cut off in turn; relative to its folder.
    """

    reader: str
    files: tuple[str, ...] = ()

    def test_its_kind_is_recognized(self, scene: Path) -> None:
        found = find_reader(scene)
        assert found is not None
        assert found.__name__ == f"scene_store.models.{self.reader}"
        assert not is_model(scene.parent / "nothing")

    def test_chunks_are_what_the_tree_says(self, scene: Path) -> None:
        with contextlib.closing(open_model(scene)) as source:
            assert isinstance(source, NeuralSource)
            assert source.meta.count > 0
            assert source.meta.unit != "Gaussians"
            assert len(source.overview())
            for chunk in range(len(source.tree)):
                encoded = source.read(chunk)
                assert encoded is not None
                assert encoded.nbytes <= source.encoded_bytes(chunk)
                rows = source.decode(chunk, encoded)
                assert isinstance(rows, Rows)
                assert rows.row_bytes == source.row_bytes
                assert len(rows) <= source.tree.count[chunk]

    def test_it_is_seen_from_where_view_begins(self, scene: Path) -> None:
        image = picture(open_model(scene))
        assert np.isfinite(color_of(image)).all()
        assert float((image.alpha > 0.5).mean()) > 0.02
        assert float(np.ptp(color_of(image))) > 0.05

    def test_bands_and_threads_change_no_byte(self, scene: Path) -> None:
        whole = color_of(picture(open_model(scene)))
        single = RasterSettings(outputs=SETTINGS.outputs, threads=1)
        assert np.array_equal(color_of(picture(open_model(scene), settings=single)), whole)
        band = RasterSettings(outputs=SETTINGS.outputs, rows=(0, 32))
        assert np.array_equal(color_of(picture(open_model(scene), settings=band)), whole[:32])

    def test_the_least_budgets_draw_the_same(self, scene: Path) -> None:
        """Or as much as they have room for, and then the picture is not complete."""
        whole = color_of(picture(open_model(scene)))
        source = open_model(scene)
        least = least_budgets(source, renderer_of(model_of(source), NativeRasterizer()))
        needed = Budgets(least.host_bytes, max(least.device_bytes, self.device_bytes(source)))
        assert np.array_equal(color_of(picture(source, needed)), whole)

    def device_bytes(self, source: NeuralSource) -> int:
        """What a device needs for one picture at the most."""
        engine = renderer_of(model_of(source), NativeRasterizer())
        page = engine.new_pool(source.page_gaussians, 0).page_bytes
        pages = -(-source.tree.count.astype(np.int64) // source.page_gaussians)
        return int(page * pages.sum())

    def test_a_store_of_it_draws_the_same(self, scene: Path, tmp_path: Path) -> None:
        whole = color_of(picture(open_model(scene)))
        with contextlib.closing(open_model(scene)) as source:
            foretold = neural_store_bytes(source)
            report = build_neural_store(source, tmp_path / "kept.bvs", scene)
            assert foretold == pytest.approx(report.store_bytes, rel=0.02, abs=8192)
            camera = camera_of(source)
        store = open_store(tmp_path / "kept.bvs")
        assert isinstance(store, NeuralSource)
        assert np.allclose(camera_of(store).viewmat, camera.viewmat, atol=0.2)
        with streaming(store) as streamed:
            (memory,) = streamed._memories.values()
            for sequence in range(100):
                with streamed.acquire(FrameRequest("test", sequence, (camera,))) as drawable:
                    assert drawable.stream is not None
                    image = memory.rasterizer.render(drawable.scene, camera, SETTINGS)
                    if drawable.stream.complete:
                        break
                memory.loader.wait_until_settled(10.0)
        assert np.array_equal(color_of(image), whole)

    def test_files_that_are_cut_off_are_one_line(self, scene: Path, tmp_path: Path) -> None:
        for name in self.files:
            file = scene / name if scene.is_dir() else scene
            whole = file.read_bytes()
            try:
                for share in (0.0, 0.1, 0.5, 0.9, 0.999):
                    file.write_bytes(whole[: int(share * len(whole))])
                    if not is_model(scene):
                        continue
                    with pytest.raises(SceneError) as found:
                        open_model(scene).close()
                    assert "\n" not in str(found.value)
                    assert scene.name in str(found.value)
            finally:
                file.write_bytes(whole)

    @pytest.mark.slow
    def test_the_commands_take_it(self, scene: Path, tmp_path: Path) -> None:
        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "app.py", *command],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        told = json.loads(run("info", str(scene), "--json"))
        assert told["unit"] != "Gaussians"
        out = tmp_path / "picture.png"
        run("export", str(scene), "-o", str(out), "--width", "64", "--height", "48")
        assert out.stat().st_size > 500
