"""One run taken apart: its steps, its energies under other weights, its descent, its hand-over; `analysis.method` draws it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from analysis.generate import BYPASS, GUIDANCE, STEPS, counted, decode, encode, initial_noise, scheduled
from analysis.measures import to_pixels
from analysis.variance import run_table
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.levels import clean_between, coefficients
from latentcrf.potentials import Experts, Pairwise, Potentials
from latentcrf.precision import autocast, precision_name
from latentcrf.solver import SOLVERS

PROMPT, SEED = "red apple", 0
COLUMNS = 8  # steps of which the strip shows a picture
SOLVED = 5  # iterations behind every picture of a minimum
ITERATIONS = 10  # of the descent
SHOWN = (0, 1, 2, 3, 5, 10)  # those that are shown as pictures
TERMS = {"unary": "unary", "pairwise": "pairwise", "higher_order": "higher-order"}
EXPONENTS = (-2, -1, 0, 1, 2)  # a term's weight is multiplied by ten to the power of these
STARTS = {"x": "from the noisy latents x", "u": "from the CRF's own start u"}
ENDS = ("before the CRF", "after the CRF", "LatentCRF's image", "the full LDM's image")


@dataclass(frozen=True)
class Lesson:
    """What `compute` found. Pictures are uint8 (..., H, W, 3).

    Attributes:
        steps: of the full run: columns as of `variance.run_table`, and estimate_change, the root mean square change of
            x0_hat from this step to the next.
        shown: the steps of which `strip` has pictures.
        strip: two rows: the noisy latents x, decoded as they are, and the clean estimates x0_hat.
        potentials: the energy at the hand-over.
        weights: columns term, factor, unary, pairwise, higher_order, total: as of `minimum`.
        examples: their pictures, a row a term, a column a factor.
        descent: columns start, solver, iteration, unary, pairwise, higher_order, total.
        iterates: the iterations `SHOWN` of 3mg from the noisy latents.
        hand_over: columns picture, unet_calls and distance, the root mean square difference to the full LDM's latents.
        ends: the pictures `ENDS`.
        options: of the command line, which make it again.
    """

    steps: pd.DataFrame
    shown: list[int]
    strip: np.ndarray
    potentials: Potentials
    weights: pd.DataFrame
    examples: np.ndarray
    descent: pd.DataFrame
    iterates: np.ndarray
    hand_over: pd.DataFrame
    ends: np.ndarray
    options: dict[str, Any]


def weighted(p: Potentials, term: str, factor: float) -> Potentials:
    """`p` with one of its `TERMS` multiplied by `factor`: lambda, the similarities s_ij, or the reliabilities alpha.

    Raises:
        ValueError: another term, or a factor that is not a finite number above 0.
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
def minimum(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, term: str, factor: float
) -> tuple[np.ndarray, dict[str, float]]:
    """The picture (H, W, 3) of lowest energy with one term's weight multiplied by `factor`, and what it costs.

    The costs, unary, pairwise, higher_order and total, are measured with the weights of `p` as they were: their total is
    lowest for factor 1, whichever term is turned.

    Args:
        p: the potentials of one image.

    Raises:
        ValueError: as of `weighted`.
    """
    p = moved(p, pipeline.device)
    *_, y = crf.solve(weighted(p, term, factor), SOLVED)
    return picture(pipeline, y), {name: float(energy) for name, energy in crf.energy(y, p).items()}


def moved(p: Potentials, device: str | torch.device) -> Potentials:
    """The potentials on another device."""
    pairs, experts = p.pairwise, p.experts
    return Potentials(
        p.u.to(device),
        p.weight.to(device),
        pairs and Pairwise(pairs.features.to(device), pairs.mixing.to(device)),
        experts and Experts(experts.filters.to(device), experts.reliability.to(device), experts.response.to(device)),
    )


def picture(pipeline: StableDiffusionPipeline, latents: Tensor) -> np.ndarray:
    """The latents (1, C, h, w) of one image, decoded: uint8 (H, W, 3)."""
    return to_pixels(decode(pipeline, latents.float()))[0]


def shown_steps(steps: int) -> list[int]:
    """The steps of which the strip shows a picture, of a run of `steps`: first, last, and evenly between."""
    return sorted({round(i * (steps - 1) / (COLUMNS - 1)) for i in range(COLUMNS)})


