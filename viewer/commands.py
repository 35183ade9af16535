"""The commands ``view | build | export | info | town | cache``: their options, their help, what
they run; ``bake`` and ``schedule`` have files of their own.

The docstrings below are the help texts. Every command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from configs.settings import ViewerSettings
from splat.errors import SettingsError
from splat.stereo import HUMAN_IPD
from viewer.bake_command import BakeCommand
from viewer.option_groups import (
    TOWN_GAUSSIANS,
    CameraOptions,
    CommonOptions,
    DeviceOptions,
    DrawingOptions,
    ExportDeviceOptions,
    MemoryOptions,
    SceneOptions,
    ServerOptions,
    load,
    picture_settings,
)
from viewer.option_types import (
    NO_HINT,
    Bytes,
    Convergence,
    Count,
    Degrees,
    File,
    Flag,
    LayoutName,
    ModeName,
    Number,
    PanoramaName,
    Pixels,
    ProfileName,
    Text,
    Whole,
    choice,
    hint,
)
from viewer.ranges import JPEG_QUALITY, require_in_range
from viewer.schedule_command import ScheduleCommand
from viewer.text import byte_size, counted

if TYPE_CHECKING:
    from configs.settings import Settings
    from viewer.eyes import EyesChoice
    from viewer.info import SceneReport
    from viewer.scenes import SceneChoice
    from viewer.stereo_layouts import StereoLayout
    from viewer.store_info import StoreReport
    from viewer.stream_info import StreamReport

log = logging.getLogger(__name__)

Say = Callable[[str], None]
VIEWER = ViewerSettings()


@dataclass(frozen=True, slots=True)
class PageOptions:
    """The page in the browser."""

    host: Annotated[Text, arg(metavar="ADDRESS"), hint(f"{VIEWER.host}, this machine only")] = None
    """Address to listen on; 0.0.0.0 lets other machines in, with a token."""
    port: Annotated[Whole, hint(f"{VIEWER.port}, or the next free one")] = None
    """Port to listen on, and no other; 0 takes any free one."""
    token: Annotated[Text, hint("random, where others can reach the page")] = None
    """What browsers must present, 8 to 128 letters, digits or . _ ~ -"""
    open_browser: Flag = False
    """Open the page in the browser of this machine."""
    mode: Annotated[ModeName | None, choice(ModeName), hint(VIEWER.mode)] = None
    """What the picture shows at first: colour, depth, opacity, or Gaussians a pixel."""
    jpeg_quality: Annotated[Whole, hint(VIEWER.still_quality)] = None
    """Of the picture at rest, 1 to 100."""


@dataclass(frozen=True, slots=True)
class View:
    """Explore a scene in the browser.

    Serves a page, prints its address, and runs until Ctrl-C.

    Example: belvedere view garden.ply --up 0 -1 0
    """

    scene: SceneOptions = field(default_factory=SceneOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    drawing: DrawingOptions = field(default_factory=DrawingOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    page: PageOptions = field(default_factory=PageOptions)
    common: CommonOptions = field(default_factory=CommonOptions)

    def run(self, say: Say) -> None:
        """Serve until interrupted."""
        page = self.page
        settings = load(
            self.common.config,
            {
                **picture_settings(self.camera, self.drawing),
                "--host": ("viewer.host", page.host),
                "--port": ("viewer.port", page.port),
                "--token": ("viewer.token", page.token),
                "--mode": ("viewer.mode", page.mode),
                "--jpeg-quality": ("viewer.still_quality", page.jpeg_quality),
                **self.scene.settings,
                **self.memory.settings,
                **self.devices.settings,
                **self.server.settings,
            },
        )
        from viewer.engines import DeviceChoice
        from viewer.serving import serve

        DeviceChoice.of(settings.render)  # before anything is read or served

        serve(
            self.scene.choice(settings),
            settings,
            explicit_port=page.port is not None,
            position=self.camera.position,
            look_at=self.camera.look_at,
            say=say,
            open_browser=page.open_browser,
            trace=self.devices.trace,
        )


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The files to write, at least one; a file is whole or absent, and replaces one of its name."""

    image: Annotated[File, arg(aliases=["-o"], help_behavior_hint="")] = None
    """The picture: .png, .jpg or .webp."""
    depth: Annotated[File, NO_HINT] = None
    """View depth, world units, 0 where nothing is: .exr (channel Z) or .npy, float32."""
    alpha: Annotated[File, NO_HINT] = None
    """Opacity, 0 to 1: .exr (channel A) or .npy, float32; or a grey picture."""
    mode: Annotated[ModeName, hint("color")] = "color"
    """What the picture shows: colour, depth, opacity, or Gaussians a pixel."""
    jpeg_quality: Annotated[int, arg(metavar="INT"), hint(95)] = 95
    """Of .jpg and .webp, 1 to 100."""


