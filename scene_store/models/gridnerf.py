"""GridNeRF (Xu et al. 2023, "Grid-guided Neural Radiance Fields for Large Urban Scenes").

Planes over the ground, each value times one of a line upwards, in several resolutions
(``density_plane.K``, ``density_line.K``), give features of the density; others give those of the
colour, which a basis, frequencies of the features and a network of three layers turn into one.

Which of the paper's two branches is the picture: LandMark and LandMarkSystem draw the grid's alone;
the NeRF branch (``nerf.*``) guides the planes in training and takes no part in their evaluation.
So it is here.

Rays are LandMark's: their parameter is the depth, steps are even in it, and networks are given
directions whose depth is 1. A sample whose weight is small adds opacity but no colour, so that the
picture is the original's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_store.models.field_checks import MAX_SAMPLES, require_valid
from scene_store.models.field_chunks import FieldChunks
from scene_store.models.gridnerf_blocks import (
    MAX_BLOCKS,
    block_of_planes,
    coarse_planes,
    division_of,
    part_of_box,
)
from scene_store.models.gridnerf_files import (
    GridFile,
    checkpoint_of,
    is_checkpoint,
    names_planes,
    read_file,
)
from scene_store.models.scene import NeuralScene
from splat.errors import SceneFormatError
from splat.fields import (
    BoxSampler,
    Contraction,
    Field,
    FieldSpace,
    Float32Array,
    Float64Array,
    FrequencyEncoding,
    FrequencyOrder,
    IdentityEncoding,
    Network,
    PlaneEncoding,
    Rays,
)
from splat.networks import Activation, Layer, Mlp

Array = NDArray[Any]
Axes = tuple[int, int, int]

UP = (0.0, 0.0, 1.0)
AXES: tuple[Axes, ...] = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # LandMark's matMode and vecMode
MAX_SIDE = 1 << 16  # of a plane, texels
MAX_FREQUENCIES = 16
# LandMark's own, for what is not written down.
STEP_RATIO, DISTANCE_SCALE, DENSITY_SHIFT, COLOR_WEIGHT = 0.5, 25.0, -10.0, 1e-3
ACTIVATIONS = {"relu": Activation.RELU, "softplus": Activation.SOFTPLUS}


def recognizes(path: Path) -> bool:
    """Whether it is a checkpoint of LandMark or LandMarkSystem, or a folder of such."""
    if path.is_dir():
        if (path / "point_cloud.ply").exists():  # LandMarkSystem's Gaussians and anchors
            return False
        return any(is_checkpoint(entry) for entry in path.iterdir())
    return names_planes(path)


def read_field(path: Path, *, trust: bool = False) -> Field:
    """A GridNeRF of one block; see ``read_fields``.

    Raises:
        SceneFormatError: Also if it has several.
    """
    fields = read_fields(path, trust=trust)
    if len(fields) > 1:
        raise SceneFormatError(path, f"has {len(fields)} blocks, but one is wanted")
    return fields[0]


def read_fields(path: Path, *, trust: bool = False) -> tuple[Field, ...]:
    """A GridNeRF: one field, or one for each block if it was trained in blocks.

    Blocks lie side by side over the ground, x slowest. All have the sampler of the whole; a
    block's own planes fill its own box.

    Args:
        path: A checkpoint (``.th``), or the folder of one.
        trust: Whether torch may load it, and so execute what it names.

    Raises:
        SceneNotFoundError: If there is no checkpoint.
        SceneFormatError: If it is damaged, or of another model.
    """
    file = read_file(checkpoint_of(path), trust=trust)
    try:
        fields = tuple(_fields(file))
        for field in fields:
            require_valid(field)
    except ValueError as error:
        raise SceneFormatError(file.path, str(error)) from None
    return fields


def open_model(path: Path, *, trust: bool = False) -> NeuralScene:
    """A GridNeRF as a streamed scene: large planes in blocks, and a coarse one for each.

    Args:
        path, trust: As of ``read_fields``.

    Raises:
        SceneNotFoundError, SceneFormatError: As ``read_fields``.
    """
    shared = _SharedFields(functools.partial(read_fields, path, trust=trust))

    def read(number: int, block: int) -> Field:
        with shared.held() as fields:
            return block_of_planes(fields[number], block, *divisions[number])

    with shared.held() as fields:
        divisions = [division_of(field) for field in fields]
        readers = [
            functools.partial(read, number, block)
            for number, (nx, ny) in enumerate(divisions)
            for block in range(nx * ny)
        ]
        return NeuralScene(FieldChunks.of_fields(path, readers, make_stand_in=coarse_planes))


class _SharedFields:
    """The fields of a checkpoint, parsed once for all blocks that are read at the same time, and
    in memory for no longer than that: a budget may be smaller than the file.

    Args:
        read: Parses it.
    """

    def __init__(self, read: Callable[[], tuple[Field, ...]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._fields: tuple[Field, ...] | None = None
        self._users = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[Field, ...]]:
        """The fields while the block lasts; whoever comes while they are parsed waits for them."""
        with self._lock:
            if self._fields is None:
                self._fields = self._read()
            fields = self._fields
            self._users += 1
        try:
            yield fields
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._fields = None


# ---- A field --------------------------------------------------------------------------------


def _fields(file: GridFile) -> list[Field]:
    box = file.vector("aabb", 2, 3)
    if not (box[0] < box[1]).all():
        raise ValueError("its box (aabb) has no volume")
    density, color = _planes(file, "density"), _planes(file, "app")
    nx, ny = _division(file, density[0][0].shape[1])
    if any(plane.shape[1] != nx * ny for plane, _ in (*density, *color)):
        raise ValueError("its planes disagree in the number of blocks")
    axes = _axes(file, density)
    block_sides = (density[0][0].shape[3], density[0][0].shape[2])
    near, far = file.vector("near_far", 2)
    scale = file.number("distance_scale", DISTANCE_SCALE)
    first = Field(
        kind="GridNeRF",
        network=_network(file, _encoding(density, axes, 0), _encoding(color, axes, 0)),
        space=_space(box, scale),
        sampler=_sampler(file, box, (nx, ny), block_sides),
        near=float(near),
        far=float(far),
        background=(1.0, 1.0, 1.0) if _is_white(file) else (0.0, 0.0, 0.0),
        up=UP,
        rays=Rays.RAW,
        notes=_notes(file),
    )
    made = []
    for number in range(nx * ny):
        network = replace(
            first.network,
            position=_encoding(density, axes, number),
            color_position=_encoding(color, axes, number),
        )
        corners = part_of_box(box, number, nx, ny)
        made.append(replace(first, network=network, space=_space(corners, scale)))
    return made


def _planes(file: GridFile, name: str) -> list[tuple[Array, Array]]:
    """Planes [C, B, H, W] and lines [C, D, B] of all dimensions and resolutions."""
    planes, lines = file.series(f"{name}_plane"), file.series(f"{name}_line")
    if len(planes) != len(lines):
        raise ValueError(f"{len(planes)} planes, but {len(lines)} lines ({name})")
    made = []
    for number, (plane, line) in enumerate(zip(planes, lines, strict=True)):
        where = f"{name}_plane.{number}"
        if plane.ndim == 4:
            plane = plane[:, :, None]
        is_whole = plane.ndim == 5 and line.ndim == 4 and plane.shape[0] == line.shape[0] == 1
        if not is_whole or plane.shape[1] != line.shape[1] or plane.shape[2] != line.shape[3]:
            raise ValueError(f"{where}: shape {plane.shape} with a line of {line.shape}")
        if not all(0 < side <= MAX_SIDE for side in (*plane.shape[3:], line.shape[2])):
            raise ValueError(f"{where}: sides of {plane.shape[3:]} texels")
        if not (np.isfinite(plane).all() and np.isfinite(line).all()):
            raise ValueError(f"{where}: values that are not finite")
        made.append((plane[0], line[0]))
    return made


def _division(file: GridFile, count: int) -> tuple[int, int]:
    """Columns and rows of so many blocks."""
    if not 0 < count <= MAX_BLOCKS:
        raise ValueError(f"{count} blocks")
    nx, ny = (1, 1) if count == 1 else (int(n) for n in file.vector("plane_division", 2))
    if nx * ny != count or nx < 1:
        raise ValueError(f"{count} blocks, but a division into {nx} x {ny} (plane_division)")
    return nx, ny


def _axes(file: GridFile, density: Sequence[tuple[Array, Array]]) -> list[Axes]:
    """Of each plane: resolutions of a dimension follow each other, then comes the next."""
    sides = [(plane.shape[3], plane.shape[2], line.shape[1]) for plane, line in density]
    components = file.settings.get("density_n_comp")
    if isinstance(components, list | tuple) and len(components) in (1, 2, 3):
        dimensions = len(components)
    else:
        dimensions = next((n for n in (1, 2, 3) if _are_resolutions(sides, n)), len(sides))
    if dimensions > len(AXES) or len(sides) % dimensions:
        raise ValueError(f"{len(sides)} planes for {dimensions} dimensions")
    each = len(sides) // dimensions
    return [axes for axes in AXES[:dimensions] for _ in range(each)]


def _are_resolutions(sides: Sequence[tuple[int, ...]], dimensions: int) -> bool:
    """Whether planes are so many groups, each of one plane in different resolutions."""
    if len(sides) % dimensions:
        return False
    each = len(sides) // dimensions
    for first in range(0, len(sides), each):
        group = sides[first : first + each]
        if len(set(group)) < each:
            return False
        for other in group[1:]:
            ratios = [b / a for a, b in zip(group[0], other, strict=True)]
            if max(ratios) > 1.02 * min(ratios):
                return False
    return True


def _encoding(parts: Sequence[tuple[Array, Array]], axes: list[Axes], block: int) -> PlaneEncoding:
    if len(parts) != len(axes):
        raise ValueError(f"{len(parts)} planes of colours, but {len(axes)} of densities")
    return PlaneEncoding(
        tuple(_float32(plane[:, block]) for plane, _ in parts),
        tuple(_float32(line[:, :, block]) for _, line in parts),
        tuple(axes),
    )


def _float32(values: Array) -> Float32Array:
    return np.ascontiguousarray(values, np.float32)


def _space(box: Float64Array, density_scale: float) -> FieldSpace:
    size = box[1] - box[0]
    to_field = np.concatenate([np.diag(1 / size), -(box[0] / size)[:, None]], axis=1)
    return FieldSpace(to_field, Contraction.NONE, box[0], box[1], density_scale)


def _sampler(
    file: GridFile, box: Float64Array, division: tuple[int, int], block_sides: tuple[int, int]
) -> BoxSampler:
    """Even steps of a part of a texel, in float32 as LandMark reckons them.

    Where LandMark merges blocks, ``gridSize`` becomes that of a block, and its steps grow with
    it; here they are those of training, of the whole grid.
    """
    grid = file.vector("gridSize", 3)
    if not ((grid >= 2) & (grid <= MAX_SIDE)).all():
        raise ValueError(f"a grid of {grid} texels (gridSize)")
    is_of_block = tuple(grid[:2]) == block_sides
    whole = (grid * (*division, 1) if is_of_block else grid).astype(np.float32)
    size = (box[1] - box[0]).astype(np.float32)
    ratio = np.float32(file.number("step_ratio", STEP_RATIO))
    step = (size / (whole - 1)).mean(dtype=np.float32) * ratio
    if not 0 < step < math.inf:
        raise ValueError(f"steps of {step:g}")
    samples = float(np.sqrt((size * size).sum(dtype=np.float32)) / step) + 1
    if samples > MAX_SAMPLES:
        raise ValueError(f"steps of {step:g}: {samples:.0f} samples a ray, {MAX_SAMPLES} at most")
    mask_box = file.mask_box
    return BoxSampler(
        lo=box[0],
        hi=box[1],
        step=float(step),
        samples=int(samples),
        mask=file.mask,
        mask_lo=None if mask_box is None else mask_box[0].astype(np.float64),
        mask_hi=None if mask_box is None else mask_box[1].astype(np.float64),
        color_weight=file.number("rayMarch_weight_thres", COLOR_WEIGHT),
    )


# ---- Networks -------------------------------------------------------------------------------


def _network(file: GridFile, position: PlaneEncoding, color_position: PlaneEncoding) -> Network:
    name = file.settings.get("fea2denseAct", "relu")
    if name not in ACTIVATIONS:
        raise ValueError(f"an activation {str(name)[:20]!r} of densities (fea2denseAct)")
    activation = ACTIVATIONS[name]
    is_softplus = activation is Activation.SOFTPLUS
    basis = Mlp.of([file.need("basis_mat.weight")])
    features = basis.outputs
    appearances = file.weights.get("embedding_app.weight")
    latent = 0 if appearances is None else appearances.shape[-1]
    layers = _color_layers(file)
    view_octaves, feature_octaves = _octaves(file, layers[0].inputs, features, latent)
    return Network(
        position=position,
        trunk=Mlp(position.outputs),
        density_head=_density_head(file, position.outputs),
        density_activation=activation,
        density_bias=file.number("density_shift", DENSITY_SHIFT) if is_softplus else 0.0,
        direction=_frequencies(view_octaves, 3) if view_octaves > 0 else IdentityEncoding(3),
        color_mlp=_color_mlp(layers, features, latent, view_octaves, feature_octaves),
        color_inputs=(
            "grid",
            *(("appearance",) if latent else ()),
            *(("direction",) if view_octaves >= 0 else ()),
        ),
        appearances=None if appearances is None else appearances.astype(np.float32),
        appearance=None if appearances is None else 0,  # LandMark's, of pictures without one
        color_position=color_position,
        color_basis=basis,
        color_encoding=_frequencies(feature_octaves, features) if feature_octaves else None,
    )


def _density_head(file: GridFile, width: int) -> Mlp:
    """The features' sum, or a learned one that is rectified."""
    weight = file.weights.get("basis_den.weight")
    if weight is None:
        return Mlp.of([np.ones((1, width), np.float32)])
    return Mlp.of([weight], last=Activation.RELU)


