"""``belvedere view`` as a process: what it says, where it listens, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splat.camera import Camera
from tests.trace_rules import broken_rules
from tests.viewer.wire import camera_message, open_socket, unpacked
from viewer.panel import stats_html
from viewer.session_stats import SessionStats
from viewer.start_view import point_ahead

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def viewing(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A running viewer; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "app.py", "view", *map(str, words)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell may have started the tests with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if part in line:
            return line
    pytest.fail(f"the viewer ended without saying {part!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_interrupted(wall_ply: Path, number: signal.Signals) -> None:
    with viewing(wall_ply, "--port", 0) as process:
        url = line_with(process, "Serving").split()[1]
        line_with(process, "Ready: 1,600 Gaussians")
        with urllib.request.urlopen(url, timeout=10) as page:
            assert page.status == 200
        process.send_signal(number)
        rest, _ = process.communicate(timeout=10)
    assert (process.returncode, rest) == (0, "Stopped.\n")


def test_it_stops_at_once_while_a_scene_is_made(wall_ply: Path) -> None:
    with viewing("--port", 0, "--gaussians", "4M") as process:
        line_with(process, "Serving")
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        took_s = time.monotonic() - began_s
    assert (process.returncode, rest) == (0, "Stopped.\n")
    assert took_s < 1.5


def test_it_stops_at_once_with_a_browser_that_does_not_answer(wall_ply: Path) -> None:
    with viewing(wall_ply, "--port", 0) as process:
        port = int(line_with(process, "Serving").split()[1].rsplit(":", 1)[1])
        line_with(process, "Ready")
        with open_socket(port) as browser:
            browser.send(camera_message())
            while b"BackgroundImage" not in unpacked(browser.recv(timeout=10)):
                pass
            time.sleep(0.2)  # the picture of the scene is on its way, too
            began_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
            took_s = time.monotonic() - began_s
    assert (process.returncode, rest) == (0, "Stopped.\n")
    assert took_s < 1.5


def test_a_trace_is_written_in_the_end(wall_ply: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with viewing(wall_ply, "--port", 0, "--devices", 2, "--trace", trace) as process:
        port = int(line_with(process, "Serving").split()[1].rsplit(":", 1)[1])
        line_with(process, "Ready")
        with open_socket(port) as browser:
            browser.send(camera_message())
            pictures = 0
            while pictures < 2:  # the page's own, and one of the scene
                pictures += b"BackgroundImage" in unpacked(browser.recv(timeout=10))
            time.sleep(0.2)
            assert not trace.exists()
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, f"Stopped.\n{trace}\n")
    written = json.loads(trace.read_text("utf-8"))
    assert broken_rules(written) == []
    assert written["otherData"]["scene"] == "wall.ply" and written["otherData"]["frames"] > 0
    names = {event["name"] for event in written["traceEvents"] if event["ph"] == "X"}
    assert {"select", "project", "composite", "encode"} <= names
    processes = [e["args"]["name"] for e in written["traceEvents"] if e["name"] == "process_name"]
    assert {"cpu:0", "cpu:1", "viewers"} <= set(processes)


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_served(
    wall_ply: Path, tmp_path: Path
) -> None:
    target = tmp_path / "none" / "trace.json"
    with viewing(wall_ply, "--port", 0, "--trace", target) as process:
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 2 and out.count("\n") == 1
    assert out.startswith(f"belvedere: error: {target}: cannot write: ")


def test_a_trace_does_not_replace_the_scene(wall_ply: Path) -> None:
    with viewing(wall_ply, "--port", 0, "--trace", wall_ply) as process:
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 2
    assert out == (
        f"belvedere: error: {wall_ply}: --trace would replace the scene; name another file\n"
    )


def test_a_trace_that_can_no_longer_be_written_is_an_error_in_the_end(
    wall_ply: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with viewing(wall_ply, "--port", 0, "--trace", folder / "trace.json") as process:
        line_with(process, "Ready")
        folder.rmdir()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    said = rest.splitlines()
    assert said[0] == "Stopped." and len(said) == 2
    assert said[1].startswith(f"belvedere: error: {folder / 'trace.json'}: cannot write: ")


def test_an_absent_scene_is_not_served() -> None:
    with viewing("no_such.ply", "--port", 0) as process:
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 2
    assert out == "belvedere: error: no_such.ply: no such file or folder\n"


def test_a_port_in_use_is_stepped_over_and_said(wall_ply: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        taken = listener.getsockname()[1]
        config = tmp_path / "mine.yaml"
        config.write_text(f"viewer:\n  port: {taken}\n")
        with viewing(wall_ply, "--config", config) as process:
            said = line_with(process, "in use")
            url = line_with(process, "Serving").split()[1]
    assert str(taken) in said
    assert taken < int(url.rsplit(":", 1)[1]) < taken + 20


def test_others_are_let_in_with_a_token_only(wall_ply: Path) -> None:
    with viewing(wall_ply, "--port", 0, "--host", "0.0.0.0") as process:
        url = line_with(process, "Serving").split()[1]
        outward = line_with(process, "From other machines").split()[-1]
        assert "token" in line_with(process, "Whoever")
        base, _, token = url.partition("/?token=")
        assert base.startswith("http://localhost:")
        assert outward.endswith(f"/?token={token}") and "localhost" not in outward
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(base, timeout=10)
        assert refused.value.code == 403
        refused.value.close()
        with urllib.request.urlopen(outward, timeout=10) as page:
            assert page.status == 200


def test_a_bad_token_is_refused_before_anything_is_opened(wall_ply: Path) -> None:
    with viewing(wall_ply, "--port", 0, "--token", "a b") as process:
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 2
    assert out == (
        "belvedere: error: the token must be 8 to 128 letters, digits or characters of . _ ~ -\n"
    )


def test_numbers_are_shown_to_people() -> None:
    stats = SessionStats(
        fps=12.0,
        age_ms=48.0,
        width=1280,
        height=720,
        still=True,
        gaussians=4_250_000,
        visible=999,
        render_ms=31.4,
        stage_ms={"project": 3.2, "sort": 10.8},
        error="bad <tile>",
    )
    text = stats_html(stats)
    for part in ("12 /s", "48 ms", "1280 × 720", "sharp", "999 of 4.25 M", "31 ms", "sort 11"):
        assert part in text
    assert "bad &lt;tile&gt;" in text
    assert "Colours" not in text


def test_a_training_camera_orbits_around_the_scene() -> None:
    camera = Camera.look_at((3, 0, 0), (0, 0, 0), (0, -1, 0), fov_y_rad=1, width=64, height=48)
    assert point_ahead(camera, camera.position * 0, 1.0) == pytest.approx((0, 0, 0))
    behind = camera.position * 2
    assert point_ahead(camera, behind, 1.0) == pytest.approx((2.8, 0, 0))
