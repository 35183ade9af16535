"""A store being built behind the page, by a process of its own: it has its own memory and a low
priority, and whatever becomes of it, the viewer goes on.

``python -m viewer.store_job SCENE STORE`` tells its progress on the standard output, a JSON
object a line, and ends when nobody listens any more; the next job continues where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from scene_store.build import BuildOptions, Stage, build_store
from splat.errors import BelvedereError

NICENESS = 10
INTERVAL_S = 0.1
CHECKPOINT_S = 8.0  # what is finished then can be shown (``viewer.improving``)
END_TIMEOUT_S = 0.3
# Of the whole work, when a stage begins and how much it is, about.
STAGE_SHARES = {
    Stage.SAMPLE: (0.0, 0.02),
    Stage.READ: (0.02, 0.4),
    Stage.BUILD: (0.42, 0.56),
    Stage.FINISH: (0.98, 0.02),
}


class StoreJob:
    """The process, as the viewer sees it.

    Args:
        scene: What to build from, as ``SceneChoice.source_name`` has it.
        store: Where to.

    Attributes:
        share, what: How far it is.
        done: Set when it has ended, well or not.
        error: Why it failed, one line; "" if it did not.
    """

    def __init__(self, scene: str, store: Path) -> None:
        self.share, self.what, self.error = 0.0, "Making a store for the next time", ""
        self.done = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "viewer.store_job", scene, str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is the viewer's; it ends the job itself
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        threading.Thread(target=self._listen, name="store-job", daemon=True).start()

    def close(self) -> None:
        """End it; the next one continues the work."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _listen(self) -> None:
        ended_well = False
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                self.share = message.get("share", self.share)
                self.what = message.get("what", self.what)
                self.error = message.get("error", "")
                ended_well |= message.get("built", False)
        self._process.wait()
        if not ended_well and not self.error:
            self.error = f"the process that builds it ended with {self._process.returncode}"
        self.done.set()


class _Reporter:
    """A build's progress as lines, not too many."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + INTERVAL_S
        begin, length = STAGE_SHARES[stage]
        share = begin + length * min(1.0, done / max(1, total))
        _tell(share=share, what=f"Making a store for the next time: {stage.value.lower()}")


def _tell(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Builds; returns the exit status."""
    scene, store = words
    os.nice(NICENESS)
    try:
        options = BuildOptions(rebuild_lod=True, replace=True, checkpoint_s=CHECKPOINT_S)
        build_store([scene], store, options, _Reporter())
    except BrokenPipeError:  # the viewer is gone
        return 1
    except BelvedereError as error:
        _tell(error=str(error))
        return 2
    except Exception as error:
        _tell(error=f"unexpected {type(error).__name__}: {error}")
        return 1
    _tell(built=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
