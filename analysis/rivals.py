"""LatentCRF and what one would do instead: the benchmark's methods."""

from dataclasses import dataclass
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.training.trajectories import DPM_SOLVER_2M

SOLVERS = {
    "DDIM": DDIMScheduler,
    "DPM-Solver++": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
}


@dataclass(frozen=True)
class Method:
    """One way to sample: a solver, its steps, and what stands in for the steps `bypass`.

    Attributes:
        refiner: "" (nothing left out), "bypass" (no parameters), "LatentCRF", "plain" (a network of the CRF's size).
    """

    solver: str
    steps: int
    bypass: tuple[int, int] | None = None
    refiner: str = ""

    @property
    def name(self) -> str:
        run = f"{self.solver}-{self.steps}"
        return run if self.bypass is None else f"{run} {self.refiner} ({self.bypass[0]}, {self.bypass[1]})"


def all_methods(refiners: tuple[str, ...] = ("bypass", "LatentCRF")) -> list[Method]:
    """The benchmark's methods, the full run first."""
    plain = [Method("DDIM", steps) for steps in (50, 34, 25, 20, 15, 12, 10, 8, 6, 4)]
    plain += [Method(solver, steps) for solver in ("DPM-Solver++", "UniPC") for steps in (20, 15, 12, 10, 8, 6, 5, 4)]
    gaps = [("DDIM", 50, (33, 49)), ("DDIM", 50, (25, 50)), ("DPM-Solver++", 20, (12, 19))]
    gaps += [("DDIM", 50, (17, 42))]  # the last steps, which draw the details, remain
    gaps += [
        (solver, steps, (steps - 1, steps)) for solver in ("DDIM", "DPM-Solver++") for steps in (5, 7, 9, 11)
    ]  # the CRF's output is the image
    gaps += [("DPM-Solver++", 10, (7, 10)), ("DPM-Solver++", 12, (8, 12))]
    return plain + [Method(*gap, refiner) for gap in gaps for refiner in refiners]


def scheduler_of(method: Method, pipeline: StableDiffusionPipeline, networks: dict[str, LatentCRF | None]) -> Any:
    """The method's scheduler, made from the pipeline's own noise levels."""
    options = DPM_SOLVER_2M if method.solver == "DPM-Solver++" else {}
    inner = SOLVERS[method.solver].from_config(pipeline.scheduler.config, **options)
    if method.bypass is None:
        return inner
    return LatentCRFScheduler(inner, networks[method.refiner], bypass=method.bypass)