def _color_layers(file: GridFile) -> list[Layer]:
    """Three, of which the last has the logistic function."""
    layers = []
    for number in (0, 2, 4):
        weight = file.need(f"renderModule.mlp.{number}.weight")
        bias = file.weights.get(f"renderModule.mlp.{number}.bias")
        if weight.ndim != 2:
            raise ValueError(f"renderModule.mlp.{number}: weights of shape {weight.shape}")
        activation = Activation.SIGMOID if number == 4 else Activation.RELU
        zeros = np.zeros(len(weight), np.float32)
        layers.append(Layer(weight, zeros if bias is None else bias, activation))
    return layers


def _octaves(file: GridFile, inputs: int, features: int, latent: int) -> tuple[int, int]:
    """Octaves of directions (−1: no directions at all) and of features."""
    if "view_pe" in file.settings and "fea_pe" in file.settings:
        view, feature = int(file.number("view_pe", 0)), int(file.number("fea_pe", 0))
    else:  # LandMarkSystem does not write them down; directions have fewer octaves than features
        view, feature = _octaves_of_width(inputs - latent - features, features)
    width = features * (1 + 2 * feature) + latent + (3 + 6 * max(view, 0) if view >= 0 else 0)
    if not (-1 <= view <= MAX_FREQUENCIES and 0 <= feature <= MAX_FREQUENCIES):
        raise ValueError(f"{view} and {feature} octaves of directions and features")
    if width != inputs:
        raise ValueError(
            f"renderModule takes {inputs} values, but {features} features with {feature} octaves, "
            f"directions with {view} and an appearance of {latent} are {width}"
        )
    return view, feature


