"""Files of GridNeRF: what LandMark and LandMarkSystem write, under one set of names.

LandMark's trainer writes ``NAME.th``, a dictionary ``{"kwargs", "state_dict"}`` with a mask of
what is empty (``alphaMask.shape``, ``.mask`` in packed bits, ``.aabb``). Trained in parallel, its
parts are ``NAME-subN.th``, merged into ``NAME-merged.th`` (one plane again) or
``NAME-merged-stack.th`` (a plane for each block of the ground, stacked). LandMarkSystem writes the
same parameters under other names into ``state_dict.th``, beside ``kwargs.th``. Beside both lie the
trainer's settings as text, ``args-DATE.txt``, a line ``name = value`` each.

Source: https://github.com/InternLandMark/LandMark, ``app/models/gridnerf_*.py``, and
https://github.com/InternLandMark/LandMarkSystem, ``benchmarks/nerf/gridnerf/gridnerf.py``.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.models.archive import TRAINING_STATE, read_checkpoint, weights_of
from scene_store.models.checkpoint_names import names_in
from splat.errors import SceneFormatError, SceneNotFoundError

Array = NDArray[Any]

SUFFIX = ".th"
STATE_DICT, KWARGS = "state_dict.th", "kwargs.th"
SUB = re.compile(r"-sub\d+\.th$")
MERGED = ("-merged-stack.th", "-merged.th")
MAX_SETTINGS_BYTES = 1 << 16
# Objects of the trainer's own classes among its arguments; nothing of them is read.
FOREIGN = frozenset(("alphaMask", "config", "scene_manager", "group", "args"))
PLANES = ("density_plane.", "density_encoding.plane_coef.")
WORDS_OF_WRAPPERS = (".module", ".params")

# LandMarkSystem's names → LandMark's.
RENAMED = (
    ("density_encoding.plane_coef.", "density_plane."),
    ("density_encoding.line_coef.", "density_line."),
    ("rgb_encoding.plane_coef.", "app_plane."),
    ("rgb_encoding.line_coef.", "app_line."),
    ("feature2density.feature2density.0.", "basis_den."),
    ("rgb_decoder.basis_mat.", "basis_mat."),
    ("rgb_decoder.decoder.mlp.", "renderModule.mlp."),
    ("embedding_app.embedding.", "embedding_app."),
)


@dataclass(frozen=True, slots=True, eq=False)
class GridFile:
    """What a checkpoint holds.

    Attributes:
        path: To name in errors.
        weights: By LandMark's names.
        settings: Arguments of the model and settings of the trainer, by name; what is not there
            was not written down.
        mask: [D, H, W] bool (z, y, x), what is not empty; None if all may be.
        mask_box: [2, 3], of it.
    """

    path: Path
    weights: dict[str, Array]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    mask_box: Array | None = None

    def need(self, name: str) -> Array:
        """An array.

        Raises:
            SceneFormatError: If it is missing.
        """
        if name not in self.weights:
            raise SceneFormatError(
                self.path,
                f"lacks the weights {name}",
                remedy="it may be of another model than GridNeRF",
            )
        return self.weights[name]

    def series(self, name: str) -> list[Array]:
        """``name.0``, ``name.1``, … as far as they go; at least one."""
        found = [self.need(f"{name}.0")]
        while f"{name}.{len(found)}" in self.weights:
            found.append(self.weights[f"{name}.{len(found)}"])
        return found

    def number(self, name: str, default: float) -> float:
        """A setting that is a finite number."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise SceneFormatError(self.path, f"its {name} is no number", where="kwargs")
        return float(value)

    def vector(self, name: str, *shape: int) -> NDArray[np.float64]:
        """A setting that is an array of finite numbers.

        Raises:
            SceneFormatError: If it is missing, or of another shape.
        """
        if name not in self.settings:
            raise SceneFormatError(self.path, f"lacks {name}", where="kwargs")
        try:
            values = np.asarray(self.settings[name], np.float64)
        except (TypeError, ValueError, OverflowError):
            values = np.empty(0)
        if values.shape != shape or not np.isfinite(values).all():
            raise SceneFormatError(
                self.path,
                f"its {name} is not {' x '.join(map(str, shape))} numbers",
                where="kwargs",
            )
        return values


def checkpoint_of(path: Path) -> Path:
    """The checkpoint in a folder, or the path itself if it is a file.

    Raises:
        SceneNotFoundError: If there is none, or several that no name sets apart.
        SceneFormatError: If there are parts alone.
    """
    if not path.is_dir():
        _require_whole(path)
        return path
    names = sorted(entry.name for entry in path.iterdir() if is_checkpoint(entry))
    if STATE_DICT in names:
        return path / STATE_DICT
    whole = [name for name in names if not SUB.search(name)]
    for end in MERGED:
        merged = [name for name in whole if name.endswith(end)]
        whole = merged or whole
    if len(whole) == 1:
        return path / whole[0]
    if whole:
        raise SceneNotFoundError(
            f"{path}: holds {len(whole)} checkpoints; open one of them: {whole}"
        )
    if names:
        _require_whole(path / names[0])
    raise SceneNotFoundError(f"{path}: holds no checkpoint (*{SUFFIX})")


