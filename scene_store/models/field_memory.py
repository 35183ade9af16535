"""What engines may take of memory for a field, beside the field: known before it is prepared."""

from __future__ import annotations

from scene_store.models.field_bytes import ROW_BYTES
from scene_store.models.field_checks import paged_grids
from splat.fields import (
    Field,
    HierarchicalSampler,
    Network,
    OccupancySampler,
    ProposalSampler,
)

EMPTY_SIDE = 96  # cells a side of the grid of empty space that engines make of a network
WORTHWHILE_WEIGHTS = 8192


def has_empty_grid(network: Network) -> bool:
    """Whether looking into a grid is much cheaper than evaluating the network, so that engines make
    one if its field has none."""
    return sum(layer.weight.size for layer in network.trunk.layers) > WORTHWHILE_WEIGHTS


def reserved_rows(field: Field) -> int:
    """Rows of memory that engines may take for a field beside its own: weights in another order,
    occupancy in bits, grids of what is empty."""
    networks = [field.network]
    sampler = field.sampler
    extra = 0
    if isinstance(sampler, OccupancySampler):
        extra += sampler.occupied.size // 4
    else:
        networks += sampler.proposals if isinstance(sampler, ProposalSampler) else ()
        if isinstance(sampler, HierarchicalSampler) and sampler.coarse is not None:
            networks.append(sampler.coarse)
        extra += EMPTY_SIDE**3 * sum(map(has_empty_grid, networks))
    extra += sum(_packed_bytes(network) for network in networks)
    extra += sum(grid.memory_bytes for grid in paged_grids(field))
    return -(-extra // ROW_BYTES)


def _packed_bytes(network: Network) -> int:
    """Of its layers, with widths rounded up to whole vectors."""
    mlps = (network.trunk, network.density_head, network.feature_head, network.color_mlp)
    layers = [layer for mlp in mlps if mlp is not None for layer in mlp.layers]
    if network.color_basis is not None:
        layers += network.color_basis.layers
    return 4096 + sum(4 * (layer.outputs + 32) * (layer.inputs + 32) for layer in layers)
