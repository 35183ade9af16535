"""gsplat 1.5.3 as an engine: what our own kernels are measured against, and fit for use.

A frame is gsplat's own stages: ``fully_fused_projection``, ``spherical_harmonics``,
``isect_tiles``, ``isect_offset_encode``, ``rasterize_to_pixels`` (``rendering.gsplat_frame``),
called as gsplat's ``rasterization()`` calls them for one camera, not packed, tiles of 16 pixels.

Where it draws otherwise than the image model (``rendering.base``), after the sources of 1.5.3;
figures are those of its torch functions in float32, against the float64 reference:

- *Stop.* A Gaussian that would leave a transmittance of 1e-4 or less is not drawn, and the pixel is
  finished; ours draws it first. What is lost is its weight, below 0.1, in nearly opaque pixels. In
  a town of 20,000 at 160×90: up to 0.015 of a colour, 1.3e-4 in the mean, 65 to 72 dB.
- *An earlier stop* (``transmittance_stop``) is not taken: pictures are as exact as without it.
- *Extent.* A Gaussian ends 3.33 σ from its mean. That is past the cut for opacities up to 1. Boxes
  of merged Gaussians, whose opacities o are larger, are widened here to where alpha falls below
  the cut; but one whose box of 3.33 σ lies outside of the image is not drawn, which loses up to
  o/255 of alpha at the image's edge.
- *Float32.* Means, view matrix and depths are single precision, so a scene far from the origin
  loses digits: at a distance of d units about 1e-7 d units. With ``random_scene`` of the tests, of
  a radius of 3, seen from 5 units away, 65×47: 133 dB at the origin, 99 at 100 units, 79 at 1000,
  61 at 10,000. Gaussians nearer to each other in depth than that may change places.
- *Needles.* The determinant of the covariance on the screen is a difference of products, which
  loses a share of 1e-7 (length / width)²: alpha of a needle of 100 pixels by 0.5 is off by 5e-5.
  Where it comes to 0 or below, nothing is drawn.
- *Lengths.* Covariances overflow: a Gaussian of more than 1e9 pixels or so is not as it should be.
- *Fisheye.* gsplat knows z alone. Distances, near and far by them, their order, and the cone of
  145° are computed here, in double precision. It adds 1e-7 to lengths and their squares against
  divisions by zero: at d units from the camera outlines are off by 1e-7 / d² of their size, which
  matters where d is below 0.01.
- *Expected depth* is Σ w z / alpha, and alpha one minus the transmittance: where alpha is 1/255,
  its last digits are off by 1e-5 of it.
- *Fast maths.* It is compiled with it: by CUDA's manual exponentials are off by 1e-6 at most.
- *Less resolution* (``RasterSettings.resolution``): gsplat can only compensate for all of the
  dilation or none; here the part is found from its conics. ``RasterStats.visible`` counts a little
  more then.

It counts pairs of a Gaussian and a tile in 32 bits, and does not look whether that is enough: where
it may not be, they are counted here before (the stage ``check``), and too many are refused.

Counts and median depths gsplat's images lack. They are made of its list of all that is blended
(``rasterize_to_indices_in_range``), exactly, at the cost of writing that list. Bands
(``RasterSettings.rows``) are projected with the whole image and have its bytes.

Memory: pages of 4 bytes a number (236 a Gaussian of degree 3), once more for what is drawn from
more than one page (``rendering.gsplat_pages``), 48 bytes a Gaussian on the screen, and 24 a pair
of a Gaussian and a tile while they are sorted.

gsplat's CUDA code is built when the first picture is drawn (``rendering.gsplat_build``), or by
``GsplatRasterizer.compile``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from rendering.base import (
    CancelFlag,
    Outputs,
    RasterImage,
    RasterSettings,
    RasterStats,
    ScenePart,
)
from rendering.cancel import EventCancelFlag, raise_if_cancelled
from rendering.cuda_faults import CPU_INSTEAD, faults_of
from rendering.gsplat_build import Toolchain, build, build_folder, cause_of, search_path
from rendering.gsplat_frame import Projected, Stages, composite, project
from rendering.gsplat_pages import DrawList, Gathered, GsplatPage, GsplatPagePool, upload
from rendering.stopwatch_cuda import Stopwatch
from splat.camera import Camera
from splat.errors import BackendUnavailable
from splat.gaussians import Gaussians

__all__ = ["DrawList", "GsplatPagePool", "GsplatRasterizer", "Projected", "Stages"]


class GsplatRasterizer:
    """See the module's text.

    Args:
        device: A CUDA device.
        stages: In the place of gsplat's own, on any device, for tests.

    Raises:
        BackendUnavailable: If there is no such device, or gsplat or what builds it is missing.
    """

    name = "gsplat"

    def __init__(self, device: str = "cuda:0", stages: Stages | None = None) -> None:
        self._device = torch.device(device)
        self._stages = stages
        self._gathered = Gathered()
        if stages is None:
            _require_device(self._device)
            Toolchain.here().require()

    def compile(self) -> Stages:
        """Build gsplat's CUDA code if nobody did, which takes minutes, and load it.

        The first picture does so, too.

        Raises:
            BackendUnavailable: If it fails; then every picture does.
        """
        if self._stages is None:
            self._stages = _LOADED.stages()
        return self._stages

    @property
    def torch_device(self) -> str:
        """Torch's name of the device: models are evaluated there, too."""
        return str(self._device)

    def prepare(self, gaussians: Gaussians) -> DrawList:
        """The scene on the device.

        Raises:
            BudgetError: If the device has no memory for it.
        """
        return DrawList.plain([upload(gaussians, self._device, self._gathered)])

    def new_pool(self, page_gaussians: int, sh_degree: int) -> GsplatPagePool:
        """Memory for the parts of a scene; see ``rendering.base.PagingRasterizer``."""
        return GsplatPagePool(self._device, page_gaussians, sh_degree, self._gathered)

    def compose(self, parts: Sequence[ScenePart]) -> DrawList:
        """Parts to draw together; see ``rendering.base.PagingRasterizer``.

        Copied together when they are drawn, and once for as long as the same pages are drawn.
        """
        return DrawList.of(parts)

    def new_cancel_flag(self) -> EventCancelFlag:
        """A flag for one call of ``render``; it is looked at between stages."""
        return EventCancelFlag()

    def project(
        self,
        scene: GsplatPage | DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
    ) -> Projected:
        """The first two stages, of a scene that has Gaussians.

        Raises:
            BudgetError, BackendUnavailable, DeviceLost: As ``render``.
        """
        draws = _as_list(scene)
        with self._on_device(f"the projection of {len(draws):,} Gaussians"):
            columns = self._gathered.columns_of(draws)
            return project(self.compile(), draws, columns, camera, settings)

    def composite(
        self,
        projected: Projected,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """The other stages, of what was projected by the same camera with the same settings.

        Raises:
            RenderCancelled, BudgetError, BackendUnavailable, DeviceLost: As ``render``.
        """
        return self._composite(projected, camera, settings, cancel, Stopwatch(self._device))

    def render(
        self,
        scene: GsplatPage | DrawList,
        camera: Camera,
        settings: RasterSettings = RasterSettings(),
        cancel: CancelFlag | None = None,
    ) -> RasterImage:
        """Draw ``scene``; see ``rendering.base.Rasterizer``.

        Raises:
            RenderCancelled: If ``cancel`` was set before the image was complete.
            BudgetError: If the device has no memory for what lies between the stages, or more tiles
                are touched than gsplat can count.
            BackendUnavailable: If gsplat's CUDA code cannot be built or loaded.
            DeviceLost: If the device is gone, or can no longer be used.
        """
        raise_if_cancelled(cancel)
        draws = _as_list(scene)
        self.compile()
        if not len(draws):
            return _nothing(camera, settings)
        watch = Stopwatch(self._device)
        with self._on_device("a frame"):
            watch.mark("begin")
        projected = self.project(draws, camera, settings)
        raise_if_cancelled(cancel)
        return self._composite(projected, camera, settings, cancel, watch)

    def _composite(
        self,
        projected: Projected,
        camera: Camera,
        settings: RasterSettings,
        cancel: CancelFlag | None,
        watch: Stopwatch,
    ) -> RasterImage:
        def pause(stage: str) -> None:
            raise_if_cancelled(cancel)
            watch.mark(stage)

        with self._on_device(f"a frame of {projected.depths.shape[1]:,} Gaussians"):
            watch.mark("project")
            image = composite(self.compile(), projected, camera, settings, pause)
            raise_if_cancelled(cancel)
            return replace(image, stats=replace(image.stats, stage_ms=watch.stage_ms()))

    @contextlib.contextmanager
    def _on_device(self, doing: str) -> Iterator[None]:
        """Launches go to the device, without gradients; errors of CUDA say what they mean, and one
        that a device never gets over means that it is lost, for it is in use."""
        is_cuda = self._device.type == "cuda"
        here: AbstractContextManager[object] = (
            torch.cuda.device(self._device) if is_cuda else nullcontext()
        )
        with faults_of(self._device, doing, in_use=True), here, torch.no_grad():
            yield


def _as_list(scene: GsplatPage | DrawList) -> DrawList:
    return scene if isinstance(scene, DrawList) else DrawList.plain([scene])


def _nothing(camera: Camera, settings: RasterSettings) -> RasterImage:
    """The background."""
    first, end = settings.rows_of(camera)
    size, outputs = (end - first, camera.width), settings.outputs
    background = np.array(settings.background, np.float32)
    zeros = np.zeros(size, np.float32)
    return RasterImage(
        alpha=zeros,
        color=np.tile(background, (*size, 1)) if Outputs.COLOR in outputs else None,
        depth=zeros.copy() if Outputs.DEPTH in outputs else None,
        median_depth=zeros.copy() if Outputs.MEDIAN_DEPTH in outputs else None,
        count=zeros.astype(np.int32) if Outputs.COUNT in outputs else None,
        stats=RasterStats(stage_ms={"project": 0.0, "sort": 0.0, "composite": 0.0}),
    )


def _require_device(device: torch.device) -> None:
    if device.type != "cuda":
        raise BackendUnavailable(f"gsplat draws on CUDA devices, not on {device}; {CPU_INSTEAD}")
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            f"gsplat needs a CUDA device and a driver for it; there is none; {CPU_INSTEAD}"
        )
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise BackendUnavailable(f"there is no {device}: CUDA devices are 0 to {count - 1}")