def is_checkpoint(path: Path) -> bool:
    """Whether what is in a folder is a checkpoint with planes, whole or a part, that has a
    trainer's name."""
    return path.suffix == SUFFIX and path.is_file() and names_planes(path)


def names_planes(path: Path) -> bool:
    """Whether a file is a checkpoint that names the planes of a GridNeRF."""
    return any(_bare(name).startswith(PLANES) for name in names_in(path))


def _require_whole(path: Path) -> None:
    if SUB.search(path.name):
        raise SceneFormatError(
            path,
            "is one part of a model that was trained in parallel",
            remedy="open the merged checkpoint (-merged.th, -merged-stack.th) that LandMark's "
            "trainer writes at the end",
        )


def read_file(path: Path, *, trust: bool = False) -> GridFile:
    """A checkpoint under LandMark's names.

    Raises:
        SceneNotFoundError: If it cannot be read.
        SceneFormatError: If it is damaged.
    """
    settings = _settings_beside(path)
    checkpoint = read_checkpoint(path, trust=trust)
    if any(_bare(str(name)).startswith(PLANES) for name in checkpoint):  # LandMarkSystem's
        kwargs_path = path.with_name(KWARGS)
        if not kwargs_path.is_file():
            raise SceneFormatError(path, f"lacks {KWARGS} beside it, which says where it lies")
        tolerated = TRAINING_STATE | FOREIGN
        kwargs = read_checkpoint(kwargs_path, trust=trust, tolerate=tolerated)
        return GridFile(path, _renamed(weights_of(path, checkpoint)), {**settings, **kwargs})
    state = weights_of(path, checkpoint, "state_dict")
    kwargs = checkpoint.get("kwargs", {})
    if not isinstance(kwargs, dict) or not kwargs:
        raise SceneFormatError(path, "lacks its arguments 'kwargs', which say where it lies")
    arguments = kwargs.get("args")
    if isinstance(arguments, dict):
        settings = {**settings, **arguments}
    mask, box = _mask(path, checkpoint)
    return GridFile(path, _renamed(state), {**settings, **kwargs}, mask, box)


def _renamed(state: dict[str, Array]) -> dict[str, Array]:
    renamed = {}
    for name, value in state.items():
        bare = _bare(name)
        for theirs, ours in RENAMED:
            if bare.startswith(theirs):
                bare = ours + bare[len(theirs) :]
        renamed[bare] = value
    return renamed


def _bare(name: str) -> str:
    """A parameter's name without what training in parallel puts into it."""
    for word in WORDS_OF_WRAPPERS:
        name = name.replace(word, "", 1)
    return name


def _mask(
    path: Path, checkpoint: Mapping[str, Any]
) -> tuple[NDArray[np.bool_] | None, Array | None]:
    shape, bits = checkpoint.get("alphaMask.shape"), checkpoint.get("alphaMask.mask")
    box = checkpoint.get("alphaMask.aabb")
    if shape is None and bits is None and box is None:
        return None, None
    sides = shape if isinstance(shape, tuple) and len(shape) == 3 else ()
    if not sides or not all(type(side) is int and 1 < side <= 1 << 14 for side in sides):
        raise SceneFormatError(path, "has a mask without a shape", where="alphaMask.shape")
    count = math.prod(sides)
    if not isinstance(bits, np.ndarray) or bits.dtype != np.uint8 or bits.size * 8 < count:
        raise SceneFormatError(path, f"has a mask of fewer than {count:,} bits")
    if not isinstance(box, np.ndarray) or box.shape != (2, 3) or not (box[0] < box[1]).all():
        raise SceneFormatError(path, "has a mask without a box", where="alphaMask.aabb")
    return np.unpackbits(bits.reshape(-1), count=count).reshape(sides).view(np.bool_), box


def _settings_beside(path: Path) -> dict[str, Any]:
    """Of the newest ``args-DATE.txt``; nothing if there is none that can be read."""
    try:
        texts = sorted(path.parent.glob("args-*.txt"))
        if not texts or texts[-1].stat().st_size > MAX_SETTINGS_BYTES:
            return {}
        lines = texts[-1].read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    settings = {}
    for line in lines:
        name, equals, text = line.partition(" = ")
        if equals and len(text) < 256:
            settings[name] = _literal(text)
    return settings


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
