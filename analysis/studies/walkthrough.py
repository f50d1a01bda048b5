"""A walkthrough of one run: steps, energies under other weights, descent, hand-over and finisher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
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
    decode,
    encode,
    get_device,
    initial_noise,
    run_sampler,
)
from analysis.studies import FINISHED, FULL_RUN, TERMS
from analysis.studies.convergence import ITERATIONS
from analysis.studies.variance import tabulate_run
from latentcrf import BypassRecord, Finisher, LatentCRF, LatentCRFScheduler, VAERoundTrip
from latentcrf.noise_levels import clean_estimate_between, coefficients, to_variance_preserving
from latentcrf.potentials import Experts, Pairwise, Potentials
from latentcrf.precision import autocast, precision_name
from latentcrf.solver import SOLVERS

PROMPT, SEED = "red apple", 0
COLUMNS = 8  # steps with an image in the strip of the figure
FRAMES = 50  # steps with images, at most
SOLVED = 5  # iterations behind every image of a minimum
EXPONENTS = (-2, -1, 0, 1, 2)  # a term's weight is multiplied by ten to the power of these
CANDIDATES = ("noisy latents", "clean estimate", "the network's target u", "the CRF's y")
DECODING = "decoding"  # all denoiser calls are made
BEFORE, AFTER, BYPASSED = "before the CRF", "after the CRF", "LatentCRF's image"
FULL = "the full run's image"
BEFORE_BYPASS, ZERO_PARAMETERS = "clean estimate before the bypass", "the bypass's image"  # without a CRF


@dataclass(frozen=True)
class Walkthrough:
    """What `compute` returns. Images are uint8 (..., H, W, 3). What needs a CRF is None without one.

    Attributes:
        steps: of the full run, as of `variance.tabulate_run`.
        shown_steps: the steps of which `frames` has images.
        frames: of the full run (2, n, H, W, 3): the noisy latents x, decoded as they are, and the clean estimates
            x0_hat.
        bypassed_steps: the step at which the bypass begins, then the shown ones that LatentCRF makes after it.
        bypassed_frames: of LatentCRF (2, m, H, W, 3), as `frames`: at the bypass the latents that go back to the
            sampler, and the CRF's y.
        levels: the noise levels (abar_in, abar_out) of the hand-over.
        potentials: the energy at the bypass, on the CPU.
        candidates: columns picture, unary, pairwise, higher_order, total: the energy of `CANDIDATES`.
        candidate_images: of `candidates`.
        weights: a row a minimum: the factors unary_factor, pairwise_factor and higher_order_factor; energies as of
            `find_minima`; contrast, saturation and edges as of `measure_images`.
        minima: images of `weights`.
        descent: columns start ("x": the noisy latents, "u": the CRF's own start), solver, iteration, unary, pairwise,
            higher_order, total.
        iterates: images of 3mg's descent from the noisy latents, one an iteration from 0.
        hand_over: columns picture, denoiser_calls and distance, the root mean square difference to the full run's
            latents; contrast, saturation and edges as of `measure_images`.
        ends: the images of `hand_over`.
        options: of the command line, which repeat the walkthrough.
    """

    steps: pd.DataFrame
    shown_steps: list[int]
    frames: np.ndarray
    bypassed_steps: list[int]
    bypassed_frames: np.ndarray
    levels: tuple[float, float]
    potentials: Potentials | None
    candidates: pd.DataFrame | None
    candidate_images: np.ndarray | None
    weights: pd.DataFrame | None
    minima: np.ndarray | None
    descent: pd.DataFrame | None
    iterates: np.ndarray | None
    hand_over: pd.DataFrame
    ends: np.ndarray
    options: dict[str, Any]

    @property
    def bypass(self) -> tuple[int, int]:
        """The bypass (first, last)."""
        first, last = self.options["bypass"]
        return first, last

    @property
    def redundant_share(self) -> float:
        """The share of the clean estimate's whole change over the run that the bypassed steps make."""
        first, last = self.bypass
        changes = self.steps["estimate_change"].to_numpy()
        return float(np.nansum(changes[first:last]) / np.nansum(changes))


def scale_terms(p: Potentials, factors: Mapping[str, float | Tensor]) -> Potentials:
    """Multiply terms of the energy: lambda, the similarities s_ij, or the reliabilities alpha.

    Args:
        p: the potentials.
        factors: a key of `TERMS` -> a finite number above 0, or several (B,), for as many grids; a term without a
            factor stays as it is.

    Returns:
        New potentials.

    Raises:
        ValueError: another term or factor.
    """
    for term, factor in factors.items():
        if term not in TERMS:
            raise ValueError(f"there is no term {term!r}; accepted are {', '.join(TERMS)}.")
        values = torch.as_tensor(factor, dtype=p.u.dtype, device=p.u.device).reshape(-1, 1, 1, 1)
        if not bool((values.isfinite() & (values > 0)).all()):
            raise ValueError(f"factor is {factor}; accepted are finite numbers above 0.")
        p = replace(p, u=p.u.expand(max(len(values), len(p.u)), -1, -1, -1))
        if term == "unary":
            p = replace(p, weight=p.weight * values)
        elif term == "pairwise" and p.pairwise is not None:  # s_ij = <phi_i, phi_j>: each feature gives the root
            p = replace(p, pairwise=Pairwise(p.pairwise.features * values.sqrt(), p.pairwise.mixing))
        elif term == "higher_order" and p.experts is not None:
            p = replace(p, experts=replace(p.experts, reliability=p.experts.reliability * values))
    return p


def list_weights() -> list[tuple[int, ...]]:
    """List the exponents (unary, pairwise, higher-order), each of `EXPONENTS`, that differ in their minimum.

    The minimum depends on the ratios of the weights alone. Of the exponents with equal ratios the smallest are listed.

    Returns:
        61 of 125 triples.
    """
    smallest: dict[tuple[int, ...], tuple[int, ...]] = {}
    for triple in sorted(product(EXPONENTS, repeat=len(TERMS)), key=sum_of_sizes):
        smallest.setdefault(find_ratios(triple), triple)
    return list(smallest.values())


def sum_of_sizes(exponents: tuple[int, ...]) -> int:
    """Sum the absolute values of exponents."""
    return sum(map(abs, exponents))


def find_ratios(exponents: tuple[int, ...]) -> tuple[int, ...]:
    """Find the exponents of the other terms' weights relative to the first one's."""
    return tuple(exponent - exponents[0] for exponent in exponents[1:])


@torch.inference_mode()
def find_minima(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    p: Potentials,
    exponents: list[tuple[int, ...]],
    iterations: int = SOLVED,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Find the images of lowest energy with the terms' weights multiplied by powers of ten.

    Args:
        pipeline: decodes the latents.
        crf: its solver.
        p: the potentials of one image.
        exponents: (unary, pairwise, higher-order), one triple a minimum.
        iterations: of the solver, default 5.

    Returns:
        The images, uint8 (B, H, W, 3), and their table as of `Walkthrough.weights`. The energies are those with the
        weights of `p` as they were: the total is lowest where no weight is changed.
    """
    p = to_device(p, get_device(pipeline))
    factors = [[10.0**exponent for exponent in column] for column in zip(*exponents, strict=True)]
    scaled = scale_terms(p, {term: torch.tensor(column) for term, column in zip(TERMS, factors, strict=True)})
    *_, y = crf.solve(scaled, iterations)
    images = to_pixels(decode(pipeline, y.float()))
    table = {f"{term}_factor": column for term, column in zip(TERMS, factors, strict=True)}
    table |= {name: energies.tolist() for name, energies in crf.energy(y, p).items()}
    return images, pd.DataFrame(table).join(measure_images(images))


def measure_images(images: np.ndarray) -> pd.DataFrame:
    """Measure what captions say of images.

    Args:
        images: uint8 (B, H, W, 3).

    Returns:
        A row an image. contrast: standard deviation of the luminance; saturation: mean distance of the largest from
        the smallest of red, green and blue; edges: mean change of the luminance between neighbours. All of 0 to 1.
    """
    pixels = images.astype(np.float32) / 255
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    across, down = (np.abs(np.diff(luminance, axis=axis)).mean((1, 2)) for axis in (1, 2))
    return pd.DataFrame(
        {
            "contrast": luminance.std((1, 2)),
            "saturation": (pixels.max(-1) - pixels.min(-1)).mean((1, 2)),
            "edges": (across + down) / 2,
        }
    )


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


def decode_all(pipeline: StableDiffusionPipeline, latents: list[Tensor]) -> np.ndarray:
    """Decode latents, in float32.

    Args:
        pipeline: whose autoencoder decodes.
        latents: each (1, C, h, w).

    Returns:
        uint8 (B, H, W, 3).
    """
    return to_pixels(decode(pipeline, torch.cat(latents).float()))


def choose_shown_steps(steps: int, count: int = FRAMES) -> list[int]:
    """Choose the steps with images: first, last, and evenly between.

    Args:
        steps: of the full run.
        count: of the chosen ones at most, default 50.
    """
    count = min(count, steps)
    return sorted({round(i * (steps - 1) / (count - 1)) for i in range(count)})


class PathRecorder:
    """Records the latents of a run and its clean estimates, step by step.

    Args:
        scheduler: the run's own one, for the noise levels.
        steps: of the full run that the run makes, in order.
        start: the latents before the first step.
        report_call: called after each denoiser call.

    Attributes:
        path: the latents before the first step, then after each.
        estimates: the clean estimate of each step.
    """

    def __init__(self, scheduler: Any, steps: list[int], start: Tensor, report_call: Callable[[], None]) -> None:
        self.scheduler, self.steps, self.report_call = scheduler, steps, report_call
        self.path, self.estimates = [start], list[Tensor]()

    def __call__(self, call: int, latents: Tensor) -> None:
        self.path.append(latents.clone())
        self.estimates.append(self._estimate(call))
        self.report_call()

    def replace_last(self, latents: Tensor) -> None:
        """Replace the last latents, which a finisher has changed, by those before it."""
        self.path[-1] = latents
        self.estimates[-1] = self._estimate(len(self.estimates) - 1)

    def _estimate(self, call: int) -> Tensor:
        step, before, after = self.steps[call], self.path[call].float(), self.path[call + 1].float()
        levels = coefficients(self.scheduler, step), coefficients(self.scheduler, step + 1)
        return clean_estimate_between(before, after, *levels)

    def decode(self, pipeline: StableDiffusionPipeline, calls: list[int]) -> np.ndarray:
        """Decode the noisy latents and the clean estimates of some calls.

        Args:
            pipeline: decodes.
            calls: their numbers, from 0.

        Returns:
            uint8 (2, n, H, W, 3).
        """
        scales = [to_variance_preserving(*coefficients(self.scheduler, self.steps[call]))[1] for call in calls]
        noisy = [self.path[call] / scale for call, scale in zip(calls, scales, strict=True)]  # Euler's grow with noise
        images = decode_all(pipeline, noisy + [self.estimates[call] for call in calls])
        return images.reshape(2, len(calls), *images.shape[1:])


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
    iterations: int = SOLVED,
    finisher: Finisher | VAERoundTrip | None = None,
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
        iterations: of the CRF's solver, default 5.
        finisher: corrects LatentCRF's final latents; None (default): nothing does.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far (an int), after each, of both runs; then with
            `DECODING`.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    embeds, noise = encode(pipeline, [prompt]), initial_noise(pipeline, [seed])
    full = pipeline.scheduler
    bypassed = LatentCRFScheduler(full, crf, bypass, iterations, finisher)
    first, last = bypass
    calls = 0

    def report_call() -> None:
        nonlocal calls
        calls += 1
        report(calls)

    def run(scheduler: Any, own_steps: list[int]) -> tuple[Tensor, PathRecorder]:
        recorder = PathRecorder(full, own_steps, noise * float(full.init_noise_sigma), report_call)
        latents = run_sampler(
            pipeline, embeds, noise,
            steps=steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=recorder,
        )  # fmt: skip
        return latents, recorder

    final, whole = run(full, list(range(steps)))
    table = tabulate_run(whole.path, full, FULL_RUN, 0)
    bypassed_final, rest = run(bypassed, [*range(first), *range(last, steps)])
    record, finish = bypassed.last_bypass, bypassed.last_finish
    assert record is not None
    if finish is not None:
        rest.replace_last(finish.before)
    report(DECODING)
    shown_steps = choose_shown_steps(steps)
    frames = whole.decode(pipeline, shown_steps)
    later = [step for step in shown_steps if step >= last]
    scale = to_variance_preserving(*coefficients(full, last))[1]
    at_bypass = decode_all(pipeline, [record.latents / scale, record.y])[:, None]
    if later:
        at_bypass = np.concatenate([at_bypass, rest.decode(pipeline, [step - last + first for step in later])], axis=1)

    energies: dict[str, Any] = dict.fromkeys(
        ("potentials", "candidates", "candidate_images", "weights", "minima", "descent", "iterates")
    )
    if crf is not None:
        energies = _explore_energy(pipeline, crf, record, iterations, precision)
    unfinished = bypassed_final if finish is None else finish.before
    kept = len(rest.estimates)
    ends = [(ZERO_PARAMETERS if crf is None else BYPASSED, kept, unfinished)]
    before = (BEFORE_BYPASS if crf is None else BEFORE, first, record.observation.denoised)
    ends = [before, *([] if crf is None else [(AFTER, first, record.y)]), *ends]
    if finish is not None:
        ends.append((FINISHED, kept, finish.latents))
    ends.append((FULL, len(whole.estimates), final))
    rows = [
        {"picture": picture, "denoiser_calls": count, "distance": float((y.float() - final).square().mean().sqrt())}
        for picture, count, y in ends
    ]
    images = decode_all(pipeline, [y for _, _, y in ends])
    return Walkthrough(
        steps=table,
        shown_steps=shown_steps,
        frames=frames,
        bypassed_steps=[first, *later],
        bypassed_frames=at_bypass,
        levels=(float(record.observation.alpha_in), float(record.observation.alpha_out)),
        **energies,
        hand_over=pd.DataFrame(rows).join(measure_images(images)),
        ends=images,
        options={"prompt": prompt, "seed": seed, "bypass": list(bypass), "steps": steps, "guidance": guidance,
                 "iterations": iterations, "precision": precision_name(precision)},
    )  # fmt: skip


def _explore_energy(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, record: BypassRecord, iterations: int, precision: torch.dtype
) -> dict[str, Any]:
    """Compute what a `Walkthrough` has of the energy: potentials, candidates, weights, minima, descent, iterates."""
    with autocast(get_device(pipeline), precision):  # as in the run
        p = crf.potentials(record.observation)
    observation = record.observation
    latents = [observation.latents.float(), observation.denoised.float(), p.u, record.y.float()]
    energy = {name: values.tolist() for name, values in crf.energy(torch.cat(latents), p).items()}
    minima, weights = find_minima(pipeline, crf, p, list_weights(), iterations)
    descent, iterates = _descend(pipeline, crf, p, observation.latents)
    return {
        "potentials": to_device(p, "cpu"),
        "candidates": pd.DataFrame({"picture": CANDIDATES, **energy}),
        "candidate_images": decode_all(pipeline, latents),
        "weights": weights,
        "minima": minima,
        "descent": descent,
        "iterates": iterates,
    }


def _descend(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, noisy: Tensor
) -> tuple[pd.DataFrame, np.ndarray]:
    """Compute `Walkthrough.descent` and `Walkthrough.iterates`."""
    rows, iterates = [], []
    for start, first in {"x": noisy, "u": None}.items():
        for solver in SOLVERS:
            for iteration, y in enumerate(crf.solve(p, ITERATIONS, solver, start=first)):
                row = {"start": start, "solver": solver, "iteration": iteration}
                rows.append(row | {name: float(energy) for name, energy in crf.energy(y, p).items()})
                if (start, solver) == ("x", "3mg"):
                    iterates.append(y)
    return pd.DataFrame(rows), decode_all(pipeline, iterates)
