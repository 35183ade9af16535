"""Which chunks will be needed soon: from where the camera has been to where it will be.

Pure: poses and times go in, cameras and chunks come out. A predicted view is served like a
real one, by ``select_lod``; what it needs has the tier PREFETCH (``scene_store.demands``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scene_store.lod import ChunkIndices, LodLimits, select_lod
from scene_store.tree import LodTree
from splat.camera import MAX_IMAGE_SIDE, Camera, Float64Array


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How far a prediction goes, and what it is based on.

    Attributes:
        window_s: Poses of this long ago still count for the velocity.
        shortest_s, longest_s: Bounds of the horizon.
        guard: Share of its width and height by which a view is widened on each side, for turns
            that nothing foretold.
        longest_guard: Bound of that share where the turning is uncertain.
        teleport_share, teleport_rad: A step of this share of the scene's size, or a turn by
            this angle, from one pose to the next is a jump: nothing is predicted across it.
        pause_s: So is the first pose after this long without any.
        hysteresis: A prediction replaces the last one when it differs by this share of the
            predicted motion; less would only make chunks come and go.
    """

    window_s: float = 0.25
    shortest_s: float = 0.3
    longest_s: float = 2.0
    guard: float = 0.05
    longest_guard: float = 0.5
    teleport_share: float = 0.2
    teleport_rad: float = math.radians(60.0)
    pause_s: float = 0.5
    hysteresis: float = 0.25


class LoadLatency:
    """How long a chunk takes from the start of its read until it can be drawn.

    Mean and mean deviation in the manner of TCP's retransmission timer (RFC 6298).
    """

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._deviation_s = 0.0
        self._samples = 0

    def observe(self, seconds: float) -> None:
        """One chunk took this long."""
        if self._samples == 0:
            self._mean_s, self._deviation_s = seconds, seconds / 2
        else:
            self._deviation_s += (abs(seconds - self._mean_s) - self._deviation_s) / 4
            self._mean_s += (seconds - self._mean_s) / 8
        self._samples += 1

    @property
    def bound_s(self) -> float:
        """Seconds that nearly all chunks keep to; 0 before the first."""
        return self._mean_s + 4 * self._deviation_s


# --- Where the camera will be ----------------------------------------------------------------


