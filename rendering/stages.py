"""The stages that every frame passes, in order.

*Select* chooses the cut of the level-of-detail tree, *fetch* and *decode* bring the chunks it
lacks: once a request, for all of its eyes. *Project*, *sort* (into tiles and by depth) and
*composite* draw. *Encode* makes the bytes that are sent.
"""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    """A step of every frame, in the order in which a frame passes them."""

    SELECT = "select"
    FETCH = "fetch"
    DECODE = "decode"
    PROJECT = "project"
    SORT = "sort"
    COMPOSITE = "composite"
    ENCODE = "encode"


STAGES = tuple(Stage)
FRONT = (Stage.SELECT, Stage.FETCH, Stage.DECODE)
DRAWING = (Stage.PROJECT, Stage.SORT, Stage.COMPOSITE)
AHEAD, BEHIND = FRONT, (Stage.ENCODE,)
DRAWN_ONCE = (Stage.PROJECT, Stage.SORT)  # of two eyes, where a request allows it
SHAREABLE = (*FRONT, *DRAWN_ONCE)
