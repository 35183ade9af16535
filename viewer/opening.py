"""How commands come to a picture: the quickest way there is first, the best one in the end.

What is in chunks already, a store or a large streamed SOG, is streamed as it is. A large scene
of which there is a store in the cache is that store. The rest is read whole, but ``view`` shows a
sketch of a large scene while its store is built (``viewer.improving``, ``docs/adr/0008``).
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.settings import RenderSettings, Settings
from rendering.device_memory import DeviceMemory
from rendering.streamed_scene import least_budgets
from scene_store.chunk_sources import can_stream
from scene_store.chunks import NeuralSource, model_of
from scene_store.loading import in_morton_order
from scene_store.manifest import PAGE_GRANULARITY
from scene_store.memory import DRAW_FACTOR, available_bytes, gaussian_bytes
from scene_store.model_rules import first_scale
from scene_store.scene import Scene, SceneMeta
from scene_store.sketch import Sketch, sketch_scene
from scene_store.statistics import likely_up
from splat.errors import SceneError, SceneFormatError
from splat.gaussians import Gaussians
from viewer.backdrop import backdrop_of
from viewer.budgets import (
    KeptBytes,
    beside_kept,
    gpu_takes_whole,
    is_over,
    kept_share,
    needs_of_whole,
    unkept_line,
)
from viewer.downloads import at_hand
from viewer.engines import (
    MOST_PIXELS,
    DeviceChoice,
    Drawers,
    create_engine,
    create_rasterizer,
    open_drawers,
    warn_once,
)
from viewer.scenes import (
    COMPOSITION_SUFFIXES,
    OpenedScene,
    Progress,
    SceneChoice,
    check_exists,
    in_town,
    open_scene,
)
from viewer.shared_budgets import SharedBudgets
from viewer.start_view import choose_start_view
from viewer.store_cache import StoreCache
from viewer.streams import OpenedStream, open_stream, reads_within, stream_budgets, streamed

if TYPE_CHECKING:
    from rendering.engine import RenderEngine
    from rendering.streamed_scene import StreamedScene
    from viewer.client import ShownScene

log = logging.getLogger(__name__)

# A scene that takes more is streamed, however few its Gaussians.
MOST_OF_MEMORY = 0.5
TOWN_SH_DEGREE = 2
# Of a first look; a user's budget for the device may have less for it.
SKETCH_COUNT = 400_000
SKETCH_SHARE = 0.5
SKETCH_S = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Something that can be drawn.

    Attributes:
        shown: What browsers are told of it.
        engine: Draws it; whoever takes this closes it.
        count: Gaussians of the scene, or what ``unit`` says.
        choice: The scene, where it was opened.
        gaussians: The one reference to those in memory, at most one; for coarser forms of them.
        drawers: What draws.
        store: Where the store is to be built of which this is a first look; None if this is all.
        unit: As of ``SceneMeta``.
    """

    shown: ShownScene
    engine: RenderEngine
    count: int
    choice: SceneChoice
    gaussians: list[Gaussians]
    drawers: Drawers
    store: Path | None = None
    unit: str = "Gaussians"

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def open_first(
    choice: SceneChoice, settings: Settings, stack: contextlib.ExitStack, progress: Progress
) -> Ready:
    """The first form in which a scene can be shown.

    Args:
        choice: The scene.
        settings: All of them.
        stack: Keeps files of caches from being removed until it is closed.
        progress: Hears how far it is.

    Raises:
        BelvedereError: If it cannot be shown.
    """
    choice = at_hand(choice, stack, progress)
    if not opens_in_parts(choice, settings):
        return open_whole(choice, settings, progress)
    opened = open_in_parts(choice, settings, stack)
    if opened is not None:
        return _stream(opened, choice, settings)
    return _first_look(choice, settings, store_cache(settings).path_of(choice.source_name))


def open_in_parts(
    choice: SceneChoice, settings: Settings, stack: contextlib.ExitStack
) -> OpenedStream | None:
    """A scene that is not to be read whole (``opens_in_parts``), by its chunks.

    None if it has none: a large file of which nobody has made a store yet. A streamed SOG whose
    textures do not fit into the user's budget is such a file, too.

    Args:
        choice: The scene, at hand.
        settings: All of them.
        stack: Keeps a store of the cache from being removed until it is closed.

    Raises:
        SceneError: If it cannot be opened.
    """
    host_budget = settings.stream.host_budget
    if choice.is_streamed:
        return open_stream(choice, host_budget=host_budget)
    if choice.path is not None and can_stream(choice.path):
        opened = open_stream(choice, host_budget=host_budget)
        # Neural ones have no other form that would take less.
        if isinstance(opened.source, NeuralSource) or reads_within(opened.source, host_budget):
            return opened
        opened.source.close()
    return cached_store(choice, settings, stack)


def opens_in_parts(choice: SceneChoice, settings: Settings) -> bool:
    """Whether a scene is not to be read whole: a look at its description. Of one on a server
    nothing is asked.

    Raises:
        SceneError: If it cannot be read.
    """
    if choice.address is not None or choice.is_streamed:
        return True
    if choice.lod is not None or not settings.stream.store:
        return False
    return _is_large(choice, settings)


