
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
def unpack_stream(
    is_sh: bool,
    lossless: bool,
    parameters: bytes,
    widths: bytes,
    planes: bytes,
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
) -> None: ...

# morton.cpp

# merge.cpp

# select.cpp

def select(
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    max_scale: NDArray[np.float32],
    error: NDArray[np.float32],
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
    max_pages: int,
    page_gaussians: int,
) -> tuple[
    NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], int, int, int, float, bool
]: ...
