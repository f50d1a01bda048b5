"""What a method generates, and its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.benchmark.methods import Method
from analysis.metrics.distributions import RealFeatures, frechet_draws, kid_draws
from analysis.metrics.diversity import pairwise_lpips, vendi
from analysis.metrics.intervals import cluster_weights, mean_draws
from analysis.metrics.perceptual import lpips
from analysis.metrics.pixels import edge_strength, latent_mse, psnr, spectrum_error
from analysis.metrics.retrieval import retrieval_ranks
from analysis.reference_features import embed
from analysis.sampling import cache_deep_features, count_calls, decode, encode, run_sampler, sample

FRECHET_RESAMPLES = 200
FIRST_SEED = 10_000  # far from the seeds of `analysis.quality`
DECODED_TOGETHER = 16  # images, at most: large ones need much memory


@dataclass(frozen=True)
class Task:
    """What all methods have in common: prompts x seeds, prompt by prompt.

    Attributes:
        captions: one an image (N,).
        seeds: one an image (N,).
        prompt: the number of its prompt, 0..C-1, one an image (N,).
        labels: the prompted subject's code point, or its caption where the data set names none, one an image (N,).
        guidance: scale of classifier-free guidance.
        batch_size: images at a time.
        precision: in which the networks compute.
    """

    captions: list[str]
    seeds: list[int]
    prompt: np.ndarray
    labels: list[str]
    guidance: float
    batch_size: int
    precision: torch.dtype

    def first(self, prompts: int) -> "Task":
        """Take the task's first prompts.

        Args:
            prompts: how many, at most all.
        """
        return self.slice(0, int((self.prompt < prompts).sum()))

    def batch(self, number: int) -> "Task":
        """Take a batch of images.

        Args:
            number: of the batch, from 0. The last one is smaller; there is nothing in those after it.
        """
        return self.slice(number * self.batch_size, (number + 1) * self.batch_size)

    def slice(self, begin: int, end: int) -> "Task":
        """Take some of the images.

        Args:
            begin: number of the first.
            end: number of the one after the last.
        """
        images = slice(begin, end)
        return replace(
            self,
            captions=self.captions[images],
            seeds=self.seeds[images],
            prompt=self.prompt[images],
            labels=self.labels[images],
        )

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return -(-len(self.seeds) // self.batch_size)

    @property
    def num_prompts(self) -> int:
        """Number of prompts."""
        return int(self.prompt.max()) + 1

    @classmethod
    def from_prompts(
        cls, prompts: pd.DataFrame, seeds: int, seed: int, guidance: float, batch_size: int, precision: torch.dtype
    ) -> "Task":
        """Repeat each prompt, with another seed for each image.

        Args:
            prompts: columns text, code_point, as from `analysis.prompts.draw_prompts`.
            seeds: images a prompt.
            seed: counted from `FIRST_SEED`, of the first image.
            guidance: as of the attribute.
            batch_size: as of the attribute.
            precision: as of the attribute.
        """
        repeated = prompts.loc[prompts.index.repeat(seeds)]
        return cls(
            captions=repeated["text"].tolist(),
            seeds=[FIRST_SEED + seed + index for index in range(len(repeated))],
            prompt=np.repeat(np.arange(len(prompts)), seeds),
            labels=repeated["code_point"].tolist(),
            guidance=guidance,
            batch_size=batch_size,
            precision=precision,
        )


@dataclass(frozen=True)
class Metrics:
    """What the images are measured with.

    Attributes:
        lpips: as from `load_lpips`.
        features: as from `load_features`.
        gallery: features of the data set's images (M, D).
        labels: their code points (M,); None: the data set names no subjects, and retrieval is left out.
        real: features of the core subjects' images.
        real_images: some of these images (K, 3, H, W).
        resamples: of the bootstrap over prompts.
    """

    lpips: nn.Module
    features: nn.Module
    gallery: Tensor
    labels: list[str] | None
    real: RealFeatures
    real_images: Tensor
    resamples: int


def average_by_prompt(values: Tensor | np.ndarray, task: Task) -> np.ndarray:
    """Average one value an image over each prompt's images.

    Args:
        values: (N,).
        task: of the images.

    Returns:
        (C,).
    """
    return np.asarray(values, dtype=float).reshape(task.num_prompts, -1).mean(1)


def name_draws(metric: str, prompts: int) -> str:
    """Name the array that holds a metric's draws.

    Args:
        metric: such as "kid".
        prompts: the number of prompts, the first of the benchmark's, on which it is computed.
    """
    return f"draws_{metric}_{prompts}"


def compute_metrics(
    images: Tensor, latents: Tensor, full: tuple[Tensor, Tensor], task: Task, metrics: Metrics, counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Compute the draws of each metric.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        latents: (N, C, h, w).
        full: images and latents of the full run, from the same noise: N or more.
        task: of the images.
        metrics: what they are measured with.
        counts: numbers of prompts, each at most the task's. The metrics are computed on that many of the first prompts.

    Returns:
        By `name_draws`: (1 + resamples,), the estimate, then its bootstrap over prompts.
    """
    features = embed(metrics.features, images)
    full_images, full_latents = (tensor[: len(images)] for tensor in full)
    values = {
        "lpips_full": average_by_prompt(lpips(metrics.lpips, images, full_images), task),
        "psnr_full": average_by_prompt(psnr(images, full_images).clamp(max=100), task),  # equal images: infinite
        "latent_mse_full": average_by_prompt(latent_mse(latents, full_latents), task),
        "edges": average_by_prompt(edge_strength(images), task),
    }
    if metrics.labels is not None:
        ranks = retrieval_ranks(features, task.labels, metrics.gallery, metrics.labels)
        values |= {f"r_at_{rank}": average_by_prompt(ranks <= rank, task) for rank in (1, 5)}
    groups = [np.flatnonzero(task.prompt == prompt) for prompt in range(task.num_prompts)]
    if len(groups[0]) > 1:
        values["pairwise_lpips"] = np.array([pairwise_lpips(metrics.lpips, images[group]) for group in groups])
        values["vendi"] = np.array([vendi(features[group]) for group in groups])
    arrays: dict[str, np.ndarray] = {}
    for count in counts:
        weights = cluster_weights(count, metrics.resamples)
        draws = {name: mean_draws(each[:count], weights) for name, each in values.items()}
        inside = task.prompt < count
        x, prompt = features[torch.from_numpy(inside)], task.prompt[inside]
        draws["kid"] = kid_draws(x, prompt, metrics.real, weights)
        draws["frechet"] = frechet_draws(x, prompt, metrics.real, weights[: 1 + FRECHET_RESAMPLES])
        arrays |= {name_draws(name, count): each for name, each in draws.items()}
    return arrays


