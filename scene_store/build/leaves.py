"""Where the sorted stream is cut into chunks of original Gaussians."""

from __future__ import annotations

import numpy as np

from scene_store.build.feed import Feed
from scene_store.build.grid import Codes

# A chunk fills at least this much of its page, so that few bytes of the pool are wasted;
# what remains is the freedom to cut where the curve jumps.
LEAST_FILL = 0.75
_HALVES = (0.4, 0.6)  # of a rest that is more than a page, but not two well filled ones


def next_leaf(feed: Feed, page_gaussians: int) -> int:
    """How many Gaussians the next leaf takes; 0 at the end of the stream.

    The cut is where the Z-curve makes its largest jump, so that boxes are compact. It depends
    on the stream alone, not on the runs in which it arrives.
    """
    count = min(feed.require(2 * page_gaussians), 2 * page_gaussians)
    if count <= page_gaussians:
        return count
    least = int(LEAST_FILL * page_gaussians)
    window = (least, page_gaussians)
    if count - page_gaussians < least:
        first, last = (int(share * count) for share in _HALVES)
        window = (max(first, count - page_gaussians), min(last, page_gaussians))
    return best_cut(feed.codes(window[0] - 1, window[1] + 1)) + window[0]


def best_cut(codes: Codes) -> int:
    """Index of the pair of successive keys that differ in the highest bit; the last of equals."""
    jumps = codes[1:] ^ codes[:-1]
    return len(jumps) - 1 - int(np.argmax(jumps[::-1]))


def jump(before: int, after: int) -> int:
    """How far apart two keys are on the curve: a number that grows with the highest bit."""
    return (before ^ after).bit_length()
