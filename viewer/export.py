"""Pictures without a browser: a scene, a camera, files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from configs.settings import RenderSettings, Settings, StreamSettings
from rendering.base import RasterImage
from rendering.stages import Stage
from viewer.backdrop import before_backdrop
from viewer.camera_choice import CameraChoice, choose_camera
from viewer.downloads import at_hand
from viewer.drawing import prepared
from viewer.export_targets import Targets
from viewer.eyes import EyesChoice, draw_seen, levelled
from viewer.images import Mode
from viewer.opening import open_in_parts, opens_in_parts, unkept_budgets, used_instead
from viewer.scenes import OpenedScene, Progress, SceneChoice, open_scene
from viewer.streams import OpenedStream
from viewer.traces import check_trace, write_trace

DEFAULT_STREAM = StreamSettings()
DEFAULT_EYES = EyesChoice()
WRITING = "writing"  # the lane of who encodes the files

Opened = OpenedScene | OpenedStream


def export(
    choice: SceneChoice,
    camera_choice: CameraChoice,
    targets: Targets,
    render: RenderSettings,
    mode: str = "color",
    progress: Progress = lambda share, what: None,
    stream: StreamSettings = DEFAULT_STREAM,
    on_problem: Callable[[str], None] = lambda line: None,
    on_note: Callable[[str], None] = lambda line: None,
    eyes: EyesChoice = DEFAULT_EYES,
    trace: Path | None = None,
) -> RasterImage:
    """Open a scene, draw one view of it, write the files; the render is returned.

    What fits easily is read whole, and drawn bit by bit as it is in the file. A large scene is
    opened as ``view`` opens it: by its own chunks, or those of the store that ``view`` made of it.
    The picture of chunks is complete: it is drawn when all that is in view has been read, and for
    two eyes with the same chunks. What is damaged is drawn more coarsely, and the picture is
    written.

    Args:
        choice: The scene.
        camera_choice: Where from.
        targets: The files, and how two eyes' pictures go into them.
        render: How.
        mode: What the picture shows.
        progress: Hears how much of a scene is read, when it is drawn and, of a field, how much of
            the picture is there.
        stream: How much memory a store may take.
        on_problem: Hears, a line each, what the picture lacks.
        on_note: Hears, a line each, what else is to be known of it; before the scene is read.
        eyes: Where the two are, and whether they look around.
        trace: A file for what all of this took (``viewer.traces``), written in the end.

    Returns:
        The render; of two eyes, the left one's above the right one's.

    Raises:
        SceneError: If the scene cannot be read.
        BudgetError: If memory does not suffice.
        CameraError, SettingsError: If the camera, or the eyes, make no sense.
        OutputError: If a file cannot be written. What can be known before the scene is read
            is refused before.
    """
    shown = Mode(mode)
    eyes.check(targets.layout, camera_choice)
    targets.check(shown)
    if trace is not None:
        check_trace(trace, targets.paths, choice.path)
    size = eyes.size_of(camera_choice)
    if size is not None:
        targets.check_size(*size)
    with contextlib.ExitStack() as kept:
        opened = _open(choice, Settings(render=render, stream=stream), kept, progress, on_note)
        if isinstance(opened, OpenedStream) and opened.cached is not None:
            on_note(used_instead(choice, opened.cached))
        render = before_backdrop(render, opened)
        camera = choose_camera(eyes.head(camera_choice), opened, render)
        if eyes.panorama is not None:
            camera = levelled(camera, opened.start.up)
        size = size or (camera.width, camera.height)
        targets.check_size(*size)
        each = "" if targets.layout is None else " for each eye"
        drawing = f"Drawing {size[0]}×{size[1]} pixels{each}"
        progress(1.0, drawing)
        # A panorama tells of its slices.
        hear = None if eyes.panorama is not None else lambda share: progress(share, drawing)
        with prepared(
            opened, render, stream, on_problem, traced=trace is not None, on_share=hear
        ) as draw:
            outputs = targets.outputs(shown)
            image = draw_seen(draw, camera, eyes, targets.layout, size[1], outputs, progress)
    began_s = time.monotonic()
    targets.write(image, shown, render.behind)
    if trace is not None and draw.engine is not None:
        draw.engine.recorder.did(WRITING, Stage.ENCODE.value, began_s, time.monotonic())
        write_trace(trace, draw.engine, choice.title)
    return image


def _open(
    choice: SceneChoice,
    settings: Settings,
    kept: contextlib.ExitStack,
    progress: Progress,
    on_note: Callable[[str], None],
) -> Opened:
    """By its chunks if it is large and has them, else whole."""
    choice = at_hand(choice, kept, progress)
    if opens_in_parts(choice, settings):
        opened = open_in_parts(choice, settings, kept)
        if opened is not None:
            return opened
    if note := unkept_budgets(choice, settings):
        on_note(note)
    return open_scene(choice, progress)