@dataclass(frozen=True, slots=True)
class FrameOptions:
    """The size of the picture, and the lens in other words."""

    width: Annotated[Pixels, hint("1280, or that of the training camera")] = None
    """Width; where only one side is given, the other follows."""
    height: Annotated[Pixels, hint("720, or that of the training camera; 2048 for panoramas")] = (
        None
    )
    """Height; as above."""
    downscale_factor: Annotated[float, arg(metavar="NUMBER"), hint(1)] = 1.0
    """Divide both sides by this, 0.01 to 1000."""
    fov_x: Annotated[Degrees, NO_HINT] = None
    """Horizontal field of view instead of --fov, 1 to 170 degrees."""
    training_camera: Annotated[Whole, NO_HINT] = None
    """Take position, direction, lens and size of this training camera, counted from 0."""


@dataclass(frozen=True, slots=True)
class StereoOptions:
    """Pictures for two eyes (docs/stereo.md)."""

    stereo: Annotated[
        LayoutName | None,
        choice(LayoutName),
        hint("one eye; with --panorama, as players expect"),
    ] = None
    """How the two go into a file: left eye first or above, mixed for red-cyan glasses, or as
    two files NAME.left.png and NAME.right.png."""
    ipd: Annotated[
        Number, arg(metavar="DISTANCE"), hint(f"{HUMAN_IPD:g}, a person's in metres")
    ] = None
    """Distance of the eyes, world units; scenes whose units are not metres need their own."""
    convergence: Annotated[
        Convergence, hint("parallel; of an anaglyph, what is in the middle of the picture")
    ] = None
    """Distance of what appears in the screen, world units, or the word parallel."""
    panorama: Annotated[PanoramaName | None, choice(PanoramaName), NO_HINT] = None
    """For headsets: the half-sphere ahead, or all around, as equirectangular pictures; --height is
    that of one eye's."""

    def choice(self) -> tuple[EyesChoice, StereoLayout | None]:
        """The eyes, and how their pictures become files."""
        from viewer.eyes import PANORAMA_LAYOUTS, EyesChoice
        from viewer.panoramas import Panorama
        from viewer.stereo_layouts import StereoLayout

        panorama = None if self.panorama is None else Panorama(self.panorama)
        layout = None if self.stereo is None else StereoLayout(self.stereo)
        if layout is None and panorama is not None:
            layout = PANORAMA_LAYOUTS[panorama]
        return EyesChoice(self.ipd, self.convergence, panorama), layout