Step = tuple[float, Float64Array, Float64Array]
"""From a pose to the next: seconds, [3] world units, [3] rotation vector in world axes."""


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Velocity of a camera over its last poses, with its uncertainty.

    Attributes:
        linear: [3] float64, world units per second.
        angular: [3] float64, rotation vector in world axes, radians per second.
        linear_deviation, angular_deviation: Root mean square of what single steps differ from
            these, in the same units.
    """

    linear: Float64Array
    angular: Float64Array
    linear_deviation: float
    angular_deviation: float

    @classmethod
    def of(cls, poses: Iterable[tuple[float, Camera]]) -> Motion | None:
        """From poses with their times, seconds; None if no time passes between them."""
        return cls.of_steps(
            (later[0] - earlier[0], *_step(earlier[1], later[1]))
            for earlier, later in pairwise(poses)
        )

    @classmethod
    def of_steps(cls, every: Iterable[Step]) -> Motion | None:
        """From the steps between poses."""
        steps = [step for step in every if step[0] > 0]
        if not steps:
            return None
        seconds = np.array([step[0] for step in steps])
        moved, turned = (np.array([step[part] for step in steps]) for part in (1, 2))
        linear, angular = moved.sum(axis=0) / seconds.sum(), turned.sum(axis=0) / seconds.sum()
        return cls(
            linear,
            angular,
            _deviation(moved / seconds[:, None], linear, seconds),
            _deviation(turned / seconds[:, None], angular, seconds),
        )

    def applied_to(self, camera: Camera, seconds: float) -> Camera:
        """The camera after some time; of the motion, only as much as is steady."""
        moved = self.linear * (seconds * _steadiness(self.linear, self.linear_deviation))
        turned = self.angular * (seconds * _steadiness(self.angular, self.angular_deviation))
        # A point's camera coordinates: undo the turn about the camera's new place.
        rotation = camera.viewmat[:3, :3] @ _rotation(turned).T
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = -rotation @ (camera.position + moved)
        return replace(camera, viewmat=viewmat)


class PosePredictor:
    """The views that one client will probably ask for.

    Args:
        scene_size: Diagonal of the scene's box, world units.
        settings: How far it goes.
    """

    def __init__(
        self, scene_size: float, settings: PredictionSettings = PredictionSettings()
    ) -> None:
        self._scene_size = scene_size
        self._settings = settings
        self._newest: tuple[float, Camera] | None = None
        self._steps: deque[tuple[float, Step]] = deque()  # each with the time of its end
        self._last: tuple[Camera, ...] = ()

    def observe(self, camera: Camera, now: float) -> bool:
        """The client's newest view, seconds of a clock that does not go back.

        Returns:
            Whether it has little in common with the one before, or is the first.
        """
        before, self._newest = self._newest, (now, camera)
        if before is None:
            return True
        step = now - before[0], *_step(before[1], camera)
        jumped = self._is_jump(step)
        if jumped or self._is_after_a_pause(step):
            self._steps.clear()
            self._last = ()
            return jumped
        self._steps.append((now, step))
        # One that began before the window stays, so that slow clients have a velocity, too.
        while len(self._steps) > 1 and self._steps[0][0] < now - self._settings.window_s:
            self._steps.popleft()
        return False

    def predict(self, now: float, latency_s: float) -> tuple[Camera, ...]:
        """Views to prefetch for, the nearest in time first.

        The present view is the first, a little wider than it is; after a while without a new
        pose it is the only one. While the prediction hardly changes, so that the chunks need
        not be worked out anew, it is the same object as before.

        Args:
            now: Seconds.
            latency_s: How long loading takes (``LoadLatency.bound_s``).
        """
        if self._newest is None:
            return ()
        settings = self._settings
        at, present = self._newest
        recent = now - at <= settings.window_s
        motion = Motion.of_steps(step for _, step in self._steps) if recent else None
        horizon_s = min(max(2 * latency_s, settings.shortest_s), settings.longest_s)
        views = [widened(present, settings.guard)]
        if motion is not None:
            unsure = motion.angular_deviation * horizon_s / _half_field(present)
            guard = min(max(unsure, settings.guard), settings.longest_guard)
            views += [
                widened(motion.applied_to(present, share * horizon_s), guard)
                for share in (0.5, 1.0)
            ]
        if not self._is_like_last(views):
            self._last = tuple(views)
        return self._last

    def _is_jump(self, step: Step) -> bool:
        _, moved, turned = step
        far = _norm(moved) >= self._settings.teleport_share * self._scene_size
        return far or _norm(turned) >= self._settings.teleport_rad

    def _is_after_a_pause(self, step: Step) -> bool:
        """Whether a motion begins: what was before the pause says nothing of it."""
        seconds, moved, turned = step
        return seconds > self._settings.pause_s and _norm(moved) + _norm(turned) > 0

    def _is_like_last(self, views: list[Camera]) -> bool:
        if len(views) != len(self._last):
            return False
        move, turn = _step(views[0], views[-1])
        slack = self._settings.hysteresis
        most_move = slack * _norm(move) + 1e-4 * self._scene_size
        most_turn = slack * _norm(turn) + 0.02
        for new, old in zip(views, self._last, strict=True):
            moved, turned = _step(old, new)
            same_lens = np.array_equal(new.K, old.K) and new.model is old.model
            if not same_lens or _norm(moved) > most_move or _norm(turned) > most_turn:
                return False
        return True


def look_ahead(path: Sequence[Camera], index: int, frames: int, views: int = 4) -> list[Camera]:
    """Views of a path that is known: the next ones, thinned out. Whoever draws a path, to export
    it or to play it back, hands them on with each of its frames (``FrameRequest.coming``).

    Args:
        path: All cameras of it.
        index: The one that is being drawn.
        frames: How many frames ahead to look.
        views: At most so many are returned, the nearest and the furthest among them.
    """
    last = min(index + frames, len(path) - 1)
    ahead = range(index + 1, last + 1)
    if not ahead:
        return []
    places = np.unique(np.linspace(ahead[0], ahead[-1], min(views, len(ahead))).round())
    return [path[int(place)] for place in places]


def widened(camera: Camera, share: float) -> Camera:
    """The same view with a margin on each side, as a share of its width and height."""

    def margin(side: int) -> int:
        return max(0, min(math.ceil(share * side), (MAX_IMAGE_SIDE - side) // 2))

    x, y = margin(camera.width), margin(camera.height)
    intrinsics = camera.K.copy()
    intrinsics[0, 2] += x
    intrinsics[1, 2] += y
    return replace(camera, K=intrinsics, width=camera.width + 2 * x, height=camera.height + 2 * y)


# --- What will be needed there ---------------------------------------------------------------


def prefetch_chunks(
    tree: LodTree,
    views: Sequence[Camera],
    resident: NDArray[np.bool_],
    limits: LodLimits,
    kept: ChunkIndices,
    *,
    base: ChunkIndices | None = None,
    urgent: int = 0,
    lost: NDArray[np.bool_] | None = None,
    view_pixels: int | None = None,
) -> ChunkIndices:
    """What predicted views need beside what the present ones keep, most urgent first.

    Beside that, a *base layer* of coarse chunks of the whole scene: once they are there, any
    turn finds something fair to draw. Resident chunks are listed as well, so that they are not
    evicted shortly before they are needed. With ``kept`` it all fits the pool; what is predicted
    makes room for the base layer, and that for what is in view.

    Args:
        tree: N nodes.
        views: Predicted, the nearest in time first.
        resident: [N] what is on the device.
        limits: Those of the real views; ``max_pages`` is the pool's.
        kept: Chunks that real views keep (``LodCut.touched`` of all clients).
        base: The base layer (``coarse_levels``), parents first; None for none.
        urgent: So many of the base layer come before what is predicted, the others after.
        lost: [N] what will never come.
        view_pixels: Size of the real views. Predicted ones are wider, and may have as many more
            Gaussians: with the same limit they would be coarser than what they predict. None
            for as many as the real ones.
    """
    pages = pages_of(tree, limits.page_gaussians)
    listed = np.zeros(len(tree), np.bool_)
    listed[kept] = True
    listed[tree.roots] = True
    room = limits.max_pages - int(pages[listed].sum())
    layer = _none() if base is None else base
    layer = layer[np.cumsum(np.where(listed[layer], 0, pages[layer])) <= room]
    room -= int(pages[layer[~listed[layer]]].sum())
    pages[layer] = 0  # theirs is taken
    out: list[ChunkIndices] = []
    needs = _needs(tree, views, resident, limits, lost, view_pixels)
    for needed in (layer[:urgent], *needs):
        fresh = needed[~listed[needed]]
        fitting = fresh[np.cumsum(pages[fresh]) <= room]
        listed[fitting] = True
        room -= int(pages[fitting].sum())
        out.append(fitting)
        if len(fitting) < len(fresh):
            break  # what comes later may need what did not fit
    chosen = np.concatenate([*out, layer[~listed[layer]]])
    return chosen if lost is None else chosen[~lost[chosen]]


def coarse_levels(tree: LodTree, max_pages: int, page_gaussians: int) -> ChunkIndices:
    """As many of the coarsest nodes as fit, in the tree's order."""
    used = np.cumsum(pages_of(tree, page_gaussians))
    return np.arange(np.searchsorted(used, max_pages, side="right"), dtype=np.int32)


