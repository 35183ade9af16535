"""Options that several commands have, and the settings that they stand for.

The docstrings below are help texts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from configs.settings import EngineName, RemoteSettings, RenderSettings, ViewerSettings
from splat.errors import SettingsError
from viewer.option_types import (
    NO_HINT,
    Bytes,
    Color,
    Count,
    Degrees,
    File,
    Flag,
    MemoriesName,
    Number,
    Switch,
    Text,
    Vector,
    Whole,
    choice,
    hint,
)
from viewer.ranges import LOD, require_in_range

if TYPE_CHECKING:
    from configs.settings import Settings
    from viewer.scenes import SceneChoice

log = logging.getLogger(__name__)

TOWN_GAUSSIANS = 2_000_000
RENDER, VIEWER, REMOTE = RenderSettings(), ViewerSettings(), RemoteSettings()


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """Where settings come from, and what is logged."""

    config: Annotated[File, NO_HINT] = None
    """Settings file (YAML): what differs from configs/default.yaml. Options win over it."""
    debug: Flag = False
    """Log more, and show where an error came from."""


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What is read."""

    scene: Annotated[Positional[str | None], arg(metavar="[SCENE]", help_behavior_hint="")] = None
    """File, folder or address of any format that belvedere --help lists, or town:N; without it,
    the built-in town."""
    gaussians: Annotated[Count, hint("2M")] = None
    """Size of the town, such as 500k, 2M or 2e6; files keep their own."""
    lod: Annotated[Whole, hint("the finest")] = None
    """Level of detail to read from formats that have several, 0 the finest."""
    up: Annotated[Vector, hint("found out")] = None
    """The direction that is up, in the scene's axes, such as 0 -1 0."""
    no_store: Flag = False
    """Read a large file whole: neither use nor make a store of it in the cache."""

    trust: Flag = False
    """Let code in the files of a neural scene run, where their numbers alone cannot be read."""

    @property
    def settings(self) -> dict[str, tuple[str, bool | None]]:
        """By option, the setting and its value."""
        return {"--no-store": ("stream.store", False if self.no_store else None)}

    def choice(self, settings: Settings) -> SceneChoice:
        """The scene as the commands know it.

        Args:
            settings: Those of its server, and the field of view.

        Raises:
            SettingsError: If an option makes no sense.
        """
        from viewer.downloads import remote_options
        from viewer.scenes import SceneChoice

        require_in_range("--lod", self.lod, LOD)
        if self.up is not None and not any(self.up):
            raise SettingsError("--up: 0 0 0 is no direction")
        gaussians = self.gaussians or TOWN_GAUSSIANS
        fov_deg = settings.viewer.fov_deg
        choice = SceneChoice.of(self.scene, gaussians, self.lod, self.up, fov_deg)
        choice = replace(choice, remote=remote_options(settings.remote), trust=self.trust)
        if self.gaussians is not None and not (choice.is_town and self.scene in (None, "town")):
            log.warning("warning: --gaussians is for the town; %s keeps its own", choice.shown)
        return choice


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """Where the picture is taken from; what is not given, a view chosen from the scene fills in."""

    position: Annotated[Vector, hint("chosen from the scene")] = None
    """Where the camera stands, world coordinates."""
    look_at: Annotated[Vector, hint("chosen from the scene")] = None
    """The point the camera looks at, world coordinates."""
    fov: Annotated[Degrees, hint(f"{VIEWER.fov_deg:g}")] = None
    """Vertical field of view, 1 to 170 degrees."""
    near: Annotated[Number, hint(f"{RENDER.near_ratio:g} of the scene's radius")] = None
    """Nothing nearer than this is drawn, world units."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Scenes on servers."""

    cache_folder: Annotated[File, arg(metavar="DIR"), hint("in the user's cache folder")] = None
    """Where on disk is kept what was read from servers."""
    cache_budget: Annotated[Bytes, hint("10GiB, or a tenth of the free disk")] = None
    """What may be kept there, such as 50GiB; files downloaded as a whole may take as much."""
    no_cache: Flag = False
    """Keep nothing of a scene that is read in parts."""
    connect_timeout: Annotated[Number, arg(metavar="SECONDS"), hint(f"{REMOTE.connect_s:g}")] = None
    """Patience for a connection."""
    stall_timeout: Annotated[Number, arg(metavar="SECONDS"), hint(f"{REMOTE.stall_s:g}")] = None
    """Patience without a single byte."""

    @property
    def settings(self) -> dict[str, tuple[str, Any]]:
        """By option, the setting and its value."""
        folder = None if self.cache_folder is None else str(self.cache_folder)
        return {
            "--cache-folder": ("remote.cache_folder", folder),
            "--cache-budget": ("remote.cache_budget", self.cache_budget),
            "--no-cache": ("remote.cache", False if self.no_cache else None),
            "--connect-timeout": ("remote.connect_s", self.connect_timeout),
            "--stall-timeout": ("remote.stall_s", self.stall_timeout),
        }


