"""What was learnt of each view about the cost of its slabs of depth. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rendering.depth_slabs import Slab, SlabCosts

MOST_VIEWS = 64  # the ones not drawn for longest are forgotten


class SlabBalance:
    """The costs by depth of every client's pictures, each eye's by itself."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, int], SlabCosts] = {}  # the last drawn one last

    def __len__(self) -> int:
        return len(self._costs)

    def of(self, client: str, eye: int) -> SlabCosts:
        """What is known."""
        return self._costs.get((client, eye)) or SlabCosts.even()

    def learn(self, client: str, eye: int, slabs: Sequence[Slab], times: Sequence[float]) -> None:
        """Slabs were drawn.

        Args:
            slabs: All of the picture's; of one of which some were empty nothing is learnt.
            times: What each takes on a device of weight 1.
        """
        ends = sorted(slab.masses for slab in slabs)
        if [high for _, high in ends] != [*(low for low, _ in ends[1:]), 1.0]:
            return
        costs = self.of(client, eye).after(slabs, times)
        self._costs.pop((client, eye), None)
        self._costs[client, eye] = costs
        while len(self._costs) > MOST_VIEWS:
            del self._costs[next(iter(self._costs))]
