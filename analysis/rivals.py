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
from latentcrf.training.trajectories import DPM_SOLVER_2M

SOLVERS = {
    "DDIM": DDIMScheduler,
    "DPM-Solver++": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
}


FINISHER_STRENGTH = 0.7  # chosen on the prompts of `--validation`
SCALE = 0.87  # 0.98 / 1.13: deviations of the training images' latents and of those that the embedded LDM makes at guidance 3


@dataclass(frozen=True)
class Method:
    """One way to sample: a solver, its steps, what stands in for the steps `bypass`, and what comes after all steps.

    Attributes:
        refiner: "" (nothing left out), "bypass" (no parameters), "LatentCRF", "static" (LatentCRF's static form), "plain" (a
            network of the CRF's size).
        finisher: "" (nothing), "finisher" (LatentCRF's static form on the last latents), "scaling" (the last latents times
            a number).
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
        return self.refiner in ("LatentCRF", "static") or self.finisher == "finisher"


class Scaling:
    """What the finisher must not be mistaken for: less contrast. The last latents times `scale`."""

    def __init__(self, scale: float = SCALE) -> None:
        self.scale = scale

    def to(self, device: Any) -> "Scaling":
        return self

    def __call__(self, observation: Observation, num_iterations: int) -> Tensor:
        return self.scale * observation.latents


def all_methods(refiners: tuple[str, ...] = ("bypass", "LatentCRF"), finishers: tuple[str, ...] = ()) -> list[Method]:
    """The benchmark's methods, the full run first."""
    plain = [Method("DDIM", steps) for steps in (50, 34, 25, 20, 15, 12, 10, 8, 6, 4)]
    plain += [Method(solver, steps) for solver in ("DPM-Solver++", "UniPC") for steps in (20, 15, 12, 10, 8, 6, 5, 4)]
    gaps = [("DDIM", 50, (33, 49)), ("DDIM", 50, (25, 50)), ("DPM-Solver++", 20, (12, 19))]
    gaps += [("DDIM", 50, (17, 42))]  # the last steps, which draw the details, remain
    gaps += [
        (solver, steps, (steps - 1, steps)) for solver in ("DDIM", "DPM-Solver++") for steps in (5, 7, 9, 11)
    ]  # the CRF's output is the image
    gaps += [("DPM-Solver++", 10, (7, 10)), ("DPM-Solver++", 12, (8, 12))]
    methods = plain + [Method(*gap, refiner) for gap in gaps for refiner in refiners]
    if "finisher" in finishers:
        ended = [each for each in plain if each.solver != "DDIM" or each.steps in (50, 34)]
        ended += [
            each for each in methods if each.bypass in ((33, 49), (17, 42)) and each.refiner in ("LatentCRF", "static")
        ]
        methods += [replace(each, finisher="finisher") for each in ended]
    if "scaling" in finishers:
        scaled = [("DDIM", 50), ("DPM-Solver++", 8), ("UniPC", 8), ("UniPC", 10), ("UniPC", 12)]
        methods += [Method(*each, finisher="scaling") for each in scaled]
    return methods


def scheduler_of(
    method: Method, pipeline: StableDiffusionPipeline, refiners: dict[str, LatentCRF | None], finishers: dict[str, Any]
) -> Any:
    """The method's scheduler, made from the pipeline's own noise levels."""
    options = DPM_SOLVER_2M if method.solver == "DPM-Solver++" else {}
    inner = SOLVERS[method.solver].from_config(pipeline.scheduler.config, **options)
    if not method.refiner and not method.finisher:
        return inner
    return LatentCRFScheduler(
        inner,
        refiners[method.refiner] if method.refiner else None,
        bypass=method.bypass,
        finisher=finishers[method.finisher] if method.finisher else None,
        finisher_strength=1.0 if method.finisher == "scaling" else FINISHER_STRENGTH,
    )
