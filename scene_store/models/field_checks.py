"""Whether a field is one that can be evaluated: sizes that fit, numbers that are finite.

Engines read parameters without looking where they are, so that nothing may come to them that
points beyond an array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat.encodings import (
    MAX_FREQUENCIES,
    MAX_GRID_BYTES,
    MAX_GRID_FEATURES,
    MAX_GRID_LEVELS,
    MAX_GRID_SCALE,
    MAX_HARMONICS_DEGREE,
    MAX_PARTS,
    MAX_PLANE_SIDE,
    MAX_PLANE_VALUES,
)
from splat.fields import (
    BoxSampler,
    ConcatenatedEncoding,
    Contraction,
    Encoding,
    Field,
    FieldSpace,
    FrequencyEncoding,
    HashGridEncoding,
    HierarchicalSampler,
    IdentityEncoding,
    Network,
    OccupancySampler,
    PagedGridEncoding,
    PlaneEncoding,
    ProposalSampler,
    SphericalHarmonicsEncoding,
)
from splat.networks import MAX_WIDTH, Activation

MAX_SAMPLES = 4096  # of a ray, of each stage
MAX_CASCADES = 16
MAX_OCCUPANCY_SIDE = 1024
MIN_STEP = 1e-6  # field units
MAX_STEP = 1e6  # and padding of weights
MAX_BUFFERS = 256
MAX_LENGTH = 1e30  # world units: what float32 holds, and products of it with what is usual


def require_valid(field: Field, tables_bytes: int = 0) -> None:
    """All that engines take for granted.

    Args:
        tables_bytes: Of all tables that are elsewhere (``PagedGridEncoding``).

    Raises:
        ValueError: Which of it does not hold.
    """
    _check_network(field.network, 3, "the network")
    if field.network.color_mlp is None:
        raise ValueError("the field's network gives no colours")
    _check_space(field.space, "the field's space")
    if not (0 <= field.near < field.far and field.near <= MAX_LENGTH):
        raise ValueError(f"the field is near {field.near:g} and far {field.far:g}")
    if field.ndc is not None and not all(np.isfinite(v) and v > 0 for v in field.ndc):
        raise ValueError("its device coordinates are of no picture")
    for grid in paged_grids(field):
        if not 0 <= grid.at <= tables_bytes - grid.entries * grid.entry_bytes:
            raise ValueError("it has a grid whose table is not there")
    sampler = field.sampler
    if isinstance(sampler, OccupancySampler):
        _check_occupancy(sampler)
    elif isinstance(sampler, ProposalSampler):
        _check_proposals(sampler)
    elif isinstance(sampler, BoxSampler):
        _check_box(sampler)
    else:
        _check_hierarchical(sampler)
    if not isinstance(sampler, OccupancySampler) and not np.isfinite(field.far):
        raise ValueError("a field that is sampled from near to far needs a far end")


def networks_of(field: Field) -> tuple[Network, ...]:
    """All that a field is evaluated by, its own first."""
    sampler = field.sampler
    if isinstance(sampler, ProposalSampler):
        return (field.network, *sampler.proposals)
    if isinstance(sampler, HierarchicalSampler) and sampler.coarse is not None:
        return (field.network, sampler.coarse)
    return (field.network,)


def paged_grids(field: Field) -> tuple[PagedGridEncoding, ...]:
    """Those whose tables are elsewhere."""
    encodings = [network.position for network in networks_of(field)]
    return tuple(each for each in encodings if isinstance(each, PagedGridEncoding))


def _check_network(network: Network, dims: int, where: str) -> None:
    if isinstance(network.position, PagedGridEncoding):
        _check_paged(network, f"{where}'s encoding")
    else:
        _check_encoding(network.position, dims, f"{where}'s encoding")
    if network.density_activation is Activation.SOFTMAX:
        raise ValueError(f"{where}'s density is one value, of which there is no softmax")
    if network.color_mlp is not None:
        if len(set(network.color_inputs)) < len(network.color_inputs):
            raise ValueError(f"{where}'s colour takes an input twice")
        if "grid" in network.color_inputs and network.color_position is None:
            raise ValueError(f"{where}'s colour takes a grid that it has not")
        _check_encoding(network.direction, 3, f"{where}'s direction")
        head = network.trunk if network.feature_head is None else network.feature_head
        first, end = network.feature_columns
        if not 0 <= first <= (end or head.outputs) <= head.outputs:
            raise ValueError(f"{where} has features that are not there")
    if network.color_position is not None:
        _check_encoding(network.color_position, dims, f"{where}'s encoding of colours")
        if network.color_encoding is not None:
            width = network.color_position.outputs
            width = width if network.color_basis is None else network.color_basis.outputs
            _check_encoding(network.color_encoding, width, f"{where}'s encoding of features")
    if network.feature_head is not None and network.feature_head.inputs != network.trunk.outputs:
        raise ValueError(f"{where}'s features do not fit it")
    if not np.isfinite(network.density_bias):
        raise ValueError(f"{where}'s density is not finite")
    rows = network.appearances
    if rows is not None:
        _check_finite(rows, f"{where}'s appearances", 2)
        if network.appearance is not None and not 0 <= network.appearance < len(rows):
            raise ValueError(f"{where} has no appearance {network.appearance}")


def _check_encoding(encoding: Encoding, dims: int, where: str, depth: int = 4) -> None:
    if isinstance(encoding, ConcatenatedEncoding):
        if not 1 <= len(encoding.parts) <= MAX_PARTS or depth == 0:
            raise ValueError(f"{where} has no parts, too many, or parts of parts of parts")
        for part in encoding.parts:
            _check_encoding(part, dims, where, depth - 1)
    elif dims != 3 and not isinstance(encoding, IdentityEncoding | FrequencyEncoding):
        raise ValueError(f"{where} is of {dims} values")
    elif isinstance(encoding, HashGridEncoding):
        _check_finite(encoding.table, f"{where}'s table", 2)
        table = encoding.table
        _check_grid(encoding, len(table), table.shape[1], table.nbytes, where)
    elif isinstance(encoding, PagedGridEncoding):
        raise ValueError(f"{where} is not in memory")
    elif isinstance(encoding, PlaneEncoding):
        _check_planes(encoding, where)
    elif isinstance(encoding, SphericalHarmonicsEncoding):
        if not 1 <= encoding.degree <= MAX_HARMONICS_DEGREE:
            raise ValueError(f"{where} is of harmonics of degree {encoding.degree}")
    elif encoding.dims != dims:
        raise ValueError(f"{where} is of {encoding.dims} values, not {dims}")
    elif isinstance(encoding, FrequencyEncoding) and (
        len(encoding.frequencies) > MAX_FREQUENCIES or not np.isfinite(encoding.frequencies).all()
    ):
        raise ValueError(f"{where} has frequencies that are no numbers, or too many")
    if not 0 < encoding.outputs <= MAX_WIDTH:
        raise ValueError(f"{where} gives {encoding.outputs} values")


def _check_paged(network: Network, where: str) -> None:
    grid = network.position
    assert isinstance(grid, PagedGridEncoding)
    if network.color_position is not None:
        raise ValueError(f"{where} is not in memory, but that of its colours is")
    if not 0 < grid.outputs <= MAX_WIDTH:
        raise ValueError(f"{where} gives {grid.outputs} values")
    _check_grid(grid, grid.entries, grid.features, grid.entries * grid.entry_bytes, where)
    others = len(grid.levels) - grid.kept
    if others < 0 or grid.kept < 0 or not min(others, 1) <= grid.buffers <= MAX_BUFFERS:
        raise ValueError(f"{where} keeps {grid.kept} levels, and {grid.buffers} others")


def _check_grid(
    grid: HashGridEncoding | PagedGridEncoding, entries: int, features: int, nbytes: int, where: str
) -> None:
    if not 1 <= len(grid.levels) <= MAX_GRID_LEVELS or nbytes > MAX_GRID_BYTES:
        raise ValueError(f"{where} has {len(grid.levels)} levels and {nbytes:,} bytes")
    if not 1 <= features <= MAX_GRID_FEATURES:
        raise ValueError(f"{where} has {features} features a level")
    if not 0 <= grid.shift <= 1:
        raise ValueError(f"{where} is shifted by {grid.shift:g}")
    for number, level in enumerate(grid.levels):
        is_there = level.first >= 0 and 1 <= level.entries <= entries - level.first
        is_sized = 0 < level.scale <= MAX_GRID_SCALE and 1 <= level.resolution <= MAX_GRID_SCALE
        if not (is_there and is_sized):
            raise ValueError(f"{where}: level {number} reaches beyond its table, or has no size")


def _check_planes(planes: PlaneEncoding, where: str) -> None:
    if not len(planes.planes) == len(planes.lines) == len(planes.axes) >= 1:
        raise ValueError(f"{where} has planes without lines or axes")
    if len(planes.planes) > MAX_PARTS:
        raise ValueError(f"{where} has {len(planes.planes)} planes")
    for plane, line, axes in zip(planes.planes, planes.lines, planes.axes, strict=True):
        _check_finite(plane, f"{where}'s plane", 3)
        if line is not None:
            _check_finite(line, f"{where}'s line", 2)
            if len(line) != len(plane):
                raise ValueError(f"{where} has a line of {len(line)} values for {len(plane)}")
        longest = max(*plane.shape[1:], 0 if line is None else line.shape[-1])
        if longest > MAX_PLANE_SIDE or plane.size > MAX_PLANE_VALUES:
            raise ValueError(f"{where} has a plane or line of absurd size")
        if not all(0 <= axis < 3 for axis in axes):
            raise ValueError(f"{where} lies along axes {axes}")
    windows = planes.windows
    if windows is None:
        return
    if len(windows) != len(planes.planes):
        raise ValueError(f"{where} has planes without windows")
    for plane, (width, height, column, row) in zip(planes.planes, windows, strict=True):
        rows, columns = plane.shape[1:]
        fits = 0 <= column <= width - columns and 0 <= row <= height - rows
        if not fits or max(width, height) > MAX_GRID_SCALE:
            raise ValueError(f"{where} has a window that is not of its plane")


def _check_space(space: FieldSpace, where: str) -> None:
    _check_finite(space.world_to_field, where, 2)
    if space.world_to_field.shape != (3, 4) or space.lo.shape != (3,) or space.hi.shape != (3,):
        raise ValueError(f"{where} is not of three dimensions")
    if not (space.lo < space.hi).all():
        raise ValueError(f"{where} has no volume")
    # A rotation after which each axis may have a scale of its own, one for all if contracted.
    products = space.world_to_field[:, :3] @ space.world_to_field[:, :3].T
    squares = np.diag(products)
    if not (squares > 0).all():
        raise ValueError(f"{where} is flat")
    skew = np.abs(products / np.sqrt(np.outer(squares, squares)) - np.eye(3)).max()
    stretch = squares.max() / squares.min()
    if skew > 1e-4 or (space.contraction is not Contraction.NONE and stretch > 1.001):
        raise ValueError(f"{where} is skewed")
    if not 0 < space.density_scale <= MAX_LENGTH:
        raise ValueError(f"{where} scales lengths by {space.density_scale:g}")


def _check_occupancy(sampler: OccupancySampler) -> None:
    shape = sampler.occupied.shape
    if len(shape) != 4 or not 1 <= shape[0] <= MAX_CASCADES or len(set(shape[1:])) != 1:
        raise ValueError(f"the occupancy has the shape {shape}")
    if not 1 <= shape[1] <= MAX_OCCUPANCY_SIDE:
        raise ValueError(f"the occupancy has {shape[1]} cells a side")
    if (
        not 1e-6 <= sampler.min_step <= sampler.max_step <= MAX_STEP
        or not 0 <= sampler.cone_angle < 1
    ):
        raise ValueError(f"steps of {sampler.min_step:g} to {sampler.max_step:g}")


def _check_proposals(sampler: ProposalSampler) -> None:
    count = len(sampler.proposals)
    if not count == len(sampler.counts) == len(sampler.proposal_spaces) <= 8:
        raise ValueError("its proposals lack counts or spaces")
    if not all(1 <= each <= MAX_SAMPLES for each in (*sampler.counts, sampler.samples)):
        raise ValueError("its proposals are of too many samples, or none")
    if not 0 <= sampler.padding <= MAX_STEP:
        raise ValueError(f"its weights are padded by {sampler.padding:g}")
    for proposal, space in zip(sampler.proposals, sampler.proposal_spaces, strict=True):
        _check_network(proposal, 3, "a proposal")
        _check_space(space, "a proposal's space")


def _check_hierarchical(sampler: HierarchicalSampler) -> None:
    # Fine samples lie between the midpoints of coarse ones, of which there must be a bin.
    least = 3 if sampler.fine_samples else 2
    if not (
        least <= sampler.coarse_samples <= MAX_SAMPLES and 0 <= sampler.fine_samples <= MAX_SAMPLES
    ):
        raise ValueError("it is sampled too often, or never")
    if sampler.coarse is not None:
        _check_network(sampler.coarse, 3, "the coarse network")


def _check_box(sampler: BoxSampler) -> None:
    if not 1 <= sampler.samples <= MAX_SAMPLES or not 0 < sampler.step <= MAX_LENGTH:
        raise ValueError(f"{sampler.samples} samples with steps of {sampler.step:g}")
    if not (sampler.lo.shape == sampler.hi.shape == (3,) and (sampler.lo < sampler.hi).all()):
        raise ValueError("its box has no volume")
    if sampler.mask is None:
        return
    lo, hi = sampler.mask_lo, sampler.mask_hi
    if lo is None or hi is None or not (lo.shape == hi.shape == (3,) and (lo < hi).all()):
        raise ValueError("its mask has no box")
    if sampler.mask.ndim != 3 or min(sampler.mask.shape) < 1:
        raise ValueError(f"its mask has the shape {sampler.mask.shape}")


def _check_finite(array: NDArray[Any], where: str, dims: int) -> None:
    if array.ndim != dims or not array.size:
        raise ValueError(f"{where} has the shape {array.shape}")
    # Sums tell in one pass over what may be gigabytes; of what is finite they might overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(array.sum(dtype=np.float64))
    if not finite and not np.isfinite(array).all():
        raise ValueError(f"{where} holds numbers that are not finite")
