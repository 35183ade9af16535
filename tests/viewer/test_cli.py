"""The command line as a user meets it: one line for an error, quick to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splat.errors import BudgetError, SettingsError
from viewer.cli import COMMANDS, main, one_line, parse_command
from viewer.option_types import parse_count
from viewer.scenes import SceneChoice, check_openable

REPOSITORY = Path(__file__).resolve().parents[2]


def belvedere(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "BELVEDERE_DEBUG": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line_error(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("belvedere: error: ")
    for part in parts:
        assert part in result.stderr


def test_a_picture_is_exported_and_named(one_blob_ply: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = belvedere(
        "export", "--position", "-1e-1", -2, 3, one_blob_ply, "--image", out, "--width", 64,
        "--height", 48, "--up", 0, -1, 0, "--fov", 40, "--look-at", 0, 0, 0,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == str(out)
    assert out.exists()


def test_a_missing_scene(tmp_path: Path) -> None:
    for command in ("export", "info", "view"):
        extra = ("-o", tmp_path / "x.png") if command == "export" else ()
        result = belvedere(command, "no_such.ply", *extra)
        assert_one_line_error(result, "no_such.ply", "no such file")


def test_a_file_that_is_no_scene(tmp_path: Path) -> None:
    text = tmp_path / "letter.ply"
    text.write_text("Dear reader,\n")
    result = belvedere("export", text, "-o", tmp_path / "x.png")
    assert_one_line_error(result, "letter.ply")
    assert not (tmp_path / "x.png").exists()


def test_a_viewer_serves_nothing_when_its_scene_is_broken(tmp_path: Path) -> None:
    text = tmp_path / "letter.ply"
    text.write_text("Dear reader,\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    store = tmp_path / "store.bvs"
    store.mkdir()
    (store / "manifest.json").write_text("{")
    for words, part in (
        ([text], "letter.ply"),
        ([empty], "is a folder without"),
        ([store], "manifest.json"),
    ):
        result = belvedere("view", *words, "--port", 0)
        assert_one_line_error(result, part)
        assert result.stdout == ""


def test_a_town_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_store.memory.available_bytes", lambda: 1_000_000_000)
    check_openable(SceneChoice(None, 1_000_000))
    with pytest.raises(BudgetError, match="the town: 50,000,000 Gaussians need"):
        check_openable(SceneChoice(None, 50_000_000))


def test_a_viewer_ends_when_its_scene_proves_to_be_broken(
    one_blob_ply: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.ply"
    data = bytearray(one_blob_ply.read_bytes())
    start = data.index(b"end_header\n") + len(b"end_header\n")
    data[start : start + 4] = b"\x00\x00\xc0\x7f"  # a position that is not a number
    gone.write_bytes(data)
    result = belvedere("view", gone, "--port", 0)
    assert_one_line_error(result, "gone.ply", "none that can be drawn")
    assert result.stdout.startswith("Serving ")


def test_an_unwritable_target(one_blob_ply: Path) -> None:
    result = belvedere("export", one_blob_ply, "-o", "/no/such/folder/x.png")
    assert_one_line_error(result, "/no/such/folder")


def test_a_bad_setting(one_blob_ply: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("render:\n  antialised: true\n")
    result = belvedere("export", one_blob_ply, "-o", tmp_path / "x.png", "--config", config)
    assert_one_line_error(result, "mine.yaml", "antialised", "antialiased")


def test_a_setting_from_a_flag_is_checked(one_blob_ply: Path, tmp_path: Path) -> None:
    result = belvedere("export", one_blob_ply, "-o", tmp_path / "x.png", "--sh-degree", 7)
    assert_one_line_error(result, "--sh-degree: expected 0 to 3, got 7")


def test_a_port_in_use(one_blob_ply: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        assert_one_line_error(belvedere("view", one_blob_ply, "--port", port), str(port), "--port")


def test_faults_of_ours_are_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("BELVEDERE_DEBUG", raising=False)

    def broken(words: list[str]) -> int:
        raise KeyError("lost")

    monkeypatch.setattr("viewer.cli._dispatch", broken)
    assert main(["info"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "KeyError" in line
    assert "BELVEDERE_DEBUG=1" in line


def test_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("viewer.cli._dispatch", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "belvedere: interrupted\n"


def test_details_on_demand(tmp_path: Path) -> None:
    result = belvedere("info", "no_such.ply", BELVEDERE_DEBUG="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_version_and_help() -> None:
    assert belvedere("--version").stdout.startswith("belvedere ")
    overview = belvedere().stdout
    assert all(f"belvedere {command}" in overview for command in COMMANDS)
    assert belvedere("--help").stdout == overview
    text = belvedere("export", "--help").stdout
    assert "--downscale-factor" in text and "degrees" in text
    assert "None" not in text, "every default is said in words"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fly"], ["fly is no command", "view, build, export"]),
        (["exprt"], ["perhaps you meant export"]),
        (["--port", "80"], ["options follow the command"]),
    ],
)
def test_an_unknown_command(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("no_such_garden.PLY", "no_such_garden.PLY"),
        ("the garden/lod-meta.json", "'the garden/lod-meta.json'"),
        ("https://example.org/town.bvs", "https://example.org/town.bvs"),
        ("tests", "tests"),  # a folder that is there
    ],
)
def test_a_scene_without_a_command(
    name: str, quoted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main([name]) == 2
    line = capsys.readouterr().err
    assert line == (
        f"belvedere: error: {name} is no command; to look at it: belvedere view {quoted}\n"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["export", "--widht", "3"], ["--widht", "perhaps you meant --width"]),
        (["export", "--width", "abc"], ["--width: 'abc' is not a whole number"]),
        (["export", "--fov", "wide"], ["--fov: 'wide' is not a number"]),
        (["export", "--position", "1", "2"], ["--position", "3 values"]),
        (["export", "--position", "1", "2", "inf"], ["--position: 'inf' is not a number"]),
        (["view", "one.ply", "two.ply"], ["unrecognized options: two.ply"]),
        (["view", "--mode", "blue"], ["'blue'", "--mode", "depth"]),
        (["town", "--gaussians", "5"], ["--gaussians: '5'", "2k to 1G Gaussians"]),
        (["view", "--gaussians", "lots"], ["--gaussians: 'lots'", "2k to 1G", "such as 500k"]),
    ],
)
def test_an_impossible_option_is_one_line(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError) as info:
        parse_command(words[0], words[1:])
    message = str(info.value)
    assert message.endswith(f"; see belvedere {words[0]} --help")
    assert "\n" not in message and not set(message) & set("│─╭╰")
    assert all(part in message for part in parts), message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "antialiased"),
    [
        (["one.ply"], None),
        (["--antialiased", "one.ply"], True),
        (["one.ply", "--antialiased"], True),
        (["--no-antialiased", "one.ply"], False),
    ],
)
def test_a_switch_takes_no_value(words: list[str], antialiased: bool | None) -> None:
    command = parse_command("export", words)
    assert command.drawing.antialiased is antialiased
    assert command.scene.scene == "one.ply"
    with pytest.raises(SettingsError, match="no-debug"):  # what is off anyway
        parse_command("export", ["--no-debug"])


def test_an_impossible_option_ends_with_status_2() -> None:
    assert_one_line_error(belvedere("export", "--widht", 3), "--widht")


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Error ─╮\n│ No such │\n│ thing.  │\n│ ─────── │\n│ For full helptext │\n╰───╯",
        " Error\n ---------\n  No such \n  thing.  \n  ---------\n  For full helptext",
        "\x1b[31m╭─ Error ─╮\x1b[0m\n│ No such thing. │\n╰───╯",
    ],
)
def test_a_box_is_read_however_it_is_drawn(box: str) -> None:
    assert one_line(box) == "no such thing"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--up", "0", "0", "0"], "--up: 0 0 0 is no direction"),
        (["--lod", "-1"], "--lod: expected 0 to 99, got -1"),
        (["--width", "0"], "--width: expected 1 to 16384, got 0"),
        (["--width", "1000000000"], "--width: expected 1 to 16384, got 1000000000"),
        (["--fov", "180"], "--fov: expected 1 to 170, got 180"),
        (["--jpeg-quality", "0"], "--jpeg-quality: expected 1 to 100, got 0"),
        (["--alpha", "x.png"], "cannot be the same file"),
    ],
)
def test_impossible_values_are_refused_before_the_scene_is_read(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "no_such.ply", "-o", "x.png", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("belvedere: error: ") and line.count("\n") == 1
    assert problem in line


def test_info_as_json(one_blob_ply: Path) -> None:
    facts = json.loads(belvedere("info", one_blob_ply, "--json").stdout)
    assert facts["count"] == 1
    assert facts["sh_degree"] == 0
    assert facts["likely_up"] == [0, -1, 0]
    assert facts["dropped"] == 0


def test_a_size_of_the_town_is_not_that_of_a_file(one_blob_ply: Path) -> None:
    result = belvedere("info", one_blob_ply, "--gaussians", "3k", "--json")
    assert json.loads(result.stdout)["count"] == 1
    assert result.stderr == (
        f"belvedere: warning: --gaussians is for the town; {one_blob_ply} keeps its own\n"
    )


def test_info_for_people(wall_ply: Path) -> None:
    text = belvedere("info", wall_ply).stdout
    assert "wall.ply" in text
    assert "1,600" in text
    assert "(-1, -1, 0)" in text


def test_the_town_becomes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "town.ply"
    done = belvedere("town", "--gaussians", "2.5e3", "-o", path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{path.resolve()}: 2,500 Gaussians, ")
    assert json.loads(belvedere("info", path, "--json").stdout)["count"] == 2500
    assert_one_line_error(belvedere("town", "--gaussians", 10, "-o", path), "--gaussians")


@pytest.mark.parametrize(
    ("word", "count"),
    [("2000", 2000), ("2e6", 2_000_000), ("2_000", 2000), ("1.5M", 1_500_000), ("3k", 3000)],
)
def test_counts(word: str, count: int) -> None:
    assert parse_count([word]) == count


@pytest.mark.parametrize("word", ["", "bla", "0", "-5", "1999", "2000.5", "2G", "inf", "nan"])
def test_not_counts(word: str) -> None:
    with pytest.raises(ValueError, match="not a size of the town: 2k to 1G"):
        parse_count([word])


def test_nothing_of_weight_is_loaded_before_ctrl_c_is_answered() -> None:
    script = "import sys, viewer.cli; sys.exit(bool({'tyro', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize("command", ["export", "info", "town"])
def test_headless_commands_load_neither_torch_nor_viser(
    one_blob_ply: Path, tmp_path: Path, command: str
) -> None:
    words = {
        "export": ["export", str(one_blob_ply), "-o", str(tmp_path / "x.png")],
        "info": ["info", str(one_blob_ply)],
        "town": ["town", "--gaussians", "2000", "-o", str(tmp_path / "t.ply")],
    }[command]
    script = (
        "import sys\n"
        "from viewer.cli import main\n"
        f"status = main({words!r})\n"
        "heavy = {'torch', 'viser', 'gsplat', 'websockets'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else status)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def terminated(tmp_path: Path, *words: object) -> tuple[int, str]:
    """(status, standard error) of a command that gets SIGTERM once it has begun to write."""
    process = subprocess.Popen(
        [sys.executable, "app.py", *map(str, words)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size for path in tmp_path.glob(".*")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    return process.returncode, said


def test_a_terminated_command_leaves_nothing_behind(tmp_path: Path) -> None:
    status, said = terminated(tmp_path, "town", "--gaussians", "20M", "-o", tmp_path / "t.ply")
    assert (status, said) == (143, "belvedere: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_termination_is_told_from_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    tidied = []

    def killed(words: list[str]) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one does not disturb
            tidied.append(True)
        return 0

    monkeypatch.setattr("viewer.cli._dispatch", killed)
    assert main(["town"]) == 143
    assert tidied
    assert capsys.readouterr().err == "belvedere: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["--help"], ["info", "--help"]])
def test_a_full_disk_behind_the_output_is_one_line(
    one_blob_ply: Path, words: list[str], unbuffered: str
) -> None:
    scene = [str(one_blob_ply)] if "--help" not in words else []
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "app.py", *words[:1], *scene, *words[1:]],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "BELVEDERE_DEBUG": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (result.returncode, result.stderr) == (
        2,
        "belvedere: error: standard output: cannot write: No space left on device\n",
    )
