"""Nerfacto: the folder that ``ns-train nerfacto`` of nerfstudio writes, or a checkpoint of it.

::

    config.yml                          settings, a Python object in YAML (never constructed)
    dataparser_transforms.json          how the data set was moved and scaled
    nerfstudio_models/step-*.ckpt       {"step", "pipeline": state dictionary, "optimizers", …}

The model (Tancik et al. 2023, section 4.1) with what nerfstudio's evaluation does: a hash grid in
space contracted by the L∞ norm, one network for density and features, one for colour that takes
harmonics of the direction and an appearance, two proposal networks. Parameters are either of
nerfstudio's own modules (torch) or flat vectors of tiny-cuda-nn; their names changed with the
versions 0.1 to 1.1, all of which are known here.

The world is nerfstudio's own, where +z is up and cameras are OpenGL's, not that of the data set:
camera paths made in its viewer fit. Evaluation begins at the camera (near 0), whatever near plane
was trained with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from scene_store.models import hash_grids
from scene_store.models.archive import read_checkpoint, weights_of
from scene_store.models.checkpoint_names import names_in
from scene_store.models.field_checks import require_valid
from scene_store.models.nerfacto_config import (
    GridConfig,
    NerfactoConfig,
    read_config,
    read_transform_note,
)
from splat.errors import SceneFormatError, SceneNotFoundError
from splat.fields import (
    Contraction,
    Field,
    FieldSpace,
    HashGridEncoding,
    Network,
    ProposalSampler,
    Spacing,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Layer, Mlp

Array = NDArray[Any]
Arguments = ParamSpec("Arguments")
Built = TypeVar("Built")

MODELS_FOLDER = "nerfstudio_models"
PIPELINE = "pipeline"  # of a checkpoint, what holds the parameters
CHECKPOINT = re.compile(r"step-(\d{1,12})\.ckpt")
UP = (0.0, 0.0, 1.0)
HARMONICS_DEGREE = 4
TCNN_FEATURES = 15  # nerfacto has no setting for them
COLOR_LAYERS = 3  # nor for these
PADDED_GRID, PADDED_INPUT = 0.0, 1.0  # what tiny-cuda-nn pads with, behind a grid and without

# Where versions of nerfstudio keep the parts of a field, newest first.
JOINT = ("mlp_base.model.params", "mlp_base.params")
GRIDS = ("mlp_base.model.0", "mlp_base.0", "mlp_base_grid", "encoding")
NETWORKS = ("mlp_base.model.1", "mlp_base.1", "mlp_base_mlp")
IGNORED = {
    "field.mlp_transient.": "transients",
    "field.mlp_semantics.": "semantics",
    "field.mlp_pred_normals.": "predicted normals",
}
RESOLUTION_LIMITS = {"num_levels": 32, "max_res": 1 << 24, "log2_hashmap_size": 30}


def recognizes(path: Path) -> bool:
    """Whether it is a checkpoint of nerfstudio's, or the output folder of one.

    Of any of its models: which one is told when it is read.
    """
    if path.is_dir():
        folder = path / MODELS_FOLDER
        newest = _newest(folder if folder.is_dir() else path)
        return newest is not None and _is_nerfstudios(newest)
    return _is_nerfstudios(path)


def _is_nerfstudios(path: Path) -> bool:
    names = names_in(path)
    return PIPELINE in names and any("_model." in name for name in names)


def read_field(path: Path, *, trust: bool = False) -> Field:
    """A nerfacto model.

    Args:
        path: The folder that ``ns-train`` wrote, the one of its checkpoints, or a checkpoint;
            ``config.yml`` is looked for beside.
        trust: Whether torch may load the checkpoint, and so execute what it names.

    Raises:
        SceneNotFoundError: If there is no checkpoint.
        SceneFormatError: If it is damaged, or of another model.
    """
    checkpoint = _checkpoint_of(path)
    folder = checkpoint.parent
    if folder.name == MODELS_FOLDER:
        folder = folder.parent
    config_path = folder / "config.yml"
    config = read_config(config_path) if config_path.is_file() else NerfactoConfig()
    state = weights_of(checkpoint, read_checkpoint(checkpoint, trust=trust), PIPELINE)
    weights = _Weights(checkpoint, {_bare(name): value for name, value in state.items()})
    try:
        field = _field(weights, config, _notes(weights, config, folder))
        require_valid(field)
    except ValueError as error:
        raise SceneFormatError(checkpoint, str(error)) from None
    return field


def _newest(folder: Path) -> Path | None:
    found = [
        (int(match[1]), entry)
        for entry in folder.iterdir()
        if (match := CHECKPOINT.fullmatch(entry.name))
    ]
    return max(found)[1] if found else None


def _checkpoint_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    folder = path / MODELS_FOLDER
    newest = _newest(folder if folder.is_dir() else path)
    if newest is None:
        raise SceneNotFoundError(f"{path}: holds no checkpoint (step-*.ckpt)")
    return newest


def _bare(name: str) -> str:
    """A parameter's name without what pipelines and distributed training put before it."""
    return name.removeprefix("module.").removeprefix("_model.").removeprefix("module.")


