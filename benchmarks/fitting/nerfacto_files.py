"""Nerfacto's output folder, written as nerfstudio's trainer does it, of several versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fitting.nerfacto_torch import Nerfacto, NerfactoSettings
from benchmarks.fitting.posed_rays import Similarity

STEP = 29_999
NOT_WRITTEN = ("version", "num_images", "proposals", "scene_scale")
# A trainer's settings as ``yaml.dump`` writes a Python object, with all kinds of tags.
TRAINER = """\
!!python/object:nerfstudio.engine.trainer.TrainerConfig
_target: !!python/name:nerfstudio.engine.trainer.Trainer ''
data: &id003 !!python/object/apply:pathlib.PosixPath
- data
- town
experiment_name: town
gradient_accumulation_steps: {{}}
logging: !!python/object:nerfstudio.configs.base_config.LoggingConfig
  local_writer: !!python/object:nerfstudio.configs.base_config.LocalWriterConfig
    _target: !!python/name:nerfstudio.utils.writer.LocalWriter ''
    enable: true
    stats_to_track: !!python/tuple
    - !!python/object/apply:nerfstudio.utils.writer.EventName
      - Train Iter (time)
max_num_iterations: 30000
method_name: nerfacto
mixed_precision: true
optimizers:
  fields:
    optimizer: !!python/object:nerfstudio.engine.optimizers.AdamOptimizerConfig
      _target: &id001 !!python/name:torch.optim.adam.Adam ''
      eps: 1.0e-15
      lr: 0.01
    scheduler: null
  proposal_networks:
    optimizer: !!python/object:nerfstudio.engine.optimizers.AdamOptimizerConfig
      _target: *id001
      eps: 1.0e-15
      lr: 0.01
    scheduler: null
pipeline: !!python/object:nerfstudio.pipelines.base_pipeline.VanillaPipelineConfig
  _target: !!python/name:nerfstudio.pipelines.base_pipeline.VanillaPipeline ''
  datamanager: !!python/object:nerfstudio.data.datamanagers.\
base_datamanager.VanillaDataManagerConfig
    data: *id003
    train_num_rays_per_batch: 4096
  model: !!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig
    _target: !!python/name:nerfstudio.models.nerfacto.NerfactoModel ''
{model}
relative_model_dir: !!python/object/apply:pathlib.PosixPath
- nerfstudio_models
vis: viewer
"""


def write_run(
    model: Nerfacto, folder: Path, world: Similarity | None = None, *, step: int = STEP
) -> Path:
    """Writes what ``ns-train`` leaves behind; the checkpoint's path.

    Args:
        model: Its settings say of which version.
        folder: Made if it is missing.
        world: From the data set to the model's world.
        step: In the checkpoint's name.
    """
    models = folder / "nerfstudio_models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(config_text(model.settings), "utf-8")
    if world is not None:
        transform = {"transform": world.matrix.tolist(), "scale": world.scale}
        (folder / "dataparser_transforms.json").write_text(json.dumps(transform, indent=4), "utf-8")
    path = models / f"step-{step:09d}.ckpt"
    torch.save(checkpoint(model, step), path)
    return path


def checkpoint(model: Nerfacto, step: int = STEP) -> dict[str, Any]:
    """What the trainer gives ``torch.save``, with the states of its optimizers and the like."""
    moments = {"step": torch.tensor(float(step)), "exp_avg": torch.zeros(4)}
    group = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0, "params": [0]}
    return {
        "step": step,
        "pipeline": {f"_model.{name}": value for name, value in named_state(model).items()},
        "optimizers": {"fields": {"state": {0: moments}, "param_groups": [group]}},
        "schedulers": {"fields": {"base_lrs": [1e-2], "last_epoch": step, "lr_lambdas": [None]}},
        "scalers": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
    }


def named_state(model: Nerfacto) -> Mapping[str, Tensor]:
    """The model's state under the names of its version."""
    state = dict(model.state_dict())
    version = model.settings.version
    if model.settings.implementation == "tcnn" and version != "0.2":
        state["field.direction_encoding.tcnn_encoding.params"] = torch.zeros(0)
    if version == "0.2":
        state = {
            name.replace(".model.params", ".params").replace(".tcnn_encoding.params", ".params"): v
            for name, v in state.items()
        }
        state["field.direction_encoding.params"] = torch.zeros(0)
    elif version == "0.3":
        for name in list(state):
            for here, there in (
                ("mlp_base.0.", "mlp_base_grid."),
                ("mlp_base.1.", "mlp_base_mlp."),
            ):
                if name.startswith(f"field.{here}"):
                    state[name.replace(here, there)] = state[name]
    state["device_indicator_param"] = torch.zeros(0)
    state["camera_optimizer.pose_adjustment"] = torch.zeros(model.settings.num_images, 6)
    return state


def config_text(settings: NerfactoSettings) -> str:
    """``config.yml``."""
    lines = [
        f"{field.name}: {_yaml(getattr(settings, field.name))}"
        for field in sorted(fields(settings), key=lambda field: field.name)
        if field.name not in NOT_WRITTEN
    ]
    lines += ["loss_coefficients: &id002", "  rgb_loss_coarse: 1.0", "proposal_net_args_list:"]
    for proposal in settings.proposals:
        items = [f"{f.name}: {_yaml(getattr(proposal, f.name))}" for f in fields(proposal)]
        lines += [f"{'- ' if n == 0 else '  '}{item}" for n, item in enumerate(items)]
    return TRAINER.format(model="\n".join(f"    {line}" for line in lines))


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"!!python/tuple [{', '.join(map(str, value))}]"
    return str(value)
