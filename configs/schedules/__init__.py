"""The schedules that Belvedere comes with, and costs to compare them on, as texts.

``rendering.schedule_file`` and ``rendering.cost_file`` read them.
"""

from __future__ import annotations

from importlib import resources

SHIPPED = ("single", "eye-parallel", "alternate-frame", "tile-split", "shard", "pipelined")


def shipped_texts() -> dict[str, str]:
    """YAML by name."""
    folder = resources.files(__name__)
    return {name: folder.joinpath(f"{name}.yaml").read_text("utf-8") for name in SHIPPED}


def measured_costs_text() -> str:
    """YAML of ``rendering.cost_file``: costs that were measured, for want of one's own."""
    folder = resources.files(__name__).joinpath("costs")
    return folder.joinpath("town-150k.yaml").read_text("utf-8")
