from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class PackedGaussians:
    @property
    def count(self) -> int: ...
    @property
    def sh_degree(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class PackedScene(PackedGaussians): ...
class PackedPage(PackedGaussians): ...

class PagePool:
    def __init__(self, page_gaussians: int, sh_degree: int) -> None: ...
    @property
    def page_gaussians(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def pages_in_use(self) -> int: ...
    def keep_free(self, pages: int) -> None: ...
    def pack(
        self,
        means: NDArray[np.float32],
        quats: NDArray[np.float32],
        scales: NDArray[np.float32],
        opacities: NDArray[np.float32],
        sh: NDArray[np.float32],
        threads: int,
    ) -> PackedPage: ...
    def pack_many(
        self,
        means: NDArray[np.float32],
        quats: NDArray[np.float32],
        scales: NDArray[np.float32],
        opacities: NDArray[np.float32],
        sh: NDArray[np.float32],
        rows: NDArray[np.int64],
        threads: int,
    ) -> list[PackedPage]: ...

class DrawList:
    def __init__(
        self,
        parts: Sequence[tuple[PackedGaussians, float, tuple[float, float, float], float]],
    ) -> None: ...
    @property
    def count(self) -> int: ...

class CameraParams: ...

class CancelFlag:
    def __init__(self) -> None: ...
    def set(self) -> None: ...
    def is_set(self) -> bool: ...

class RenderStats:
    @property
    def visible(self) -> int: ...
    @property
    def tile_pairs(self) -> int: ...
    @property
    def parts(self) -> int: ...
    @property
    def record_bytes(self) -> int: ...
    @property
    def project_ms(self) -> float: ...
    @property
    def sort_ms(self) -> float: ...
    @property
    def bin_ms(self) -> float: ...
    @property
    def composite_ms(self) -> float: ...

def pack_scene(
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    sh: NDArray[np.float32],
    threads: int,
) -> PackedScene: ...
def camera_params(
    viewmat: NDArray[np.float64],
    K: NDArray[np.float64],
    width: int,
    height: int,
    near: float,
    far: float,
    model: int,
) -> CameraParams: ...

Images = tuple[
    NDArray[np.float32],
    NDArray[np.float32] | None,
    NDArray[np.float32] | None,
    NDArray[np.float32] | None,
    NDArray[np.int32] | None,
]

def render(
    scene: DrawList,
    camera: CameraParams,
    cancel: CancelFlag,
    isa: str,
    *,
    background: tuple[float, float, float],
    transmittance_stop: float,
    kept_dilation_px2: float,
    sh_degree: int,
    threads: int,
    record_budget_bytes: int,
    rows: tuple[int, int],
    images: Images,
    second: tuple[CameraParams, float, float, Images] | None = None,
) -> RenderStats | None: ...
def project(
    scene: DrawList,
    camera: CameraParams,
    isa: str,
    *,
    kept_dilation_px2: float,
    sh_degree: int,
) -> tuple[
    NDArray[np.uint32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
]: ...

class FitWorkspace:
    def __init__(self) -> None: ...

def fit(
    workspace: FitWorkspace,
    isa: str,
    parameters: NDArray[np.float32],
    moments: NDArray[np.float32],
    seen: NDArray[np.float32],
    *,
    degree: int,
    camera: CameraParams,
    target: NDArray[np.uint8],
    background: tuple[float, float, float],
    alpha_weight: float,
    robust: float,
    rates: tuple[float, float, float, float, float, float] | None,
    image: NDArray[np.float32] | None,
    threads: int,
) -> tuple[float, int, int]: ...
def pairs_per_second_limit(isa: str, threads: int, repeats: int) -> float: ...
def idle_workspaces() -> tuple[int, int]: ...
def instruction_sets() -> Sequence[str]: ...

MAX_THREADS: int
TILE_SIZE: int
