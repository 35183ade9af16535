"""What the kit measures, and in which order: steps as data, for a GPU and for a dry run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Size = tuple[int, int]
PACKAGE = "benchmarks.gpu_kit"
PEER_KERNELS = "gsplat's kernels"


@dataclass(frozen=True, slots=True)
class Variant:
    """A way of our own engine to draw.

    Attributes:
        tuning: What ``rendering.fused_cuda.Tuning`` is made with. A field that it does not have
            fails the variant's own step and no other.
        moving: Approximate, as while the camera moves (``viewer.pacing``).
    """

    tuning: dict[str, Any] = field(default_factory=dict)
    moving: bool = False

    @property
    def label(self) -> str:
        """For people: what differs from the default."""
        words = [f"{name}={value}" for name, value in self.tuning.items()]
        return " ".join([*words, *(["moving"] if self.moving else [])]) or "default"


# The first is measured everywhere, the others on the first scene.
VARIANTS = (
    Variant(),
    Variant({"matrix": True, "warps": 4}),
    Variant({"warps": 2}),
    Variant({"warps": 4}),
    Variant({"stride": 8}),
    Variant({"stride": 32}),
    Variant({"block": 256}),
    Variant({"block": 64, "project_warps": 2}),
    Variant({"block": 32, "project_warps": 1}),
    Variant({"tile": 8}),
    Variant({"tile": 32, "warps": 4}),
    Variant({"matrix": True, "warps": 8}),
    Variant({"matrix": True, "warps": 4, "stride": 32}),
    Variant(moving=True),
    Variant({"half_colors": False}, moving=True),
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How long a frame is measured.

    Attributes:
        views: Of a path, at equal distances; each is drawn once before anything is timed.
        least, most: Frames that are timed.
        most_s: After so many seconds no further frame is begun, but for the least.
    """

    views: int
    least: int
    most: int
    most_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on.

    Attributes:
        dry: On the CPU, by Triton's interpreter; no figure of it is a speed.
        scenes: Names of ``benchmarks.scenes``; the first has levels of detail and is drawn by
            every variant.
        variants: See ``VARIANTS``.
        sizes: Of pictures (width, height); the first also for what is compared and traced.
        eye: Of each of two.
        paths: Camera paths.
        sampling: Of frames.
        tests: What pytest is asked to run, beside the files that have tests for a GPU.
        minutes: After which no step begins.
        keep_one_in: Of so many Gaussians of a scene, for what would take too long.
        page_gaussians: Of a chunk; None for what suits the scene.
        anchors: Of a neural model, in pages of ``page_anchors``.
        anchor_forms: Of the kernel that decodes them: anchors of a program, and its warps
            (``rendering.models.anchors_device.DecoderTuning``). The first is what frames have.
        prepare_s: For what the CPU prepares; what is not there by then is done without.
        build_s: The same for gsplat's kernels. What does not need them waits no longer than
            ``prepare_s``.
    """

    dry: bool
    scenes: tuple[str, ...]
    variants: tuple[Variant, ...]
    sizes: tuple[Size, ...]
    eye: Size
    paths: tuple[str, ...]
    sampling: Sampling
    tests: tuple[str, ...]
    minutes: float
    prepare_s: float = 180.0
    build_s: float = 300.0
    keep_one_in: int = 1
    page_gaussians: int | None = None
    anchors: int = 1_000_000
    page_anchors: int = 1024
    anchor_forms: tuple[tuple[int, int], ...] = ((16, 4), (32, 8), (16, 8))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Plan:
        """What ``to_json`` gave, even after a way through JSON."""
        plain = {name: _tuples(value) for name, value in fields.items()}
        plain["sampling"] = Sampling(**fields["sampling"])
        plain["variants"] = tuple(Variant(**each) for each in fields["variants"])
        return cls(**plain)


FULL = Plan(
    dry=False,
    scenes=("town-10M", "town-1M", "park"),
    variants=VARIANTS,
    sizes=((1920, 1080), (3840, 2160)),
    eye=(2048, 2048),
    paths=("aerial", "walk"),
    sampling=Sampling(views=12, least=12, most=60, most_s=1.5),
    tests=("-m", "gpu"),
    minutes=8.0,
)
DRY = Plan(
    dry=True,
    scenes=("town-2000",),
    variants=VARIANTS[:2],
    sizes=((33, 21),),
    eye=(24, 20),
    paths=("walk",),
    sampling=Sampling(views=1, least=1, most=1, most_s=0.0),
    tests=("-k", "without_a_device"),
    minutes=8.0,
    keep_one_in=40,
    page_gaussians=8,
    anchors=44,
    page_anchors=20,
    anchor_forms=((16, 4), (32, 8)),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, in a process of its own kind.

    Attributes:
        name: For people and for the record.
        target: ``package.module:function``; called with a ``Bench`` and one to tell rows to.
        limit_s: After which the process is killed.
        arguments: Passed on by name.
        quiet: Waits for what is prepared beside, as long as the plan says.
        needed: Without it nothing else makes sense.
        after: A step beside that must be over first, well or not; meanwhile later ones may begin.
    """

    name: str
    target: str
    limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = True
    needed: bool = False
    after: str = ""

    def to_json(self, limit_s: float) -> str:
        """What its process is told, a line."""
        told = {"target": self.target, "arguments": dict(self.arguments), "limit_s": limit_s}
        return json.dumps(told)


