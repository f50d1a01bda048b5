"""Diversity of a prompt's images over its seeds, the same noise for every method (paper, Fig. 2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from torch import Tensor, nn

from analysis.metrics.diversity import lpips_matrix, pairwise_without_each, vendi
from analysis.metrics.intervals import jackknife
from analysis.metrics.pixels import to_images, to_pixels
from analysis.reference_features import embed
from analysis.sampling import BYPASS, GUIDANCE, STEPS, build_ddim, count_calls, decode, encode, run_sampler
from analysis.studies import EQUAL_CALLS, FEW_STEPS, FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS
from latentcrf import LatentCRF, LatentCRFScheduler

COMPARED = (FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS, EQUAL_CALLS, FEW_STEPS)
FEW_CALLS = 4  # of `FEW_STEPS`
MEASURING = 4  # denoiser calls that it takes to decode and measure an image, about


@dataclass(frozen=True)
class MethodImages:
    """One method's images and their metrics.

    Attributes:
        method: of `COMPARED`; for `EQUAL_CALLS` the benchmark's name of such a run, "DDIM-34".
        denoiser_calls: of one run.
        network_evaluations: of one image.
        images: uint8 (n, H, W, 3), one a seed.
        pairs: LPIPS of their pairs (n, n).
        vendi: Vendi score of all, then without the first, the second, ... image (1 + n,).
    """

    method: str
    denoiser_calls: int
    network_evaluations: int
    images: np.ndarray
    pairs: np.ndarray
    vendi: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """How a method samples.

    Attributes:
        scheduler: of the run.
        steps: of the run; of the full run where a bypass shortens it.
        denoiser_calls: of one run.
        guidance_cutoff: share of the calls, the last ones, without guidance; default 0.
    """

    scheduler: Any
    steps: int
    denoiser_calls: int
    guidance_cutoff: float = 0.0


def build_latentcrf(
    scheduler: Any,
    crf: LatentCRF | None,
    *,
    steps: int = STEPS,
    bypass: tuple[int, int] = BYPASS,
    iterations: int = 5,
    finisher: Any = None,
    few_steps: int = 0,
    guidance_cutoff: float = 0.0,
) -> Sampler:
    """Build LatentCRF's sampler.

    Args:
        scheduler: the pipeline's own.
        crf: the bypass CRF; None: the zero-parameter bypass.
        steps: of the full run, default 50.
        bypass: (first, last), in steps of the full run, default (33, 49).
        iterations: of the bypass CRF's solver, default 5.
        finisher: corrects the final latents; None (default): there is none.
        few_steps: 0 (default): the bypass; else a run of so many steps of UniPC, without it.
        guidance_cutoff: share of the denoiser calls, the last ones, without guidance, default 0.
    """
    inner = UniPCMultistepScheduler.from_config(scheduler.config) if few_steps else scheduler
    own = LatentCRFScheduler(
        inner, crf, bypass=None if few_steps else bypass, num_iterations=iterations, finisher=finisher
    )
    calls = few_steps or steps - (bypass[1] - bypass[0])
    return Sampler(own, few_steps or steps, calls, guidance_cutoff)


def build_sampler(
    method: str,
    scheduler: Any,
    latentcrf: Sampler | None,
    steps: int = STEPS,
    bypass: tuple[int, int] = BYPASS,
) -> Sampler:
    """Build a method's sampler.

    Args:
        method: of `COMPARED`.
        scheduler: the pipeline's own.
        latentcrf: as of `build_latentcrf`; None: there is no method `LATENTCRF`.
        steps: of the full run, default 50.
        bypass: of the zero-parameter bypass, (first, last), in steps of the full run, default (33, 49).

    Raises:
        ValueError: another method.
    """
    accepted = [name for name in COMPARED if latentcrf is not None or name != LATENTCRF]
    if method not in accepted:
        raise ValueError(f"{method!r} is not compared; accepted are {', '.join(accepted)}.")
    if method == FULL_RUN:
        return Sampler(scheduler, steps, steps)
    if method == LATENTCRF and latentcrf is not None:
        return latentcrf
    if method == ZERO_PARAMETER_BYPASS:
        return build_latentcrf(scheduler, None, steps=steps, bypass=bypass)
    calls = count_run_calls(method, steps, latentcrf.denoiser_calls if latentcrf else steps - bypass[1] + bypass[0])
    return Sampler(build_ddim(scheduler), calls, calls)


def count_run_calls(method: str, steps: int, short_calls: int) -> int:
    """Count the denoiser calls of one run of a method.

    Args:
        method: of `COMPARED`.
        steps: of the full run.
        short_calls: of LatentCRF, and so of its baselines.
    """
    if method == FULL_RUN:
        return steps
    return FEW_CALLS if method == FEW_STEPS else short_calls


def count_denoiser_calls(
    methods: Sequence[str], seeds: int, steps: int = STEPS, bypass: tuple[int, int] = BYPASS, few_steps: int = 0
) -> int:
    """Count the denoiser calls of all images together.

    Args:
        methods: of `COMPARED`.
        seeds: images a method.
        steps: of the full run, default 50.
        bypass: (first, last), in steps of the full run, default (33, 49).
        few_steps: as of `build_latentcrf`, default 0.
    """
    short = steps - (bypass[1] - bypass[0])
    calls = {LATENTCRF: few_steps or short, EQUAL_CALLS: few_steps or short}
    return seeds * sum(count_run_calls(method, steps, calls.get(method, short)) for method in methods)


def count_work(denoiser_calls: int, methods: int, seeds: int) -> int:
    """Count what `compute` reports in all.

    Args:
        denoiser_calls: as of `count_denoiser_calls`.
        methods: how many.
        seeds: images a method.
    """
    return denoiser_calls + MEASURING * methods * seeds


def compute(
    pipeline: StableDiffusionPipeline,
    latentcrf: Sampler | None,
    lpips: nn.Module,
    features: nn.Module,
    prompt: str,
    seeds: Sequence[int],
    methods: Sequence[str],
    *,
    steps: int = STEPS,
    bypass: tuple[int, int] = BYPASS,
    guidance: float = GUIDANCE,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
    report: Callable[[Any], None] = lambda event: None,
) -> list[MethodImages]:
    """Sample and measure the images of each method, from the same noise.

    Args:
        pipeline: the LDM.
        latentcrf: as of `build_latentcrf`; None: there is no method `LATENTCRF`.
        lpips: as from `analysis.metrics.perceptual.load_lpips`.
        features: as from `analysis.metrics.perceptual.load_features`.
        prompt: the same for all seeds.
        seeds: n seeds.
        methods: of `COMPARED`.
        steps: of the full run, default 50.
        bypass: of the zero-parameter bypass, (first, last), in steps of the full run, default (33, 49).
        guidance: default 3.
        batch_size: images at a time, default 16.
        precision: in which the networks compute, default float32.
        report: is called with the work done so far, of `count_work` (an int), after each denoiser call, which counts
            once an image, and after each method's measuring; and with each `MethodImages`.

    Returns:
        One a method, in their order.
    """
    results, done = [], 0
    for method in methods:
        sampler = build_sampler(method, pipeline.scheduler, latentcrf, steps, bypass)
        pixels = []
        with count_calls(pipeline.unet) as batches:
            for begin in range(0, len(seeds), batch_size):
                batch = seeds[begin : begin + batch_size]

                def on_step(_: int, __: Tensor, size: int = len(batch)) -> None:
                    nonlocal done
                    done += size
                    report(done)

                latents = run_sampler(
                    pipeline, encode(pipeline, [prompt] * len(batch)), batch,
                    steps=sampler.steps, guidance=guidance, guidance_cutoff=sampler.guidance_cutoff,
                    scheduler=sampler.scheduler, precision=precision, on_step=on_step,
                )  # fmt: skip
                pixels.append(to_pixels(decode(pipeline, latents)))
        calls, evaluations = len(batches) // len(pixels), sum(batches) // len(seeds)
        images = np.concatenate(pixels)
        name = f"DDIM-{calls}" if method == EQUAL_CALLS else method
        results.append(MethodImages(name, calls, evaluations, images, *measure(images, lpips, features)))
        done += MEASURING * len(seeds)
        report(done)
        report(results[-1])
    return results


def measure(images: np.ndarray, lpips: nn.Module, features: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Measure the diversity of images.

    Args:
        images: uint8 (n, H, W, 3).
        lpips: as of `compute`.
        features: as of `compute`.

    Returns:
        `pairs` and `vendi` of `MethodImages`.
    """
    tensors = to_images(images).to(next(features.parameters()).device)
    embedded = embed(features, tensors).cpu()
    subsets = [np.delete(np.arange(len(images)), i) for i in range(len(images))]
    scores = [vendi(embedded), *(vendi(embedded[subset]) for subset in subsets)]
    return lpips_matrix(lpips, tensors).numpy(), np.array(scores)


