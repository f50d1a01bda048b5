"""Latent variance over the steps of a run (paper, Fig. A.1), and the bypass that it proposes."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from analysis.sampling import BYPASS, GUIDANCE, STEPS, encode, initial_noise, run_sampler
from analysis.studies import FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.noise_levels import clean_estimate_between, coefficients, to_variance_preserving

QUANTITIES = ("estimate_change", "variance", "estimate_variance", "change")


def compute_variance(latents: Tensor) -> np.ndarray:
    """Compute the variance of each item over all its dimensions.

    Args:
        latents: (B, C, H, W).

    Returns:
        (B,).
    """
    return latents.float().flatten(1).var(dim=1, correction=0).cpu().numpy()


def compute_size(difference: Tensor) -> np.ndarray:
    """Compute the root mean square of each item.

    Args:
        difference: (B, C, H, W).

    Returns:
        (B,).
    """
    return difference.float().square().flatten(1).mean(1).sqrt().cpu().numpy()


def tabulate_run(latents: list[Tensor], scheduler: Any, name: str, first_run: int) -> pd.DataFrame:
    """Tabulate a finished run, one row a run and step that it makes.

    Args:
        latents: before the first step, then after each: denoiser calls + 1 tensors (B, C, H, W).
        scheduler: set to this run.
        name: of the method.
        first_run: the number of the first run of the batch.

    Returns:
        Columns method, run, step (of the full run, counted from 0; the last row is the result), timestep, log_snr (of
        the latents), variance, estimate_variance, change (root mean square, of the step that begins there; none at the
        end) and estimate_change (of the clean estimate, from this denoiser call's to the next one's; none at the last
        call). Changes are a step of the full run.
    """
    timesteps = [int(t) for t in scheduler.timesteps]
    inner = scheduler.scheduler if isinstance(scheduler, LatentCRFScheduler) else scheduler
    grid = [int(t) for t in inner.timesteps]
    steps = [*(grid.index(timestep) for timestep in timesteps), len(grid)]
    rows, estimates, runs = [], [], range(first_run, first_run + len(latents[0]))
    for index, here in enumerate(latents):
        at_end = index == len(timesteps)
        step = steps[index]
        level = coefficients(inner, step)
        abar, scale = to_variance_preserving(*level)
        row: dict[str, Any] = {
            "method": name,
            "run": runs,
            "step": step,
            "timestep": 0 if at_end else timesteps[index],
            "log_snr": np.nan if at_end or abar <= 0 else float(np.log(abar / (1 - abar))),
            "variance": compute_variance(here / scale),
        }
        if not at_end:
            following = latents[index + 1]
            record = scheduler.last_bypass if isinstance(scheduler, LatentCRFScheduler) else None
            next_level = coefficients(inner, steps[index + 1])
            if record is not None and torch.equal(following, record.latents):
                estimate = record.observation.denoised
            else:
                estimate = clean_estimate_between(here.float(), following.float(), level, next_level)
            difference = following / to_variance_preserving(*next_level)[1] - here / scale
            estimates.append(estimate.float())
            row["estimate_variance"] = compute_variance(estimate)
            row["change"] = compute_size(difference) / (steps[index + 1] - step)  # the bypass is many steps long
        rows.append(pd.DataFrame(row))
    for index, (before, after) in enumerate(itertools.pairwise(estimates)):
        rows[index]["estimate_change"] = compute_size(after - before) / (steps[index + 1] - steps[index])
    return pd.concat(rows, ignore_index=True)


def compute(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    crf: LatentCRF | None,
    bypass: tuple[int, int] = BYPASS,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
    report: Callable[[int], None] = lambda calls: None,
) -> Iterator[pd.DataFrame]:
    """Run the full run and the bypass from the same noise.

    Args:
        pipeline: the LDM.
        prompts: one a run.
        seeds: one a prompt.
        crf: the bypass CRF; None: the zero-parameter bypass.
        bypass: (first, last), in steps of the full run, default (33, 49).
        steps: of the full run, default 50.
        guidance: default 3.
        batch_size: runs at a time, default 16.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far, after each; a call on a batch counts once a run.

    Yields:
        Tables as of `tabulate_run`, one a batch and method, as they finish.

    Raises:
        ValueError: not one seed a prompt, or a bypass that does not fit the steps.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"one seed a prompt: got {len(prompts)} prompts and {len(seeds)} seeds.")
    bypassed = LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass)
    methods = {FULL_RUN: pipeline.scheduler, ZERO_PARAMETER_BYPASS if crf is None else LATENTCRF: bypassed}
    calls = 0
    for begin in range(0, len(prompts), batch_size):
        batch = slice(begin, begin + batch_size)
        embeds, noise = encode(pipeline, prompts[batch]), initial_noise(pipeline, seeds[batch])
        for name, scheduler in methods.items():
            path: list[Tensor] = []

            def on_step(_: int, latents: Tensor, path: list[Tensor] = path) -> None:
                nonlocal calls
                path.append(latents.clone())
                calls += len(latents)
                report(calls)

            run_sampler(
                pipeline, embeds, noise,
                steps=steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=on_step,
            )  # fmt: skip
            yield tabulate_run([noise * float(scheduler.init_noise_sigma), *path], scheduler, name, begin)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, 5th and 95th percentile over the runs.

    Args:
        runs: tables of `compute`, concatenated.

    Returns:
        Columns method, step, timestep, log_snr, n, and for each of `QUANTITIES` NAME, NAME_low, NAME_high.
    """
    rows = []
    for (method, step), group in runs.groupby(["method", "step"], sort=True):
        row = {"method": method, "step": step, "n": len(group)}
        row |= {name: group[name].iloc[0] for name in ("timestep", "log_snr")}
        for name in QUANTITIES:
            values = group[name].dropna()
            row[name] = values.mean() if len(values) else np.nan
            row[f"{name}_low"], row[f"{name}_high"] = (
                np.quantile(values, [0.05, 0.95]) if len(values) else (np.nan, np.nan)
            )
        rows.append(row)
    return pd.DataFrame(rows)


def propose_bypass(summary: pd.DataFrame, threshold: float) -> tuple[int, int] | None:
    """Find the longest block of steps in each of which the full run's mean clean estimate hardly changes.

    One denoiser call comes before it and one after it.

    Args:
        summary: as of `summarize`.
        threshold: the largest change of the clean estimate a step, as a share of the largest one in the run.

    Returns:
        (first, last), or None where no step is below the threshold.
    """
    full = summary[summary["method"] == FULL_RUN].sort_values("step")
    change = full["estimate_change"].to_numpy()
    is_quiet = change <= threshold * max(np.nanmax(change), 1e-12)  # False at the last denoiser call, which has none
    is_quiet[0] = False
    best, begin = (0, 0), 0
    for index, quiet in enumerate(is_quiet):
        if not quiet:
            begin = index + 1
        best = max(best, (begin, index + 1), key=lambda block: block[1] - block[0])
    return best if best[1] > best[0] else None
