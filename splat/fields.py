"""Radiance fields as data: NeRFs of every kind as components that engines evaluate.

A ray is sampled (``Sampler``) at points of the world. Each is brought into the field's own cube
(``FieldSpace``), encoded, and evaluated by a ``Network``; densities and colours are composited
front to back (Max 1995, as in Mildenhall et al. 2020, equation 3)::

    α_i = 1 − exp(−σ_i δ_i)        δ_i: the sample's length along the ray, world units ·
                                     ``FieldSpace.density_scale``
    color = Σ T_i α_i c_i,  T_i = Π_{j<i} (1 − α_j)

A network::

    e = position(x);  h = trunk(e)
    σ = density_activation(density_head(h)[density_column] + density_bias)
    color = color_mlp(concatenation of ``color_inputs`` in their order)

where the inputs of the colour are ``"feature"``: ``feature_head(h)[feature_columns]``,
``"direction"``: ``direction(v)``, ``"position"``: e, ``"appearance"``: a row of ``appearances``,
and ``"grid"``: ``color_encoding(color_basis(color_position(x)))``, for fields whose colours have
planes of their own. The colour's last activation is part of ``color_mlp``.

Arrays are float32 unless said otherwise. No class here holds open files; a field is what a
decoder made of bytes, verified. Encodings are in ``splat.encodings``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from splat.camera import Camera
from splat.encodings import HASH_PRIMES as HASH_PRIMES
from splat.encodings import MAX_GRID_BYTES as MAX_GRID_BYTES
from splat.encodings import MAX_GRID_LEVELS as MAX_GRID_LEVELS
from splat.encodings import ConcatenatedEncoding as ConcatenatedEncoding
from splat.encodings import Encoding as Encoding
from splat.encodings import FrequencyEncoding as FrequencyEncoding
from splat.encodings import FrequencyOrder as FrequencyOrder
from splat.encodings import GridLevel as GridLevel
from splat.encodings import HashGridEncoding as HashGridEncoding
from splat.encodings import IdentityEncoding as IdentityEncoding
from splat.encodings import PagedGridEncoding as PagedGridEncoding
from splat.encodings import PlaneEncoding as PlaneEncoding
from splat.encodings import SphericalHarmonicsEncoding as SphericalHarmonicsEncoding
from splat.networks import Activation, Mlp

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


# --- Networks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """From a position and a direction to a density and a colour; see the module.

    Attributes:
        position: Of the position in the field's cube.
        trunk, density_head, feature_head: Empty ones pass on what they get.
        density_column: Of the density head's outputs.
        density_activation: Applied after adding ``density_bias``.
        feature_columns: First and end, of the feature head's outputs.
        direction: Of the unit view direction, from the camera to the point.
        color_mlp: None for a network that gives densities alone (a proposal).
        color_inputs: What it takes, in order: feature, direction, position, appearance, grid.
        appearances: [A, E]; None without. Row ``appearance`` is used, or the mean of all if it is
            None.
        color_position, color_basis, color_encoding: Of the input "grid": an encoding of the
            position, a network (empty if None), and an encoding of what that gives (GridNeRF: the
            planes of colours, their basis, frequencies of the features).
    """

    position: Encoding
    trunk: Mlp
    density_head: Mlp
    density_activation: Activation
    density_column: int = 0
    density_bias: float = 0.0
    feature_head: Mlp | None = None
    feature_columns: tuple[int, int] = (0, 0)
    direction: Encoding = field(default_factory=IdentityEncoding)
    color_mlp: Mlp | None = None
    color_inputs: tuple[str, ...] = ("feature", "direction")
    appearances: Float32Array | None = None
    appearance: int | None = None
    color_position: Encoding | None = None
    color_basis: Mlp | None = None
    color_encoding: Encoding | None = None

    def __post_init__(self) -> None:
        if self.trunk.inputs != self.position.outputs:
            raise ValueError(
                f"the network takes {self.trunk.inputs} values, but its encoding gives "
                f"{self.position.outputs}"
            )
        if self.density_head.inputs != self.trunk.outputs:
            raise ValueError("the density's head does not fit the network")
        if not 0 <= self.density_column < self.density_head.outputs:
            raise ValueError("the density's head has no such column")
        if self.color_mlp is not None and self.color_mlp.outputs != 3:
            raise ValueError(f"the colour's network gives {self.color_mlp.outputs} values, not 3")
        if self.color_mlp is not None and self.color_mlp.inputs != self.color_width:
            raise ValueError(
                f"the colour's network takes {self.color_mlp.inputs} values, but it is given "
                f"{self.color_width}"
            )

    @property
    def color_width(self) -> int:
        """Values that the colour's network is given."""
        head = self.trunk if self.feature_head is None else self.feature_head
        first, end = self.feature_columns
        widths = {
            "feature": (end if end else head.outputs) - first,
            "direction": self.direction.outputs,
            "position": self.position.outputs,
            "appearance": 0 if self.appearances is None else int(self.appearances.shape[1]),
            "grid": self.grid_width,
        }
        return sum(widths[name] for name in self.color_inputs)

    @property
    def grid_width(self) -> int:
        """Values of the colour's input "grid".

        Raises:
            ValueError: If its parts do not fit each other.
        """
        if self.color_position is None:
            return 0
        width = self.color_position.outputs
        if self.color_basis is not None:
            if self.color_basis.inputs != width:
                raise ValueError("the colour's basis does not fit the encoding of its position")
            width = self.color_basis.outputs
        if self.color_encoding is None:
            return width
        dims = getattr(self.color_encoding, "dims", width)
        if dims != width:
            raise ValueError(f"{width} features of the colour, but its encoding takes {dims}")
        return self.color_encoding.outputs


