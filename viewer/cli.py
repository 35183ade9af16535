"""The command line: ``belvedere view | export | info | town | bench``.

Starting must be quick, so every command imports what it needs when it runs: only ``view``
imports viser, and nothing here imports torch. Errors meant for the user are one line and
exit status 2; anything else is a fault of ours: one line, status 1, details with
``--debug``.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand
from tyro.constructors import PrimitiveConstructorSpec

from splat.errors import BelvedereError, SettingsError

if TYPE_CHECKING:
    from configs.settings import Settings
    from viewer.scenes import SceneChoice

TOWN_GAUSSIANS = 2_000_000
DEBUG_VARIABLE = "BELVEDERE_DEBUG"
LOG_FORMAT = "belvedere: %(message)s"
DEBUG_LOG_FORMAT = "belvedere: %(levelname)s: %(name)s: %(message)s"

Number = Annotated[float | None, arg(metavar="NUMBER")]
Whole = Annotated[int | None, arg(metavar="INT")]
File = Annotated[Path | None, arg(metavar="FILE")]
EngineName = Literal["native", "reference"]
ModeName = Literal["color", "depth", "alpha", "count"]


def parse_count(words: list[str]) -> int:
    """A count such as ``2000000``, ``2_000_000``, ``2e6`` or ``2M``.

    Raises:
        ValueError: If it is none, or not at least 1.
    """
    text = words[0].replace("_", "").replace(",", "")
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 1 and number == int(number)):
        raise ValueError(f"{words[0]} is not a whole number of at least 1")
    return int(number)


Count = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="COUNT",
        instance_from_str=parse_count,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]


def parse_vector(words: list[str]) -> tuple[float, float, float]:
    """Three finite numbers.

    Raises:
        ValueError: If they are none.
    """
    x, y, z = (float(word) for word in words)
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        raise ValueError(f"{' '.join(words)} are not finite numbers")
    return x, y, z


def _vector_spec(metavar: str) -> PrimitiveConstructorSpec[tuple[float, float, float] | None]:
    """Exactly three words: left to itself, an optional vector would swallow the scene, too."""
    return PrimitiveConstructorSpec(
        nargs=3,
        metavar=metavar,
        instance_from_str=parse_vector,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else [f"{v:g}" for v in value],
    )


Vector = Annotated[tuple[float, float, float] | None, _vector_spec("X Y Z")]
Color = Annotated[tuple[float, float, float] | None, _vector_spec("R G B")]


@dataclass(frozen=True, slots=True)
class Common:
    """What every command takes."""

    config: File = None
    """Settings file (YAML); see configs/default.yaml for what can be set."""
    debug: bool = False
    """Log more, and show where an unexpected error came from."""


@dataclass(frozen=True, slots=True)
class SceneArgs(Common):
    """Which scene."""

    scene: Annotated[Positional[Path | None], arg(metavar="SCENE")] = None
    """File or folder in any format that is read; without it, the built-in town."""
    gaussians: Count = TOWN_GAUSSIANS
    """Size of the town, such as 2e6 or 500k."""
    lod: Whole = None
    """Level of detail to read, 0 the finest, for formats that have several."""
    up: Vector = None
    """Direction that is up, such as 0 -1 0; without it, it is found out."""

    def choice(self, fov_deg: float) -> SceneChoice:
        """The scene as the commands know it."""
        from viewer.scenes import SceneChoice

        return SceneChoice(self.scene, self.gaussians, self.lod, self.up, fov_deg)


@dataclass(frozen=True, slots=True)
class DrawArgs(SceneArgs):
    """How to draw."""

    position: Vector = None
    """Where the camera stands, world coordinates."""
    look_at: Vector = None
    """What the camera looks at, world coordinates."""
    fov: Number = None
    """Vertical field of view, degrees."""
    near: Number = None
    """Near plane, world units; without it, it is scaled to the scene."""
    background: Color = None
    """Background RGB, each 0 to 1."""
    antialiased: Annotated[bool | None, arg(metavar="{True,False}")] = None
    """Compensate opacities for the screen-space dilation (Mip-Splatting)."""
    sh_degree: Whole = None
    """Highest degree of the spherical harmonics that is evaluated."""
    threads: Whole = None
    """CPU threads a picture may use; 0 for one a core."""
    engine: Annotated[EngineName | None, arg(metavar="{native,reference}")] = None
    """Rasterizer; the reference is slow and exact."""

    def settings(self, overrides: dict[str, Any]) -> Settings:
        """The defaults, the settings file, then the flags that were given."""
        from configs.loading import load_settings

        flags = {
            "viewer.fov_deg": self.fov,
            "render.near": self.near,
            "render.background": self.background,
            "render.antialiased": self.antialiased,
            "render.sh_degree": self.sh_degree,
            "render.threads": self.threads,
            "render.engine": self.engine,
            **overrides,
        }
        return load_settings(
            self.config, {key: value for key, value in flags.items() if value is not None}
        )


@dataclass(frozen=True, slots=True)
class View(DrawArgs):
    """Explore a scene in the browser."""

    host: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Address to listen on; 0.0.0.0 lets other machines in."""
    token: Annotated[str | None, arg(metavar="TEXT")] = None
    """What browsers must present; without it, a random one where others can reach the page."""
    port: Whole = None
    """Port to listen on; an error if it is in use. 0 takes any free one."""
    jpeg_quality: Whole = None
    """Of the picture at rest, 1 to 100."""
    mode: Annotated[ModeName | None, arg(metavar="{color,depth,alpha,count}")] = None
    """What the picture shows at the start."""
    open_browser: bool = False
    """Open the page in the browser of this machine."""

    def run(self) -> None:
        """Serve until interrupted."""
        settings = self.settings(
            {
                "viewer.host": self.host,
                "viewer.token": self.token,
                "viewer.port": self.port,
                "viewer.still_quality": self.jpeg_quality,
                "viewer.mode": self.mode,
            }
        )
        from viewer.serving import serve

        serve(
            self.choice(settings.viewer.fov_deg),
            settings,
            explicit_port=self.port is not None,
            position=self.position,
            look_at=self.look_at,
            say=lambda line: print(line, flush=True),
            open_browser=self.open_browser,
        )