@torch.inference_mode()
def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    prompt: str = PROMPT,
    seed: int = SEED,
    *,
    bypass: tuple[int, int] = BYPASS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    precision: torch.dtype = torch.float32,
    report: Callable[[Any], None] = lambda event: None,
) -> Lesson:
    """Run the full LDM and LatentCRF from the same noise, and look at everything on the way.

    `report` is called with the number of U-Net calls made so far, after each (of steps + the calls of LatentCRF), and
    with the strip as far as it is drawn, uint8 (2, n, H, W, 3), after each of its columns.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    embeds, noise = encode(pipeline, [prompt]), initial_noise(pipeline, [seed])
    full, ours = pipeline.scheduler, LatentCRFScheduler(pipeline.scheduler, crf, bypass, SOLVED)
    ours.prompt_embeds = embeds["prompt_embeds"]
    shown = shown_steps(steps)
    path, estimates, columns, calls = [noise * float(full.init_noise_sigma)], [], [], 0

    def watch_full(_: Any, step: int, __: Any, tensors: dict[str, Tensor]) -> dict:
        here, after = coefficients(full, step), coefficients(full, step + 1)
        path.append(tensors["latents"].clone())
        estimates.append(clean_between(path[-2].float(), path[-1].float(), here, after))
        report_call()
        if step in shown:
            columns.append([picture(pipeline, path[-2]), picture(pipeline, estimates[-1])])
            report(np.array(columns).swapaxes(0, 1))
        return {}

    def report_call(*_: Any) -> dict:
        nonlocal calls
        calls += 1
        report(calls)
        return {}

    def run(scheduler: Any, watch: Callable[..., dict]) -> tuple[Tensor, int]:
        with scheduled(pipeline, scheduler), counted(pipeline.unet) as made, autocast(pipeline.device, precision):
            latents = pipeline(
                **embeds, latents=noise, num_inference_steps=steps, guidance_scale=guidance,
                output_type="latent", callback_on_step_end=watch,
            ).images  # fmt: skip
        return latents, len(made)

    final, full_calls = run(full, watch_full)
    table = run_table(path, full, "full LDM", 0)
    changes = [float((b - a).square().mean().sqrt()) for a, b in zip(estimates, estimates[1:], strict=False)]
    table["estimate_change"] = [*changes, np.nan, np.nan]
    our_final, our_calls = run(ours, report_call)

    jump = ours.last_hand_over
    assert jump is not None
    with autocast(pipeline.device, precision):  # as in the run
        p = crf.potentials(jump.observation)
    found = {(term, e): minimum(pipeline, crf, p, term, 10.0**e) for term in TERMS for e in EXPONENTS}
    descent, iterates = _descend(pipeline, crf, p, jump.observation.latents)
    before, after = jump.observation.denoised, jump.y
    ends = dict(zip(ENDS, (before, after, our_final, final), strict=True))
    counts = [bypass[0], bypass[0], our_calls, full_calls]
    distances = [float((latents.float() - final.float()).square().mean().sqrt()) for latents in ends.values()]
    return Lesson(
        steps=table,
        shown=shown,
        strip=np.array(columns).swapaxes(0, 1),
        potentials=moved(p, "cpu"),
        weights=pd.DataFrame([{"term": term, "factor": 10.0**e} | found[term, e][1] for term, e in found]),
        examples=np.array([[found[term, e][0] for e in EXPONENTS] for term in TERMS]),
        descent=descent,
        iterates=iterates,
        hand_over=pd.DataFrame({"picture": ENDS, "unet_calls": counts, "distance": distances}),
        ends=np.array([picture(pipeline, latents) for latents in ends.values()]),
        options={"prompt": prompt, "seed": seed, "bypass": list(bypass), "steps": steps, "guidance": guidance,
                 "precision": precision_name(precision)},
    )  # fmt: skip


def _descend(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, noisy: Tensor
) -> tuple[pd.DataFrame, np.ndarray]:
    """`Lesson.descent` and `Lesson.iterates`."""
    rows, pictures = [], []
    for start, first in {"x": noisy, "u": None}.items():
        for solver in SOLVERS:
            for iteration, y in enumerate(crf.solve(p, ITERATIONS, solver, start=first)):
                row = {"start": start, "solver": solver, "iteration": iteration}
                rows.append(row | {name: float(energy) for name, energy in crf.energy(y, p).items()})
                if (start, solver) == ("x", "3mg") and iteration in SHOWN:
                    pictures.append(picture(pipeline, y))
    return pd.DataFrame(rows), np.array(pictures)


def redundant(found: Lesson) -> float:
    """The share of the clean estimate's whole change over the run that the bypassed steps make."""
    first, last = found.options["bypass"]
    changes = found.steps["estimate_change"].to_numpy()
    return float(np.nansum(changes[first:last]) / np.nansum(changes))


def learned(found: Lesson, term: str) -> tuple[np.ndarray, dict[str, float]]:
    """As `minimum` for factor 1, from what was found already."""
    row = found.weights[(found.weights["term"] == term) & (found.weights["factor"] == 1)].iloc[0]
    picture = found.examples[list(TERMS).index(term), EXPONENTS.index(0)]
    return picture, {name: float(row[name]) for name in (*TERMS, "total")}