# --- Space ---------------------------------------------------------------------------------------


class Contraction(Enum):
    """How unbounded space is brought into a ball or cube of radius 2 (Barron et al. 2022, equation
    10): ``x`` if |x| ≤ 1, else ``(2 − 1/|x|) x/|x|``, with the norm in question."""

    NONE = "none"
    L2 = "l2"
    LINF = "linf"


@dataclass(frozen=True, slots=True, eq=False)
class FieldSpace:
    """From the world to the unit cube that encodings take.

    A point x of the world is ``y = world_to_field[:, :3] x + world_to_field[:, 3]``; with a
    contraction y is contracted, and ``(y + 2) / 4`` is taken; without, y itself. Outside ``lo`` to
    ``hi`` there is nothing; where these are infinite, y may be anything (plain NeRFs take points of
    all of space). Directions that encodings take are turned as points are, by the rotation in
    ``world_to_field``, and stay unit vectors.

    Attributes:
        world_to_field: [3, 4] float64, a similarity (rotation, one scale, translation); without a
            contraction it may scale each axis by its own (a box that is no cube).
        contraction: Of what is outside.
        lo, hi: [3] float64, box of the field in the world, axis-aligned; infinite where it
            has no bounds, as with a contraction.
        density_scale: Lengths along a ray are world lengths times this, before they are multiplied
            by densities.
    """

    world_to_field: Float64Array
    contraction: Contraction
    lo: Float64Array
    hi: Float64Array
    density_scale: float = 1.0


# --- Samplers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class OccupancySampler:
    """Steps along rays, skipping what is empty (Müller et al. 2022, appendix E).

    In the field's units, t from the camera, with ``dt(t) = clamp(t · cone_angle, min_step,
    max_step)``: a ray that enters the field's box at t' is stepped through
    ``t_0 = t' + dt(t') / 2``, ``t_(i+1) = t_i + dt(t_i)``, for as long as t_i is inside. It is
    sampled, with length dt(t_i), at those t_i that lie in an occupied cell of the finest cascade
    that covers them. (Instant-NGP draws the first step at random; a half is its mean.)

    Attributes:
        occupied: [K, R, R, R] bool (z, y, x): cascade k covers the cube of side 2^(k + 1 − K)
            around the centre of the field's unit cube, so the last one all of it.
        min_step, max_step: Field units.
        cone_angle: 0 for even steps.
    """

    occupied: NDArray[np.bool_]
    min_step: float
    max_step: float
    cone_angle: float = 0.0


class Spacing(Enum):
    """What is even along a ray between near and far: the distance; its inverse; or nerfstudio's
    piecewise one: ``t/2`` up to 1, ``1 − 1/(2 t)`` beyond."""

    UNIFORM = "uniform"
    INVERSE = "inverse"
    PIECEWISE = "piecewise"