@dataclass(frozen=True, slots=True)
class DrawingOptions:
    """How the Gaussians are drawn."""

    background: Annotated[Color, hint("0 0 0, black; of fields their own")] = None
    """Colour behind everything, red green blue, each 0 to 1."""
    antialiased: Annotated[Switch, hint("no")] = None
    """Compensate opacities for the screen-space dilation, for Mip-Splatting scenes."""
    sh_degree: Annotated[Whole, hint("all there is")] = None
    """View-dependent colour up to this degree of spherical harmonics, 0 to 3."""
    threads: Annotated[Whole, hint(f"{RENDER.threads}, one a core")] = None
    """CPU threads a picture may use."""
    engine: Annotated[
        EngineName | None,
        choice(EngineName),
        hint("auto: fused where a GPU can be used, else native"),
    ] = None
    """What draws: native on the processor, fused or gsplat on a GPU; the reference is exact and
    very slow, for comparisons."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What draws the pictures (docs/schedules.md)."""

    devices: Annotated[Text, hint("auto: GPUs that can be used, else all cores")] = None
    """cpu, a number of devices that divide the cores, cuda for all GPUs, cuda:0 for one, or a list
    such as cuda:0,cpu."""
    memories: Annotated[MemoriesName | None, choice(MemoriesName), hint(RENDER.memories)] = None
    """Whether several devices draw from one memory, or each has its own, as GPUs do."""
    schedule: Annotated[Text, hint("alternate-frame, if there are several")] = None
    """How frames are divided among them: single, eye-parallel, alternate-frame, tile-split,
    shard, pipelined, or a schedule file."""
    elastic: Flag = False
    """Use only as many of the devices as full pictures need at the frame rate to be held."""
    trace: Annotated[File, NO_HINT] = None
    """Write in the end what was done for the last pictures, where and when: Chrome trace events,
    which Perfetto opens."""

    @property
    def settings(self) -> dict[str, tuple[str, str | bool | None]]:
        """By option, the setting and its value."""
        return {
            "--devices": ("render.devices", self.devices),
            "--memories": ("render.memories", self.memories),
            "--schedule": ("render.schedule", self.schedule),
            "--elastic": ("render.elastic", True if self.elastic else None),
        }


@dataclass(frozen=True, slots=True)
class ExportDeviceOptions:
    """What draws the pictures (docs/schedules.md)."""

    devices: Annotated[Text, hint("auto: GPUs that can be used, else all cores")] = None
    """cpu, a number of devices that divide the cores, cuda for all GPUs, cuda:0 for one, or a list
    such as cuda:0,cpu."""
    memories: Annotated[MemoriesName | None, choice(MemoriesName), hint(RENDER.memories)] = None
    """Whether several devices draw from one memory, or each has its own, as GPUs do."""
    schedule: Annotated[Text, hint("tile-split; alternate-frame for --panorama ods")] = None
    """How pictures are divided among them: single, eye-parallel, alternate-frame, tile-split,
    shard, pipelined, or a schedule file. All but shard give the bytes of one device."""
    trace: Annotated[File, NO_HINT] = None
    """Write what was done for the picture, where and when: Chrome trace events, which Perfetto
    opens."""

    @property
    def settings(self) -> dict[str, tuple[str, str | None]]:
        """By option, the setting and its value."""
        return {
            "--devices": ("render.devices", self.devices),
            "--memories": ("render.memories", self.memories),
            "--schedule": ("render.schedule", self.schedule),
        }

    def scheduled(self, render: RenderSettings, *, many: bool) -> RenderSettings:
        """The settings, with the best schedule for an export where nobody chose one.

        Args:
            many: Whether it draws many pictures.
        """
        if self.schedule is not None or render.schedule != RENDER.schedule:
            return render
        return replace(render, schedule="alternate-frame" if many else "tile-split")


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """What a scene of chunks may take; the defaults are shares of the memory that is free."""

    host_budget: Annotated[Bytes, hint("about an eighth")] = None
    """Host memory for chunks as they are in the files, such as 2GiB or 512MiB."""
    device_budget: Annotated[Bytes, hint("about a half; of a GPU, what it can give")] = None
    """Memory for the chunks that can be drawn; on a processor this is host memory, too, on a GPU
    its own."""

    @property
    def settings(self) -> dict[str, tuple[str, int | None]]:
        """By option, the setting and its value."""
        return {
            "--host-budget": ("stream.host_budget", self.host_budget),
            "--device-budget": ("stream.device_budget", self.device_budget),
        }


def picture_settings(camera: CameraOptions, drawing: DrawingOptions) -> dict[str, tuple[str, Any]]:
    """By option of every picture, the setting and its value."""
    return {
        "--fov": ("viewer.fov_deg", camera.fov),
        "--near": ("render.near", camera.near),
        "--background": ("render.background", drawing.background),
        "--antialiased": ("render.antialiased", drawing.antialiased),
        "--sh-degree": ("render.sh_degree", drawing.sh_degree),
        "--threads": ("render.threads", drawing.threads),
        "--engine": ("render.engine", drawing.engine),
    }


def load(config: Path | None, options: dict[str, tuple[str, Any]]) -> Settings:
    """The defaults, the settings file, then the options that were given.

    Args:
        config: The settings file.
        options: By option, the setting and its value: ``{"--port": ("viewer.port", 8080)}``;
            None where it was not given.

    Raises:
        SettingsError: Naming the file and key, or the option.
    """
    from configs.loading import load_settings

    given = {option: pair for option, pair in options.items() if pair[1] is not None}
    try:
        return load_settings(config, dict(given.values()))
    except SettingsError as error:
        message = str(error)
        for option, (key, _) in given.items():  # a person knows the option, not its key
            message = message.replace(f"option: {key}:", f"{option}:")
        raise SettingsError(message) from None
