"""``belvedere bake``: a neural scene as plain Gaussians.

The docstrings of the options are help texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import Positional, arg

from configs.settings import Range
from splat.anchors import MAX_LEVELS
from splat.errors import SettingsError
from viewer.option_groups import (
    TOWN_GAUSSIANS,
    CommonOptions,
    MemoryOptions,
    load,
)
from viewer.option_types import Amount, File, Flag, Level, Number, Text, Vector, Whole, hint
from viewer.ranges import NEAR, require_in_range

Say = Callable[[str], None]
LEVEL = Range(0, MAX_LEVELS - 1)
VIEWS, SIZE, DEGREE, ROUNDS = Range(4, 2000), Range(32, 2048), Range(0, 3), Range(1, 1000)
GAUSSIANS, SEED, THREADS = Range(100, 20_000_000), Range(0, 2**31 - 1), Range(0, 1024)
DEFAULT_VIEWS, DEFAULT_SIZE, DEFAULT_DEGREE, DEFAULT_ROUNDS = 64, 400, 2, 15


@dataclass(frozen=True, slots=True)
class BakeCommand:
    """Turn a neural scene into plain Gaussians, which any viewer of those can show.

    Pictures of it are drawn from all around, or from its training cameras where they are known,
    and Gaussians are fitted to them. Prints how near these come to pictures that were held out.

    Example: belvedere bake fox.msgpack -o fox.ply --gaussians 200k
    """

    scene: Annotated[Positional[str], arg(metavar="SCENE", help_behavior_hint="")] = ""
    """A NeRF, or a folder of neural anchors, as belvedere --help lists them."""
    output: Annotated[File, arg(aliases=["-o"], metavar="FILE|STORE"), hint("SCENE.ply")] = None
    """A 3DGS .ply file to write, which replaces one of its name, or a .bvs store."""
    views: Annotated[Whole, hint(DEFAULT_VIEWS)] = None
    """Pictures that Gaussians are fitted to."""
    size: Annotated[Whole, arg(metavar="PIXELS"), hint(DEFAULT_SIZE)] = None
    """Their longest side."""
    gaussians: Annotated[Amount, hint("by the pixels; as many as anchors stand for")] = None
    """How many there may be, such as 50k or 1.5M."""
    level: Annotated[Level, hint("the scene as it is drawn, up to the finest")] = None
    """Of an Octree-GS, draw levels up to this one, 0 the coarsest; or the word all, for a file of
    each: NAME-level0.ply and so on."""
    sh_degree: Annotated[Whole, hint(DEFAULT_DEGREE)] = None
    """View-dependent colour up to this degree of spherical harmonics, 0 to 3."""
    rounds: Annotated[Whole, hint(DEFAULT_ROUNDS)] = None
    """How often each picture is fitted to at most; more are slower and better."""
    seed: Annotated[Whole, hint(0)] = None
    """The same seed, the same Gaussians."""
    up: Annotated[Vector, hint("found out")] = None
    """The direction that is up, in the scene's axes, such as 0 0 1."""
    near: Annotated[Number, hint("a share of the scene's radius")] = None
    """Nothing nearer to a view than this is drawn, world units."""
    threads: Annotated[Whole, hint("0, one a core")] = None
    """CPU threads to draw and fit with."""
    devices: Annotated[Text, hint("auto: GPUs that can be used, else all cores")] = None
    """What draws the pictures, as of belvedere export; Gaussians are fitted by the processor."""
    trust: Flag = False
    """Let code in the scene's files run, where their numbers alone cannot be read."""
    overwrite: Flag = False
    """Replace a store of that name, once the new one is complete."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    common: CommonOptions = field(default_factory=CommonOptions)

    def run(self, say: Say) -> None:
        """Write it, and say what it is worth."""
        if not self.scene:
            raise SettingsError("bake: name a neural scene, such as fox.msgpack")
        for option, value, allowed in (
            ("--views", self.views, VIEWS),
            ("--size", self.size, SIZE),
            ("--gaussians", self.gaussians, GAUSSIANS),
            ("--level", self.level if isinstance(self.level, int) else None, LEVEL),
            ("--sh-degree", self.sh_degree, DEGREE),
            ("--rounds", self.rounds, ROUNDS),
            ("--seed", self.seed, SEED),
            ("--near", self.near, NEAR),
            ("--threads", self.threads, THREADS),
        ):
            require_in_range(option, value, allowed)
        if self.up is not None and not any(self.up):
            raise SettingsError("--up: 0 0 0 is no direction")
        settings = load(
            self.common.config,
            {
                "--near": ("render.near", self.near),
                "--threads": ("render.threads", self.threads),
                **self.memory.settings,
                "--devices": ("render.devices", self.devices),
            },
        )
        from rendering.models.bake import BakeOptions
        from viewer.bake import bake_scene
        from viewer.engines import DeviceChoice
        from viewer.scenes import SceneChoice

        DeviceChoice.of(settings.render)  # before anything is read
        given = {
            "views": self.views,
            "size": self.size,
            "gaussians": self.gaussians,
            "sh_degree": self.sh_degree,
            "rounds": self.rounds,
            "seed": self.seed,
            "threads": self.threads,
        }
        options = BakeOptions(**{name: value for name, value in given.items() if value is not None})
        choice = SceneChoice.of(self.scene, TOWN_GAUSSIANS, up=self.up)
        bake_scene(
            replace(choice, trust=self.trust),
            self.output,
            options,
            settings,
            say,
            level=self.level,
            overwrite=self.overwrite,
        )
