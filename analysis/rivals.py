"""LatentCRF and what one would do instead: the benchmark's methods."""

from dataclasses import dataclass, replace
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from torch import Tensor

from latentcrf import LatentCRF, LatentCRFScheduler, Observation
from latentcrf.training.finals import FinalsRecording
from latentcrf.training.trajectories import DPM_SOLVER_2M

SOLVERS = {
    "DDIM": DDIMScheduler,
    "DPM-Solver++": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
}


SCALE = 0.92  # 0.98 / 1.07: deviations of the training images' latents and of those that the embedded LDM makes at guidance 3
# of the static CRF without a round trip; this one and the one before a round trip were chosen on prompts of `--validation`
SETTLING_STRENGTH = 0.7
TAUGHT = FinalsRecording()  # what "finisher" was taught by


@dataclass(frozen=True)
class Ending:
    """What becomes of a run's last latents: "static" (LatentCRF's static form), "learned" (a CRF trained to finish runs), "plain"
    (a network of its size without fields, trained alike), "scaling" or "" (nothing), how far towards it they go, whether
    the autoencoder's round trip follows, and how often all of that is done."""

    settles: str
    strength: float
    round_trip: bool
    passes: int = 1


ENDINGS = {
    "finisher": Ending("learned", 1.0, False),
    "plain finisher": Ending("plain", 1.0, False),
    "static finisher": Ending("static", TAUGHT.strength, True, TAUGHT.passes),
    "static CRF": Ending("static", SETTLING_STRENGTH, False),
    "round trip": Ending("", 0.0, True),
    "two round trips": Ending("", 0.0, True, 2),
    "scaling": Ending("scaling", 1.0, False),
    "scaled round trip": Ending("scaling", 1.0, True),
}


@dataclass(frozen=True)
class Method:
    """One way to sample: a solver, its steps, what stands in for the steps `bypass`, and what comes after all steps.

    Attributes:
        refiner: "" (nothing left out), "bypass" (no parameters), "LatentCRF", "static" (LatentCRF's static form), "plain" (a
            network of the CRF's size).
        finisher: "" (nothing) or one of `ENDINGS`: "static finisher" (LatentCRF's static form settles the last latents, then they
            make a round trip through the autoencoder, both twice), "finisher" (the CRF that learned to do both at once), "plain finisher" (a
            network of its size that did), "static CRF" (the static form alone, stronger), "round trip" (that alone, once), "two round
            trips", "scaling" (the last latents times a number), "scaled round trip".
    """

    solver: str
    steps: int
    bypass: tuple[int, int] | None = None
    refiner: str = ""
    finisher: str = ""

    @property
    def name(self) -> str:
        run = f"{self.solver}-{self.steps}"
        if self.bypass is not None:
            run += f" {self.refiner} ({self.bypass[0]}, {self.bypass[1]})"
        return f"{run} + {self.finisher}" if self.finisher else run

    @property
    def is_ours(self) -> bool:
        """Whether a CRF has part in it."""
        return self.refiner in ("LatentCRF", "static") or (
            self.finisher != "" and ENDINGS[self.finisher].settles in ("static", "learned")
        )


class Scaling:
    """What the static CRF must not be mistaken for: less contrast. The last latents times `scale`."""

    def __init__(self, scale: float = SCALE) -> None:
        self.scale = scale

    def to(self, device: Any) -> "Scaling":
        return self

    def __call__(self, observation: Observation, num_iterations: int) -> Tensor:
        return self.scale * observation.latents


def all_methods(refiners: tuple[str, ...], finishers: tuple[str, ...]) -> list[Method]:
    """The benchmark's methods, the full run first.

    Args:
        refiners: those of `Method` to measure.
        finishers: what of `Ending.settles` to measure.
    """
    plain = [Method("DDIM", steps) for steps in (50, 34, 25, 20, 15, 12, 10, 8, 6, 4)]
    plain += [Method(solver, steps) for solver in ("DPM-Solver++", "UniPC") for steps in (20, 15, 12, 10, 8, 6, 5, 4)]
    gaps = [("DDIM", 50, (33, 49)), ("DDIM", 50, (25, 50)), ("DPM-Solver++", 20, (12, 19))]
    gaps += [("DDIM", 50, (17, 42))]  # the last steps, which draw the details, remain
    long_gaps = len(gaps)
    gaps += [
        (solver, steps, (steps - 1, steps)) for solver in ("DDIM", "DPM-Solver++") for steps in (5, 7, 9, 11)
    ]  # the CRF's output is the image
    gaps += [("DPM-Solver++", 10, (7, 10)), ("DPM-Solver++", 12, (8, 12))]
    # the static form knows no level: after few steps its corrections are those of the last latents, which finishers make
    methods = plain + [
        Method(*gap, refiner)
        for index, gap in enumerate(gaps)
        for refiner in refiners
        if refiner != "static" or index < long_gaps
    ]
    # what each run is ended with: the finisher ends all, what it is compared with a choice of them
    whole = [each for each in plain if each.solver != "DDIM" or each.steps in (50, 34)]
    bypassed = [
        each
        for each in methods
        if each.bypass in ((33, 49), (17, 42)) and each.refiner in ("bypass", "LatentCRF", "static")
    ]
    compared = [each for each in whole if each.steps == 50 or each.solver == "UniPC" and each.steps in (4, 6, 8, 12)]
    trips = [each for each in whole if each.solver != "DPM-Solver++"]
    trips += [each for each in bypassed if each.refiner == "LatentCRF"]
    few = [each for each in compared if each.steps in (50, 8)]
    ended = {"finisher": whole + bypassed, "round trip": trips}
    ended |= dict.fromkeys(("plain finisher", "static finisher"), compared)
    for name, ending in ENDINGS.items():
        if ending.settles in ("", *finishers):
            methods += [replace(each, finisher=name) for each in ended.get(name, few)]
    return methods


def scheduler_of(
    method: Method,
    pipeline: StableDiffusionPipeline,
    refiners: dict[str, LatentCRF | None],
    finishers: dict[str, Any],
) -> Any:
    """The method's scheduler, made from the pipeline's own noise levels.

    Args:
        refiners: by their names in `Method`.
        finishers: by their names in `Ending`.
    """
    options = DPM_SOLVER_2M if method.solver == "DPM-Solver++" else {}
    inner = SOLVERS[method.solver].from_config(pipeline.scheduler.config, **options)
    if not method.refiner and not method.finisher:
        return inner
    ending = ENDINGS.get(method.finisher, Ending("", 0.0, False))
    return LatentCRFScheduler(
        inner,
        refiners[method.refiner] if method.refiner else None,
        bypass=method.bypass,
        finisher=finishers[ending.settles] if ending.settles else None,
        finisher_strength=ending.strength,
        vae=pipeline.vae if ending.round_trip else None,
        finisher_passes=ending.passes,
    )
