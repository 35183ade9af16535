"""Building gsplat's CUDA code by nvcc: once for a torch and a kind of GPU, minutes.

gsplat does so when its backend is imported, and tells of it on the standard output. Here a process
of its own imports it first, and its output is kept: what it says when it fails is told in one line,
users see log messages, and whatever becomes of a compiler, pictures go on. It ends with who waits
for it, its compilers with it (``rendering.process_session``), and no other build begins before.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rendering.cuda_faults import CPU_INSTEAD
from rendering.process_session import end_session, guarded
from splat.cores import usable_cores
from splat.errors import BackendUnavailable, one_line

log = logging.getLogger(__name__)

EXTENSION = "gsplat_cuda"
BUILD = "import sys; from gsplat.cuda._backend import _C; sys.exit(_C is None)"
TELL_EVERY_S = 30.0
MOST_JOBS = 10  # as gsplat has it; a compiler takes a gigabyte
# What compilers, linkers and ninja call an error.
_COMPILER_ERROR = re.compile(r"\b(error|fatal)\b( error)? *:|#error|undefined reference", re.I)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What there is to run gsplat with.

    Attributes:
        package: Folder of the installed package; None if it is not installed.
        is_built: Whether its CUDA code was built before.
        nvcc, compiler, ninja: Paths of the tools that build it; None if missing.
    """

    package: Path | None
    is_built: bool = False
    nvcc: str | None = None
    compiler: str | None = None
    ninja: str | None = None

    @classmethod
    def here(cls) -> Toolchain:
        """Of this machine."""
        spec = importlib.util.find_spec("gsplat")
        if spec is None or not spec.submodule_search_locations:
            return cls(None)
        package = Path(next(iter(spec.submodule_search_locations)))
        return cls(
            package,
            is_built=any(package.glob("csrc*.so")) or built_file().is_file(),
            nvcc=_nvcc(),
            compiler=shutil.which(os.environ.get("CXX", "c++")),
            ninja=shutil.which("ninja", path=search_path()),
        )

    @property
    def lacks(self) -> str | None:
        """What to get before gsplat can be used, as a phrase; None if nothing."""
        if self.package is None:
            return "gsplat is not installed: pip install gsplat==1.5.3"
        if self.is_built:
            return None
        tools = {
            "nvcc, of the CUDA toolkit that torch was made with": self.nvcc,
            "a C++ compiler": self.compiler,
            "ninja: pip install ninja": self.ninja,
        }
        missing = [name for name, path in tools.items() if path is None]
        return f"to build gsplat there is no {', no '.join(missing)}" if missing else None

    @property
    def sources(self) -> int:
        """Files that are compiled; 0 if unknown."""
        if self.package is None:
            return 0
        folder = self.package / "cuda"
        return sum(len(list(folder.glob(each))) for each in ("csrc/*.cu", "csrc/*.cpp", "ext.cpp"))

    def require(self) -> None:
        """
        Raises:
            BackendUnavailable: If something is missing.
        """
        if self.lacks is not None:
            raise BackendUnavailable(f"{self.lacks}; {CPU_INSTEAD}")


def build_folder() -> Path:
    """Where torch builds gsplat's code; made if it is not there."""
    from torch.utils.cpp_extension import _get_build_directory  # what gsplat asks

    return Path(_get_build_directory(EXTENSION, verbose=False))


def built_file() -> Path:
    """What building makes."""
    return build_folder() / f"{EXTENSION}.so"


def search_path() -> str:
    """Of programs, with those that were installed beside this Python, such as ninja."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)])


def _nvcc() -> str | None:
    from torch.utils.cpp_extension import CUDA_HOME

    beside = Path(CUDA_HOME or "") / "bin" / "nvcc"
    return str(beside) if CUDA_HOME and beside.is_file() else shutil.which("nvcc")


def build(
    folder: Path,
    sources: int,
    *,
    command: Sequence[str] = (sys.executable, "-c", BUILD),
    tell_every_s: float = TELL_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Build the code in ``folder``, unless another process does so first; tells of it in the log.

    Args:
        folder: Of ``build_folder``.
        sources: Files to compile, to tell how far it is; 0 if unknown.
        command: That builds; others for tests.
        tell_every_s: Between two messages.
        clock: Seconds.

    Raises:
        BackendUnavailable: If it fails.
    """
    with _alone(folder) as lock:
        if (folder / f"{EXTENSION}.so").is_file():
            return
        log.warning(
            "gsplat: compiling its CUDA code for this GPU; it takes minutes, but only this once"
        )
        start_s = clock()
        with tempfile.TemporaryFile() as said, _running(command, said, lock) as process:
            while _is_running(process, tell_every_s):
                done = len(list(folder.glob("*.o")))
                of = f" of {sources}" if sources else ""
                log.warning("gsplat: %d%s files compiled in %.0f s", done, of, clock() - start_s)
            said.seek(0)
            text = said.read().decode(errors="replace")
        log.debug("gsplat: its build said: %s", text)
        if process.returncode:
            raise BackendUnavailable(f"gsplat's build failed: {cause_of(text)}; {CPU_INSTEAD}")
        log.warning("gsplat: compiled in %.0f s", clock() - start_s)


def cause_of(output: str) -> str:
    """The line of a failed build's output that tells most: the first error of a compiler, or the
    last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if _COMPILER_ERROR.search(line):
            return one_line(line)
    return one_line(lines[-1]) if lines else "it said nothing"


def build_environment(environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """Of the process that builds: it finds the same packages, and starts no more compilers than
    there are cores."""
    paths = os.pathsep.join(path for path in sys.path if path)
    jobs = str(max(1, min(cores, MOST_JOBS)))
    return {"MAX_JOBS": jobs, **environment, "PYTHONPATH": paths, "PATH": search_path()}


def _is_running(process: subprocess.Popen[bytes], wait_s: float) -> bool:
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return True
    return False


@contextmanager
def _running(
    command: Sequence[str], output: IO[bytes], lock: IO[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, with all that it started, if the block is left before it is, or if
    this process dies. Until then it holds the lock, too."""
    process = subprocess.Popen(
        guarded(command),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=build_environment(os.environ, usable_cores()),
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            end_session(process.pid)
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """One process at a time: gsplat would delete what another is building."""
    with open(folder.with_name(f"{folder.name}.building"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
