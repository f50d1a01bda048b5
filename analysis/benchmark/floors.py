"""Floors of the metrics: real images of the benchmark's subjects, and those through the autoencoder."""

from typing import Any

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline

from analysis.benchmark.measure import Metrics, Task
from analysis.metrics.distributions import RealFeatures, kid_draws
from analysis.metrics.intervals import cluster_weights, interval, mean_draws
from analysis.metrics.pixels import edge_strength, to_images
from analysis.metrics.retrieval import retrieval_ranks
from analysis.real_images import RealImages
from analysis.reference_features import embed
from analysis.sampling import reconstruct

REAL, RECONSTRUCTED = "real images", "real images through the autoencoder"


def measure_floors(
    task: Task, real_images: RealImages, pipeline: StableDiffusionPipeline, metrics: Metrics
) -> pd.DataFrame:
    """Measure the data set's own images of the prompted subjects as if they had been generated.

    KID is to the same real images as that of generated ones, these images among them, which favours them: `kid_others`
    leaves them out. In retrieval each is looked up among the other images, where there are fewer of its subject than a
    generated image has: a pessimistic R@5. Subjects with a single image have none; without subjects there is none.

    Args:
        task: whose subjects are taken.
        real_images: of the data set.
        pipeline: the LDM.
        metrics: what they are measured with.

    Returns:
        Columns images, prompts, count, kid, kid_others (where there are other subjects), r_at_5 (where the data set
        names subjects) and edges, the last four with their 95 % intervals.
    """
    rows = real_images.rows
    subjects = dict(zip(task.labels, task.prompt, strict=True))
    chosen = [index for index, row in enumerate(rows) if row["core"] and row["code_point"] in subjects]
    labels = [rows[index]["code_point"] for index in chosen]
    prompt = np.array([subjects[label] for label in labels])
    real = to_images(real_images[chosen])
    weights = cluster_weights(task.num_prompts, metrics.resamples)
    references = {"kid": metrics.real}
    remaining = [index for index, row in enumerate(rows) if row["core"] and row["code_point"] not in subjects]
    if len(remaining) > 1:
        references["kid_others"] = RealFeatures(metrics.gallery[remaining])
    members = [prompt == number for number in range(task.num_prompts)]
    has_neighbour = np.array([each.sum() > 1 for each in members])
    table = []
    for name in (REAL, RECONSTRUCTED):
        images = real
        if name == RECONSTRUCTED:
            images = reconstruct(pipeline, real.to(pipeline.device), task.batch_size, task.precision)
        features = embed(metrics.features, images)
        edges = edge_strength(images).numpy()
        draws = {key: kid_draws(features, prompt, reference, weights) for key, reference in references.items()}
        if metrics.labels is not None:
            ranks = retrieval_ranks(features, labels, metrics.gallery, metrics.labels, excluded=chosen)
            found = np.array([np.mean(ranks[each] <= 5) for each in members])
            draws["r_at_5"] = mean_draws(found[has_neighbour], weights[:, has_neighbour])
        draws["edges"] = mean_draws(np.array([edges[each].mean() for each in members]), weights)
        row: dict[str, Any] = {"images": name, "prompts": task.num_prompts, "count": len(chosen)}
        for metric, values in draws.items():
            row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = interval(values, metric.startswith("kid"))
        table.append(row)
    return pd.DataFrame(table)
