"""Gaussians fitted to pictures on the processor: native steps of Adam, derivatives by hand.

What torch's autograd does for trainers on a GPU, without either: a step draws one picture,
compares it, and moves the Gaussians that it shows (``rendering/native/src/fit.h``). The image
model is that of ``rendering.base``, of pinhole cameras, not antialiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rendering.native import _native
from rendering.native.cpu import camera_params, instruction_sets
from splat.camera import Camera
from splat.errors import BudgetError
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians

Float32Array = NDArray[np.float32]
Rgb = tuple[float, float, float]

# A row: mean 3, quaternion 4, log scales 3, logit of the opacity, harmonics [bases][3].
MEAN, QUAT, LOG_SCALE, LOGIT, HARMONICS = slice(0, 3), slice(3, 7), slice(7, 10), 10, 11
SEEN_VALUES = 4
MOST_LOGIT = 9.0


@dataclass(frozen=True, slots=True)
class Rates:
    """How far a step of Adam goes at most, by parameter.

    Attributes:
        mean: In the Gaussian's middle standard deviations.
        quat: Of quaternions of length 1.
        scale: Of logarithms.
        opacity: Of logits.
        color, harmonics: Of coefficients of degree 0, and of higher ones.
    """

    mean: float
    quat: float
    scale: float
    opacity: float
    color: float
    harmonics: float

    def times(self, factor: float) -> Rates:
        """All of them smaller or larger."""
        return Rates(*(factor * value for value in self.values))

    @property
    def values(self) -> tuple[float, float, float, float, float, float]:
        """In their order."""
        return self.mean, self.quat, self.scale, self.opacity, self.color, self.harmonics


@dataclass(frozen=True, slots=True)
class Comparison:
    """How pictures are compared.

    Attributes:
        background: RGB that both are over.
        alpha_weight: Of errors of alpha, beside those of colours.
        robust: Errors that are much larger than this count by their size, smaller ones by their
            square.
    """

    background: Rgb = (0.0, 0.0, 0.0)
    alpha_weight: float = 1.0
    robust: float = 1.0


class FittedGaussians:
    """Gaussians that are being fitted: rows of parameters, with what Adam remembers of them.

    Not for several threads at once.

    Args:
        gaussians: To begin with.
        sh_degree: Of the harmonics that are fitted; lower ones are padded.
        threads: To use; 0 for one a core.
    """

    def __init__(self, gaussians: Gaussians, sh_degree: int, *, threads: int = 0) -> None:
        self.sh_degree, self._threads = sh_degree, threads
        self._workspace = _native.FitWorkspace()
        self._isa = instruction_sets()[0]
        self.rows = _rows_of(gaussians, sh_degree)
        self._moments = np.zeros((len(self.rows), 2 * self.rows.shape[1] + 1), np.float32)
        self._seen = np.zeros((len(self.rows), SEEN_VALUES), np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def bytes_each(sh_degree: int) -> int:
        """Memory that a Gaussian takes while it is fitted, that of a step included."""
        width = HARMONICS + 3 * SH_COUNT_OF_DEGREE[sh_degree]
        return 4 * (3 * width + 1 + SEEN_VALUES) + 512

    @property
    def weight(self) -> Float32Array:
        """[N] what each contributed to pixels since ``forget``, summed over the steps."""
        return self._seen[:, 0]

    @property
    def error(self) -> Float32Array:
        """[N] squared errors of the pixels that each contributed to, by its share."""
        return self._seen[:, 1]

    @property
    def shift(self) -> Float32Array:
        """[N] by how much the error wants each moved: derivatives by its pixel, summed."""
        return self._seen[:, 2]

    @property
    def views(self) -> Float32Array:
        """[N] how many steps showed it."""
        return self._seen[:, 3]

    def forget(self) -> None:
        """Begin to count anew what was seen."""
        self._seen[:] = 0

    def step(
        self,
        camera: Camera,
        target: NDArray[np.uint8],
        comparison: Comparison,
        rates: Rates,
        sh_degree: int | None = None,
    ) -> float:
        """Move what a picture shows towards it; the mean squared error before.

        Args:
            camera: Pinhole.
            target: [H, W, 4] uint8: colour over black, and alpha.
            comparison: How.
            rates: How far.
            sh_degree: Of the harmonics to be used; None for all.

        Raises:
            BudgetError: If memory does not suffice.
        """
        return self._fit(camera, target, comparison, rates.values, None, sh_degree)

    def draw(self, camera: Camera, comparison: Comparison) -> Float32Array:
        """[H, W, 4] colour over the background, and alpha."""
        image = np.empty((camera.height, camera.width, 4), np.float32)
        self._fit(camera, np.zeros(image.shape, np.uint8), comparison, None, image, None)
        return image

    def _fit(
        self,
        camera: Camera,
        target: NDArray[np.uint8],
        comparison: Comparison,
        rates: tuple[float, float, float, float, float, float] | None,
        image: Float32Array | None,
        sh_degree: int | None,
    ) -> float:
        try:
            squared_error, _, _ = _native.fit(
                self._workspace,
                self._isa,
                self.rows,
                self._moments,
                self._seen,
                degree=self.sh_degree if sh_degree is None else min(sh_degree, self.sh_degree),
                camera=camera_params(camera),
                target=target,
                background=comparison.background,
                alpha_weight=comparison.alpha_weight,
                robust=comparison.robust,
                rates=rates,
                image=image,
                threads=self._threads,
            )
        except MemoryError as error:
            raise BudgetError(
                f"not enough memory to fit {len(self.rows)} Gaussians to a picture of "
                f"{camera.width}×{camera.height} pixels; take fewer of them, or a smaller one"
            ) from error
        return squared_error / (3 * camera.width * camera.height)

    def replace(self, kept: NDArray[np.generic], more: Float32Array) -> None:
        """Keep some of the rows, by a mask or an index, and append others, of which nothing is
        remembered."""
        new = len(more)
        self.rows = np.concatenate([self.rows[kept], more])
        moments, seen = self._moments[kept], self._seen[kept]
        self._moments = np.concatenate([moments, np.zeros((new, moments.shape[1]), np.float32)])
        self._seen = np.concatenate([seen, np.zeros((new, SEEN_VALUES), np.float32)])

    def gaussians(self) -> Gaussians:
        """As they are now."""
        return gaussians_of_rows(self.rows)


def gaussians_of_rows(rows: Float32Array) -> Gaussians:
    """Gaussians of rows of parameters."""
    quats = rows[:, QUAT]
    lengths = np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    return Gaussians(
        means=rows[:, MEAN],
        quats=quats / lengths,
        scales=np.exp(rows[:, LOG_SCALE]),
        opacities=(1.0 / (1.0 + np.exp(-rows[:, LOGIT]))).astype(np.float32),
        sh=rows[:, HARMONICS:].reshape(len(rows), -1, 3),
    )


def _rows_of(gaussians: Gaussians, sh_degree: int) -> Float32Array:
    bases = SH_COUNT_OF_DEGREE[sh_degree]
    rows = np.zeros((len(gaussians), HARMONICS + 3 * bases), np.float32)
    rows[:, MEAN], rows[:, QUAT] = gaussians.means, gaussians.quats
    rows[:, LOG_SCALE] = np.log(np.maximum(gaussians.scales, 1e-30))
    opacities = np.clip(gaussians.opacities.astype(np.float64), 1e-6, 1 - 1e-6)
    rows[:, LOGIT] = np.clip(np.log(opacities / (1 - opacities)), -MOST_LOGIT, MOST_LOGIT)
    known = min(bases, gaussians.sh.shape[1])
    rows[:, HARMONICS : HARMONICS + 3 * known] = gaussians.sh[:, :known].reshape(len(rows), -1)
    return rows
