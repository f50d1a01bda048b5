"""Floors of the metrics: real images of the benchmark's subjects, and those through the autoencoder."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from analysis.benchmark.measure import Metrics, Task
from analysis.metrics.distributions import kid_draws
from analysis.metrics.intervals import cluster_weights, interval, mean_draws
from analysis.metrics.pixels import edge_strength, to_images
from analysis.metrics.retrieval import retrieval_ranks
from analysis.reference_features import embed
from analysis.sampling import decode
from latentcrf.precision import autocast

REAL, RECONSTRUCTED = "real images", "real images through the autoencoder"


@torch.inference_mode()
def reconstruct(pipeline: StableDiffusionPipeline, images: Tensor, batch_size: int, precision: torch.dtype) -> Tensor:
    """Encode and decode images.

    Args:
        pipeline: whose autoencoder is used.
        images: (N, 3, H, W) in [-1, 1].
        batch_size: images at a time.
        precision: in which the autoencoder computes.

    Returns:
        (N, 3, H, W).
    """
    with autocast(pipeline.device, precision):
        latents = [pipeline.vae.encode(batch).latent_dist.mode() for batch in images.split(batch_size)]
    scaled = torch.cat(latents).float() * pipeline.vae.config.scaling_factor
    return decode(pipeline, scaled, batch_size, precision)


def measure_floors(
    task: Task, rows: list[dict[str, Any]], pixels: np.ndarray, pipeline: StableDiffusionPipeline, metrics: Metrics
) -> pd.DataFrame:
    """Measure the data set's own images of the prompted subjects as if they had been generated.

    They are among the real images that KID compares with, which favours them a little. In retrieval each is looked up
    among the other images.

    Args:
        task: whose subjects are taken.
        rows: of the data set.
        pixels: its images, uint8 (M, H, W, 3).
        pipeline: the LDM.
        metrics: what they are measured with.

    Returns:
        Columns images, prompts, count, kid, r_at_1, r_at_5 and edges, each with its 95 % interval.
    """
    subjects = dict(zip(task.labels, task.prompt, strict=True))
    chosen = [index for index, row in enumerate(rows) if row["core"] and row["code_point"] in subjects]
    labels = [rows[index]["code_point"] for index in chosen]
    prompt = np.array([subjects[label] for label in labels])
    real = to_images(pixels[chosen])
    weights = cluster_weights(task.prompts, metrics.resamples)
    table = []
    for name in (REAL, RECONSTRUCTED):
        images = real if name == REAL else reconstruct(pipeline, real, task.batch_size, task.precision)
        features = embed(metrics.features, images)
        ranks = retrieval_ranks(features, labels, metrics.gallery, metrics.labels, excluded=chosen)
        draws = {"kid": kid_draws(features, prompt, metrics.real, weights)}
        values = {"r_at_1": ranks <= 1, "r_at_5": ranks <= 5, "edges": edge_strength(images).numpy()}
        for metric, each in values.items():
            means = np.array([np.mean(each[prompt == number]) for number in range(task.prompts)])
            draws[metric] = mean_draws(means, weights)
        row: dict[str, Any] = {"images": name, "prompts": task.prompts, "count": len(chosen)}
        for metric, each in draws.items():
            row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = interval(each, metric == "kid")
        table.append(row)
    return pd.DataFrame(table)
