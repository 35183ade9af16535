"""What nerfstudio writes down of a model besides its parameters: ``config.yml``.

The file is a Python object in YAML (``!!python/object:nerfstudio.engine.trainer.TrainerConfig``).
It is never constructed: the parser makes a graph of nodes of it, tags are names in it and nothing
more, and what is needed is looked up by its path.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from splat.errors import SceneFormatError

MAX_CONFIG_BYTES = 1 << 18  # those of nerfstudio have some ten thousand
MAX_SAMPLES = 4096
MAX_ITERATIONS = 4
BACKGROUNDS = ("random", "last_sample", "black", "white")
SAMPLERS = ("piecewise", "uniform")
TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class GridConfig:
    """A hash grid and the network behind it; what the parameters' shapes do not tell.

    Attributes:
        num_levels, base_res, max_res, log2_hashmap_size, features_per_level: Of the grid.
        num_layers: Of the network, the last one included.
        use_linear: Whether there is one linear layer instead.
    """

    num_levels: int = 16
    base_res: int = 16
    max_res: int = 2048
    log2_hashmap_size: int = 19
    features_per_level: int = 2
    num_layers: int = 2
    use_linear: bool = False


PROPOSAL = GridConfig(num_levels=8, max_res=1024, log2_hashmap_size=18)  # HashMLPDensityField
PROPOSALS = (
    replace(PROPOSAL, num_levels=5, max_res=128, log2_hashmap_size=17),
    replace(PROPOSAL, num_levels=5, max_res=256, log2_hashmap_size=17),
)


@dataclass(frozen=True, slots=True)
class NerfactoConfig:
    """Settings of a model; the defaults are nerfstudio's own.

    Attributes:
        model: Name of its class.
        grid: Of the field.
        proposals: Of each proposal network.
        num_proposal_iterations: How often is sampled before the field is.
        use_same_proposal_network: Whether it is one network each time.
        num_proposal_samples_per_ray, num_nerf_samples_per_ray: Samples.
        proposal_initial_sampler: What is even in the first ones.
        far_plane: World units.
        background_color: One of ``BACKGROUNDS``.
        use_average_appearance_embedding: Else pictures are drawn with an appearance of zeros.
        average_init_density: Densities are multiplied by it.
        disable_scene_contraction: Whether the field ends at its box.
        found: Whether there was a file, and this is more than defaults.
    """

    model: str = "NerfactoModel"
    grid: GridConfig = GridConfig()
    proposals: tuple[GridConfig, ...] = PROPOSALS
    num_proposal_iterations: int = 2
    use_same_proposal_network: bool = False
    num_proposal_samples_per_ray: tuple[int, ...] = (256, 96)
    num_nerf_samples_per_ray: int = 48
    proposal_initial_sampler: str = "piecewise"
    far_plane: float = 1000.0
    background_color: str = "last_sample"
    use_average_appearance_embedding: bool = True
    average_init_density: float = 1.0
    disable_scene_contraction: bool = False
    found: bool = False


def read_config(path: Path) -> NerfactoConfig:
    """The settings in a ``config.yml``.

    Raises:
        SceneFormatError: If it is no YAML, too large, of another model, or makes no sense.
    """
    model = _lookup(_compose(path), "pipeline", "model", path=path)
    name = _class_name(_child(model, "_target"), path)
    if "Nerfacto" not in name:
        raise SceneFormatError(
            path,
            f"the model is {name}, not Nerfacto",
            where="pipeline.model._target",
            remedy="of nerfstudio's NeRFs nerfacto and depth-nerfacto can be read; Gaussians are "
            "read from the file that 'ns-export gaussian-splat' writes",
        )
    reader = _Settings(path, model)
    grid = reader.grid(GridConfig())
    listed = _child(model, "proposal_net_args_list")
    proposals = (
        tuple(_Settings(path, node).grid(PROPOSAL) for node in listed.value[: MAX_ITERATIONS + 1])
        if isinstance(listed, SequenceNode)
        else (PROPOSAL,)  # nerfstudio 0.1.0 had no choice
    )
    iterations = reader.integer("num_proposal_iterations", 1, MAX_ITERATIONS) or reader.integer(
        "num_proposal_network_iterations", 1, MAX_ITERATIONS, 2
    )
    return NerfactoConfig(
        model=name,
        grid=grid,
        proposals=proposals or (PROPOSAL,),
        num_proposal_iterations=iterations,
        use_same_proposal_network=reader.flag("use_same_proposal_network", False),
        num_proposal_samples_per_ray=reader.counts("num_proposal_samples_per_ray", (256, 96)),
        num_nerf_samples_per_ray=reader.integer("num_nerf_samples_per_ray", 1, MAX_SAMPLES, 48),
        proposal_initial_sampler=reader.choice("proposal_initial_sampler", SAMPLERS),
        far_plane=reader.positive("far_plane", 1000.0),
        background_color=reader.choice("background_color", BACKGROUNDS, "last_sample"),
        use_average_appearance_embedding=reader.flag("use_average_appearance_embedding", True),
        average_init_density=reader.positive("average_init_density", 1.0),
        disable_scene_contraction=reader.flag("disable_scene_contraction", False),
        found=True,
    )


def read_transform_note(path: Path) -> str | None:
    """What ``dataparser_transforms.json`` says, for people; None if there is none.

    A point p of the data set is ``scale · transform p`` in nerfstudio's world.
    """
    if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        scale = float(data["scale"])
        rows = [[float(value) for value in row] for row in data["transform"]]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return f"{path.name} cannot be read: how the data set lay is not known"
    if [len(row) for row in rows] != [4, 4, 4] or not math.isfinite(scale):
        return f"{path.name} holds no transform: how the data set lay is not known"
    return f"the data set was scaled by {scale:.6g} (see {path.name})"


class _Settings:
    """The values of a mapping of scalars, checked."""

    def __init__(self, path: Path, node: Node) -> None:
        self._path = path
        self._node = node

    def grid(self, default: GridConfig) -> GridConfig:
        """A hash grid's settings; what is missing is as in ``default``."""
        limits = {
            "num_levels": (1, 32),
            "base_res": (1, 1 << 20),
            "max_res": (1, 1 << 24),  # beyond, a float32 cannot tell its vertices apart
            "log2_hashmap_size": (1, 30),
            "features_per_level": (1, 16),
            "num_layers": (1, 8),
        }
        values: dict[str, Any] = {
            key: self.integer(key, low, high, getattr(default, key))
            for key, (low, high) in limits.items()
        }
        grid = GridConfig(**values, use_linear=self.flag("use_linear", default.use_linear))
        if grid.max_res < grid.base_res:
            raise self._error("max_res", f"is {grid.max_res}, below base_res of {grid.base_res}")
        return grid

    def integer(self, key: str, low: int, high: int, default: int = 0) -> int:
        """A whole number from ``low`` to ``high``."""
        node = _child(self._node, key)
        return default if node is None else self._whole(key, node, low, high)

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Numbers of samples."""
        node = _child(self._node, key)
        if node is None:
            return default
        if not isinstance(node, SequenceNode) or not 0 < len(node.value) <= MAX_ITERATIONS:
            raise self._error(key, f"is no list of 1 to {MAX_ITERATIONS} numbers")
        return tuple(self._whole(key, part, 1, MAX_SAMPLES) for part in node.value)

    def positive(self, key: str, default: float) -> float:
        """A finite number above 0."""
        text = self._text(key)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise self._error(key, f"is {text[:40]!r}, not a number above 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Yes or no."""
        text = self._text(key)
        if text is None:
            return default
        if text.lower() not in ("true", "false"):
            raise self._error(key, f"is {text[:40]!r}, neither true nor false")
        return text.lower() == "true"

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of several words."""
        text = self._text(key)
        if text is None:
            return default or choices[0]
        if text not in choices:
            raise self._error(key, f"is {text[:40]!r}, not one of {', '.join(choices)}")
        return text

    def _text(self, key: str) -> str | None:
        node = _child(self._node, key)
        if node is None:
            return None
        if not isinstance(node, ScalarNode):
            raise self._error(key, "is no single value")
        return str(node.value)

    def _whole(self, key: str, node: Node, low: int, high: int) -> int:
        text = str(node.value)[:20] if isinstance(node, ScalarNode) else ""
        value = int(text) if text.isdecimal() and text.isascii() else -1
        if not low <= value <= high:
            raise self._error(key, f"is {text!r}, not a whole number from {low} to {high}")
        return value

    def _error(self, key: str, problem: str) -> SceneFormatError:
        return SceneFormatError(self._path, f"{key} {problem}", where="pipeline.model")


def _compose(path: Path) -> Node:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SceneFormatError(path, f"is larger than {MAX_CONFIG_BYTES:,} bytes")
        node = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise SceneFormatError(path, f"is no YAML ({problem[:120]})") from None
    except RecursionError:
        raise SceneFormatError(path, "is nested too deep") from None
    except OSError as error:
        raise SceneFormatError(path, f"cannot be read ({error.strerror})") from None
    if not isinstance(node, MappingNode):
        raise SceneFormatError(path, "holds no settings")
    return node


def _lookup(node: Node, *keys: str, path: Path) -> Node:
    for key in keys:
        found = _child(node, key)
        if not isinstance(found, MappingNode):
            raise SceneFormatError(
                path,
                f"has no settings '{'.'.join(keys)}'",
                remedy="open the folder that 'ns-train nerfacto' wrote",
            )
        node = found
    return node


def _child(node: Node, key: str) -> Node | None:
    """The value of a key; None if there is none, or if it is null."""
    if not isinstance(node, MappingNode):
        return None
    for name, value in node.value:
        if isinstance(name, ScalarNode) and name.value == key:
            is_null = isinstance(value, ScalarNode) and value.tag == TAG + "null"
            return None if is_null else value
    return None


def _class_name(node: Node | None, path: Path) -> str:
    """``NerfactoModel`` of ``!!python/name:nerfstudio.models.nerfacto.NerfactoModel ''``."""
    prefix = TAG + "python/name:"
    if node is None or not node.tag.startswith(prefix):
        raise SceneFormatError(
            path, "does not say which model it is of", where="pipeline.model._target"
        )
    return str(node.tag)[len(prefix) :].rpartition(".")[2][:60]