def open_whole(choice: SceneChoice, settings: Settings, progress: Progress) -> Ready:
    """All of a scene in memory, whatever the budgets; a warning says if it is more than they are.

    Raises:
        BelvedereError: If it cannot be read, or does not fit.
    """
    if note := unkept_budgets(choice, settings):
        log.warning("%s", note)
    opened = open_scene(choice, progress)
    progress(1.0, "Preparing …")
    return _resident(opened, choice, settings)


def store_cache(settings: Settings) -> StoreCache:
    """The stores that ``view`` keeps, within their budget."""
    return StoreCache(settings.stream.cache_budget)


def cached_store(
    choice: SceneChoice, settings: Settings, stack: contextlib.ExitStack
) -> OpenedStream | None:
    """The scene as a store of the cache, if there is a good one.

    Raises:
        SceneError: If the scene itself cannot be read.
    """
    cache = store_cache(settings)
    path = cache.path_of(choice.source_name)
    if not cache.has(path):
        return None
    scene = _described(choice)  # an error of its own says nothing about the store
    with contextlib.ExitStack() as holding:
        try:
            if not holding.enter_context(cache.using(path)):
                return None
            opened = open_stream(replace(choice, path=path, lod=None), scene)
        except SceneFormatError as error:
            log.info("%s: is built again: %s", path, error)
        except (SceneError, OSError) as error:  # it may be good: another time, perhaps
            log.debug("%s: %s", path, error)
            return None
        else:
            stack.enter_context(holding.pop_all())
            return replace(opened, title=choice.title, cached=path)
    cache.remove(path)
    return None


def used_instead(choice: SceneChoice, cached: Path) -> str:
    """What a user should know who named a file, and gets the store that was made of it."""
    return (
        f"{choice.shown}: taken from the store that view made of it, {cached}; --no-store reads "
        f"the scene itself"
    )


def unkept_budgets(choice: SceneChoice, settings: Settings) -> str:
    """One line if reading a scene whole will not keep the budgets that the user gave, else "".

    Raises:
        SceneError: If it cannot be read.
    """
    stream = settings.stream
    if stream.host_budget is None and stream.device_budget is None:
        return ""
    count, degree = _size(choice)
    if not _is_over_budget(count, degree, settings):
        return ""
    return unkept_line(choice.shown, stream.host_budget, stream.device_budget, count, degree)


def _described(choice: SceneChoice) -> SceneMeta | None:
    """What a file says of itself, and the cameras beside it; None of anything else."""
    if choice.path is None or choice.path.suffix.lower() in COMPOSITION_SUFFIXES:
        return None
    from scene_store.formats import open_scene as open_source

    with open_source(choice.path) as source:
        return source.meta


def _is_large(choice: SceneChoice, settings: Settings) -> bool:
    """Whether reading all of it would take too long, or too much of the memory there is, or more
    than the user allows."""
    count, degree = _size(choice)
    needed = count * gaussian_bytes(degree) * DRAW_FACTOR
    available = available_bytes()
    scarce = available is not None and needed > MOST_OF_MEMORY * available
    over = _is_over_budget(count, degree, settings) or _is_over_gpus(count, degree, settings)
    return count >= settings.stream.store_from or scarce or over


def _size(choice: SceneChoice) -> tuple[int, int]:
    """Gaussians of a scene, and the degree of their harmonics; a look at its description."""
    check_exists(choice)
    if choice.path is None:
        return choice.gaussians, TOWN_SH_DEGREE
    from scene_store.formats import open_scene as open_source

    with open_source(choice.path, lod=choice.lod) as source:
        return source.meta.count, source.meta.sh_degree


def _is_over_budget(count: int, degree: int, settings: Settings) -> bool:
    host, device = settings.stream.host_budget, settings.stream.device_budget
    if host is None and device is None:
        return False
    return is_over(host, device, needs_of_whole(count, degree, _drawable_bytes(degree)))


def _drawable_bytes(degree: int) -> float:
    """Of a Gaussian that can be drawn: about as many on a GPU as with the processor's engine."""
    pool = create_rasterizer("native").new_pool(PAGE_GRANULARITY, degree)
    return pool.page_bytes / PAGE_GRANULARITY


def _is_over_gpus(count: int, degree: int, settings: Settings) -> bool:
    """Whether one of the GPUs that draw could not hold all of a scene, were it free."""
    sizes = DeviceChoice.of(settings.render).gpu_bytes
    return bool(sizes) and not gpu_takes_whole(
        DeviceMemory(min(sizes), min(sizes)), count, _drawable_bytes(degree), MOST_PIXELS
    )


