"""The engines, the devices and the schedule that the settings name, imported when wanted."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from configs.settings import EngineName, RenderSettings, ViewerSettings
from rendering.base import PagingRasterizer
from rendering.device import Device, cpu_devices, gpu_device, names_gpus, parse_devices
from rendering.device_memory import device_budget_bytes
from rendering.gpu_discovery import Gpu
from rendering.gpu_support import GPU_ENGINES, GpuSupport, find_support
from scene_store.manifest import PAGE_GRANULARITY
from splat.errors import BackendUnavailable, BelvedereError, SettingsError, one_line
from splat.gaussians import Gaussians
from viewer.budgets import gpu_budget_bytes, gpu_takes_whole

if TYPE_CHECKING:
    from rendering.device_memory import DeviceMemory
    from rendering.device_rasterizers import DeviceRasterizers
    from rendering.drawable import DrawableScene
    from rendering.engine import RenderEngine
    from rendering.models.decoded_room import DecodedRoom
    from rendering.models.renderers import ModelWishes
    from rendering.schedule import Schedule
    from scene_store.chunks import Model

log = logging.getLogger(__name__)

DEFAULT_FPS = ViewerSettings().target_fps
# Beside the budgets of a streamed scene, which it is to stay small against.
STREAM_RECORD_BUDGET_BYTES = 160 << 20
GPU_BY_DEFAULT: EngineName = "fused"
MOST_PIXELS = 2 * 3840 * 2160  # of a picture that a GPU leaves memory for: two eyes


def create_rasterizer(
    engine: EngineName,
    device: str = "",
    *,
    streamed: bool = False,
    sharers: int = 1,
    ahead: bool = False,
) -> PagingRasterizer:
    """An engine by its name; ``auto`` is the processor's.

    Args:
        engine: Which.
        device: The GPU that it draws on, if it is one that does.
        streamed: Have it take less memory for a frame, as it draws a streamed scene.
        sharers: Among how many that memory is divided.
        ahead: Have kernels compiled before they are needed, as pictures will be of all kinds.

    Raises:
        BackendUnavailable: If this machine or installation lacks what it needs.
    """
    if engine in GPU_ENGINES:
        return _gpu_rasterizer(engine, device, ahead)
    if engine == "reference":
        from rendering.reference import ReferenceRasterizer

        return ReferenceRasterizer()
    from rendering.native.cpu import DEFAULT_RECORD_BUDGET_BYTES, NativeRasterizer

    most = STREAM_RECORD_BUDGET_BYTES if streamed else DEFAULT_RECORD_BUDGET_BYTES
    return NativeRasterizer(record_budget_bytes=most // sharers)


def _gpu_rasterizer(engine: str, device: str, ahead: bool) -> PagingRasterizer:
    try:
        if engine == "gsplat":
            from rendering.gsplat_cuda import GsplatRasterizer

            gsplat = GsplatRasterizer(device)
            gsplat.compile()  # takes minutes at the first use: no picture is to wait for it
            return gsplat
        from rendering.fused_cuda import FusedRasterizer

        return FusedRasterizer(device, ahead=ahead)
    except (ImportError, OSError) as error:  # of torch, too, whose libraries may be missing
        raise BackendUnavailable(
            one_line(
                f"the engine {engine} cannot be loaded: {error}; reinstall torch, or use "
                "--engine native"
            )
        ) from error


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """What draws, and how frames are divided.

    Attributes:
        devices: What there is to draw with.
        schedule: How frames are divided among them.
        engine: What GPUs draw with; of the processor, ``native`` unless it is ``reference``.
        found: What the driver says of the devices that are GPUs.
        is_wish: Whether somebody asked for these devices, so that no others will do.
    """

    devices: tuple[Device, ...]
    schedule: Schedule
    engine: EngineName = "native"
    found: tuple[Gpu, ...] = ()
    is_wish: bool = False

    @property
    def memories(self) -> tuple[str, ...]:
        """That the devices draw from."""
        return tuple(dict.fromkeys(device.memory for device in self.devices))

    @property
    def gpus(self) -> tuple[Device, ...]:
        """Those of the devices that are GPUs."""
        return tuple(device for device in self.devices if device.is_gpu)

    @property
    def host_memories(self) -> int:
        """How many of the memories are in the host's."""
        return len(self.memories) - len(self.gpus)

    def engine_of(self, device: Device) -> EngineName:
        """What a device draws with."""
        if device.is_gpu:
            return self.engine
        return "reference" if self.engine == "reference" else "native"

    @property
    def title(self) -> str:
        """The GPUs and their engine, and what draws beside them, for people; "" without GPUs."""
        gpus = ", ".join(f"{gpu.name} ({gpu.device}, engine {self.engine})" for gpu in self.found)
        return f"{gpus} and the processor" if gpus and self.host_memories else gpus

    @property
    def gpu_bytes(self) -> tuple[int, ...]:
        """All of the memory of each GPU, whoever uses it."""
        return tuple(gpu.memory_bytes for gpu in self.found)

    @classmethod
    def of(cls, render: RenderSettings) -> DeviceChoice:
        """What the settings name. Of GPUs their driver is asked; torch is not loaded.

        Raises:
            SettingsError: If there are no such devices, or they cannot draw such a schedule.
            BackendUnavailable: If a device or an engine was asked for that cannot be used here.
        """
        devices = _devices(render)
        choice = cls(
            devices, _schedule(render, devices), _engine(render, devices), is_wish=_is_wish(render)
        )
        if choice.gpus:
            known = {gpu.device: gpu for gpu in find_support(choice.engine).gpus}
            choice = replace(choice, found=tuple(known[device.name] for device in choice.gpus))
        return choice._checked()

    def each_gpu(self) -> Iterator[DeviceChoice]:
        """The same on one GPU alone, for each of them."""
        for device, gpu in zip(self.gpus, self.found, strict=True):
            yield replace(self, devices=(device,), found=(gpu,))

    def on_processor(self) -> DeviceChoice:
        """The same without GPUs: the processors that there are, or one.

        Raises:
            SettingsError: If the schedule cannot be drawn so.
        """
        left = tuple(device for device in self.devices if not device.is_gpu) or cpu_devices()
        return DeviceChoice(left, self.schedule)._checked()

    def _checked(self) -> DeviceChoice:
        from rendering.device_roster import DeviceRoster

        DeviceRoster(self.devices, self.schedule)  # refuses what cannot be drawn
        return self