@dataclass(frozen=True, slots=True)
class Export(DrawArgs):
    """Draw one view of a scene into image files, without a browser."""

    image: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")] = None
    """Picture to write: .png, .jpg or .webp."""
    depth: File = None
    """Depth map to write: .exr (channel Z) or .npy; view depth in world units, 0 for none."""
    alpha: File = None
    """Opacity to write: .exr, .npy, or a grey picture."""
    fov_x: Number = None
    """Horizontal field of view, degrees, instead of --fov."""
    width: Whole = None
    """Pixels; 1280 unless a training camera says otherwise."""
    height: Whole = None
    """Pixels; 720 unless a training camera says otherwise."""
    downscale_factor: float = 1.0
    """Divide the size by this."""
    training_camera: Whole = None
    """Take the pose and lens of this training camera, counted from 0."""
    mode: ModeName = "color"
    """What the picture shows."""
    jpeg_quality: int = 95
    """Of JPEG and WebP, 1 to 100."""

    def run(self) -> None:
        """Write the files and name them."""
        from viewer.export import CameraChoice, Targets, export

        settings = self.settings({})
        if not 1 <= self.jpeg_quality <= 100:
            raise SettingsError(f"--jpeg-quality must be 1 to 100, got {self.jpeg_quality}")
        if not self.downscale_factor > 0:
            raise SettingsError(f"--downscale-factor must be above 0, got {self.downscale_factor}")
        targets = Targets(self.image, self.depth, self.alpha, self.jpeg_quality)
        camera = CameraChoice(
            position=self.position,
            look_at=self.look_at,
            fov_deg=self.fov,
            fov_x_deg=self.fov_x,
            training_camera=self.training_camera,
            width=self.width,
            height=self.height,
            downscale_factor=self.downscale_factor,
        )
        choice = self.choice(settings.viewer.fov_deg)
        export(choice, camera, targets, settings.render, self.mode)
        for path in targets.paths:
            print(path)


@dataclass(frozen=True, slots=True)
class Info(SceneArgs):
    """What is in a scene, and what is wrong with it."""

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print it."""
        from viewer.info import scene_report

        report = scene_report(self.choice(60.0))
        if self.json:
            print(report.to_json())
        else:
            report.print_table()


@dataclass(frozen=True, slots=True)
class Town(Common):
    """Write the built-in town as a 3DGS PLY file."""

    output: Annotated[Path, arg(aliases=["-o"])] = Path("town.ply")
    """File to write."""
    gaussians: Count = TOWN_GAUSSIANS
    """How many, such as 2e6 or 500k."""

    def run(self) -> None:
        """Write it."""
        from viewer.town_file import write_town

        write_town(self.output, self.gaussians)
        print(self.output)


@dataclass(frozen=True, slots=True)
class Bench(Common):
    """Run the benchmarks; their own options follow: belvedere bench --help."""

    def run(self) -> None:
        """Never reached: ``main`` hands over before options are parsed."""
        raise AssertionError


Command = (
    Annotated[View, subcommand("view")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Town, subcommand("town")]
    | Annotated[Bench, subcommand("bench")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format=DEBUG_LOG_FORMAT if debug else LOG_FORMAT,
    )
    return _guarded(lambda: _dispatch(words), debug)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"belvedere {_version()}")
        return 0
    if words[:1] == ["bench"]:
        from benchmarks.__main__ import main as bench

        return int(bench(words[1:]) or 0)
    command: Any = tyro.cli(
        Command,
        args=words or ["--help"],
        prog="belvedere",
        description="A viewer for 3D Gaussian Splatting scenes.",
    )
    command.run()
    return 0


def _guarded(run: Callable[[], int], debug: bool) -> int:
    """``run``'s status; errors become one line and a status."""
    try:
        return run()
    except BelvedereError as error:
        return _complain(f"error: {error}", 2, debug)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # such as `belvedere info … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}".replace("\n", " ")
        hint = "" if debug else f"; run again with {DEBUG_VARIABLE}=1 for details"
        return _complain(f"error: {message}{hint}", 1, debug)


def _complain(line: str, status: int, debug: bool) -> int:
    if debug:
        logging.getLogger(__name__).debug("details", exc_info=True)
    print(f"belvedere: {line}", file=sys.stderr)
    return status


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("belvedere")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
