"""What a frame costs, from measured stage times: per stage, per part, per device.

The model is linear, and each of its numbers is measured. Drawing a part takes

    (repeated + (1 − repeated) · share) · ms / weight

where ``ms`` is the stage's time for the whole picture of one eye on a device of weight 1,
``share`` the part's tile rows or chunks, and ``repeated`` what a part of any size takes again:
projection goes through chunks that touch several bands, compositing of a shard through all
pixels. ``repeated_share`` finds it from two measurements. Bands are taken to be equally full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import median
from typing import TYPE_CHECKING

from rendering.assignment import Part
from rendering.base import TILE_PX
from rendering.schedule import SplitBy
from rendering.stages import DRAWING, STAGES, Stage

if TYPE_CHECKING:
    from rendering.frame import FrameStats

COLOR_BYTES = 12  # of a pixel: RGB in float32
LAYER_BYTES = 16  # with alpha, as shards are joined


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage.

    Attributes:
        ms: Milliseconds for one eye's whole picture on a device of weight 1.
        band: Share of it that each band repeats, in [0, 1].
        shard: Share of it that each shard repeats.
        second_eye: What the second eye adds where the stage is shared between eyes, as a share
            of the first.
    """

    ms: float = 0.0
    band: float = 0.0
    shard: float = 0.0
    second_eye: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ms) and self.ms >= 0):
            raise ValueError(f"ms must be 0 or more, got {self.ms}")
        for name in ("band", "shard", "second_eye"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    def repeated(self, by: SplitBy) -> float:
        """What each band or shard repeats; nothing is repeated by whole pictures."""
        return {SplitBy.BAND: self.band, SplitBy.SHARD: self.shard}.get(by, 0.0)


FREE = StageCost()


@dataclass(frozen=True, slots=True)
class JoinCost:
    """Bringing parts together.

    Attributes:
        hop_ms: For each part that comes from another device than the lead.
        megabytes_per_s: Of the link between devices; 0 where they share memory.
        blend_ms: Compositing the layer of one more shard, one eye, on a device of weight 1.
    """

    hop_ms: float = 0.0
    megabytes_per_s: float = 0.0
    blend_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more, got {value}")


@dataclass(frozen=True, slots=True)
class Costs:
    """A workload, as measured.

    Attributes:
        stages: By stage; those left out cost nothing.
        join: Of parts.
        width, height: Of one eye's picture, pixels.
        gaussians: Drawn from.
        about: Scene, machine and command, for people.
    """

    stages: Mapping[Stage, StageCost]
    join: JoinCost = JoinCost()
    width: int = 1280
    height: int = 720
    gaussians: int = 0
    about: str = ""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"{self.width}x{self.height} is no size of a picture")
        if not any(self[stage].ms for stage in DRAWING):
            raise ValueError("drawing costs nothing: measure project, sort or composite")

    def __getitem__(self, stage: Stage) -> StageCost:
        return self.stages.get(stage, FREE)

    @property
    def tile_rows(self) -> int:
        """Of one eye's picture."""
        return -(-self.height // TILE_PX)

    def repeated(self, by: SplitBy) -> float:
        """Of drawing one eye, the share that each band or shard repeats."""
        total = sum(self[stage].ms for stage in DRAWING)
        return sum(self[stage].ms * self[stage].repeated(by) for stage in DRAWING) / total

    def whole_ms(self, stage: Stage, eyes: int, *, shared: bool) -> float:
        """A stage of all of a frame on a device of weight 1."""
        cost = self[stage]
        return cost.ms * (1.0 + (eyes - 1) * (cost.second_eye if shared else 1.0))

    def drawing_ms(self, stage: Stage, part: Part, *, shared: bool) -> float:
        """A stage of drawing a part, on its device."""
        cost = self[stage]
        rows = part.row_count / self.tile_rows
        scale = (cost.band + (1 - cost.band) * rows) * (
            cost.shard + (1 - cost.shard) * part.chunk_share
        )
        return scale * self.whole_ms(stage, len(part.eyes), shared=shared) / part.device.weight

    def transfer_ms(self, part: Part, *, is_layer: bool) -> float:
        """Bringing a part to another device."""
        rate = self.join.megabytes_per_s
        if not rate:
            return self.join.hop_ms
        rows_px = min(part.row_count * TILE_PX, self.height)
        size = len(part.eyes) * rows_px * self.width * (LAYER_BYTES if is_layer else COLOR_BYTES)
        return self.join.hop_ms + 1e-3 * size / rate

    def scaled(self, *, pixels: float = 1.0, gaussians: float = 1.0) -> Costs:
        """An estimate for pictures of other sizes: what goes by pixels and what by Gaussians.

        Args:
            pixels: Times as many: scales compositing, encoding and the joining of parts.
            gaussians: Times as many: scales choosing, fetching, decoding, projection and sorting.
        """
        by_pixels = (Stage.COMPOSITE, Stage.ENCODE)
        return replace(
            self,
            stages={
                stage: replace(cost, ms=cost.ms * (pixels if stage in by_pixels else gaussians))
                for stage, cost in self.stages.items()
            },
            join=replace(self.join, blend_ms=self.join.blend_ms * pixels),
            width=max(1, round(self.width * math.sqrt(pixels))),
            height=max(1, round(self.height * math.sqrt(pixels))),
            gaussians=round(self.gaussians * gaussians),
        )


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds of one eye's picture by stage, gathered from frames that were drawn.

    Attributes:
        frames: So many.
    """

    ms: Mapping[Stage, float] = field(default_factory=dict)
    frames: int = 0

    @classmethod
    def of(cls, frames: Iterable[FrameStats]) -> StageTimes:
        """Medians over frames of one device. Binning counts as sorting.

        A stage that was not measured (encoding, which is the session's) is left out.
        """
        seen: dict[Stage, list[float]] = {}
        count = 0
        for frame in frames:
            count += 1
            for raster in frame.raster:
                times = dict(raster.stage_ms)
                binning = times.pop("bin", 0.0)
                for name, value in times.items():
                    stage = Stage(name)
                    extra = binning if stage is Stage.SORT else 0.0
                    seen.setdefault(stage, []).append(value + extra)
            if frame.stream is not None:
                seen.setdefault(Stage.SELECT, []).append(frame.stream.select_ms)
        ordered = (stage for stage in STAGES if stage in seen)
        return cls({stage: median(seen[stage]) for stage in ordered}, count)


def repeated_share(whole_ms: float, part_ms: float, share: float) -> float:
    """What a part takes again of the whole, in [0, 1], from the times of the whole and of one part.

    Args:
        share: Of the tile rows or chunks that the part has, in (0, 1).
    """
    if whole_ms <= 0:
        return 0.0
    return min(1.0, max(0.0, (part_ms / whole_ms - share) / (1.0 - share)))


def measured_weights(frame_ms: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Weights of devices from times of the same frames on each, the median; the fastest has 1."""
    typical = {name: median(times) for name, times in frame_ms.items()}
    fastest = min(typical.values())
    return {name: fastest / value for name, value in typical.items()}
