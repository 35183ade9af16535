"""How far frames of anchors reuse of each other: one answer for a request, whoever draws it.

Each device learns what decoding and drawing take there. If each went by that alone, one would draw
a page as decoded a while ago and another as decoded now: a seam where their bands meet, eyes that
differ. So the renderers of a scene share one ``ReuseChoices``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from render_cache.derived import MOST_CLIENTS
from render_cache.derived_rule import (
    EXACT,
    DerivedLimits,
    DerivedReuse,
    FrameCosts,
    reuse_for,
)
from rendering.fairness import Urgency
from rendering.frame import FrameRequest

RECENT = 4  # requests of a client that devices may have under way


@dataclass(frozen=True, slots=True)
class ReuseChoice:
    """For a request.

    Attributes:
        number: Of it among the client's, from 1.
        reuse: How far it goes.
    """

    number: int
    reuse: DerivedReuse


@dataclass(slots=True, eq=False)
class _Client:
    """What is known of a client.

    Attributes:
        requests: So many.
        recent: The last ones, and what was chosen for them.
        costs: Of its frames, by who draws; of those who are gone there are none.
    """

    requests: int = 0
    recent: deque[tuple[FrameRequest, ReuseChoice]] = field(
        default_factory=lambda: deque(maxlen=RECENT)
    )
    costs: WeakKeyDictionary[object, FrameCosts] = field(default_factory=WeakKeyDictionary)


class ReuseChoices:
    """Chooses once for a request: as much as the slowest of those who draw needs to hold the rate.
    Safe to call from several threads."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._lock = threading.Lock()

    def tell(self, client: str, drawer: object, costs: FrameCosts) -> None:
        """What a client's frames take of one who draws them; it counts from the next request on."""
        with self._lock:
            self._of(client).costs[drawer] = costs

    def choice_of(self, request: FrameRequest, limits: DerivedLimits) -> ReuseChoice:
        """Of a request, the same one whoever asks.

        Args:
            limits: How far it may go at most; those of who asks first count.
        """
        with self._lock:
            client = self._of(request.client)
            for known, choice in client.recent:
                if known is request:
                    return choice
            moving = request.urgency in (Urgency.VR, Urgency.MOVING)
            needed = [
                reuse_for(limits, costs, request.rate_hz, moving=moving)
                for costs in client.costs.values()
            ]
            client.requests += 1
            reuse = max(needed, key=lambda each: each.depth, default=EXACT)
            choice = ReuseChoice(client.requests, reuse)
            client.recent.append((request, choice))
            return choice

    def _of(self, name: str) -> _Client:
        client = self._clients.setdefault(name, _Client())
        self._clients.move_to_end(name)
        while len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return client