def count_work(
    method: Method, task: Task, pipeline: StableDiffusionPipeline, settings: dict[str, Any]
) -> tuple[int, float]:
    """Count a run's denoiser calls and network evaluations on the task's first image.

    A call with the deep features of an earlier one (DeepCache) counts by its share of the multiplications in the
    U-Net's convolutions and matrix products.

    Args:
        method: of the run.
        task: what to generate.
        pipeline: the LDM.
        settings: of the run, as of `run_sampler`.

    Returns:
        Denoiser calls, network evaluations.
    """

    def run() -> None:
        sample(pipeline, task.captions[:1], task.seeds[:1], **settings)

    with count_calls(pipeline.unet) as batches:
        run()
    calls, evaluations = len(batches), float(sum(batches))
    if method.cache_interval > 1:
        work = []
        for interval in (method.cache_interval, 1):
            with cache_deep_features(pipeline, interval), FlopCounterMode(display=False) as counter:
                run()
            work.append(sum(counter.get_flop_counts()[type(pipeline.unet).__name__].values()))
        evaluations *= work[0] / work[1]
    return calls, evaluations


def generate(method: Method, batch: Task, pipeline: StableDiffusionPipeline, scheduler: Any) -> np.ndarray:
    """Sample a method's latents.

    Args:
        method: one of `list_methods`.
        batch: what to generate, at once.
        pipeline: the LDM.
        scheduler: the method's.

    Returns:
        The final latents (B, C, h, w).
    """
    settings = method.sampler_settings(batch.guidance) | {"scheduler": scheduler, "precision": batch.precision}
    with cache_deep_features(pipeline, method.cache_interval):
        return run_sampler(pipeline, encode(pipeline, batch.captions), batch.seeds, **settings).cpu().numpy()


def decode_latents(latents: Tensor, task: Task, pipeline: StableDiffusionPipeline) -> Tensor:
    """Decode latents to images.

    Args:
        latents: (N, C, h, w).
        task: of the latents.
        pipeline: whose autoencoder decodes.

    Returns:
        (N, 3, H, W) in [-1, 1], on the CPU.
    """
    size = min(DECODED_TOGETHER, task.batch_size)
    return decode(pipeline, latents.to(pipeline.device), size, task.precision)


def measure(
    method: Method, task: Task, pipeline: StableDiffusionPipeline, scheduler: Any, latents: Tensor,
    full: tuple[Tensor, Tensor], metrics: Metrics, counts: Sequence[int],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Measure a method's images.

    Args:
        method: one of `list_methods`.
        task: what was generated.
        pipeline: the LDM.
        scheduler: the method's.
        latents: of the method (N, C, h, w), as of `generate`.
        full: images and latents of the full run.
        metrics: what the images are measured with.
        counts: numbers of prompts, as of `compute_metrics`.

    Returns:
        Arrays to be stored: `latents`, the draws by `name_draws`, `denoiser_calls` and `network_evaluations` of an
        image, `spectrum_error`.
    """
    settings = method.sampler_settings(task.guidance) | {"scheduler": scheduler, "precision": task.precision}
    calls, evaluations = count_work(method, task, pipeline, settings)
    images = decode_latents(latents, task, pipeline)
    return {
        **compute_metrics(images, latents, full, task, metrics, counts),
        "latents": latents.numpy(),
        "denoiser_calls": np.array(calls),
        "network_evaluations": np.array(evaluations),
        "spectrum_error": np.array(spectrum_error(images, metrics.real_images)),
    }
