"""A target is whole, or as it was, and nothing else is left beside it, whatever happens."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from splat.atomic_file import atomic_file, atomic_files, check_writable
from splat.errors import OutputError

OLD = b"what was there before"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "scene.ply"
    path.write_bytes(OLD)
    return path


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_the_file_appears_when_the_block_ends(target: Path) -> None:
    with atomic_file(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".ply"
        temporary.write_bytes(b"new")
        assert target.read_bytes() == OLD
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_new_name_is_made(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "new.png") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "new.png").read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_permissions_are_those_of_any_new_file(target: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_file(target):
            pass
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def write_half(target: Path, error: BaseException) -> None:
    """What a writer that fails in its middle does."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_any_exception_leaves_what_was_there(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_half(target, error)
    assert_untouched(target)


def test_ctrl_c_leaves_what_was_there(target: Path) -> None:
    def write() -> None:
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGINT)
            file.write(b"never")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert_untouched(target)


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses to let any file grow beyond 64 KiB, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_may_not_grow_is_one_clear_error(target: Path) -> None:
    with pytest.raises(OutputError) as info, atomic_file(target) as temporary:
        temporary.write_bytes(bytes(1 << 20))
    assert str(info.value).startswith(f"{target}: cannot write: File too large; ")
    assert_untouched(target)


def test_a_full_disk_is_one_clear_error(target: Path) -> None:
    with pytest.raises(OutputError) as info:
        write_half(target, OSError(errno.ENOSPC, "No space left on device"))
    message = f"{target}: cannot write: No space left on device; free some space"
    assert str(info.value).startswith(message)
    assert_untouched(target)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_up_at_the_end(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Delayed allocation may tell of a full disk only when the data is flushed."""

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with (
        pytest.raises(OutputError, match="No space left on device"),
        atomic_file(target) as temporary,
    ):
        temporary.write_bytes(b"whole")
    assert_untouched(target)


def test_an_error_about_another_file_passes(target: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_file(target):
        (tmp_path / "source").read_bytes()
    assert_untouched(target)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no/such/a.ply", r"no/such/a\.ply: cannot write: the folder .*no/such does not exist"),
        ("folder", r"folder: cannot write: is a folder"),
        ("pipe", r"pipe: cannot write: is not a regular file"),
        ("a\0.ply", "not a file's name"),
        ("x" * 300 + ".ply", "File name too long; choose a shorter name"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_impossible_targets_are_named(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=problem), atomic_file(tmp_path / name):
        pytest.fail("the block must not run")
    with pytest.raises(OutputError, match=problem):
        check_writable(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(target: Path) -> None:
    target.parent.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied; change the folder's permissions"):
        check_writable(target)


def test_a_target_that_can_be_written_stays_as_it_is(target: Path) -> None:
    check_writable(target)
    assert_untouched(target)


def test_the_longest_names_are_possible(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".ply")
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, file = tmp_path / "link.ply", tmp_path / "elsewhere" / "file.ply"
    link.symlink_to(file)
    with atomic_file(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"


def test_files_that_belong_together_appear_together(target: Path) -> None:
    other = target.with_name("other.ply")
    with atomic_files([target, other]) as (first, second):
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert target.read_bytes() == OLD and not other.exists()
    assert (target.read_bytes(), other.read_bytes()) == (b"first", b"second")
    assert sorted(target.parent.iterdir()) == [other, target]


def test_of_files_that_belong_together_none_is_left_alone(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = target.with_name("other.ply")

    def write_one_of_two() -> None:
        with atomic_files([target, other]) as (first, _):
            first.write_bytes(b"first")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_one_of_two()
    assert_untouched(target)
    with (
        pytest.raises(OutputError, match=r"none/c\.ply: cannot write: the folder"),
        atomic_files([target, target.parent / "none" / "c.ply"]),
    ):
        pytest.fail("the block must not run")
    assert_untouched(target)

    flush = os.fsync
    flushed: list[int] = []

    def full_the_second_time(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full_the_second_time)
    with pytest.raises(OutputError, match="No space left"), atomic_files([target, other]):
        pass
    assert_untouched(target)


def test_a_set_of_which_one_name_fails_is_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = tmp_path / "a.left.png", tmp_path / "a.right.png"
    rename = os.replace

    def refuse_the_right_one(source: Path, file: Path) -> None:
        if Path(file) == right:
            raise OSError(errno.EIO, "Input/output error", str(source))
        rename(source, file)

    monkeypatch.setattr(os, "replace", refuse_the_right_one)
    with (
        pytest.raises(OutputError, match=r"a\.right\.png: cannot write: Input/output error"),
        atomic_files([left, right]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
