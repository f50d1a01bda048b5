"""The benchmark's methods: LatentCRF and what it is compared with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import AysSchedules

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
# How a run is guided, if not by the benchmark's scale at every call: name -> what `run_sampler` is given.
GUIDANCES: dict[str, dict[str, float]] = {
    "": {},
    "cut-off 1/3": {"guidance_cutoff": 1 / 3},
    "cut-off 1/2": {"guidance_cutoff": 1 / 2},
    "interval 1/4-2/3": {"guidance_begin": 1 / 4, "guidance_cutoff": 1 / 3},
    "guidance 2": {"guidance": 2.0},
}
AYS = tuple(AysSchedules["StableDiffusionTimesteps"])  # ten timesteps (arXiv 2404.14507)


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
        guidance: a key of `GUIDANCES`.
        cache_interval: DeepCache's: every so many calls the whole U-Net is evaluated; 1: at each.
        spacing: "AYS" for the timesteps of "Align Your Steps"; "": the solver's own.
    """

    solver: str
    steps: int
    bypass: tuple[int, int] | None = None
    crf_form: str = ""
    finisher: str = ""
    guidance: str = ""
    cache_interval: int = 1
    spacing: str = ""

    @property
    def name(self) -> str:
        """What tables call it, for example "DDIM-50 LatentCRF (33, 49) + finisher" or "UniPC-12 cut-off 1/3"."""
        words = [f"{self.solver}-{self.steps}", self.spacing, self.guidance]
        if self.cache_interval > 1:
            words.append(f"DeepCache {self.cache_interval}")
        if self.bypass is not None:
            words.append(f"{CRF_FORMS[self.crf_form]} ({self.bypass[0]}, {self.bypass[1]})")
        return " ".join(filter(None, words)) + (f" + {self.finisher}" if self.finisher else "")

    @property
    def uses_crf(self) -> bool:
        """Whether a CRF takes part: at the bypass or as the finisher."""
        return self.crf_form in ("conditional", "static") or self.finisher == "finisher"

    def sampler_settings(self, scale: float) -> dict[str, Any]:
        """List what `run_sampler` is given, beside the scheduler and the precision.

        Args:
            scale: of the benchmark's guidance.
        """
        timesteps = space_ays_timesteps(self.steps) if self.spacing else None
        return {"steps": self.steps, "timesteps": timesteps, "guidance": scale, **GUIDANCES[self.guidance]}


def space_ays_timesteps(steps: int) -> list[int]:
    """Space the timesteps of "Align Your Steps" for Stable Diffusion 1.5.

    Args:
        steps: 10 gives the published ones. Other numbers are interpolated linearly between them, which is our own way:
            the paper interpolates noise levels.
    """
    places = np.linspace(0, len(AYS) - 1, steps)
    return [int(timestep) for timestep in np.interp(places, np.arange(len(AYS)), AYS).round()]


def with_finisher(methods: Iterable[Method], finisher: str = "finisher") -> list[Method]:
    """Give each method a finisher.

    Args:
        methods: without one.
        finisher: one of `FINISHERS`.
    """
    return [replace(method, finisher=finisher) for method in methods]


FULL_RUN = Method("DDIM", 50)
PAPER_BYPASS = Method("DDIM", 50, (33, 49), "conditional")
UNIPC_12, UNIPC_8 = Method("UniPC", 12), Method("UniPC", 8)
UNIPC_12_CUTOFF = replace(UNIPC_12, guidance="cut-off 1/3")
HEADLINE = replace(UNIPC_12_CUTOFF, finisher="finisher")
DEEPCACHE_3 = replace(FULL_RUN, cache_interval=3)


def list_core_methods() -> list[Method]:
    """List the methods that a conclusion rests on, the full run first: measured on all prompts."""
    runs = [FULL_RUN, Method("DDIM", 34), UNIPC_12, UNIPC_8, UNIPC_12_CUTOFF, DEEPCACHE_3, PAPER_BYPASS]
    runs += [replace(PAPER_BYPASS, crf_form=form) for form in ("zero-parameter", "plain")]
    runs += [HEADLINE, *with_finisher([FULL_RUN, PAPER_BYPASS, UNIPC_12, UNIPC_8])]
    return [*runs, replace(UNIPC_12_CUTOFF, finisher="plain finisher")]


def list_default_methods() -> list[Method]:
    """List the methods that are measured by default, the core methods first.

    Those that somebody might choose, which the page's figure shows, and the baselines among the core methods that only
    explain others: zero-parameter bypass, plain network, plain finisher.
    """
    dpm_solver = Method("DPM-Solver++", 12)
    return [
        *list_core_methods(),
        Method("DDIM", 20), dpm_solver, Method("DPM-Solver++", 10, spacing="AYS"), Method("UniPC", 6),
        replace(FULL_RUN, guidance="cut-off 1/3"), replace(dpm_solver, guidance="cut-off 1/3"),
        replace(UNIPC_12, guidance="cut-off 1/2"), replace(UNIPC_8, guidance="cut-off 1/3"),
        replace(FULL_RUN, cache_interval=5), Method("UniPC", 20, cache_interval=2),
        Method("DDIM", 50, (17, 42), "conditional"), Method("DPM-Solver++", 20, (12, 19), "conditional"),
        Method("UniPC", 6, finisher="finisher"),
    ]  # fmt: skip


def list_methods() -> list[Method]:
    """List all methods, the default ones first."""
    runs = [Method("DPM-Solver++", steps) for steps in (20, 12, 8, 6)]
    runs += [Method("UniPC", steps) for steps in (20, 12, 8, 6, 4)]
    runs += [Method("DPM-Solver++", steps, spacing="AYS") for steps in (10, 8, 6)]
    guided = [FULL_RUN, Method("DPM-Solver++", 12), UNIPC_12, UNIPC_8]
    runs += [replace(run, guidance=guidance) for run in guided for guidance in GUIDANCES if guidance]
    runs += [replace(FULL_RUN, cache_interval=interval) for interval in (3, 5)]
    runs += [Method("UniPC", steps, cache_interval=2) for steps in (20, 12)]
    blocks = [("DDIM", 50, (33, 49)), ("DDIM", 50, (25, 50)), ("DDIM", 50, (17, 42))]
    blocks += [("DPM-Solver++", 20, (12, 19)), ("DPM-Solver++", 12, (8, 12))]
    bypasses = [
        Method(*block, form)
        for block in blocks
        for form in CRF_FORMS
        # The static form does not know the noise level: in runs of few steps it would correct as in final latents.
        if form != "static" or block[1] >= 20
    ]
    ended = [run for run in bypasses if run.bypass in ((33, 49), (17, 42)) and run.crf_form != "plain"]
    compared = [FULL_RUN, UNIPC_12, UNIPC_8, Method("UniPC", 6), UNIPC_12_CUTOFF]
    rest = [Method("DDIM", steps) for steps in (25, 12, 8, 4)]
    rest += runs + bypasses + with_finisher([FULL_RUN, Method("DDIM", 34), *runs, *ended])
    rest += with_finisher(compared, "plain finisher")
    rest += with_finisher([FULL_RUN, UNIPC_12, UNIPC_8, UNIPC_12_CUTOFF, PAPER_BYPASS], "VAE round trip")
    return list(dict.fromkeys([*list_default_methods(), *rest]))


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
