from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class Mlp:
    def __init__(
        self,
        inputs: int,
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], int, bool]],
    ) -> None: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def mlp(
    network: Mlp, x: NDArray[np.float32], out: NDArray[np.float32], isa: str, threads: int
) -> None: ...

class AnchorDecoder:
    def __init__(
        self,
        opacity: Mlp,
        color: Mlp,
        covariance: Mlp,
        bank: Mlp | None,
        offsets: int,
        features: int,
        distances: tuple[bool, bool, bool],
        level_input: bool,
        has_levels: bool,
        octree: tuple[int, int, float, float, float, float] | None,
    ) -> None: ...
    def decode(
        self,
        rows: NDArray[np.float32],
        chosen: NDArray[np.int32] | None,
        center: tuple[float, float, float],
        least_opacity: float,
        isa: str,
        out: tuple[
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
        ],
        first: int,
    ) -> int: ...
    def decode_many(
        self,
        rows: list[NDArray[np.float32]],
        chosen: list[NDArray[np.int32] | None],
        firsts: list[int],
        center: tuple[float, float, float],
        least_opacity: float,
        isa: str,
        out: tuple[
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.float32],
        ],
        threads: int,
    ) -> list[int]: ...

def unchosen(
    spheres: NDArray[np.float32], chosen: NDArray[np.int32], out: NDArray[np.float32]
) -> None: ...

class AnchorFrusta:
    def __init__(
        self,
        planes: NDArray[np.float64],
        positions: NDArray[np.float64],
        slacks: NDArray[np.float64],
        isa: str,
    ) -> None: ...
    def choose(self, spheres: NDArray[np.float32], out: NDArray[np.int32]) -> int: ...
    def any_in_view(
        self, spheres: Sequence[NDArray[np.float32]], out: NDArray[np.bool_]
    ) -> None: ...
    def boxes_in_view(
        self,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        largest: NDArray[np.float32],
        out: NDArray[np.bool_],
    ) -> None: ...

class Encoding:
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @staticmethod
    def identity(dims: int) -> Encoding: ...
    @staticmethod
    def frequencies(
        radians: Sequence[float],
        dims: int,
        input_first: bool,
        input_last: bool,
        by_dimension: bool,
    ) -> Encoding: ...
    @staticmethod
    def harmonics(degree: int, remapped: bool) -> Encoding: ...
    @staticmethod
    def hash_grid(
        levels: Sequence[tuple[float, int, bool, int, int]],
        table: NDArray[np.float32] | NDArray[np.float16],
        shift: float,
    ) -> Encoding: ...
    @staticmethod
    def planes(
        planes: Sequence[NDArray[np.float32]],
        lines: Sequence[NDArray[np.float32]],
        axes: Sequence[tuple[int, int, int]],
        windows: Sequence[tuple[int, int, int, int]],
        dims: int,
        summed: bool,
    ) -> Encoding: ...
    @staticmethod
    def parts(parts: Sequence[Encoding]) -> Encoding: ...

def encode(
    encoding: Encoding, x: NDArray[np.float32], out: NDArray[np.float32], isa: str, threads: int
) -> None: ...

class Network:
    def __init__(
        self,
        contraction: int,
        bounded: bool,
        position: Encoding,
        mlps: tuple[Mlp | None, Mlp | None, Mlp | None],
        density: tuple[int, int, float],
        features: tuple[int, int],
        color: tuple[Encoding | None, Mlp | None, Sequence[int], Sequence[float]],
        grid: tuple[Encoding | None, Mlp | None, Encoding | None],
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...

def evaluate(
    network: Network,
    positions: NDArray[np.float32],
    directions: NDArray[np.float32] | None,
    densities: NDArray[np.float32],
    colors: NDArray[np.float32] | None,
    isa: str,
    threads: int,
) -> None: ...
def positions_along(
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    ray: NDArray[np.int32],
    t: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None: ...
def contract(
    contraction: int, positions: NDArray[np.float32], out: NDArray[np.float32], isa: str
) -> None: ...
def evaluate_along(
    network: Network,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    views: NDArray[np.float32] | None,
    ray: NDArray[np.int32],
    t: NDArray[np.float32],
    densities: NDArray[np.float32],
    colors: NDArray[np.float32] | None,
    isa: str,
    threads: int,
) -> None: ...

class Marcher:
    def __init__(
        self, occupied: NDArray[np.bool_], min_step: float, max_step: float, cone_angle: float
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...

def march(
    marcher: Marcher,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    enter: NDArray[np.float32],
    first: NDArray[np.float32],
    last: NDArray[np.float32],
    cursors: NDArray[np.int32],
    most: int,
    skips: bool,
    threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]: ...
def borders_from_weights(
    borders: NDArray[np.float32],
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
    padding: float,
    threads: int,
) -> None: ...
def samples_from_weights(
    t: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32], threads: int
) -> None: ...
def weights(
    densities: NDArray[np.float32],
    lengths: NDArray[np.float32],
    out: NDArray[np.float32],
    isa: str,
    threads: int,
) -> None: ...
def composite(
    ray: NDArray[np.int32],
    t: NDArray[np.float32],
    lengths: NDArray[np.float32],
    densities: NDArray[np.float32],
    colors: NDArray[np.float32],
    length_scale: float,
    opaque: float,
    into: tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
    ],
    isa: str,
    threads: int,
) -> None: ...
def operations_per_second_limit(isa: str, threads: int, repeats: int) -> float: ...
def instruction_sets() -> Sequence[str]: ...

BLOCK: int
MAX_THREADS: int