@dataclass(frozen=True, slots=True)
class Export:
    """Draw one view of a scene into image files, without a browser.

    Prints the names of the files.

    Example: belvedere export garden.ply -o garden.png --depth garden.exr --width 1920

    Example: belvedere export garden.ply -o garden.jpg --stereo anaglyph
    """

    scene: SceneOptions = field(default_factory=SceneOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    frame: FrameOptions = field(default_factory=FrameOptions)
    stereo: StereoOptions = field(default_factory=StereoOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    drawing: DrawingOptions = field(default_factory=DrawingOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    devices: ExportDeviceOptions = field(default_factory=ExportDeviceOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    common: CommonOptions = field(default_factory=CommonOptions)

    def run(self, say: Say) -> int:
        """Write the files and name them; 1 if a picture lacks something."""
        from viewer.camera_choice import CameraChoice
        from viewer.engines import DeviceChoice
        from viewer.export import export
        from viewer.export_targets import Targets
        from viewer.status_line import status_line

        settings = load(
            self.common.config,
            {
                **picture_settings(self.camera, self.drawing),
                **self.scene.settings,
                **self.memory.settings,
                **self.devices.settings,
                **self.server.settings,
            },
        )
        output, frame = self.output, self.frame
        require_in_range("--jpeg-quality", output.jpeg_quality, JPEG_QUALITY)
        eyes, layout = self.stereo.choice()
        render = self.devices.scheduled(settings.render, many=eyes.is_in_slices)
        DeviceChoice.of(render)  # before anything is read
        targets = Targets(output.image, output.depth, output.alpha, output.jpeg_quality, layout)
        camera = CameraChoice(
            position=self.camera.position,
            look_at=self.camera.look_at,
            fov_deg=self.camera.fov,
            fov_x_deg=frame.fov_x,
            training_camera=frame.training_camera,
            width=frame.width,
            height=frame.height,
            downscale_factor=frame.downscale_factor,
        )
        choice = self.scene.choice(settings)
        problems: list[str] = []
        with status_line() as progress:
            export(
                choice,
                camera,
                targets,
                render,
                output.mode,
                progress,
                stream=settings.stream,
                on_problem=problems.append,
                on_note=lambda note: log.warning("%s", note),
                eyes=eyes,
                trace=self.devices.trace,
            )
        for path in (*targets.paths, *filter(None, [self.devices.trace])):
            say(str(path))
        if problems:
            more = f" (and {len(problems) - 1:,} more such)" if len(problems) > 1 else ""
            log.warning("warning: %s: %s%s", targets.paths[0], problems[0], more)
        return 1 if problems else 0


@dataclass(frozen=True, slots=True)
class Info:
    """What is in a scene, and what is wrong with it.

    Prints format, size, bounds, the likely up direction, Gaussians that are broken or
    suspicious, and what would draw it here. A store of which a file is missing or too short is an
    error.
    """

    scene: SceneOptions = field(default_factory=SceneOptions)
    json: Flag = False
    """Print JSON instead of tables; of the scene itself, even where there is a store of it."""
    check: Flag = False
    """Read every chunk of a store and compare its checksums; status 1 if any is damaged."""
    server: ServerOptions = field(default_factory=ServerOptions)
    common: CommonOptions = field(default_factory=CommonOptions)

    def run(self, say: Say) -> int:
        """Print it; 1 if a check found something wrong."""
        settings = load(self.common.config, {**self.scene.settings, **self.server.settings})
        choice = self.scene.choice(settings)
        report = self._report(choice, settings)
        if self.json:
            say(report.to_json())
        else:
            from viewer.engines import drawn_by

            report.print_table()
            say(drawn_by(settings.render))
        from viewer.store_info import StoreReport

        if isinstance(report, StoreReport):
            if report.cached is not None:
                from viewer.opening import used_instead

                log.warning("%s", used_instead(choice, report.cached))
            if report.failed_check:
                return 1
            report.require_files()
        elif self.check:
            log.warning("warning: --check is for stores; %s has no checksums", choice.shown)
        return 0

    def _report(
        self, choice: SceneChoice, settings: Settings
    ) -> SceneReport | StoreReport | StreamReport:
        from viewer.downloads import at_hand
        from viewer.info import scene_report
        from viewer.status_line import status_line
        from viewer.store_info import cached_report, stream_report

        with contextlib.ExitStack() as kept:
            with status_line() as progress:
                choice = at_hand(choice, kept, progress)
            if choice.is_streamed:
                return stream_report(choice, check=self.check)
            # What programs read must not depend on whether somebody has viewed the scene.
            if not (self.json or self.check):
                report = cached_report(choice, settings)
                if report is not None:
                    return report
            with status_line() as progress:
                return scene_report(choice, progress)


@dataclass(frozen=True, slots=True)
class Town:
    """Write the built-in town as a 3DGS .ply file, for any tool that reads those.

    The same number of Gaussians is always the same town.
    """

    output: Annotated[
        Path, arg(aliases=["-o"], metavar="FILE"), hint("town.ply in the current folder")
    ] = Path("town.ply")
    """File to write; replaces one of its name."""
    gaussians: Annotated[Count, hint("2M")] = None
    """How many, such as 500k, 2M or 2e6."""
    debug: Flag = False
    """Log more, and show where an error came from."""

    def run(self, say: Say) -> None:
        """Write it."""
        from viewer.town_file import write_town

        count = self.gaussians or TOWN_GAUSSIANS
        write_town(self.output, count)
        size = byte_size(self.output.stat().st_size)
        say(f"{self.output.resolve()}: {counted(count, 'Gaussians')}, {size}")


@dataclass(frozen=True, slots=True)
class Build:
    """Write a store: a scene in chunks and levels of detail, which opens at once at any size.

    An interrupted build is continued by the same command.
    """

    scenes: Annotated[Positional[tuple[str, ...]], arg(metavar="SCENE...", help_behavior_hint="")]
    """Files or folders of any format that belvedere --help lists, or town, or town:N; several
    in the same coordinates become one."""
    output: Annotated[File, arg(aliases=["-o"], metavar="STORE"), hint("SCENE.bvs")] = None
    """Folder to write, in the current folder unless named."""
    gaussians: Annotated[Count, hint("2M")] = None
    """Size of the town, such as 500k, 2M or 200e6."""
    profile: Annotated[ProfileName, hint("compact")] = "compact"
    """Quantized, or every bit of the parameters."""
    rebuild_lod: Flag = False
    """Merge all levels of detail, even where the scene brings its own."""
    sh_degree: Annotated[Whole, hint("the scene's")] = None
    """Highest degree of the harmonics that is kept."""
    page_gaussians: Annotated[Whole, hint("by the scene's size")] = None
    """Most Gaussians of a chunk; a multiple of 1024."""
    memory: Annotated[Bytes, hint("a quarter of what is free, at most 2GiB")] = None
    """What sorting may take, such as 2GiB; larger scenes are sorted through files."""
    threads: Annotated[Whole, hint("one a core")] = None
    """Threads that merge and encode."""
    dry_run: Flag = False
    """Say what it would take, and write nothing."""
    overwrite: Flag = False
    """Replace a store of that name, once the new one is complete."""
    trust: Flag = False
    """Let code in the files of a neural scene run, where their numbers alone cannot be read."""
    debug: Flag = False
    """Log more, and show where an error came from."""

    def run(self, say: Say) -> None:
        """Write it."""
        from scene_store.build import BuildOptions
        from scene_store.manifest import Profile
        from viewer.build import build

        if not self.scenes:
            raise SettingsError("build: name a scene, such as scene.ply or town")
        if self.gaussians is not None and "town" not in self.scenes:
            log.warning("warning: --gaussians is for the town; %s keeps its own", self.scenes[0])
        town = f"town:{self.gaussians or TOWN_GAUSSIANS}"
        scenes = [town if name == "town" else name for name in self.scenes]
        options = BuildOptions(
            profile=Profile(self.profile),
            page_gaussians=self.page_gaussians,
            sh_degree=self.sh_degree,
            rebuild_lod=self.rebuild_lod,
            memory_bytes=self.memory,
            threads=self.threads or 0,
            replace=self.overwrite,
        )
        build(scenes, self.output, options, say, dry_run=self.dry_run, trust=self.trust)


@dataclass(frozen=True, slots=True)
class Cache:
    """List what is kept on disk between sessions, or remove it.

    Stores that view made of large scenes, finished or not, and what was read from servers; the
    least recently used go by themselves when there is too much.
    """

    clear: Flag = False
    """Remove all of it that no other program uses just now."""
    cache_folder: Annotated[File, arg(metavar="DIR"), hint("in the user's cache folder")] = None
    """Where on disk is kept what was read from servers."""
    common: CommonOptions = field(default_factory=CommonOptions)

    def run(self, say: Say) -> None:
        """List it."""
        from viewer.cached_files import caches, clear

        folder = ServerOptions(cache_folder=self.cache_folder).settings
        settings = load(self.common.config, folder)
        before = caches(settings)
        left = clear(settings) if self.clear else before
        if self.clear:
            freed = sum(cache.size_bytes for cache in before) - sum(c.size_bytes for c in left)
            say(f"Removed {byte_size(max(0, freed))}")
        for cache in left:
            if cache.kept or not self.clear:
                say("\n".join(cache.lines))


# ``bench`` has options of its own.
CLASSES = {
    "view": View,
    "build": Build,
    "export": Export,
    "info": Info,
    "town": Town,
    "cache": Cache,
    "schedule": ScheduleCommand,
    "bake": BakeCommand,
}