def _octaves_of_width(rest: int, features: int) -> tuple[int, int]:
    for feature in range(MAX_FREQUENCIES + 1):
        left = rest - 2 * features * feature
        if left >= 3 and (left - 3) % 6 == 0 and (left - 3) // 6 <= MAX_FREQUENCIES // 2:
            return (left - 3) // 6, feature
    raise ValueError(f"renderModule takes {rest} values beside the features, which no octaves give")


def _frequencies(octaves: int, dims: int) -> FrequencyEncoding:
    """The values themselves, and of all of them sines and then cosines."""
    frequencies = tuple(float(1 << octave) for octave in range(octaves))
    return FrequencyEncoding(frequencies, dims, order=FrequencyOrder.DIMENSIONS)


def _color_mlp(layers: list[Layer], features: int, latent: int, view: int, feature: int) -> Mlp:
    """With inputs in our order: the original's are features, appearance, direction, frequencies of
    the features, frequencies of the direction."""
    widths = (features, latent, 3 if view >= 0 else 0, 2 * feature * features, 6 * max(view, 0))
    ends = np.cumsum(widths)
    own, appearance, direction, waves, view_waves = (
        np.arange(end - width, end) for width, end in zip(widths, ends, strict=True)
    )
    order = np.concatenate([own, waves, appearance, direction, view_waves])
    first = replace(layers[0], weight=layers[0].weight[:, order])
    return Mlp(first.inputs, (first, *layers[1:]))


def _is_white(file: GridFile) -> bool:
    return bool(file.settings.get("white_bkgd", True))  # as all of LandMark's configurations


def _notes(file: GridFile) -> tuple[str, ...]:
    notes = []
    if any(name.startswith("nerf.") for name in file.weights):
        notes.append("the grid branch is drawn, as LandMark does, not the NeRF branch")
    if "embedding_app.weight" in file.weights:
        notes.append("drawn with the appearance of the first picture, as LandMark does")
    if "white_bkgd" not in file.settings:
        notes.append("its background is not written down: white is assumed")
    if file.number("alpha_mask_filter_thre", 0) != 0:
        notes.append("its threshold for empty space is taken to be 0")
    return tuple(notes)
