"""The rasterizer, the devices and the engine that the settings name, imported when wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from configs.settings import RenderSettings, ViewerSettings
from rendering.base import PagingRasterizer
from splat.errors import SettingsError
from splat.gaussians import Gaussians

if TYPE_CHECKING:
    from rendering.device import Device
    from rendering.drawable import DrawableScene
    from rendering.engine import RenderEngine
    from rendering.schedule import Schedule

DEFAULT_FPS = ViewerSettings().target_fps
# Beside the budgets of a streamed scene, which it is to stay small against.
STREAM_RECORD_BUDGET_BYTES = 160 << 20


def create_rasterizer(
    engine: Literal["native", "reference"], *, streamed: bool = False, sharers: int = 1
) -> PagingRasterizer:
    """The engine of ``RenderSettings.engine``; with less memory a frame for a streamed scene.

    Args:
        sharers: Among how many that memory is divided.

    Raises:
        BackendUnavailable: If this machine or installation lacks what it needs.
    """
    if engine == "reference":
        from rendering.reference import ReferenceRasterizer

        return ReferenceRasterizer()
    from rendering.native.cpu import DEFAULT_RECORD_BUDGET_BYTES, NativeRasterizer

    most = STREAM_RECORD_BUDGET_BYTES if streamed else DEFAULT_RECORD_BUDGET_BYTES
    return NativeRasterizer(record_budget_bytes=most // sharers)


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """What draws, and how frames are divided."""

    devices: tuple[Device, ...]
    schedule: Schedule

    @property
    def memories(self) -> tuple[str, ...]:
        """That the devices draw from."""
        return tuple(dict.fromkeys(device.memory for device in self.devices))

    def drawn_by(self, rasterizer: PagingRasterizer) -> dict[str, PagingRasterizer]:
        """What a streamed scene is made for, by memory."""
        return dict.fromkeys(self.memories, rasterizer)

    @classmethod
    def of(cls, render: RenderSettings) -> DeviceChoice:
        """What the settings name.

        Raises:
            SettingsError: If there are no such devices, or they cannot draw such a schedule.
            BackendUnavailable: If a device is of a kind that cannot be used here.
        """
        from configs.schedules import SHIPPED, shipped_texts
        from rendering.device import parse_devices
        from rendering.device_roster import DeviceRoster
        from rendering.schedule_file import parse_schedule, read_schedule

        own = render.memories == "own"
        devices, name = parse_devices(render.devices, own_memories=own), render.schedule
        if name in SHIPPED:
            schedule = parse_schedule(shipped_texts()[name], name)
        elif "." in name or "/" in name:
            schedule = read_schedule(name)
        else:
            raise SettingsError(
                f"schedule: there is none called '{name}'; shipped are {', '.join(SHIPPED)}; "
                "one of your own is the path of its file, such as mine.yaml"
            )
        DeviceRoster(devices, schedule)  # refuses what cannot be drawn
        return cls(devices, schedule)


def create_engine(
    render: RenderSettings,
    rasterizer: PagingRasterizer,
    scene: Gaussians | DrawableScene,
    *,
    streamed: bool = False,
    target_fps: float = DEFAULT_FPS,
) -> RenderEngine:
    """An engine on the devices of the settings; raises as ``DeviceChoice.of``.

    Args:
        streamed: As of ``create_rasterizer``.
        target_fps: What as few devices as possible are to hold, if the settings say so.
    """
    from rendering.elastic import ElasticPolicy
    from rendering.engine import RenderEngine

    choice = DeviceChoice.of(render)
    count = len(choice.devices)

    def another(device: Device) -> PagingRasterizer:
        return create_rasterizer(render.engine, streamed=streamed, sharers=count)

    return RenderEngine(
        rasterizer,
        scene,
        picture_bytes=render.picture_cache,
        devices=choice.devices,
        schedule=choice.schedule,
        new_rasterizer=another,
        elastic=ElasticPolicy(target_fps, most=count) if render.elastic else None,
    )