def _sketch_count(choice: SceneChoice, device_budget: int | None) -> int:
    if device_budget is None:
        return SKETCH_COUNT
    _, degree = _size(choice)
    return max(1, min(SKETCH_COUNT, int(SKETCH_SHARE * device_budget) // gaussian_bytes(degree)))


def _first_look(choice: SceneChoice, settings: Settings, store: Path) -> Ready:
    most = _sketch_count(choice, settings.stream.device_budget)
    sketch = sketch_scene(choice.source_name, most, SKETCH_S, lod=choice.lod)
    if len(sketch.gaussians) == 0:
        raise SceneError(f"{choice.shown}: holds nothing that can be drawn")
    gaussians = in_morton_order(sketch.gaussians)
    start = choose_start_view(
        gaussians,
        up=choice.up if choice.up is not None else likely_up(sketch.meta, gaussians),
        cameras=sketch.meta.cameras,
        fov_y_rad=math.radians(choice.fov_deg),
    )
    start = in_town(start) if choice.is_town else start
    opened = OpenedScene(choice.title, Scene(sketch.meta, gaussians), start)
    ready = _resident(opened, choice, settings)
    shown = replace(ready.shown, facts=sketch_facts(sketch, "a first look"))
    return replace(ready, shown=shown, gaussians=[], store=store)


def sketch_facts(sketch: Sketch, what: str) -> str:
    """A line about what is shown for the time being."""
    count = len(sketch.gaussians)
    return f"{sketch.meta.format_name} · {what}: {count:,} of {sketch.total:,} Gaussians"


def _resident(opened: OpenedScene, choice: SceneChoice, settings: Settings) -> Ready:
    gaussians, render = opened.scene.gaussians, settings.render
    drawers = drawers_of_whole(opened, render)
    engine = create_engine(render, drawers, gaussians, target_fps=settings.viewer.target_fps)
    return Ready(shown_whole(opened), engine, len(gaussians), choice, [gaussians], drawers)


def drawers_of_whole(opened: OpenedScene, render: RenderSettings) -> Drawers:
    """What draws a scene that is in memory as a whole: the processor, if a GPU has no room."""
    drawers, gaussians = open_drawers(render, ahead=True), opened.scene.gaussians
    if drawers.take_whole(len(gaussians), gaussians.sh_degree):
        return drawers
    warn_once(
        f"warning: {opened.title}: {drawers.choice.title} has no room for all of its "
        f"{len(gaussians):,} Gaussians; the processor draws instead; of a store, which belvedere "
        "build makes, a GPU draws what fits"
    )
    return open_drawers(render, only_processor=True)


def _stream(opened: OpenedStream, choice: SceneChoice, settings: Settings) -> Ready:
    stream, render = settings.stream, settings.render
    try:
        drawers = open_drawers(render, streamed=True, ahead=True, model=model_of(opened.source))
        memories = drawers.choice.host_memories
        room = drawers.gpu_room(opened.source.sh_degree, stream.max_gaussians)
        budgets = stream_budgets(opened, stream, memories, room)
        least = least_budgets(opened.source, drawers.by_memory)
        most = KeptBytes(
            render.picture_cache if memories else 0,
            0 if drawers.decoded is None else render.decoded_cache,
        )
        kept = kept_share(budgets, most, least)
    except BaseException:
        opened.source.close()
        raise
    chunks, reach = beside_kept(budgets, kept), drawers.gpu_reach()
    scene = streamed(opened, drawers.by_memory, stream, chunks, reach)
    engine = create_engine(render, drawers, scene, target_fps=settings.viewer.target_fps)
    shares = SharedBudgets(
        budgets,
        scene,
        engine if memories else None,
        drawers.decoded,
        most,
        memories=memories,
        gpu_bytes=room,
    )
    drawers.rasterizers.on_replaced(lambda _: shares.move_to_host(available_bytes()))
    return Ready(
        shown_stream(opened, scene, shares),
        engine,
        opened.meta.count,
        choice,
        [],
        drawers,
        unit=opened.meta.unit,
    )


def shown_whole(opened: OpenedScene) -> ShownScene:
    """What browsers are told of a scene in memory."""
    from viewer.client import ShownScene

    return ShownScene(
        title=opened.title,
        facts=opened.facts,
        start=opened.start,
        sh_degree=opened.scene.gaussians.sh_degree,
        cameras=opened.meta.training_cameras,
    )


def shown_stream(
    opened: OpenedStream, scene: StreamedScene, shares: SharedBudgets | None = None
) -> ShownScene:
    """What browsers are told of a streamed scene.

    Args:
        opened: What it is made of.
        scene: What is drawn.
        shares: The budgets, if there is or will be something beside it.
    """
    from viewer.client import ShownScene

    shares = SharedBudgets(scene.budgets, scene) if shares is None else shares
    budgets = shares.budgets
    available = available_bytes() or 0
    return ShownScene(
        title=opened.title,
        facts=opened.facts,
        start=opened.start,
        sh_degree=opened.source.sh_degree,
        cameras=opened.meta.training_cameras,
        stream=scene,
        shares=shares,
        most_memory=max(available // 2, budgets.host_bytes, budgets.device_bytes),
        first_scale=first_scale(model_of(opened.source)),
        background=backdrop_of(model_of(opened.source)),
    )
