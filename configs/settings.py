"""What can be set, with its type, its range and its default.

A field's annotation is the whole rule: ``Annotated[int, Range(1, 100)]`` is checked by
``configs.loading`` wherever a value comes from (YAML or command line). To add a
setting, add a field here and a commented line to ``default.yaml``; a test holds that
the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

Rgb = tuple[float, float, float]
EngineName = Literal["auto", "native", "fused", "gsplat", "reference"]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included; for a tuple, of each of its numbers."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Size(Range):
    """Bounds of a number of bytes, which may be written as ``2GiB``, ``1.5GB`` or ``512MiB``."""

    def __str__(self) -> str:
        return f"a size such as 2GiB, of at least {self.low / 2**20:g} MiB"


MEMORY = Size(2**20, 2**60)
PATIENCE_S = Range(0.01, 3600)


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """How pictures are drawn.

    Attributes:
        engine: The rasterizer: ``native`` draws on processors, ``fused`` and ``gsplat`` on GPUs;
            ``reference`` is slow and exact, for comparisons. ``auto`` is ``fused`` on GPUs and
            ``native`` on processors.
        threads: CPU threads a frame may use; 0 for one a core.
        antialiased: Compensate opacities for the screen-space dilation (Mip-Splatting);
            right for scenes trained that way.
        sh_degree: Highest spherical-harmonics degree evaluated; None for all there is.
        background: RGB behind everything, sRGB-encoded, 0 to 1; None for the one that a scene's
            radiance fields were trained before, and black for other scenes.
        near: Near plane, world units; None to scale it to the scene (``near_ratio``).
        near_ratio: Near plane as a share of the scene's radius, where ``near`` is None.
        devices: What draws: ``auto`` for the GPUs that can be used and are like the first of
            them, or else the processor with all cores; ``cpu``, or a number of virtual devices
            that divide the cores; ``cuda`` for all GPUs, ``cuda:0`` for one, or several of these
            with commas between, such as ``cuda:0,cpu``.
        memories: Whether several devices draw from one memory, or each has one of its own, as GPUs
            do, with a scene's device budget in each (``docs/schedules.md``).
        schedule: How frames are divided among them: the name of a shipped schedule or a file
            (``docs/schedules.md``); ``auto`` for frames in turn on several devices.
        elastic: Use only as many of the devices as those who move need for full pictures at
            ``viewer.target_fps``; all otherwise.
        picture_cache: Memory for finished pictures, bytes: views that are asked for again,
            by whomever, are not drawn again. Of a streamed scene it comes out of
            ``stream.device_budget``, and is at most an eighth of that.
        decoded_cache: Memory for Gaussians that anchors were decoded to, bytes, of each of the
            devices' memories. It comes out of ``stream.device_budget``, and is at most a quarter of
            that.
        decoded_depth: Frames of a moving camera that these may be drawn in at most, as far as the
            frame rate needs it; 0 to decode anew for each.
        decoded_angle_deg: By which the direction to them may have turned meanwhile.
        appearance: The training picture whose look is drawn, of anchors that were trained with
            appearances, counted from 0; None for the mean of all.
    """

    engine: EngineName = "auto"
    threads: Annotated[int, Range(0, 1024)] = 0
    antialiased: bool = False
    sh_degree: Annotated[int, Range(0, 3)] | None = None
    background: Annotated[Rgb, Range(0, 1)] | None = None
    near: Annotated[float, Range(1e-9, 1e9)] | None = None
    near_ratio: Annotated[float, Range(1e-9, 0.5)] = 1e-4
    devices: str = "auto"
    memories: Literal["shared", "own"] = "shared"
    schedule: str = "auto"
    elastic: bool = False
    picture_cache: Annotated[int, MEMORY] = 128 * 2**20
    decoded_cache: Annotated[int, MEMORY] = 256 * 2**20
    decoded_depth: Annotated[int, Range(0, 64)] = 8
    decoded_angle_deg: Annotated[float, Range(0, 45)] = 4.0
    appearance: Annotated[int, Range(0, 1_000_000)] | None = None

    @property
    def behind(self) -> Rgb:
        """The background of a scene that has none of its own."""
        return (0.0, 0.0, 0.0) if self.background is None else self.background


@dataclass(frozen=True, slots=True)
class ViewerSettings:
    """How the browser viewer serves and behaves.

    Attributes:
        host: Address to listen on. Anything but the loopback lets others in.
        token: What they must present, 8 to 128 letters, digits or ``._~-``; None for a
            random one where ``host`` is not the loopback.
        port: Port to listen on; 0 for any free one.
        port_attempts: Ports tried upwards from ``port`` when it was not asked for
            explicitly and is in use.
        fov_deg: Vertical field of view at the start, degrees.
        target_fps: Pictures a second to hold while the camera moves, by lowering the
            resolution.
        min_scale: Lowest resolution while moving, as a share of the full one, per side.
        max_side: Longest side of a picture, pixels; larger windows are upscaled.
        moving_stop: Pixels whose transmittance fell to this are finished while moving; 0.0001 is
            the exact picture's.
        moving_drift_px: How far off what one eye takes over from the other may be while moving,
            pixels; 0 for exact pictures.
        moving_quality: JPEG quality while moving, 1 to 100.
        still_quality: JPEG quality at rest.
        refine_delay_ms: Rest after the last motion before the full resolution is drawn.
        ack_timeout_s: Wait for a browser's acknowledgement of a picture before sending
            another one anyway.
        mode: What the picture shows at the start.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    port: Annotated[int, Range(0, 65_535)] = 8080
    port_attempts: Annotated[int, Range(1, 1000)] = 20
    fov_deg: Annotated[float, Range(1, 170)] = 60.0
    target_fps: Annotated[float, Range(1, 240)] = 30.0
    min_scale: Annotated[float, Range(0.05, 1)] = 0.25
    max_side: Annotated[int, Range(64, 8192)] = 1920
    moving_stop: Annotated[float, Range(1e-4, 0.4)] = 0.02
    moving_drift_px: Annotated[float, Range(0, 16)] = 0.5
    moving_quality: Annotated[int, Range(1, 100)] = 40
    still_quality: Annotated[int, Range(1, 100)] = 90
    refine_delay_ms: Annotated[float, Range(0, 10_000)] = 150.0
    ack_timeout_s: Annotated[float, Range(0.05, 60)] = 2.0
    mode: Literal["color", "depth", "alpha", "count"] = "color"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How scenes are streamed of which only parts are in memory.

    Attributes:
        host_budget: Host memory for encoded chunks, bytes; None for a share of what is
            available.
        device_budget: Memory for the chunks that can be drawn and for finished pictures, bytes;
            on a CPU it is host memory, too. None for a share of what is available, or what a GPU
            can give.
        max_gaussians: No picture is drawn from more.
        fade_ms: How long a change of detail takes to show; 0 for at once.
        moving_error_px: Detail of a moving picture whose absence would not show by more than
            this may be left out, pixels.
        store: Make a store of a large scene behind the page, for the next time.
        store_from: Gaussians from which a scene is large; one that would take more than half
            of the memory, or more than a budget that is given here, is large, too.
        cache_budget: Disk space for those stores, bytes; the least recently used go first.
    """

    host_budget: Annotated[int, MEMORY] | None = None
    device_budget: Annotated[int, MEMORY] | None = None
    max_gaussians: Annotated[int, Range(1000, 1e9)] = 8_000_000
    fade_ms: Annotated[float, Range(0, 10_000)] = 200.0
    moving_error_px: Annotated[float, Range(0, 100)] = 1.0
    store: bool = True
    store_from: Annotated[int, Range(1, 1e12)] = 20_000_000
    cache_budget: Annotated[int, MEMORY] = 20 * 2**30


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How scenes on servers are read.

    Attributes:
        cache: Keep on disk what was read, for the next session. A file that must be here as a
            whole is kept even so.
        cache_folder: Where; None for ``belvedere/ranges`` in the user's cache folder.
        cache_budget: What it may take, bytes; None for the smaller of 10 GiB and a tenth of
            what the disk has free. Files that were downloaded as a whole may take as much.
        connect_s: Patience for a connection, seconds.
        stall_s: Patience without a single byte, seconds.
    """

    cache: bool = True
    cache_folder: str | None = None
    cache_budget: Annotated[int, MEMORY] | None = None
    connect_s: Annotated[float, PATIENCE_S] = 10.0
    stall_s: Annotated[float, PATIENCE_S] = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be configured, by room."""

    render: RenderSettings = field(default_factory=RenderSettings)
    viewer: ViewerSettings = field(default_factory=ViewerSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
