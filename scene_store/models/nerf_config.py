"""What lies beside a NeRF's checkpoint: how it was trained, as far as anything tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from scene_store.formats.source import read_head
from splat.errors import SceneFormatError

MAX_CONFIG_BYTES = 1 << 20
MAX_SAMPLES = 4096

# Photographs of forward-facing scenes (LLFF), an eighth of a phone's 4032 × 3024.
_PHONE = (504.0, 378.0, 407.5658)
_PHONE_NOTE = (
    "trained in device coordinates of a camera that it does not tell: that of the phone of the "
    "LLFF scenes is taken; its picture is stretched if it was another"
)


@dataclass(frozen=True, slots=True)
class NerfConfig:
    """How a NeRF is sampled; the defaults are those of the synthetic scenes.

    Attributes:
        near, far: Depths; with ``ndc`` those of device coordinates.
        coarse_samples, fine_samples: Of a ray.
        is_white: Whether white is behind everything, else black.
        is_inverse: Whether samples are even in inverse depth.
        ndc: Width, height and focal length of device coordinates; None without.
        linear_position, linear_direction: Whether frequencies are even steps, not octaves.
        notes: What a user should know.
    """

    near: float = 2.0
    far: float = 6.0
    coarse_samples: int = 64
    fine_samples: int = 128
    is_white: bool = True
    is_inverse: bool = False
    ndc: tuple[float, float, float] | None = None
    linear_position: bool = False
    linear_direction: bool = False
    notes: tuple[str, ...] = ()


def read_nerf_config(folder: Path, checkpoint: Mapping[str, Any]) -> NerfConfig:
    """The configuration in a folder: ``config.yml`` or ``args.txt``, else defaults.

    Args:
        checkpoint: Of it the size and focal length of the pictures, if it tells them.

    Raises:
        SceneFormatError: If a file there is no configuration.
    """
    if (path := folder / "config.yml").is_file():
        return _of_yaml(_Tree(path, _yaml(path)), checkpoint)
    if (path := folder / "args.txt").is_file():
        return _of_arguments(_Tree(path, _arguments(path)), checkpoint)
    note = "no config.yml or args.txt beside it: sampled as the synthetic scenes are"
    return NerfConfig(notes=(note,))


def _of_yaml(tree: _Tree, checkpoint: Mapping[str, Any]) -> NerfConfig:
    """Of krrish94's nerf-pytorch."""
    sampling = "nerf.validation" if tree.has("nerf.validation") else "nerf.train"
    is_ndc = not tree.flag("dataset.no_ndc", True)
    return _with_ndc(
        NerfConfig(
            near=tree.number("dataset.near", 0.0 if is_ndc else 2.0),
            far=tree.number("dataset.far", 1.0 if is_ndc else 6.0),
            coarse_samples=tree.count(f"{sampling}.num_coarse", 64, 2),
            fine_samples=tree.count(f"{sampling}.num_fine", 64, 0),
            is_white=tree.flag(f"{sampling}.white_background", True),
            is_inverse=tree.flag(f"{sampling}.lindisp", False),
            linear_position=not tree.flag("models.coarse.log_sampling_xyz", True),
            linear_direction=not tree.flag("models.coarse.log_sampling_dir", True),
        ),
        is_ndc,
        checkpoint,
    )


def _of_arguments(tree: _Tree, checkpoint: Mapping[str, Any]) -> NerfConfig:
    """Of yenchenlin's nerf-pytorch, whose data sets have near and far of their own: ``args.txt``
    does not tell them."""
    kind = tree.values.get("dataset_type", "llff")
    is_ndc = kind == "llff" and not tree.flag("no_ndc", False)
    config = NerfConfig(
        near=0.0 if is_ndc else 2.0,
        far=1.0 if is_ndc else 6.0,
        coarse_samples=tree.count("N_samples", 64, 2),
        fine_samples=tree.count("N_importance", 0, 0),
        is_white=tree.flag("white_bkgd", False),
        is_inverse=tree.flag("lindisp", False),
    )
    if kind != "blender" and not is_ndc:
        note = "args.txt tells no near and far: those of the synthetic scenes are taken"
        config = replace(config, notes=(note,))
    return _with_ndc(config, is_ndc, checkpoint)


def _with_ndc(config: NerfConfig, is_ndc: bool, checkpoint: Mapping[str, Any]) -> NerfConfig:
    if not is_ndc:
        return config
    values = [checkpoint.get(name) for name in ("width", "height", "focal_length")]
    sizes = [float(v) for v in values if isinstance(v, (int, float)) and 0 < v < 1e6]
    if len(sizes) == 3:
        return replace(config, ndc=(sizes[0], sizes[1], sizes[2]))
    return replace(config, ndc=_PHONE, notes=(*config.notes, _PHONE_NOTE))


# --- Files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tree:
    """A configuration, with every value checked."""

    path: Path
    values: dict[str, Any]

    def has(self, name: str) -> bool:
        return self._value(name) is not None

    def number(self, name: str, default: float) -> float:
        value = self._value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(name, "needs a number")
        if not abs(value) < 1e9 or not math.isfinite(value):
            raise self._error(name, "needs a number of a sensible size")
        return float(value)

    def count(self, name: str, default: int, minimum: int) -> int:
        value = self.number(name, default)
        if value != int(value) or not minimum <= value <= MAX_SAMPLES:
            raise self._error(name, f"needs a whole number of {minimum} to {MAX_SAMPLES:,}")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(name, "needs to be true or false")
        return value

    def _value(self, name: str) -> Any:
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _error(self, name: str, problem: str) -> SceneFormatError:
        return SceneFormatError(self.path, problem, where=name, remedy="correct it, or remove it")


def _yaml(path: Path) -> dict[str, Any]:
    try:
        # The parser in Python: its alternative in C does not bound nesting.
        values = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = None if line is None else f"line {line + 1}"
        raise SceneFormatError(path, "is not valid YAML", where=where) from None
    if not isinstance(values, dict):
        raise SceneFormatError(path, "is no configuration: it needs names with values")
    return values


def _arguments(path: Path) -> dict[str, Any]:
    """Lines of ``name = value``, values as Python prints them."""
    values: dict[str, Any] = {}
    for line in _text(path).splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        values[name] = _argument(value)
    return values


def _argument(text: str) -> bool | float | str | None:
    named = {"True": True, "False": False, "None": None}
    if text in named:
        return named[text]
    try:
        return float(text)
    except ValueError:
        return text


def _text(path: Path) -> str:
    data = read_head(path, MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise SceneFormatError(path, f"is larger than {MAX_CONFIG_BYTES:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SceneFormatError(path, "is not text") from None