def _is_wish(render: RenderSettings) -> bool:
    return render.engine in GPU_ENGINES or names_gpus(render.devices)


def _engine(render: RenderSettings, devices: tuple[Device, ...]) -> EngineName:
    if render.engine != "auto":
        return render.engine
    return GPU_BY_DEFAULT if any(device.is_gpu for device in devices) else "native"


def _devices(render: RenderSettings) -> tuple[Device, ...]:
    """Those of the settings; where these leave it open, the GPUs that can be used and are like the
    first of them: each memory gets the smallest one's budget, and each picture waits for all."""
    own, wish = render.memories == "own", render.engine in GPU_ENGINES
    has_gpus = wish or render.engine == "auto"
    gpu_engine = render.engine if wish else GPU_BY_DEFAULT
    if render.devices.strip().lower() == "auto" and has_gpus:
        support = find_support(gpu_engine)
        if support.gpus:
            first = support.gpus[0]
            alike = (gpu for gpu in support.gpus if gpu.name == first.name)
            return tuple(gpu_device(gpu.index, gpu.name) for gpu in alike)
        if wish:
            raise support.error
        _tell(support)
        return cpu_devices()
    if names_gpus(render.devices) and not has_gpus:
        raise SettingsError(
            f"devices: {render.devices}: the engine {render.engine} draws on processors; leave "
            f"--devices out, or, where there is a GPU, use --engine {GPU_BY_DEFAULT}"
        )
    devices = parse_devices(
        render.devices,
        own_memories=own,
        find_gpus=functools.partial(find_support, gpu_engine) if has_gpus else None,
    )
    if wish and not any(device.is_gpu for device in devices):
        raise SettingsError(
            f"devices: {render.devices}: the engine {render.engine} draws on GPUs; leave --devices "
            "out, or use --devices cuda"
        )
    return devices


def _tell(support: GpuSupport) -> None:
    """Why the processor draws: a warning to who has a GPU."""
    if support.is_surprising:
        warn_once(f"warning: {support.problem}; the processor draws instead")
    else:
        tell_once(logging.INFO, f"the processor draws: {support.problem}")


def warn_once(line: str) -> None:
    """A warning that is not repeated, however often its cause is met."""
    tell_once(logging.WARNING, line)


