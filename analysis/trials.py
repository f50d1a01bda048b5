"""One method of the benchmark at a time: what it makes, how that is judged, how long it takes."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from analysis import measures
from analysis.gallery import embed
from analysis.generate import STEPS, counted, decode, encode, sample, sample_encoded
from analysis.quality import interleaved_seconds
from analysis.rivals import Method

FRECHET_RESAMPLES = 200


@dataclass(frozen=True)
class Task:
    """What all methods have in common: prompts x seeds, prompt by prompt.

    Attributes:
        captions, seeds: one an image (N,); prompt: the number of its prompt, 0..C-1.
        labels: the prompted subject's code point, one an image.
        precision: in which the networks compute.
    """

    captions: list[str]
    seeds: list[int]
    prompt: np.ndarray
    labels: list[str]
    guidance: float
    batch_size: int
    precision: torch.dtype

    @classmethod
    def of(cls, prompts: pd.DataFrame, options: argparse.Namespace) -> "Task":
        repeated = prompts.loc[prompts.index.repeat(options.seeds)]
        first = 10_000 + options.seed  # far from the seeds of `analysis.quality`
        return cls(
            captions=repeated["subject"].tolist(),
            seeds=[first + index for index in range(len(repeated))],
            prompt=np.repeat(np.arange(len(prompts)), options.seeds),
            labels=repeated["code_point"].tolist(),
            guidance=options.guidance,
            batch_size=options.batch_size,
            precision=options.precision,
        )


@dataclass(frozen=True)
class Judges:
    """What the images are judged by."""

    lpips: nn.Module
    features: nn.Module
    gallery: Tensor
    labels: list[str]
    real: measures.RealFeatures
    weights: np.ndarray


def run(
    task: Task, pipeline: StableDiffusionPipeline, scheduler: Any, count: int, batch_size: int, **how: Any
) -> Tensor:
    """Latents of the first `count` images."""
    return sample(
        pipeline, task.captions[:count], task.seeds[:count], guidance=task.guidance,
        scheduler=scheduler, batch_size=batch_size, precision=task.precision, **how,
    )  # fmt: skip


def by_prompt(values: Tensor | np.ndarray, task: Task) -> np.ndarray:
    """Mean over each prompt's images (C,) of one value an image (N,)."""
    return np.asarray(values, dtype=float).reshape(task.prompt.max() + 1, -1).mean(1)


def judge(
    images: Tensor, latents: Tensor, full: tuple[Tensor, Tensor], task: Task, judges: Judges
) -> dict[str, np.ndarray]:
    """Each measure's draws (1 + resamples,): the estimate, then its bootstrap over prompts."""
    features, weights = embed(judges.features, images), judges.weights
    ranks = measures.retrieval_ranks(features, task.labels, judges.gallery, judges.labels)
    full_images, full_latents = full
    a_prompt = {
        "r_at_1": by_prompt(ranks <= 1, task),
        "r_at_5": by_prompt(ranks <= 5, task),
        "lpips_full": by_prompt(measures.lpips(judges.lpips, images, full_images), task),
        "psnr_full": by_prompt(measures.psnr(images, full_images).clamp(max=100), task),  # equal images: infinite
        "latent_mse_full": by_prompt(measures.latent_mse(latents, full_latents), task),
        "edges": by_prompt(measures.edge_strength(images), task),
    }
    groups = [np.flatnonzero(task.prompt == prompt) for prompt in range(task.prompt.max() + 1)]
    if len(groups[0]) > 1:
        a_prompt["pairwise_lpips"] = np.array([measures.pairwise_lpips(judges.lpips, images[g]) for g in groups])
        a_prompt["vendi"] = np.array([measures.vendi(features[g]) for g in groups])
    draws = {name: measures.mean_draws(values, weights) for name, values in a_prompt.items()}
    draws["kid"] = measures.kid_draws(features, task.prompt, judges.real, weights)
    draws["frechet"] = measures.frechet_draws(features, task.prompt, judges.real, weights[: 1 + FRECHET_RESAMPLES])
    return draws


def measure(
    method: Method, task: Task, pipeline: StableDiffusionPipeline, scheduler: Any, full: tuple[Tensor, Tensor] | None,
    judges: Judges, real_images: Tensor,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What one method makes, as arrays to be kept: latents, draws of each measure, U-Net calls."""
    with counted(pipeline.unet) as batches:
        run(task, pipeline, scheduler, 1, 1, steps=method.steps)
    latents = run(
        task, pipeline, scheduler, len(task.captions), task.batch_size, steps=method.steps, progress=method.name
    )
    images = decode(pipeline, latents, precision=task.precision)
    draws = judge(images, latents, full or (images, latents), task, judges)
    return {
        **{f"draws_{name}": values for name, values in draws.items()},
        "latents": latents.numpy(),
        "calls": np.array(len(batches)),
        "spectrum_error": np.array(measures.spectrum_error(images, real_images)),
    }


def clock(
    methods: Sequence[Method], task: Task, pipeline: StableDiffusionPipeline, schedulers: Sequence[Any], rounds: int,
    threads: int,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """The samplers' times to the full run's: of each method `ratios` (rounds,), batch 1, on `threads` CPU threads, from rounds of
    the full run and then every method once.

    The prompt is encoded before: that costs every method the same.
    """
    embeds, seeds = encode(pipeline, task.captions[:1]), task.seeds[:1]

    def once(chosen: tuple[Any, int]) -> None:
        scheduler, steps = chosen
        sample_encoded(
            pipeline, embeds, seeds, steps=steps, guidance=task.guidance, scheduler=scheduler, precision=task.precision
        )

    chosen = [(scheduler, method.steps) for scheduler, method in zip(schedulers, methods, strict=True)]
    full, *others = interleaved_seconds(once, [(None, STEPS), *chosen], rounds, threads)
    return [{"ratios": seconds / full} for seconds in others]
