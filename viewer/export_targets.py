"""The files of an export: which, whether they can be written, and how they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rendering.base import Outputs, RasterImage
from splat.errors import OutputError
from viewer.image_files import (
    MAP_SUFFIXES,
    PICTURE_SUFFIXES,
    FileWriter,
    check_size,
    check_target,
    map_file,
    picture_file,
    write_together,
)
from viewer.images import Mode, alpha_to_uint8, picture
from viewer.stereo_layouts import StereoLayout, Value, join

DEPTH_CHANNEL = "Z"
ALPHA_CHANNEL = "A"
EYES = ("left", "right")


@dataclass(frozen=True, slots=True)
class Targets:
    """The files to write.

    Attributes:
        image: Picture in colour (or as the mode says).
        depth: Expected view depth, 0 where nothing is: .exr (channel Z) or .npy.
        alpha: Opacity: .exr (channel A), .npy, or a grey picture.
        quality: Of JPEG and WebP, 1 to 100.
        layout: How two eyes' pictures go into them; None for pictures of one eye. If they are
            to be separate, ``a.png`` stands for ``a.left.png`` and ``a.right.png``.
    """

    image: Path | None = None
    depth: Path | None = None
    alpha: Path | None = None
    quality: int = 95
    layout: StereoLayout | None = None

    def check(self, mode: Mode) -> None:
        """See before any work whether all can be written.

        Raises:
            OutputError: If not, or if there is nothing to write.
        """
        if self.image is None and self.depth is None and self.alpha is None:
            raise OutputError("nothing to write; pass --image, --depth or --alpha")
        if self.layout is StereoLayout.ANAGLYPH:
            self._check_anaglyph(mode)
        self._check_distinct()
        if self.image is not None:
            self._check_each(self.image, PICTURE_SUFFIXES)
        if self.depth is not None:
            self._check_each(self.depth, MAP_SUFFIXES)
        if self.alpha is not None:
            self._check_each(self.alpha, PICTURE_SUFFIXES + MAP_SUFFIXES)

    def check_size(self, width: int, height: int) -> None:
        """See whether the formats can hold pictures of which an eye's is of this size.

        Raises:
            OutputError: If one cannot.
        """
        if self.layout is not None:
            width, height = self.layout.size(width, height)
        for path in self.paths:
            check_size(path, width, height)

    def outputs(self, mode: Mode) -> Outputs:
        """What a render must produce for them."""
        outputs = Outputs(0) if self.image is None else mode.outputs
        return outputs if self.depth is None else outputs | Outputs.DEPTH

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that will be written."""
        named = (path for path in (self.image, self.depth, self.alpha) if path is not None)
        return tuple(file for path in named for file in self._files(path))

    def write(self, image: RasterImage, mode: Mode, background: tuple[float, float, float]) -> None:
        """Write all of them, or none.

        Args:
            image: The render; of two eyes, the left one's above the right one's.
            mode: What the picture shows.
            background: Behind what is shown.

        Raises:
            OutputError: If one cannot be written.
        """
        files: list[tuple[Path, FileWriter]] = []
        if self.image is not None:
            rgb = picture(image, mode, background).rgb
            files += self._writers(self.image, rgb, self._picture_file)
        if self.depth is not None:
            assert image.depth is not None
            files += self._writers(self.depth, image.depth, _map_writer(DEPTH_CHANNEL))
        if self.alpha is not None:
            if self.alpha.suffix.lower() in MAP_SUFFIXES:
                files += self._writers(self.alpha, image.alpha, _map_writer(ALPHA_CHANNEL))
            else:
                grey = alpha_to_uint8(image.alpha)[..., 0]
                files += self._writers(self.alpha, grey, self._picture_file)
        write_together(files)

    def _files(self, path: Path) -> tuple[Path, ...]:
        if self.layout is not StereoLayout.SEPARATE:
            return (path,)
        return tuple(path.with_name(f"{path.stem}.{eye}{path.suffix}") for eye in EYES)

    def _writers(
        self,
        path: Path,
        pixels: NDArray[Value],
        writer: Callable[[Path, NDArray[Value]], FileWriter],
    ) -> list[tuple[Path, FileWriter]]:
        parts: tuple[NDArray[Value], ...] = (pixels,)
        if self.layout is not None:
            middle = len(pixels) // 2
            parts = join(pixels[:middle], pixels[middle:], self.layout)
        pairs = zip(self._files(path), parts, strict=True)
        return [(file, writer(file, part)) for file, part in pairs]

    def _picture_file(self, path: Path, pixels: NDArray[np.uint8]) -> FileWriter:
        return picture_file(path, pixels, self.quality)

    def _check_anaglyph(self, mode: Mode) -> None:
        for option, path in (("--depth", self.depth), ("--alpha", self.alpha)):
            if path is not None:
                raise OutputError(
                    f"{option}: an anaglyph mixes both eyes into one picture; for {option} take "
                    "--stereo side-by-side, top-bottom or separate"
                )
        if mode is not Mode.COLOR:
            raise OutputError(
                f"--mode {mode.value}: red-cyan glasses change its colours; take --mode color, or "
                "--stereo side-by-side, top-bottom or separate"
            )

    def _check_each(self, path: Path, suffixes: tuple[str, ...]) -> None:
        for file in self._files(path):
            check_target(file, suffixes)

    def _check_distinct(self) -> None:
        seen: dict[str, tuple[str, Path]] = {}  # by the file that is written, links followed
        for option in ("image", "depth", "alpha"):
            path = getattr(self, option)
            for file in () if path is None else self._files(path):
                first, same = seen.setdefault(os.path.realpath(file), (option, file))
                if first != option:
                    raise OutputError(f"{file}: --{first} and --{option} cannot be the same file")
                if same is not file:
                    raise OutputError(f"{same} and {file.name} are the same file; remove the link")


def _map_writer(channel: str) -> Callable[[Path, NDArray[np.float32]], FileWriter]:
    return lambda path, values: map_file(path, values, channel)
