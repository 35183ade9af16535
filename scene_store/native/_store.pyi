
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
