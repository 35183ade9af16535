"""Every reader keeps the contract, for every variant of its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from tests.formats import encoders
from tests.formats.contract import FileContract, ReaderContract
from tests.formats.samples import Tolerance, random_gaussians

OPACITY_BYTE = 0.5 / 255 + 1e-6
COLOUR_BYTE = 0.5 / 255 / encoders.C0 + 1e-5


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


class TestPlyDegree3(FileContract):
    FORMAT_NAME = "3DGS PLY"
    TOLERANCE = Tolerance(means=0)

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.ply", encoders.ply(gaussians))


class TestPlyDegree2(TestPlyDegree3):
    SH_DEGREE = 2


class TestPlyDegree1(TestPlyDegree3):
    SH_DEGREE = 1


class TestPlyDegree0(TestPlyDegree3):
    SH_DEGREE = 0


class TestPlyBigEndian(TestPlyDegree3):
    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.ply", encoders.ply(gaussians, big_endian=True))


class TestPlyShuffledWithExtras(TestPlyDegree3):
    """Any order, mixed types, properties that nobody knows, Windows line ends."""

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        extra = {"label": np.arange(len(gaussians)) % 200, "confidence": np.ones(len(gaussians))}
        order = [*encoders.ply_properties(gaussians.sh_degree), *extra]
        np.random.default_rng(3).shuffle(order)
        types = {"label": "uchar", "x": "double", "f_rest_7": "double"}
        content = encoders.ply(gaussians, order=order, types=types, extra=extra, newline="\r\n")
        return _write(folder, "scene.ply", content)


class TestCompressedPly(FileContract):
    FORMAT_NAME = "SuperSplat compressed PLY"
    TOLERANCE = Tolerance(
        means=8 / 1023 / 2 + 1e-5,
        log_scales=6 / 1023 / 2 + 1e-4,
        opacities=OPACITY_BYTE,
        sh0=COLOUR_BYTE,
        rest=4 / 256 + 1e-5,
        angle=0.3,
    )

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.compressed.ply", encoders.compressed_ply(gaussians))


class TestCompressedPlyWithoutColourRanges(TestCompressedPly):
    SH_DEGREE = 0

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        content = encoders.compressed_ply(gaussians, colour_ranges=False)
        return _write(folder, "scene.compressed.ply", content)


class TestSplat(FileContract):
    FORMAT_NAME = "splat"
    SH_DEGREE = 0
    TOLERANCE = Tolerance(means=0, opacities=OPACITY_BYTE, sh0=COLOUR_BYTE, angle=1.2)
    TRUNCATION_SHOWS = False

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.splat", encoders.splat(gaussians))


class TestKsplatLevel0(FileContract):
    FORMAT_NAME = "ksplat level 0"
    SH_DEGREE = 2
    LEVEL = 0
    TOLERANCE = Tolerance(means=0, opacities=OPACITY_BYTE, sh0=COLOUR_BYTE, rest=0)

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.ksplat", encoders.ksplat(gaussians, cls.LEVEL))


class TestKsplatLevel1(TestKsplatLevel0):
    FORMAT_NAME = "ksplat level 1"
    LEVEL = 1
    STEP = encoders.KSPLAT_SIDE / 2 / 32767
    TOLERANCE = Tolerance(STEP, 1e-3, OPACITY_BYTE, COLOUR_BYTE, rest=2e-4, angle=0.1)


class TestKsplatLevel2(TestKsplatLevel1):
    FORMAT_NAME = "ksplat level 2"
    LEVEL = 2
    TOLERANCE = Tolerance(
        TestKsplatLevel1.STEP, 1e-3, OPACITY_BYTE, COLOUR_BYTE, rest=0.5 / 255 + 1e-5, angle=0.1
    )


class TestKsplatDegree0(TestKsplatLevel1):
    SH_DEGREE = 0


class TestKsplatMixedDegrees(TestKsplatLevel0):
    """Sections may have harmonics of different degrees; the lower ones are padded."""

    DEGREES = (1, 2, 0)

    @classmethod
    def make(cls) -> Gaussians:
        gaussians = super().make()
        sections = np.array_split(np.arange(cls.COUNT), len(cls.DEGREES))
        for rows, degree in zip(sections, cls.DEGREES, strict=True):
            gaussians.sh[rows, SH_COUNT_OF_DEGREE[degree] :] = 0
        return gaussians

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        content = encoders.ksplat(gaussians, 0, cls.DEGREES)
        return _write(folder, "scene.ksplat", content)


class TestSpzV4(FileContract):
    FORMAT_NAME = "SPZ v4"
    VERSION = 4
    UP = (0.0, 1.0, 0.0)
    TOLERANCE = Tolerance(
        means=2**-13 + 1e-6,
        log_scales=0.5 / 16 + 1e-5,
        opacities=OPACITY_BYTE,
        sh0=0.5 / 255 / 0.15 + 1e-5,
        rest=0.5 / 128 + 1e-5,
        angle=0.3,
    )

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.spz", encoders.spz(gaussians, cls.VERSION))


class TestSpzV4Degree0(TestSpzV4):
    SH_DEGREE = 0


class TestSpzV3(TestSpzV4):
    FORMAT_NAME = "SPZ v3"
    VERSION = 3


class TestSpzV2(TestSpzV4):
    FORMAT_NAME = "SPZ v2"
    VERSION = 2
    # Near a half turn w is small, and 8 bits of x, y, z say little about it.
    TOLERANCE = Tolerance(
        2**-13 + 1e-6, 0.5 / 16 + 1e-5, OPACITY_BYTE, 0.5 / 255 / 0.15 + 1e-5, 0.5 / 128 + 1e-5, 12
    )


class TestSpzV1(TestSpzV2):
    FORMAT_NAME = "SPZ v1"
    VERSION = 1
    TOLERANCE = Tolerance(
        2e-3, 0.5 / 16 + 1e-5, OPACITY_BYTE, 0.5 / 255 / 0.15 + 1e-5, 0.5 / 128 + 1e-5, 12
    )


class TestSpzUnpacked(TestSpzV2):
    """Older versions are found without their gzip layer, too."""

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.spz", encoders.spz(gaussians, 2, compress=False))


class TestSogV2(FileContract):
    FORMAT_NAME = "SOG v2"
    VERSION = 2
    TOLERANCE = Tolerance(
        means=5 * 1.7 / 65535 + 1e-5,
        log_scales=6 / 255 / 2 + 1e-4,
        opacities=OPACITY_BYTE,
        sh0=3.5 / 255 / 2 + 1e-4,
        rest=0.8 / 255 / 2 + 1e-5,
        angle=1.2,
    )

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return encoders.write_files(folder, encoders.sog(gaussians, cls.VERSION))


class TestSogV2Degree1(TestSogV2):
    SH_DEGREE = 1


class TestSogV2Degree0(TestSogV2):
    SH_DEGREE = 0


class TestSogV2Bundled(TestSogV2):
    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        return _write(folder, "scene.sog", encoders.sog_zip(gaussians, cls.VERSION))


class TestSogV1(TestSogV2):
    FORMAT_NAME = "SOG v1"
    VERSION = 1
    TOLERANCE = Tolerance(
        5 * 1.7 / 65535 + 1e-5, 6 / 255 / 2 + 1e-4, 8 / 255 / 8 + 1e-3, 0.01, 0.8 / 255, 1.2
    )


class TestSogV1Bundled(TestSogV2Bundled, TestSogV1):
    SH_DEGREE = 2


class TestStreamedSog(TestSogV2):
    """Two leaves and an environment, at the finest level."""

    FORMAT_NAME = "streamed SOG"
    SH_DEGREE = 2

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        fine = [gaussians[:120], gaussians[120:250]]
        coarse = [gaussians[:30], gaussians[120:150]]
        return encoders.streamed_sog(folder, [fine, coarse], gaussians[250:])


class TestTrainingFolder(ReaderContract):
    FORMAT_NAME = "3DGS PLY training folder"
    TOLERANCE = Tolerance(means=0)

    @classmethod
    def write(cls, folder: Path, gaussians: Gaussians) -> Path:
        older = random_gaussians(5, 3)
        for iteration, content in ((7000, older), (30000, gaussians), (9000, older)):
            output = folder / "point_cloud" / f"iteration_{iteration}"
            output.mkdir(parents=True)
            (output / "point_cloud.ply").write_bytes(encoders.ply(content))
        (folder / "cfg_args").write_text("__import__('os').abort()")
        return folder