DEVICE = Step("device", f"{PACKAGE}.machine_facts:find_device", 60.0)  # before a run


@dataclass(frozen=True, slots=True)
class Lane:
    """Steps that run one after the other, beside others.

    Attributes:
        limit_s: After which none of them begins, or goes on.
    """

    steps: tuple[Step, ...]
    limit_s: float


def lanes_beside(plan: Plan) -> tuple[Lane, ...]:
    """Work of the CPU before anything is measured: what is measured on, and gsplat's kernels, which
    take a compiler minutes."""
    peer = Step(PEER_KERNELS, f"{PACKAGE}.peer:compile_kernels", plan.build_s)
    materials = (
        Step("native engine", f"{PACKAGE}.native_build:build", 150.0),
        *(
            Step(f"scene {name}", f"{PACKAGE}.materials:make_scene", 120.0, {"name": name})
            for name in plan.scenes
        ),
        Step("levels", f"{PACKAGE}.materials:make_levels", 120.0, {"name": plan.scenes[0]}),
    )
    return Lane((peer,), plan.build_s), Lane(materials, plan.prepare_s)


def steps_of(plan: Plan) -> list[Step]:
    """The rest, the most telling first: time may run out."""
    variants = [
        Step(
            f"frames {variant.label}",
            f"{PACKAGE}.frames:measure",
            60.0,
            {"variant": place, "scenes": list(plan.scenes[: None if place == 0 else 1])},
        )
        for place, variant in enumerate(plan.variants)
    ]
    variants[0] = replace(variants[0], limit_s=120.0)
    anchors = [
        Step(f"anchors {block}×{warps}", f"{PACKAGE}.anchors:measure", 60.0, {"form": place})
        for place, (block, warps) in enumerate(plan.anchor_forms)
    ]
    return [
        Step("machine", f"{PACKAGE}.machine_facts:tell_facts", 60.0, quiet=False, needed=True),
        variants[0],
        Step("pictures", f"{PACKAGE}.pictures:compare", 60.0),
        Step("frames gsplat", f"{PACKAGE}.frames:measure_peer", 90.0, after=PEER_KERNELS),
        Step("binocular", f"{PACKAGE}.binocular:measure", 90.0),
        # Their kernels take as many forms as all others together, and are compiled first.
        Step(
            "contract tests",
            f"{PACKAGE}.contract_tests:run",
            240.0,
            {"files": "ours"},
            after=PEER_KERNELS,
        ),
        Step("uploads", f"{PACKAGE}.uploads:measure", 45.0),
        Step("paging", f"{PACKAGE}.paging:measure", 90.0),
        anchors[0],
        Step(
            "gsplat's contract tests",
            f"{PACKAGE}.contract_tests:run",
            60.0,
            {"files": "gsplat"},
            after=PEER_KERNELS,
        ),
        *variants[1:],
        *anchors[1:],
        Step("traces", f"{PACKAGE}.traces:record", 60.0),
    ]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, (list, tuple)) else value
