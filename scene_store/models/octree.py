"""Octree-GS: the training folder, its ``iteration_N`` or the ``point_cloud.ply`` in it.

Levels, voxels and the standard distance are in the PLY. ``fork``, ``dist2level`` and, where widths
leave it open, ``add_level`` are in ``cfg_args`` alone; without it the trainer's defaults are taken,
and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scene_store.formats.source import DOWNLOAD_AGAIN
from scene_store.models.anchor_file import AnchorFile, Measures
from scene_store.models.anchor_networks import BANK, AnchorNetworks
from scene_store.models.anchor_scene import AnchorReader
from scene_store.models.anchor_settings import Setting, settings_near
from splat.anchors import AnchorModel, LevelRule, OctreeLevels
from splat.errors import SceneFormatError

KIND = "Octree-GS"
DEFAULT_FORK = 2
MAX_FORK = 64

_SETTINGS = ("fork", "dist2level", "add_level")


def _model(file: AnchorFile, measures: Measures, networks: AnchorNetworks) -> AnchorModel:
    settings = settings_near(file.path, _SETTINGS)
    more = networks.more_inputs(file.layout)
    has_level, note = _level_input(networks, more, settings)
    opacity, covariance, color = (inputs - has_level for inputs in more)
    return AnchorModel(
        file.layout,
        networks.opacity,
        networks.color,
        networks.covariance,
        opacity_dist=bool(opacity),
        color_dist=bool(color),
        covariance_dist=bool(covariance),
        level_input=has_level,
        bank_mlp=networks.bank,
        appearances=networks.appearances,
        levels=_levels(file, measures, settings),
        name=KIND,
        notes=(*note, *_notes(settings)),
    )


def _level_input(
    networks: AnchorNetworks, more: tuple[int, int, int], settings: Mapping[str, Setting]
) -> tuple[bool, tuple[str, ...]]:
    """Whether networks take the level: all do, or none. And what to say of it."""
    bank = networks.bank
    if bank is not None:
        if bank.inputs not in (3, 4):
            raise networks.mismatch(BANK, f"takes {bank.inputs} values, but 3 or 4 were expected")
        has_level = bank.inputs == 4
    elif 0 in more or 2 in more:
        has_level = 2 in more
    else:  # each takes one value: the level, or its distance
        said = settings.get("add_level")
        if isinstance(said, bool):
            return said, ()
        return False, ("networks are taken to know distances, not levels: cfg_args is missing",)
    if min(more) < has_level or max(more) > 1 + has_level:
        raise networks.mismatch("networks", "take a level and distances in ways that disagree")
    return has_level, ()


def _levels(file: AnchorFile, measures: Measures, settings: Mapping[str, Setting]) -> OctreeLevels:
    voxel, distance = file.info()
    used = measures.level[measures.usable]
    fork = settings.get("fork", DEFAULT_FORK)
    if isinstance(fork, str) or not 1 < fork <= MAX_FORK:
        raise SceneFormatError(
            file.path, f"comes with a cfg_args of the fork {str(fork)[:40]!r}", where="cfg_args"
        )
    rule = settings.get("dist2level", LevelRule.ROUND.value)
    if rule not in [each.value for each in LevelRule]:
        raise SceneFormatError(
            file.path,
            f"comes with a cfg_args of the unknown dist2level {str(rule)[:40]!r}",
            where="cfg_args",
        )
    try:
        return OctreeLevels(
            levels=int(np.ptp(used)) + 1 if len(used) else 1,  # as the trainer's own reader counts
            standard_dist=distance,
            fork=float(fork),
            rule=LevelRule(rule),
            voxel_size=voxel,
        )
    except ValueError as error:
        raise SceneFormatError(file.path, f"is of {error}", remedy=DOWNLOAD_AGAIN) from None


def _notes(settings: Mapping[str, Setting]) -> tuple[str, ...]:
    missing = [name for name in ("fork", "dist2level") if name not in settings]
    if not missing:
        return ()
    return (f"no cfg_args tells {' and '.join(missing)}: the trainer's defaults are taken",)


_READER = AnchorReader(KIND, octree=True, model_of=_model)
recognizes, open_model = _READER.recognizes, _READER.open_model
