"""Scaffold-GS: the training folder, its ``iteration_N`` or the ``point_cloud.ply`` in it."""

from __future__ import annotations

from scene_store.models.anchor_file import AnchorFile, Measures
from scene_store.models.anchor_networks import BANK, AnchorNetworks
from scene_store.models.anchor_scene import AnchorReader
from scene_store.models.anchor_settings import settings_file
from splat.anchors import AnchorModel

KIND = "Scaffold-GS"


_UNTOLD = (
    "no cfg_args beside it: what its networks were trained with is told by their widths, the "
    "background it was trained before by nothing"
)


def _model(file: AnchorFile, _: Measures, networks: AnchorNetworks) -> AnchorModel:
    opacity, covariance, color = networks.more_inputs(file.layout)
    if networks.bank is not None and networks.bank.inputs != 4:
        raise networks.mismatch(BANK, f"takes {networks.bank.inputs} values, but 4 were expected")
    return AnchorModel(
        file.layout,
        networks.opacity,
        networks.color,
        networks.covariance,
        opacity_dist=bool(opacity),
        color_dist=bool(color),
        covariance_dist=bool(covariance),
        bank_mlp=networks.bank,
        appearances=networks.appearances,
        name=KIND,
        notes=() if settings_file(file.path) is not None else (_UNTOLD,),
    )


_READER = AnchorReader(KIND, octree=False, model_of=_model)
recognizes, open_model = _READER.recognizes, _READER.open_model
