"""What was learnt of each view about the cost of its parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rendering.part_costs import PartCosts, Span

MOST_VIEWS = 64  # the ones not drawn for longest are forgotten


class PartBalance:
    """The costs of every client's pictures along one direction, each eye's by itself."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, int], PartCosts] = {}  # the last drawn one last

    def __len__(self) -> int:
        return len(self._costs)

    def of(self, client: str, eye: int) -> PartCosts:
        """What is known."""
        return self._costs.get((client, eye)) or PartCosts.even()

    def learn(self, client: str, eye: int, spans: Sequence[Span], times: Sequence[float]) -> None:
        """Parts were drawn.

        Args:
            spans: All of the picture's; of one of which some were empty nothing is learnt.
            times: What each takes on a device of weight 1.
        """
        ends = sorted(spans)
        if [high for _, high in ends] != [*(low for low, _ in ends[1:]), 1.0]:
            return
        costs = self.of(client, eye).after(spans, times)
        self._costs.pop((client, eye), None)
        self._costs[client, eye] = costs
        while len(self._costs) > MOST_VIEWS:
            del self._costs[next(iter(self._costs))]