@dataclass(frozen=True, slots=True, eq=False)
class ProposalSampler:
    """Samples where cheaper networks expect something (Barron et al. 2022; nerfacto).

    Attributes:
        proposals: Networks that give densities alone, in order.
        proposal_spaces: Of each.
        counts: Samples of each proposal.
        samples: Of the field itself.
        spacing: Of the first samples.
        padding: Added to every weight before it is sampled (nerfstudio: 0.01).

    Samples are bins: a network is evaluated at their middles, and a bin's length is its own. The
    n + 1 borders of n new bins lie where the weights' cumulative sum reaches ``(i + ½)/(n + 1)``.
    """

    proposals: tuple[Network, ...]
    counts: tuple[int, ...]
    samples: int
    spacing: Spacing = Spacing.PIECEWISE
    padding: float = 0.01
    proposal_spaces: tuple[FieldSpace, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class HierarchicalSampler:
    """Coarse samples, then fine ones where the coarse network found something, both evaluated by
    the fine one (Mildenhall et al. 2020, section 5.2).

    As nerf-pytorch does it without noise: N coarse samples from near to far, both included, at even
    parameters ``linspace(0, 1, N)`` of the spacing. Their weights but the first and last, each plus
    1e-5, are a density between the midpoints of neighbours; its cumulative function is inverted at
    ``linspace(0, 1, fine_samples)``. All samples in order, coarse and fine, are composited; a
    sample's length reaches to the next one, the last one's has no end (1e10).

    Attributes:
        coarse: None if ``Field.network`` itself says where fine samples go.
        coarse_samples, fine_samples: How many; without fine ones the coarse ones are composited.
        spacing: Of the coarse ones.
    """

    coarse: Network | None
    coarse_samples: int = 64
    fine_samples: int = 64
    spacing: Spacing = Spacing.UNIFORM


@dataclass(frozen=True, slots=True, eq=False)
class BoxSampler:
    """Even steps from where a ray enters a box (TensoRF, Chen et al. 2022; GridNeRF).

    Sample i lies at ``t_i = t_0 + i · step``, ``t_0`` being where the ray enters the box, not
    before near and not beyond far; it stands for the step after it, the last one for nothing. What
    is outside the box, or where the mask is 0, has no density.

    Attributes:
        lo, hi: [3] float64, the box, world axes: of the whole field, also in its blocks.
        step: In the unit of t (``Field.rays``).
        samples: Of a ray.
        mask: [D, H, W] bool (z, y, x), vertices of a grid over ``mask_lo`` to ``mask_hi`` whose
            outermost lie on its faces; a point has density if any vertex that has a part in its
            trilinear interpolation is set; that reaches a cell beyond the outermost ones. None:
            everywhere.
        mask_lo, mask_hi: [3] float64, world axes.
        color_weight: A sample whose weight T α is not above this adds no colour, only opacity.
    """

    lo: Float64Array
    hi: Float64Array
    step: float
    samples: int
    mask: NDArray[np.bool_] | None = None
    mask_lo: Float64Array | None = None
    mask_hi: Float64Array | None = None
    color_weight: float = 0.0


Sampler = OccupancySampler | ProposalSampler | HierarchicalSampler | BoxSampler


# --- Fields --------------------------------------------------------------------------------------


KINDS_WITHOUT_CAMERAS = ("NeRF",)  # whose files name none that they were trained with


class Rays(Enum):
    """What a ray's parameter t and its direction are; it matters for pinhole cameras alone.

    LENGTH: t is the distance from the camera, directions have length 1.
    DEPTH: t is the depth z: near, far and steps are depths. Lengths between samples are distances
        all the same, and networks take directions of length 1 (nerf-pytorch).
    RAW: t is the depth, lengths between samples are depths too, and networks take directions whose
        depth is 1 (LandMark).
    """

    LENGTH = "length"
    DEPTH = "depth"
    RAW = "raw"


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A radiance field.

    Attributes:
        kind: "Instant-NGP", "Nerfacto", "GridNeRF", "NeRF".
        network: The one whose colours are seen.
        space: Where it is.
        sampler: Where it is evaluated.
        near, far: Along a ray (``rays``), world units; with ``ndc``, of its parameter in those
            coordinates (0 at the near plane, 1 at infinity).
        background: RGB behind it as it was trained; None if it says nothing.
        last_sample_background: Whether what shines through behind the last sample has that
            sample's colour (nerfacto's default); the picture is then opaque.
        rays: What t is.
        ndc: (width, height, focal length) of normalized device coordinates, if rays were trained
            in those (forward-facing scenes: Mildenhall et al. 2020, appendix C; near plane at
            z = −1, cameras look along −z); None otherwise. Directions are encoded as they were
            before.
        up: Of its world; None if it is not known.
        cameras: Those that it was trained with, where the file tells; else one worth starting from,
            or none.
        notes: What a user should know.
    """

    kind: str
    network: Network
    space: FieldSpace
    sampler: Sampler
    near: float
    far: float
    background: tuple[float, float, float] | None = None
    ndc: tuple[float, float, float] | None = None
    up: tuple[float, float, float] | None = None
    cameras: tuple[Camera, ...] = ()
    notes: tuple[str, ...] = ()
    last_sample_background: bool = False
    rays: Rays = Rays.LENGTH


class TableReader(Protocol):
    """Where the tables of ``PagedGridEncoding`` are. Safe to use from several threads."""

    @property
    def nbytes(self) -> int:
        """Of all tables."""

    def read_into(self, at: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` with the bytes from a place on.

        Raises:
            RenderError: If they cannot be read.
        """


@dataclass(frozen=True, slots=True, eq=False)
class FieldModel:
    """What is known of the fields of a scene without their parameters, which its chunks hold.

    Attributes:
        kinds: Of the fields, without repetition, for people.
        background: As of ``Field``, if all agree.
        border: Over which blocks that lie side by side are blended, world units; 0 for a sharp
            border.
    """

    kinds: tuple[str, ...]
    background: tuple[float, float, float] | None = None
    border: float = 0.0

    @property
    def assumes_cameras(self) -> bool:
        """Whether the cameras of some of its fields are only places worth starting from."""
        return any(kind in KINDS_WITHOUT_CAMERAS for kind in self.kinds)


@dataclass(frozen=True, slots=True, eq=False)
class PagedFieldModel(FieldModel):
    """Of fields with grids that are not in memory as a whole.

    Attributes:
        tables: Where these are.
    """

    tables: TableReader | None = None
