"""A walkthrough of one run: its steps, its energies under other weights, its descent, its hand-over."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from analysis.metrics.pixels import to_pixels
from analysis.sampling import (
    BYPASS,
    GUIDANCE,
    STEPS,
    count_calls,
    decode,
    encode,
    get_device,
    initial_noise,
    run_sampler,
)
from analysis.studies import FULL_RUN, TERMS
from analysis.studies.convergence import ITERATIONS
from analysis.studies.variance import tabulate_run
from latentcrf import BypassRecord, LatentCRF, LatentCRFScheduler
from latentcrf.noise_levels import clean_estimate_between, coefficients, to_variance_preserving
from latentcrf.potentials import Experts, Pairwise, Potentials
from latentcrf.precision import autocast, precision_name
from latentcrf.solver import SOLVERS

PROMPT, SEED = "red apple", 0
COLUMNS = 8  # steps with an image in the strip
SOLVED = 5  # iterations behind every image of a minimum
SHOWN = (0, 1, 2, 3, 5, 10)  # iterations with an image
EXPONENTS = (-2, -1, 0, 1, 2)  # a term's weight is multiplied by ten to the power of these
ENDS = ("before the CRF", "after the CRF", "LatentCRF's image", "the full run's image")
ENDS_WITHOUT_CRF = ("clean estimate before the bypass", "the bypass's image", "the full run's image")


@dataclass(frozen=True)
class Walkthrough:
    """What `compute` returns. Images are uint8 (..., H, W, 3). What needs a CRF is None without one.

    Attributes:
        steps: of the full run: columns as of `variance.tabulate_run`, and estimate_change, the root mean square change
            of x0_hat from this step to the next.
        shown_steps: the steps of which `strip` has images.
        strip: two rows: the noisy latents x, decoded as they are, and the clean estimates x0_hat.
        potentials: the energy at the bypass, on the CPU.
        weights: columns term, factor, unary, pairwise, higher_order, total: as of `find_minimum`.
        minima: their images, a row a term, a column a factor.
        descent: columns start ("x": the noisy latents, "u": the CRF's own start), solver, iteration, unary, pairwise,
            higher_order, total.
        shown_iterations: the iterations of which `iterates` has images.
        iterates: images of 3mg's descent from the noisy latents.
        hand_over: columns picture, denoiser_calls and distance, the root mean square difference to the full run's
            latents.
        ends: the images of `hand_over`.
        options: of the command line, which repeat the walkthrough.
    """

    steps: pd.DataFrame
    shown_steps: list[int]
    strip: np.ndarray
    potentials: Potentials | None
    weights: pd.DataFrame | None
    minima: np.ndarray | None
    descent: pd.DataFrame | None
    shown_iterations: tuple[int, ...]
    iterates: np.ndarray | None
    hand_over: pd.DataFrame
    ends: np.ndarray
    options: dict[str, Any]

    @property
    def redundant_share(self) -> float:
        """The share of the clean estimate's whole change over the run that the bypassed steps make."""
        first, last = self.options["bypass"]
        changes = self.steps["estimate_change"].to_numpy()
        return float(np.nansum(changes[first:last]) / np.nansum(changes))

    def get_minimum(self, term: str) -> tuple[np.ndarray, dict[str, float]]:
        """Return the minimum with the learned weights, as `find_minimum` for factor 1.

        Args:
            term: a key of `TERMS`.

        Raises:
            ValueError: there is no CRF.
        """
        if self.weights is None or self.minima is None:
            raise ValueError("the walkthrough was computed without a CRF: there is no energy.")
        row = self.weights[(self.weights["term"] == term) & (self.weights["factor"] == 1)].iloc[0]
        image = self.minima[list(TERMS).index(term), EXPONENTS.index(0)]
        return image, {name: float(row[name]) for name in (*TERMS, "total")}


def scale_term(p: Potentials, term: str, factor: float) -> Potentials:
    """Multiply one term of the energy: lambda, the similarities s_ij, or the reliabilities alpha.

    Args:
        p: the potentials.
        term: a key of `TERMS`.
        factor: a finite number above 0.

    Returns:
        New potentials.

    Raises:
        ValueError: another term or factor.
    """
    if term not in TERMS:
        raise ValueError(f"there is no term {term!r}; accepted are {', '.join(TERMS)}.")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor is {factor}; accepted are finite numbers above 0.")
    if term == "unary":
        return replace(p, weight=p.weight * factor)
    if term == "pairwise" and p.pairwise is not None:  # s_ij = <phi_i, phi_j>: each feature gives the root
        return replace(p, pairwise=Pairwise(p.pairwise.features * factor**0.5, p.pairwise.mixing))
    if term == "higher_order" and p.experts is not None:
        return replace(p, experts=replace(p.experts, reliability=p.experts.reliability * factor))
    return p


@torch.inference_mode()
def find_minimum(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, term: str, factor: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Find the image of lowest energy with one term's weight multiplied by `factor`.

    Args:
        pipeline: decodes the latents.
        crf: its solver.
        p: the potentials of one image.
        term: a key of `TERMS`.
        factor: a finite number above 0.

    Returns:
        The image, uint8 (H, W, 3), and its energy with the weights of `p` as they were: unary, pairwise, higher_order,
        total. The total is lowest for factor 1, whichever term is multiplied.

    Raises:
        ValueError: as of `scale_term`.
    """
    p = to_device(p, get_device(pipeline))
    *_, y = crf.solve(scale_term(p, term, factor), SOLVED)
    return decode_one(pipeline, y), {name: float(energy) for name, energy in crf.energy(y, p).items()}


def to_device(p: Potentials, device: str | torch.device) -> Potentials:
    """Copy potentials to a device.

    Args:
        p: the potentials.
        device: where to.
    """
    pairs, experts = p.pairwise, p.experts
    return Potentials(
        p.u.to(device),
        p.weight.to(device),
        pairs and Pairwise(pairs.features.to(device), pairs.mixing.to(device)),
        experts and Experts(experts.filters.to(device), experts.reliability.to(device), experts.response.to(device)),
    )


def decode_one(pipeline: StableDiffusionPipeline, latents: Tensor) -> np.ndarray:
    """Decode the latents of one image, in float32.

    Args:
        pipeline: whose autoencoder decodes.
        latents: (1, C, h, w).

    Returns:
        uint8 (H, W, 3).
    """
    return to_pixels(decode(pipeline, latents.float()))[0]


def choose_shown_steps(steps: int) -> list[int]:
    """Choose the steps with an image in the strip: first, last, and evenly between.

    Args:
        steps: of the full run.
    """
    return sorted({round(i * (steps - 1) / (COLUMNS - 1)) for i in range(COLUMNS)})


@torch.inference_mode()
def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF | None,
    prompt: str = PROMPT,
    seed: int = SEED,
    *,
    bypass: tuple[int, int] = BYPASS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    precision: torch.dtype = torch.float32,
    report: Callable[[Any], None] = lambda event: None,
) -> Walkthrough:
    """Run the full run and LatentCRF from the same noise, and record what happens on the way.

    Args:
        pipeline: the LDM.
        crf: the bypass CRF; None: the zero-parameter bypass.
        prompt: default "red apple".
        seed: of the noise, default 0.
        bypass: (first, last), in steps of the full run, default (33, 49).
        steps: of the full run, default 50.
        guidance: default 3.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far (an int), after each, of both runs; and with the
            strip as far as it is decoded, uint8 (2, n, H, W, 3), after each of its columns.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    embeds, noise = encode(pipeline, [prompt]), initial_noise(pipeline, [seed])
    full, bypassed = pipeline.scheduler, LatentCRFScheduler(pipeline.scheduler, crf, bypass, SOLVED)
    shown_steps = choose_shown_steps(steps)
    path, estimates, columns, calls = [noise * float(full.init_noise_sigma)], [], [], 0

    def report_call(*_: Any) -> None:
        nonlocal calls
        calls += 1
        report(calls)

    def record_step(step: int, latents: Tensor) -> None:
        here, after = coefficients(full, step), coefficients(full, step + 1)
        path.append(latents.clone())
        estimates.append(clean_estimate_between(path[-2].float(), path[-1].float(), here, after))
        report_call()
        if step in shown_steps:
            scale = to_variance_preserving(*here)[1]  # Euler's latents grow with the noise
            columns.append([decode_one(pipeline, path[-2] / scale), decode_one(pipeline, estimates[-1])])
            report(np.array(columns).swapaxes(0, 1))

    def run(scheduler: Any, on_step: Callable[[int, Tensor], None]) -> tuple[Tensor, int]:
        with count_calls(pipeline.unet) as batches:
            latents = run_sampler(
                pipeline, embeds, noise,
                steps=steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=on_step,
            )  # fmt: skip
        return latents, len(batches)

    final, full_calls = run(full, record_step)
    table = tabulate_run(path, full, FULL_RUN, 0)
    changes = [float((b - a).square().mean().sqrt()) for a, b in zip(estimates, estimates[1:], strict=False)]
    table["estimate_change"] = [*changes, np.nan, np.nan]
    bypassed_final, bypassed_calls = run(bypassed, report_call)

    record = bypassed.last_bypass
    assert record is not None
    energies: dict[str, Any] = dict.fromkeys(("potentials", "weights", "minima", "descent", "iterates"))
    pictures: tuple[str, ...] = ENDS_WITHOUT_CRF
    ends, counts = [record.y, bypassed_final, final], [bypass[0], bypassed_calls, full_calls]
    if crf is not None:
        energies = _explore_energy(pipeline, crf, record, precision)
        pictures, ends, counts = ENDS, [record.observation.denoised, *ends], [bypass[0], *counts]
    distances = [float((latents.float() - final).square().mean().sqrt()) for latents in ends]
    return Walkthrough(
        steps=table,
        shown_steps=shown_steps,
        strip=np.array(columns).swapaxes(0, 1),
        **energies,
        shown_iterations=SHOWN,
        hand_over=pd.DataFrame({"picture": pictures, "denoiser_calls": counts, "distance": distances}),
        ends=np.array([decode_one(pipeline, latents) for latents in ends]),
        options={"prompt": prompt, "seed": seed, "bypass": list(bypass), "steps": steps, "guidance": guidance,
                 "precision": precision_name(precision)},
    )  # fmt: skip


def _explore_energy(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, record: BypassRecord, precision: torch.dtype
) -> dict[str, Any]:
    """Compute what a `Walkthrough` has of the energy: potentials, weights, minima, descent, iterates."""
    with autocast(get_device(pipeline), precision):  # as in the run
        p = crf.potentials(record.observation)
    minima = {(term, e): find_minimum(pipeline, crf, p, term, 10.0**e) for term in TERMS for e in EXPONENTS}
    descent, iterates = _descend(pipeline, crf, p, record.observation.latents)
    return {
        "potentials": to_device(p, "cpu"),
        "weights": pd.DataFrame([{"term": term, "factor": 10.0**e} | minima[term, e][1] for term, e in minima]),
        "minima": np.array([[minima[term, e][0] for e in EXPONENTS] for term in TERMS]),
        "descent": descent,
        "iterates": iterates,
    }


def _descend(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, noisy: Tensor
) -> tuple[pd.DataFrame, np.ndarray]:
    """Compute `Walkthrough.descent` and `Walkthrough.iterates`."""
    rows, images = [], []
    for start, first in {"x": noisy, "u": None}.items():
        for solver in SOLVERS:
            for iteration, y in enumerate(crf.solve(p, ITERATIONS, solver, start=first)):
                row = {"start": start, "solver": solver, "iteration": iteration}
                rows.append(row | {name: float(energy) for name, energy in crf.energy(y, p).items()})
                if (start, solver) == ("x", "3mg") and iteration in SHOWN:
                    images.append(decode_one(pipeline, y))
    return pd.DataFrame(rows), np.array(images)
