"""Measured costs as YAML, with the devices that they were measured on, read and written.

``belvedere bench --only devices --work FOLDER`` leaves such a file. JSON is YAML, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from rendering import marked_yaml
from rendering.assignment import RatedDevice
from rendering.cost_model import Costs, JoinCost, StageCost
from rendering.frame_tasks import Machine
from rendering.marked_yaml import Marked
from rendering.stages import Stage

KEYS = (
    "about",
    "width",
    "height",
    "gaussians",
    "stages",
    "join",
    "devices",
    "host_lanes",
)
STAGE_KEYS = ("ms", "band", "shard", "second_eye")
JOIN_KEYS = ("hop_ms", "megabytes_per_s", "blend_ms")
WEIGHTS = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class CostFile:
    """What a file says.

    Attributes:
        machine: None if it names no devices.
    """

    costs: Costs
    machine: Machine | None = None


def read_costs(path: str | PathLike[str]) -> CostFile:
    """The costs of a file.

    Raises:
        SettingsError: Naming the file, the line and the key.
    """
    return _cost_file(marked_yaml.read(path))


def parse_costs(text: str, source: str) -> CostFile:
    """The same of a text; ``source`` is its name in errors."""
    return _cost_file(marked_yaml.parse(text, source))


def cost_text(file: CostFile) -> str:
    """Costs as YAML, to four digits."""
    costs = file.costs
    values: dict[str, object] = {
        "about": costs.about,
        "width": costs.width,
        "height": costs.height,
        "gaussians": costs.gaussians,
        "stages": {
            stage.value: {key: _short(getattr(cost, key)) for key in STAGE_KEYS}
            for stage, cost in costs.stages.items()
        },
        "join": {key: _short(getattr(costs.join, key)) for key in JOIN_KEYS},
    }
    if file.machine is not None:
        values["devices"] = {d.name: _short(d.weight) for d in file.machine.devices}
        values["host_lanes"] = file.machine.host_lanes
    return marked_yaml.dump(values)


def _cost_file(top: Marked) -> CostFile:
    fields = top.section(KEYS)
    if "stages" not in fields:
        raise top.error("has no stages", "add the measured milliseconds, such as project: {ms: 12}")
    stages = {
        Stage(name): _stage(value)
        for name, value in fields["stages"].section(stage.value for stage in Stage).items()
    }
    join = JoinCost()
    if "join" in fields:
        given = fields["join"].section(JOIN_KEYS)
        join = JoinCost(**{key: value.number() for key, value in given.items()})
    defaults = Costs({Stage.COMPOSITE: StageCost(1.0)})
    try:
        costs = Costs(
            stages,
            join,
            fields["width"].whole(1, 1 << 16) if "width" in fields else defaults.width,
            fields["height"].whole(1, 1 << 16) if "height" in fields else defaults.height,
            fields["gaussians"].whole(0, 1 << 40) if "gaussians" in fields else 0,
            fields["about"].text() if "about" in fields else "",
        )
    except ValueError as error:
        raise fields["stages"].error(str(error)) from None
    return CostFile(costs, _machine(fields))


def _stage(value: Marked) -> StageCost:
    if not value.is_section:
        return StageCost(value.number())
    given = value.section(STAGE_KEYS)
    if "ms" not in given:
        raise value.error("has no time", "add ms: and the milliseconds of one eye's picture")
    shares = {key: entry.number(0.0, 1.0) for key, entry in given.items() if key != "ms"}
    return StageCost(given["ms"].number(), **shares)


def _machine(fields: dict[str, Marked]) -> Machine | None:
    if "devices" not in fields:
        return None
    weights = fields["devices"].section()
    lanes = fields["host_lanes"].whole(0, 1024) if "host_lanes" in fields else 0
    devices = tuple(RatedDevice(name, value.number(*WEIGHTS)) for name, value in weights.items())
    try:
        return Machine(devices, lanes)
    except ValueError as error:
        raise fields["devices"].error(str(error)) from None


def _short(value: float) -> float | int:
    """To four digits."""
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded == int(rounded) else rounded