@functools.cache
def tell_once(level: int, line: str) -> None:
    """A line of the log that is not repeated."""
    log.log(level, "%s", line)


def drawn_by(render: RenderSettings) -> str:
    """A line on what would draw by these settings."""
    try:
        choice = DeviceChoice.of(render)
    except BelvedereError as error:
        return f"Cannot be drawn as the settings have it: {error}"
    if choice.gpus:
        return f"Drawn by {choice.title}"
    why = find_support(GPU_BY_DEFAULT).problem if render.engine == "auto" else ""
    asked = names_gpus(render.devices) or render.devices.strip().lower() != "auto"
    return f"Drawn by the processor{'' if asked or not why else f': {why}'}"


def _schedule(render: RenderSettings, devices: Sequence[Device]) -> Schedule:
    from configs.schedules import SHIPPED, shipped_texts
    from rendering.schedule_file import parse_schedule, read_schedule

    name = render.schedule
    if name == "auto":
        name = "single" if len(devices) == 1 else "alternate-frame"
    if name in SHIPPED:
        return parse_schedule(shipped_texts()[name], name)
    if "." in name or "/" in name:
        return read_schedule(name)
    raise SettingsError(
        f"schedule: there is none called '{name}'; shipped are {', '.join(SHIPPED)}; "
        "one of your own is the path of its file, such as mine.yaml"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Drawers:
    """The devices that draw, and what each draws with.

    Attributes:
        choice: The devices.
        rasterizers: Theirs, at first and whenever one starts anew.
        decoded: What they may keep of decoded anchors; None if they draw none.
    """

    choice: DeviceChoice
    rasterizers: DeviceRasterizers
    decoded: DecodedRoom | None = None

    @property
    def first(self) -> PagingRasterizer:
        """What the first device begins with."""
        return self.rasterizers.first

    def gpu_room(self, sh_degree: int, most_gaussians: int) -> int | None:
        """What the smallest GPU can give for a streamed scene, bytes; None without GPUs.

        Args:
            sh_degree: Of the scene.
            most_gaussians: That a frame draws at most.
        """
        copies = self._copies
        rooms = (
            gpu_budget_bytes(memory, copies * each, most_gaussians, MOST_PIXELS) // copies
            for memory, each in self._gpus(sh_degree)
        )
        return min(rooms, default=None)

    def gpu_reach(self) -> int | None:
        """What chunks and frames may take together of the smallest GPU, bytes; None without."""
        reaches = (device_budget_bytes(memory, 0) for memory, _ in self._gpus(0))
        return min(reaches, default=None)

    def take_whole(self, count: int, sh_degree: int) -> bool:
        """Whether every GPU has room for all of a scene."""
        return all(
            gpu_takes_whole(memory, count, self._copies * each, MOST_PIXELS)
            for memory, each in self._gpus(sh_degree)
        )

    @property
    def _copies(self) -> int:
        """Of what is drawn: gsplat draws from one piece of memory, into which pages are copied."""
        return 2 if self.choice.engine == "gsplat" else 1

    def _gpus(self, sh_degree: int) -> Iterator[tuple[DeviceMemory, float]]:
        """Their memory now, and what a Gaussian takes of it."""
        for device in self.choice.gpus:
            from rendering.memory_cuda import device_memory

            pool = self.by_memory[device.memory].new_pool(PAGE_GRANULARITY, sh_degree)
            yield device_memory(device.name), pool.page_bytes / PAGE_GRANULARITY

    @property
    def by_memory(self) -> Mapping[str, PagingRasterizer]:
        """What streamed scenes are made for."""
        return self.rasterizers.by_memory


def open_drawers(
    render: RenderSettings,
    *,
    streamed: bool = False,
    ahead: bool = False,
    only_processor: bool = False,
    model: Model | None = None,
) -> Drawers:
    """What draws by the settings. GPUs draw a small picture, before they are trusted with more;
    one that nobody asked for and that cannot do so is told once, and the processor draws.

    Args:
        render: The settings.
        streamed, ahead: As of ``create_rasterizer``.
        only_processor: Leave GPUs out, whatever the settings say.
        model: Of a neural scene that they are to draw.

    Raises:
        SettingsError, BackendUnavailable: As ``DeviceChoice.of``.
    """
    drawn = _Drawn.by(render, streamed, ahead, model)
    choice = DeviceChoice.of(render)
    if only_processor and choice.gpus:
        choice = choice.on_processor()
    try:
        drawers = drawn.drawers(choice)
    except BackendUnavailable as error:
        if not choice.gpus:
            raise
        problem = f"{choice.title} cannot draw: {error}"
        if choice.is_wish:
            raise BackendUnavailable(
                one_line(f"{problem}; --engine native draws on the processor")
            ) from error
        return _with_less(choice, problem, drawn)
    if choice.gpus:
        tell_once(logging.INFO, f"drawn by {choice.title}")
    return drawers


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A kind of scene as it is to be drawn, whatever draws.

    Attributes:
        streamed, ahead, model: As of ``open_drawers``.
        wishes: For a model's renderers.
        room: For decoded anchors; None if there are none.
    """

    streamed: bool
    ahead: bool
    model: Model | None
    wishes: ModelWishes
    room: DecodedRoom | None

    @classmethod
    def by(cls, render: RenderSettings, streamed: bool, ahead: bool, model: Model | None) -> _Drawn:
        """As the settings have it."""
        from render_cache.derived_rule import DerivedLimits
        from rendering.models.anchor_reuse import ReuseChoices
        from rendering.models.decoded_room import DecodedRoom
        from rendering.models.renderers import ModelWishes, anchor_parts

        limits = DerivedLimits(
            depth=render.decoded_depth,
            angle_rad=math.radians(render.decoded_angle_deg),
            budget_bytes=render.decoded_cache,
        )
        room = DecodedRoom() if anchor_parts(model) else None
        wishes = ModelWishes(limits, render.appearance, ReuseChoices())
        return cls(streamed, ahead, model, wishes, room)

    def drawers(self, choice: DeviceChoice) -> Drawers:
        """What draws it.

        Raises:
            BackendUnavailable: If a device cannot.
        """
        return Drawers(choice, self._rasterizers(choice), self.room)

    def _rasterizers(self, choice: DeviceChoice) -> DeviceRasterizers:
        from rendering.device_rasterizers import DeviceRasterizers
        from rendering.gpu_trial import prove
        from rendering.models.renderers import renderer_of

        def drawn(device: Device, engine: PagingRasterizer) -> PagingRasterizer:
            room = None if self.room is None else self.room.of(device.memory)
            return renderer_of(self.model, engine, replace(self.wishes, room=room))

        sharers = max(1, len(choice.devices) - len(choice.gpus))

        def make(device: Device) -> PagingRasterizer:
            engine = choice.engine_of(device)
            if not device.is_gpu:
                return drawn(
                    device, create_rasterizer(engine, streamed=self.streamed, sharers=sharers)
                )
            rasterizer = create_rasterizer(engine, device.name, ahead=self.ahead)
            prove(rasterizer)
            return drawn(device, rasterizer)

        def stand_in(device: Device) -> PagingRasterizer:
            return drawn(device, create_rasterizer("native", streamed=self.streamed))

        return DeviceRasterizers(choice.devices, make, stand_in)


def _with_less(choice: DeviceChoice, problem: str, drawn: _Drawn) -> Drawers:
    """What draws where not all GPUs do that nobody asked for: one that does, or the processor."""
    for alone in choice.each_gpu() if len(choice.gpus) > 1 else ():
        with contextlib.suppress(BackendUnavailable):
            drawers = drawn.drawers(alone)
            warn_once(f"warning: {problem}; {alone.title} draws alone")
            return drawers
    warn_once(f"warning: {problem}; the processor draws instead")
    return drawn.drawers(choice.on_processor())


def create_engine(
    render: RenderSettings,
    drawers: Drawers,
    scene: Gaussians | DrawableScene,
    *,
    target_fps: float = DEFAULT_FPS,
) -> RenderEngine:
    """An engine on the devices that draw.

    Args:
        render: The settings.
        drawers: The devices.
        scene: What they draw; of their ``by_memory``, if it is streamed.
        target_fps: What as few devices as possible are to hold, if the settings say so.

    Raises:
        BudgetError: If a scene does not fit a memory.
    """
    from rendering.elastic import ElasticPolicy
    from rendering.engine import RenderEngine

    devices = drawers.choice.devices
    elastic = ElasticPolicy(target_fps, most=len(devices)) if render.elastic else None
    return RenderEngine(
        drawers.first,
        scene,
        picture_bytes=render.picture_cache,
        devices=devices,
        schedule=drawers.choice.schedule,
        new_rasterizer=drawers.rasterizers,
        elastic=elastic,
    )