def tabulate(results: Sequence[MethodImages]) -> pd.DataFrame:
    """Tabulate the metrics with 95 % jackknife intervals over the seeds.

    Args:
        results: as of `compute`.

    Returns:
        A row a method: method, n, denoiser_calls, network_evaluations; for pairwise_lpips and vendi NAME, NAME_low,
        NAME_high; and NAME_ratio to the full run, with its interval, paired by seed, where the full run is among them.
    """
    rows = []
    reference = next((result for result in results if result.method == FULL_RUN), None)
    for result in results:
        row: dict[str, Any] = {
            "method": result.method,
            "n": len(result.images),
            "denoiser_calls": result.denoiser_calls,
            "network_evaluations": result.network_evaluations,
        }
        for name in ("pairwise_lpips", "vendi"):
            values = _leave_one_out(result, name)
            row[name], row[f"{name}_low"], row[f"{name}_high"] = jackknife(values)
            if reference is not None:
                full = _leave_one_out(reference, name)  # 0 where its images are all alike
                ratio = jackknife(np.divide(values, full, out=np.full(len(full), np.nan), where=full > 0))
                row[f"{name}_ratio"], row[f"{name}_ratio_low"], row[f"{name}_ratio_high"] = ratio
        rows.append(row)
    return pd.DataFrame(rows)


def _leave_one_out(result: MethodImages, name: str) -> np.ndarray:
    return pairwise_without_each(result.pairs) if name == "pairwise_lpips" else result.vendi


def tabulate_pairs(results: Sequence[MethodImages], seeds: Sequence[int]) -> pd.DataFrame:
    """Tabulate LPIPS of each pair of seeds.

    Args:
        results: as of `compute`.
        seeds: as of `compute`.

    Returns:
        Columns method, seed_a, seed_b, lpips: each pair once.
    """
    first, second = np.triu_indices(len(seeds), 1)
    order = np.asarray(seeds)
    tables = [
        pd.DataFrame(
            {"method": r.method, "seed_a": order[first], "seed_b": order[second], "lpips": r.pairs[first, second]}
        )
        for r in results
    ]
    return pd.concat(tables, ignore_index=True)