class _Loaded:
    """gsplat in this process: loaded once, or never, and then why is remembered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: Stages | None = None
        self._failure: str | None = None

    def stages(self) -> Stages:
        """
        Raises:
            BackendUnavailable: If they cannot be had.
        """
        with self._lock:
            if self._failure is not None:
                raise BackendUnavailable(self._failure)
            if self._stages is None:
                try:
                    self._stages = _load(Toolchain.here())
                except BackendUnavailable as error:
                    self._failure = str(error)
                    raise
            return self._stages


_LOADED = _Loaded()


def _load(tools: Toolchain) -> Stages:
    """gsplat's stages with their CUDA code, built if need be."""
    tools.require()
    if not tools.is_built:
        build(build_folder(), tools.sources)
    try:
        with _programs_found():
            from gsplat.cuda import _backend, _wrapper
    except Exception as error:  # whatever torch's builder and the loader raise
        cause = cause_of(str(error)) if str(error) else type(error).__name__
        raise BackendUnavailable(f"gsplat cannot be loaded: {cause}; {CPU_INSTEAD}") from error
    if _backend._C is None:
        raise BackendUnavailable(f"gsplat found no CUDA toolkit; {CPU_INSTEAD}")
    return Stages.of(_wrapper)


@contextlib.contextmanager
def _programs_found() -> Iterator[None]:
    """For a while, what is installed beside this Python is on the path: torch asks for ninja even
    where there is nothing to build."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = search_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before
