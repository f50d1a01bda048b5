"""Diversity of a prompt's images over its seeds, the same noise for every method (paper, Fig. 2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
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


@dataclass(frozen=True)
class MethodImages:
    """One method's images and their metrics.

    Attributes:
        method: of `COMPARED`.
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


def build_scheduler(
    method: str, scheduler: Any, crf: LatentCRF | None, steps: int = STEPS, bypass: tuple[int, int] = BYPASS
) -> tuple[Any, int]:
    """Build a method's scheduler.

    Args:
        method: of `COMPARED`.
        scheduler: the pipeline's own.
        crf: the bypass CRF; None: there is none, and no method `LATENTCRF`.
        steps: of the full run, default 50.
        bypass: (first, last), in steps of the full run, default (33, 49).

    Returns:
        The scheduler and the number of steps of its full run.

    Raises:
        ValueError: another method.
    """
    accepted = [name for name in COMPARED if crf is not None or name != LATENTCRF]
    if method not in accepted:
        raise ValueError(f"{method!r} is not compared; accepted are {', '.join(accepted)}.")
    if method == FULL_RUN:
        return scheduler, steps
    if method in (LATENTCRF, ZERO_PARAMETER_BYPASS):
        return LatentCRFScheduler(scheduler, crf if method == LATENTCRF else None, bypass=bypass), steps
    return build_ddim(scheduler), count_run_calls(method, steps, bypass)


def count_run_calls(method: str, steps: int = STEPS, bypass: tuple[int, int] = BYPASS) -> int:
    """Count the denoiser calls of one run of a method.

    Args:
        method: of `COMPARED`.
        steps: as of `build_scheduler`.
        bypass: as of `build_scheduler`.
    """
    if method == FULL_RUN:
        return steps
    return FEW_CALLS if method == FEW_STEPS else steps - (bypass[1] - bypass[0])


def count_denoiser_calls(
    methods: Sequence[str], seeds: int, steps: int = STEPS, bypass: tuple[int, int] = BYPASS
) -> int:
    """Count the denoiser calls of all images together.

    Args:
        methods: of `COMPARED`.
        seeds: images a method.
        steps: as of `build_scheduler`.
        bypass: as of `build_scheduler`.
    """
    return seeds * sum(count_run_calls(method, steps, bypass) for method in methods)


def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF | None,
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
        crf: the bypass CRF; None: there is none, and no method `LATENTCRF`.
        lpips: as from `analysis.metrics.perceptual.load_lpips`.
        features: as from `analysis.metrics.perceptual.load_features`.
        prompt: the same for all seeds.
        seeds: n seeds.
        methods: of `COMPARED`.
        steps: of the full run, default 50.
        bypass: (first, last), in steps of the full run, default (33, 49).
        guidance: default 3.
        batch_size: images at a time, default 16.
        precision: in which the networks compute, default float32.
        report: is called with the number of denoiser calls so far (an int; a call on a batch counts once an image), and
            with each `MethodImages`.

    Returns:
        One a method, in their order.
    """
    results, done = [], 0
    for method in methods:
        scheduler, run_steps = build_scheduler(method, pipeline.scheduler, crf, steps, bypass)
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
                    steps=run_steps, guidance=guidance, scheduler=scheduler, precision=precision, on_step=on_step,
                )  # fmt: skip
                pixels.append(to_pixels(decode(pipeline, latents)))
        calls, evaluations = len(batches) // len(pixels), sum(batches) // len(seeds)
        images = np.concatenate(pixels)
        results.append(MethodImages(method, calls, evaluations, images, *measure(images, lpips, features)))
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
                ratio = jackknife(values / _leave_one_out(reference, name))
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
