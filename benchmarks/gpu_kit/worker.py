"""The process that steps run in: a fault of one, or a kernel that never ends, costs only itself.

Steps come as lines of JSON on the standard input, the plan before them; answers go to a pipe whose
number is the argument. With the end of the input the process ends, whatever it is doing.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_kit.absent import Absent
from benchmarks.gpu_kit.bench import Bench
from benchmarks.gpu_kit.native_build import is_found, look_in
from benchmarks.gpu_kit.plan import Plan
from benchmarks.gpu_kit.results import to_json
from benchmarks.report import Row
from rendering.process_session import end_session

_MOST_TRACEBACK = 4000  # characters


class _Answers:
    """Lines of JSON to who started this."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def row(self, row: Row) -> None:
        """A measurement."""
        self.say(row=row)

    def say(self, **answer: Any) -> None:
        """One line."""
        self._pipe.write(to_json(answer) + "\n")
        self._pipe.flush()


def perform(command: dict[str, Any], bench: Bench, answers: _Answers) -> None:
    """One step, and what became of it."""
    look_in(bench.work)
    bench.limit_s = command["limit_s"]
    try:
        module, _, name = command["target"].partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        function(bench, answers.row, **command["arguments"])
    except Absent as reason:
        answers.say(status="absent", problem=str(reason))
    except Exception as error:
        if isinstance(error, ImportError) and not is_found(bench.work):
            answers.say(status="absent", problem=f"the native engine is not there: {error}")
            return
        text = str(error).strip().splitlines() or [""]
        answers.say(
            status="failed",
            problem=f"{type(error).__name__}: {text[0]}",
            traceback=traceback.format_exc()[-_MOST_TRACEBACK:],
        )
    else:
        answers.say(status="done")


def _listen(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    # Nobody is there any more: neither is this, nor what it started.
    if os.getsid(0) == os.getpid():
        end_session(os.getpid())
    os._exit(1)


def main(argv: list[str]) -> None:
    """Until the input ends."""
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    setup = json.loads(commands.get())
    bench = Bench(Plan.of(setup["plan"]), Path(setup["work"]), Path(setup["out"]))
    if bench.plan.dry:
        # The interpreter computes all lanes with numpy, those that a mask then drops, too: roots
        # of negative numbers and quotients by zero among them are harmless.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton.runtime")
    with os.fdopen(int(argv[0]), "w", encoding="utf-8") as pipe:
        answers = _Answers(pipe)
        while True:
            perform(json.loads(commands.get()), bench, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
