from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

# codec.cpp

def pack_stream(
    is_sh: bool,
    lossless: bool,
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
    steps: tuple[float, float, float, float, float, float],
) -> tuple[bytes, bytes, bytes]: ...
def checksums(streams: Sequence[Buffer], out: NDArray[np.uint32]) -> None: ...
def inspect_streams(
    is_sh: bool,
    degree: int,
    streams: Sequence[Buffer],
    rows: NDArray[np.int64],
    frames: NDArray[np.uint64],
) -> list[str | None]: ...
def unpack_streams(
    is_sh: bool,
    streams: Sequence[Buffer],
    planes: Sequence[Any],
    rows: NDArray[np.int64],
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
) -> list[str | None]: ...

# morton.cpp

def morton_codes(
    means: NDArray[np.float32],
    corner: tuple[float, float, float],
    cells_per_unit: float,
    out: NDArray[np.uint64],
) -> None: ...
def sort_by_code(codes: NDArray[np.uint64], order: NDArray[np.uint32]) -> None: ...

# merge.cpp

def cluster(
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
    original: bool,
    target: int,
    out: NDArray[np.uint32],
) -> None: ...
def merge_clusters(
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
    original: bool,
    sizes: NDArray[np.float32],
    variances: NDArray[np.float32],
    labels: NDArray[np.uint32],
    new_means: NDArray[np.float32],
    new_quats: NDArray[np.float32],
    new_scales: NDArray[np.float32],
    new_opacities: NDArray[np.float32],
    new_sh: NDArray[np.float32],
    new_sizes: NDArray[np.float32],
    new_variances: NDArray[np.float32],
) -> None: ...

# select.cpp

def select(
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    max_scale: NDArray[np.float32],
    error: NDArray[np.float32],
    loss: NDArray[np.float32],
    count: NDArray[np.int32],
    first_child: NDArray[np.int32],
    child_count: NDArray[np.int32],
    roots: int,
    resident: NDArray[np.bool_],
    lost: NDArray[np.bool_],
    views: NDArray[np.float64],
    max_sigmas: float,
    error_px: float,
    max_gaussians: int,
    max_pages: NDArray[np.int64],
    page_gaussians: int,
    pool_views: NDArray[np.float64],
    pool_of_view: NDArray[np.int32],
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    int,
    int,
    int,
    float,
    bool,
    NDArray[np.uint64],
]: ...
def gather(file: int, starts: NDArray[np.int64], out: NDArray[np.uint8]) -> int: ...
