"""From one cut to the next without popping: chunks fade in over those they replace.

First the newcomers rise to full weight while what they replace stays, then that falls. So at
any time each place in view is covered by chunks of full weight: a fade never opens a hole,
which blending the two complementarily would (two half-transparent walls are not a wall).
A chunk that nothing stands in for meanwhile, such as one that comes into view, does not fade.
Of several generations only the youngest of full weight stays for those that rise: while chunks
stream in, each falls as soon as its own successors are there, not when the last of all are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import LodCut
from scene_store.tree import NO_PARENT, LodTree


class CrossFade:
    """The fades of one view. Pure but for its memory of what was shown last; no clock.

    Args:
        tree: The chunks.
        page_gaussians: Gaussians of a page of the device.
        duration_s: From the first frame of a new cut to the last trace of the old one; 0 shows
            every cut as it is.
    """

    def __init__(self, tree: LodTree, page_gaussians: int, duration_s: float = 0.2) -> None:
        self._tree = tree
        self._parent: list[int] = tree.parent.tolist()
        self._pages = -(-tree.count.astype(np.int64) // page_gaussians)
        self._duration_s = duration_s
        self._weight: dict[int, float] = {}  # of all that is shown, and of newcomers at 0
        self._drawn: set[int] = set()
        self._at_rest: list[int] | None = None  # the cut, while nothing fades
        self._last_s = 0.0

    @property
    def fading(self) -> bool:
        """Whether another frame would look different, though nothing else changed."""
        return any(self._weight[chunk] < 1 for chunk in self._drawn) or bool(self._leaving())

    def step(
        self,
        cut: LodCut,
        resident: NDArray[np.bool_],
        max_pages: int,
        now: float,
        *,
        at_once: bool = False,
    ) -> list[tuple[int, float]]:
        """What to show now: all of it resident, and to be leased and kept (``touched``) too.

        Args:
            cut: The newest cut.
            resident: [N] what can be drawn.
            max_pages: Pages that the cut and what fades out may take together; what does not
                fit goes at once.
            now: Seconds of a clock that does not go back.
            at_once: End all fades, and show the cut as it is.

        Returns:
            (chunk, weight in (0, 1]) by chunk; opacities are to be multiplied by the weight.
            With all fades over it is ``cut.draw`` with weights of 1.
        """
        chunks = cut.draw.tolist()
        if at_once or self._duration_s <= 0:
            self._weight, self._drawn = dict.fromkeys(chunks, 1.0), set(chunks)
            self._at_rest = chunks
        if chunks == self._at_rest:
            self._last_s = now
            return [(chunk, 1.0) for chunk in chunks]
        self._advance(2.0 * (now - self._last_s) / self._duration_s)
        self._last_s = now
        before, self._drawn = self._drawn, set(chunks)
        self._let_go(before, resident)
        for chunk in self._drawn - self._weight.keys():
            self._weight[chunk] = 0.0
        self._make_room(max_pages, cut)
        self._leave_no_hole()
        self._at_rest = None if self.fading else chunks
        return sorted((chunk, weight) for chunk, weight in self._weight.items() if weight > 0)

    def _leaving(self) -> list[int]:
        return [chunk for chunk in self._weight if chunk not in self._drawn]

    def _rising(self) -> list[int]:
        return [chunk for chunk in self._drawn if self._weight[chunk] < 1]

    def _advance(self, change: float) -> None:
        """Newcomers rise; what is leaving falls once all that replaces it is there."""
        rising = self._rising()
        faint, awaited = set(rising), self._stand_ins(rising)
        for chunk in self._leaving():
            if chunk in awaited or not faint.isdisjoint(self._ancestors(chunk)):
                continue
            self._weight[chunk] -= change
            if self._weight[chunk] <= 0:
                del self._weight[chunk]
        for chunk in rising:
            self._weight[chunk] = min(1.0, self._weight[chunk] + change)

    def _stand_ins(self, rising: list[int]) -> set[int]:
        """Of what each of these replaces, the youngest that is there in full."""
        nearest = (
            next((up for up in self._ancestors(chunk) if self._weight.get(up) == 1), None)
            for chunk in rising
        )
        return {chunk for chunk in nearest if chunk is not None}

    def _let_go(self, before: set[int], resident: NDArray[np.bool_]) -> None:
        """What left the cut and is not replaced has gone out of view."""
        above_newcomers = self._ancestors_of(self._drawn - before)
        for chunk in self._leaving():
            replaced = chunk in above_newcomers or not self._drawn.isdisjoint(
                self._ancestors(chunk)
            )
            if (
                not resident[chunk]
                or self._weight[chunk] == 0
                or (chunk in before and not replaced)
            ):
                del self._weight[chunk]

    def _make_room(self, max_pages: int, cut: LodCut) -> None:
        """Drops the faintest of what leaves, until all that must be held fits."""
        kept = set(cut.touched.tolist())
        extra = [chunk for chunk in self._leaving() if chunk not in kept]
        room = max_pages - int(self._pages[cut.touched].sum())
        room -= int(self._pages[extra].sum())
        for chunk in sorted(extra, key=lambda chunk: (self._weight[chunk], -chunk)):
            if room >= 0:
                return
            room += int(self._pages[chunk])
            del self._weight[chunk]

    def _leave_no_hole(self) -> None:
        """A chunk may be faint only where chunks of full weight cover all of it."""
        rising = self._rising()
        full = {chunk for chunk, weight in self._weight.items() if weight == 1} if rising else set()
        for chunk in rising:
            above = not full.isdisjoint(self._ancestors(chunk))
            if not above and not self._is_covered(chunk, full):
                self._weight[chunk] = 1.0

    def _is_covered(self, chunk: int, full: set[int]) -> bool:
        children = self._tree.children(chunk)
        return bool(children) and all(
            child in full or self._is_covered(child, full) for child in children
        )

    def _ancestors(self, chunk: int) -> list[int]:
        way = []
        while (chunk := self._parent[chunk]) != NO_PARENT:
            way.append(chunk)
        return way

    def _ancestors_of(self, chunks: set[int] | list[int]) -> set[int]:
        return {up for chunk in chunks for up in self._ancestors(chunk)}