def _none() -> ChunkIndices:
    return np.empty(0, np.int32)


def pages_of(tree: LodTree, page_gaussians: int) -> NDArray[np.int64]:
    """[N] whole pages that each chunk takes."""
    return np.asarray(-(-tree.count.astype(np.int64) // page_gaussians))


def _needs(
    tree: LodTree,
    views: Sequence[Camera],
    resident: NDArray[np.bool_],
    limits: LodLimits,
    lost: NDArray[np.bool_] | None,
    view_pixels: int | None,
) -> list[ChunkIndices]:
    """What each view needs: what is there, then what is missing in the order to fetch it."""

    def widened_limits(view: Camera) -> LodLimits:
        wider = 1.0 if view_pixels is None else view.width * view.height / view_pixels
        return replace(limits, max_gaussians=int(limits.max_gaussians * wider))

    cuts = [select_lod(tree, [view], resident, widened_limits(view), lost=lost) for view in views]
    return [np.concatenate([cut.touched[resident[cut.touched]], cut.want]) for cut in cuts]


# --- Rotations -------------------------------------------------------------------------------


def _step(before: Camera, after: Camera) -> tuple[Float64Array, Float64Array]:
    """From one pose to the next: [3] world units, and [3] rotation vector in world axes."""
    turn = after.viewmat[:3, :3].T @ before.viewmat[:3, :3]
    return after.position - before.position, _rotation_vector(turn)


def _rotation_vector(rotation: Float64Array) -> Float64Array:
    """[3] axis times angle in [0, π] of a rotation matrix; of half turns some axis."""
    axis = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine, cosine = 0.5 * _norm(axis), 0.5 * (float(np.trace(rotation)) - 1.0)
    angle = math.atan2(sine, cosine)
    if sine > 1e-12:
        return np.asarray(0.5 * axis * (angle / sine))
    return np.array([angle, 0.0, 0.0])


def _rotation(vector: Float64Array) -> Float64Array:
    """[3, 3] of a rotation vector (Rodrigues)."""
    angle = _norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return np.asarray(turn)


def _deviation(rates: Float64Array, mean: Float64Array, seconds: Float64Array) -> float:
    squares = ((rates - mean) ** 2).sum(axis=1)
    return math.sqrt(float((squares * seconds).sum() / seconds.sum()))


def _steadiness(mean: Float64Array, deviation: float) -> float:
    """In (0, 1]: 1 for a motion without jitter."""
    speed = _norm(mean)
    return speed / (speed + deviation) if speed > 0 else 1.0


def _half_field(camera: Camera) -> float:
    """Half the vertical field of view, radians; for ortho cameras some angle."""
    return 0.5 * camera.fov_y_rad


def _norm(vector: Float64Array) -> float:
    return math.sqrt(float((vector * vector).sum()))