@dataclass(frozen=True, slots=True)
class _Weights:
    """Parameters by name.

    Attributes:
        path: Of the checkpoint, to name in errors.
        arrays: By name.
    """

    path: Path
    arrays: dict[str, Array]

    def first(self, *names: str) -> Array | None:
        """The first that is there."""
        return next((self.arrays[name] for name in names if name in self.arrays), None)

    def need(self, *names: str) -> Array:
        """The first that is there.

        Raises:
            SceneFormatError: If none is.
        """
        found = self.first(*names)
        if found is None:
            raise SceneFormatError(
                self.path, f"lacks the weights {' or '.join(names)}", remedy=self._remedy()
            )
        return found

    def number(self, name: str, default: int) -> int:
        """A whole number that is kept with the parameters."""
        array = self.first(name)
        if array is None:
            return default
        value = int(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iu" else 0
        limit = RESOLUTION_LIMITS[name.rpartition(".")[2]]
        if not 0 < value <= limit:
            raise SceneFormatError(
                self.path, f"its {name} is {value}, not from 1 to {limit}", where=name
            )
        return value

    def _remedy(self) -> str:
        if any(name.startswith(("gauss_params.", "means")) for name in self.arrays):
            return "it holds Gaussians: open the file that 'ns-export gaussian-splat' writes"
        return "it may be of another model of nerfstudio than nerfacto"


# ---- The field ------------------------------------------------------------------------------


def _field(weights: _Weights, config: NerfactoConfig, notes: tuple[str, ...]) -> Field:
    grid, trunk, is_tcnn = _density_parts(weights, "field", config.grid, TCNN_FEATURES + 1)
    bias = math.log(config.average_init_density)
    space = _space(weights, config)
    appearances, appearance = _appearances(weights, config)
    width = HARMONICS_DEGREE**2 + trunk.outputs - 1
    if appearances is not None:
        width += appearances.shape[1]
    color_mlp = _network(weights, ("field.mlp_head",), width, 3, COLOR_LAYERS, last=True)
    network = Network(
        position=grid,
        trunk=trunk,
        density_head=Mlp(trunk.outputs),
        density_activation=Activation.EXP,
        density_bias=bias,
        feature_columns=(1, trunk.outputs),
        direction=SphericalHarmonicsEncoding(HARMONICS_DEGREE, remapped=not is_tcnn),
        color_mlp=color_mlp if is_tcnn else _with_tcnn_signs(color_mlp),
        color_inputs=(
            "direction",
            "feature",
            *(("appearance",) if appearances is not None else ()),
        ),
        appearances=appearances,
        appearance=appearance,
    )
    return Field(
        kind="Nerfacto",
        network=network,
        space=space,
        sampler=_sampler(weights, config, space, bias),
        near=0.0,
        far=config.far_plane,
        background={"white": (1.0, 1.0, 1.0), "last_sample": None}.get(
            config.background_color, (0.0, 0.0, 0.0)
        ),
        up=UP,
        notes=notes,
        last_sample_background=config.background_color == "last_sample",
    )


def _with_tcnn_signs(color_mlp: Mlp) -> Mlp:
    """For harmonics with tiny-cuda-nn's signs: nerfstudio's own are without (−1)^m, which is −1 at
    every second place of a degree that begins with m = −l, and so at every odd one of them all."""
    first = color_mlp.layers[0]
    weight = first.weight.copy()
    weight[:, 1 : HARMONICS_DEGREE**2 : 2] *= -1
    layers = (replace(first, weight=weight), *color_mlp.layers[1:])
    return Mlp(color_mlp.inputs, layers)


def _space(weights: _Weights, config: NerfactoConfig) -> FieldSpace:
    everywhere = np.full(3, np.inf)
    if not config.disable_scene_contraction:
        return FieldSpace(np.eye(3, 4), Contraction.LINF, -everywhere, everywhere)
    box = weights.need("field.aabb").astype(np.float64)
    if box.shape != (2, 3) or not np.isfinite(box).all() or not (box[0] < box[1]).all():
        raise ValueError("its box (field.aabb) is none")
    size = box[1] - box[0]
    to_field = np.concatenate([np.diag(1 / size), -(box[0] / size)[:, None]], axis=1)
    return FieldSpace(to_field, Contraction.NONE, box[0], box[1])


def _sampler(
    weights: _Weights, config: NerfactoConfig, space: FieldSpace, bias: float
) -> ProposalSampler:
    count = config.num_proposal_iterations
    counts = config.num_proposal_samples_per_ray
    if len(counts) < count:
        raise ValueError(f"{count} proposals, but samples for {len(counts)} of them alone")
    numbers = [0 if config.use_same_proposal_network else number for number in range(count)]
    made = {
        number: _proposal(
            weights,
            f"proposal_networks.{number}",
            config.proposals[min(number, len(config.proposals) - 1)],
            bias,
        )
        for number in sorted(set(numbers))
    }
    is_uniform = config.proposal_initial_sampler == "uniform"
    return ProposalSampler(
        proposals=tuple(made[number] for number in numbers),
        counts=counts[:count],
        samples=config.num_nerf_samples_per_ray,
        spacing=Spacing.UNIFORM if is_uniform else Spacing.PIECEWISE,
        proposal_spaces=(space,) * count,
    )


def _proposal(weights: _Weights, prefix: str, config: GridConfig, bias: float) -> Network:
    grid, trunk, _ = _density_parts(weights, prefix, config, 1)
    return Network(
        position=grid,
        trunk=trunk,
        density_head=Mlp(trunk.outputs),
        density_activation=Activation.EXP,
        density_bias=bias,
    )


def _appearances(
    weights: _Weights, config: NerfactoConfig
) -> tuple[NDArray[np.float32] | None, int | None]:
    """Appearances and which of them is drawn (None: their mean)."""
    table = weights.first("field.embedding_appearance.embedding.weight")
    if table is None:
        return None, None
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError("its appearances (field.embedding_appearance) are no finite table")
    if config.use_average_appearance_embedding:
        return table.astype(np.float32), None
    return np.zeros((1, table.shape[1]), np.float32), 0


# ---- Grids and networks ---------------------------------------------------------------------


def _density_parts(
    weights: _Weights, prefix: str, config: GridConfig, outputs: int
) -> tuple[HashGridEncoding, Mlp, bool]:
    """A grid, the network behind it, and whether both are tiny-cuda-nn's."""
    config = replace(
        config,
        num_levels=weights.number(f"{prefix}.num_levels", config.num_levels),
        max_res=weights.number(f"{prefix}.max_res", config.max_res),
        log2_hashmap_size=weights.number(f"{prefix}.log2_hashmap_size", config.log2_hashmap_size),
    )
    sizes = (config.num_levels, config.base_res, config.max_res, config.log2_hashmap_size)
    if config.max_res < config.base_res:
        raise ValueError(f"{prefix}: a finest resolution of {config.max_res} below the coarsest")
    joint = weights.first(*(f"{prefix}.{name}" for name in JOINT))
    if joint is not None:
        return *_split(prefix, joint.reshape(-1), config, outputs), True
    table = weights.first(*(f"{prefix}.{name}.hash_table" for name in GRIDS))
    if table is not None:
        grid = _checked(prefix, hash_grids.torch_grid, hash_grids.torch_levels(*sizes), table)
    else:
        names = [f"{prefix}.{name}.tcnn_encoding.params" for name in GRIDS]
        params = weights.need(
            f"{prefix}.mlp_base.model.0.hash_table", *names, f"{prefix}.encoding.params"
        )
        levels = hash_grids.tcnn_levels(*sizes)
        grid = _checked(prefix, hash_grids.tcnn_grid, levels, params, config.features_per_level)
    if f"{prefix}.linear.weight" in weights.arrays:
        layer = Layer(
            weights.need(f"{prefix}.linear.weight"), weights.need(f"{prefix}.linear.bias")
        )
        return grid, Mlp(grid.outputs, (layer,)), table is None
    names = [f"{prefix}.{name}" for name in NETWORKS]
    mlp = _network(weights, tuple(names), grid.outputs, outputs, config.num_layers)
    return grid, mlp, table is None


def _split(
    prefix: str, joint: Array, config: GridConfig, outputs: int
) -> tuple[HashGridEncoding, Mlp]:
    """What tiny-cuda-nn keeps in one vector."""
    levels = hash_grids.tcnn_levels(
        config.num_levels, config.base_res, config.max_res, config.log2_hashmap_size
    )
    features = config.features_per_level
    inputs = len(levels) * features
    rest = joint.size - hash_grids.entries_of(levels) * features
    if not hash_grids.tcnn_mlp_size(rest, inputs, outputs, config.num_layers):
        raise ValueError(
            f"{prefix}: {joint.size} values for a grid and a network, but the grid of "
            f"{len(levels)} levels to {config.max_res} takes {joint.size - rest}, and what is left "
            f"is no network of {inputs} inputs and {outputs} outputs"
        )
    mlp = hash_grids.tcnn_mlp(
        joint[:rest], inputs, outputs, config.num_layers, Activation.NONE, PADDED_GRID
    )
    return _checked(prefix, hash_grids.tcnn_grid, levels, joint[rest:], features), mlp


def _network(
    weights: _Weights,
    places: tuple[str, ...],
    inputs: int,
    outputs: int,
    layers: int,
    *,
    last: bool = False,
) -> Mlp:
    """A network at the first of several places.

    Args:
        inputs, outputs, layers: What it should have; layers matter to tiny-cuda-nn alone, and
            outputs to a network of colours (``last``) or tiny-cuda-nn's.
        last: Whether its last activation is the logistic function; else there is none.
    """
    activation = Activation.SIGMOID if last else Activation.NONE
    place = next((p for p in places if f"{p}.layers.0.weight" in weights.arrays), None)
    if place is None:
        names = [f"{p}.{end}" for p in places for end in ("tcnn_encoding.params", "params")]
        params = weights.need(f"{places[0]}.layers.0.weight", *names)
        return _checked(
            places[0],
            hash_grids.tcnn_mlp,
            params,
            inputs,
            outputs,
            layers,
            activation,
            PADDED_INPUT,
        )
    found: list[tuple[Array, Array]] = []
    while (weight := weights.first(f"{place}.layers.{len(found)}.weight")) is not None:
        found.append((weight, weights.need(f"{place}.layers.{len(found)}.bias")))
    if found[0][0].ndim != 2 or found[0][0].shape[1] != inputs:
        raise ValueError(f"{place}: takes {found[0][0].shape[-1]} values, but it is given {inputs}")
    return _checked(
        place, Mlp.of, [w for w, _ in found], [b for _, b in found], Activation.RELU, activation
    )


def _checked(
    place: str,
    build: Callable[Arguments, Built],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Built:
    """``build(*arguments)``; what is wrong is said with its place."""
    try:
        return build(*arguments, **named)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _notes(weights: _Weights, config: NerfactoConfig, folder: Path) -> tuple[str, ...]:
    ignored = [
        what
        for prefix, what in IGNORED.items()
        if any(name.startswith(prefix) for name in weights.arrays)
    ]
    transform = read_transform_note(folder / "dataparser_transforms.json")
    notes = [
        "the world is nerfstudio's own: camera paths made in its viewer fit",
        *([transform] if transform else []),
        *([f"not drawn: {', '.join(ignored)}"] if ignored else []),
    ]
    if not config.found:
        notes.append("there is no config.yml beside it: nerfstudio's own settings are assumed")
    return tuple(notes)
