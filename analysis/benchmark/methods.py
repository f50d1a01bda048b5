"""The benchmark's methods: LatentCRF and what it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from latentcrf import Finisher, LatentCRF, LatentCRFScheduler, VAERoundTrip
from latentcrf.training.recording import DPM_SOLVER_2M

SCHEDULERS = {
    "DDIM": DDIMScheduler,
    "DPM-Solver++": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
}
# What stands in for the skipped steps: form of the CRF -> how a method's name calls it.
CRF_FORMS = {
    "zero-parameter": "zero-parameter bypass",
    "conditional": "LatentCRF",
    "static": "static LatentCRF",
    "plain": "plain network",
}
FINISHERS = ("finisher", "plain finisher", "VAE round trip")


@dataclass(frozen=True)
class Method:
    """One way to sample.

    Attributes:
        solver: a key of `SCHEDULERS`.
        steps: of the full run, at least 1.
        bypass: (first, last), the skipped block of steps, or None.
        crf_form: a key of `CRF_FORMS`: what acts at the bypass; "" without a bypass. "plain": a network of the CRF's
            size without fields.
        finisher: one of `FINISHERS`: what corrects the final latents; "": nothing. "plain finisher": a network of the
            finisher's size without fields.
    """

    solver: str
    steps: int
    bypass: tuple[int, int] | None = None
    crf_form: str = ""
    finisher: str = ""

    @property
    def name(self) -> str:
        """What tables call it, for example "DDIM-50 LatentCRF (33, 49) + finisher"."""
        run = f"{self.solver}-{self.steps}"
        if self.bypass is not None:
            run += f" {CRF_FORMS[self.crf_form]} ({self.bypass[0]}, {self.bypass[1]})"
        return f"{run} + {self.finisher}" if self.finisher else run

    @property
    def uses_crf(self) -> bool:
        """Whether a CRF takes part: at the bypass or as the finisher."""
        return self.crf_form in ("conditional", "static") or self.finisher == "finisher"


def list_methods(crf_forms: Sequence[str], finishers: Sequence[str]) -> list[Method]:
    """List the benchmark's methods, the full run first.

    Args:
        crf_forms: keys of `CRF_FORMS` to measure.
        finishers: those of `FINISHERS` to measure.
    """
    whole = [Method("DDIM", steps) for steps in (50, 34, 25, 20, 15, 12, 10, 8, 6, 4)]
    whole += [Method(solver, steps) for solver in ("DPM-Solver++", "UniPC") for steps in (20, 15, 12, 10, 8, 6, 5, 4)]
    long_bypasses = [("DDIM", 50, (33, 49)), ("DDIM", 50, (25, 50)), ("DPM-Solver++", 20, (12, 19))]
    long_bypasses += [("DDIM", 50, (17, 42))]  # the last steps, which draw the details, remain
    short_bypasses = [
        (solver, steps, (steps - 1, steps)) for solver in ("DDIM", "DPM-Solver++") for steps in (5, 7, 9, 11)
    ]  # the CRF's output is the image
    short_bypasses += [("DPM-Solver++", 10, (7, 10)), ("DPM-Solver++", 12, (8, 12))]
    # The static form does not know the noise level: in runs of few steps it would correct as in final latents.
    bypasses = [
        Method(*run, form)
        for run in long_bypasses + short_bypasses
        for form in crf_forms
        if form != "static" or run in long_bypasses
    ]
    # Each finisher ends the runs that a conclusion rests on.
    ended = [each for each in whole if each.solver != "DDIM" or each.steps in (50, 34)]
    ended += [each for each in bypasses if each.bypass in ((33, 49), (17, 42)) and each.crf_form != "plain"]
    compared = [
        each
        for each in ended
        if each.bypass is None and (each.steps == 50 or each.solver == "UniPC" and each.steps in (4, 6, 8, 12))
    ]
    trips = [
        each
        for each in ended
        if (each.bypass is None and each.solver != "DPM-Solver++") or each.crf_form == "conditional"
    ]
    runs = {"finisher": ended, "plain finisher": compared, "VAE round trip": trips}
    return whole + bypasses + [replace(each, finisher=name) for name in finishers for each in runs[name]]


def build_scheduler(
    method: Method,
    pipeline: StableDiffusionPipeline,
    crfs: Mapping[str, LatentCRF | None],
    finishers: Mapping[str, Finisher | VAERoundTrip],
) -> Any:
    """Build the method's scheduler from the pipeline's own noise levels.

    Args:
        method: one of `list_methods`.
        pipeline: the LDM.
        crfs: by their keys in `CRF_FORMS`; None: the zero-parameter bypass.
        finishers: by their names in `FINISHERS`.
    """
    options = DPM_SOLVER_2M if method.solver == "DPM-Solver++" else {}
    inner = SCHEDULERS[method.solver].from_config(pipeline.scheduler.config, **options)
    if not method.crf_form and not method.finisher:
        return inner
    return LatentCRFScheduler(
        inner,
        crfs[method.crf_form] if method.crf_form else None,
        bypass=method.bypass,
        finisher=finishers[method.finisher] if method.finisher else None,
    )
