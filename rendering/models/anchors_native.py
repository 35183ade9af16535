"""The native decoder of neural anchors: fused kernels, chosen for the processor at run time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rendering.models.anchor_pages import AnchorPage
from rendering.models.anchors_reference import appearance_of
from splat.anchors import AnchorModel, LevelRule
from splat.bounds import ViewVolume
from splat.camera import CameraModel
from splat.errors import BackendUnavailable
from splat.gaussians import Gaussians
from splat.networks import without_inputs

try:
    from rendering.models.native import _neural
except ImportError as error:  # not built, or built for another Python
    raise BackendUnavailable(
        f"the native kernels of neural models are not built for this Python ({error});"
        " run: make setup"
    ) from error
from rendering.models.components.native_parts import packed_mlp

Int32Array = NDArray[np.int32]

_RULES = {
    LevelRule.FLOOR: 0,
    LevelRule.ROUND: 1,
    LevelRule.CEIL: 2,
    LevelRule.PROGRESSIVE: 3,
}


class NativeDecoder:
    """Decodes pages of anchors. Safe to use from several threads: each page is decoded by the
    thread that asks, without the interpreter lock.

    Args:
        model: What the anchors share.
        appearance: The training camera whose look pictures have; None for the mean of all.
        instruction_set: One of ``instruction_sets()``; None for the best there is.

    Raises:
        BackendUnavailable: If this processor lacks the instruction set.
    """

    def __init__(
        self,
        model: AnchorModel,
        appearance: int | None = None,
        instruction_set: str | None = None,
    ) -> None:
        available = instruction_sets()
        if instruction_set is not None and instruction_set not in available:
            raise BackendUnavailable(
                f"this processor does not run '{instruction_set}' kernels; "
                f"available: {', '.join(available)}"
            )
        self.instruction_set = instruction_set or available[0]
        self.offsets = model.layout.offsets
        octree = model.levels
        self._decoder = _neural.AnchorDecoder(
            packed_mlp(model.opacity_mlp),
            packed_mlp(without_inputs(model.color_mlp, appearance_of(model, appearance))),
            packed_mlp(model.covariance_mlp),
            None if model.bank_mlp is None else packed_mlp(model.bank_mlp),
            model.layout.offsets,
            model.layout.features,
            (model.opacity_dist, model.color_dist, model.covariance_dist),
            model.level_input,
            model.layout.has_levels,
            None
            if octree is None
            else (
                octree.levels,
                _RULES[octree.rule],
                octree.standard_dist,
                octree.res_scale,
                octree.fork,
                octree.voxel_size,
            ),
        )

    def decode(
        self,
        page: AnchorPage,
        chosen: Int32Array | None,
        center: NDArray[np.float64],
        least_opacity: float,
        out: Gaussians,
        first: int = 0,
    ) -> int:
        """Write a page's Gaussians, by anchor and then by number; returns how many.

        Args:
            chosen: [n] indices of anchors, ascending; None for all.
            center: [3] where it is seen from, world units.
            least_opacity: Gaussians of no more are left out.
            out: Degree 0, with room for all Gaussians of the chosen anchors from ``first`` on.
        """
        x, y, z = center.tolist()
        arrays = out.means, out.quats, out.scales, out.opacities, out.sh.reshape(-1, 3)
        return self._decoder.decode(
            page.data, chosen, (x, y, z), least_opacity, self.instruction_set, arrays, first
        )

    def decode_many(
        self,
        pages: Sequence[tuple[AnchorPage, Int32Array | None]],
        center: NDArray[np.float64],
        least_opacity: float,
        out: Gaussians,
        threads: int,
    ) -> list[tuple[int, int]]:
        """Several pages at once; returns where each one's Gaussians begin, and how many they are.

        Args:
            pages: With the anchors chosen of each, as of ``decode``.
            center, least_opacity: As of ``decode``.
            out: Degree 0, with room for all Gaussians of the chosen anchors.
            threads: At most.
        """
        x, y, z = center.tolist()
        arrays = out.means, out.quats, out.scales, out.opacities, out.sh.reshape(-1, 3)
        anchors = [page.count if chosen is None else len(chosen) for page, chosen in pages]
        firsts = [0, *itertools.accumulate(self.offsets * count for count in anchors)][:-1]
        counts = self._decoder.decode_many(
            [page.data for page, _ in pages],
            [chosen for _, chosen in pages],
            firsts,
            (x, y, z),
            least_opacity,
            self.instruction_set,
            arrays,
            threads,
        )
        return list(zip(firsts, counts, strict=True))


def instruction_sets() -> tuple[str, ...]:
    """Names of the kernels that this processor runs, best first."""
    return tuple(_neural.instruction_sets())


class AnchorCuller:
    """Tells which anchors some views may show.

    An anchor's Gaussians lie within a sphere, and reach no further than the scales that all of
    theirs are fractions of: none that is visible is lost, unlike by the originals'
    ``prefilter_voxel``, which keeps an anchor if a Gaussian in its place, of the size that its
    offsets are scaled by, has a radius of at least a pixel in the picture.

    Args:
        volumes: At least one.
    """

    def __init__(self, volumes: Sequence[ViewVolume]) -> None:
        self._volumes = volumes
        self._frusta: _neural.AnchorFrusta | None = None
        if all(volume.model is not CameraModel.FISHEYE for volume in volumes):
            self._frusta = _neural.AnchorFrusta(
                np.array([volume.planes for volume in volumes]),
                np.array([volume.position for volume in volumes]),
                np.array([volume.position_slack for volume in volumes]),
                "",
            )

    def pages_in_view(
        self,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        largest: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """[P] whether any view may show something of pages; see ``ViewVolume.may_see``."""
        if self._frusta is None:
            seen: NDArray[np.bool_] = np.logical_or.reduce(
                [volume.may_see(low, high, largest) for volume in self._volumes]
            )
            return seen
        out = np.empty(len(low), np.bool_)
        self._frusta.boxes_in_view(low, high, largest, out)
        return out

    def anchors_in_view(self, page: AnchorPage) -> Int32Array:
        """[n] ascending indices of the anchors of which any view may show a Gaussian."""
        if self._frusta is None:
            return np.flatnonzero(self._spheres_in_view(page.spheres)).astype(np.int32)
        out = np.empty(page.count, np.int32)
        return out[: self._frusta.choose(page.spheres, out)]

    @staticmethod
    def missing(page: AnchorPage, chosen: Int32Array) -> NDArray[np.float32]:
        """[5, n] spheres of the anchors that are not among those chosen (``anchors_in_view``)."""
        out = np.empty((len(page.spheres), page.count - len(chosen)), np.float32)
        _neural.unchosen(page.spheres, chosen, out)
        return out

    def any_in_view(self, spheres: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Of each of many [5, n] arrays of anchors' spheres (``AnchorPage``), whether any view may
        show a Gaussian of one of them."""
        if self._frusta is None:
            return np.array([self._spheres_in_view(each).any() for each in spheres], np.bool_)
        out = np.empty(len(spheres), np.bool_)
        self._frusta.any_in_view(spheres, out)
        return out

    def _spheres_in_view(self, spheres: NDArray[np.float32]) -> NDArray[np.bool_]:
        mean, radius = spheres[:3].T, spheres[3][:, None]
        return self.pages_in_view(mean - radius, mean + radius, spheres[4])
