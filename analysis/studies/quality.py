"""Quality and cost of the embedded models: autoencoder, LDM, bypass CRF, and the time of each network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from tqdm import tqdm

from analysis.benchmark.timing import time_interleaved
from analysis.metrics.intervals import summarize
from analysis.metrics.perceptual import lpips
from analysis.metrics.pixels import latent_mse, psnr, to_images, to_pixels
from analysis.metrics.retrieval import retrieval_ranks
from analysis.reference_features import embed
from analysis.sampling import (
    BYPASS,
    STEPS,
    count_calls,
    decode,
    encode,
    initial_noise,
    reconstruct,
    run_sampler,
    sample,
)
from analysis.studies import FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS
from latentcrf import LatentCRF, LatentCRFScheduler, Observation
from latentcrf.precision import autocast
from latentcrf.vae import round_trip

GUIDED_CALL = "guided denoiser call"


@dataclass(frozen=True)
class Quality:
    """What is measured.

    Attributes:
        items: a row an item.
        summary: columns measure, value, low, high (95 % bootstrap interval), n.
        images: the items' images, uint8 (n, H, W, 3), or None.
    """

    items: pd.DataFrame
    summary: pd.DataFrame
    images: np.ndarray | None = None


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    Attributes:
        guidance: scale of classifier-free guidance.
        batch_size: images at a time.
        precision: in which the networks compute.
    """

    guidance: float
    batch_size: int
    precision: torch.dtype


@torch.inference_mode()
def measure_autoencoder(
    pipeline: StableDiffusionPipeline, model: nn.Module, rows: list[dict[str, Any]], pixels: np.ndarray,
    batch_size: int, precision: torch.dtype,
) -> Quality:  # fmt: skip
    """Measure how the autoencoder reconstructs the held-out images: PSNR in dB, LPIPS(alex).

    Args:
        pipeline: whose autoencoder is measured.
        model: as from `load_lpips`.
        rows: of the data set.
        pixels: its images, uint8 (N, H, W, 3).
        batch_size: images at a time.
        precision: in which the autoencoder computes.
    """
    held_out = [index for index, row in enumerate(rows) if row["split"] == "test"]
    values: dict[str, list[Tensor]] = {"psnr": [], "lpips": []}
    for batch in tqdm(to_images(pixels[held_out]).split(batch_size), desc="autoencoder", unit="batch"):
        decoded = reconstruct(pipeline, batch, batch_size, precision)
        decoded = to_images(to_pixels(decoded))  # as they are seen: 8 bits a channel
        values["psnr"].append(psnr(decoded, batch))
        values["lpips"].append(lpips(model, decoded, batch))
    items = pd.DataFrame(rows)[["text", "style", "code_point"]].iloc[held_out].reset_index(drop=True)
    items = items.assign(**{name: torch.cat(each).numpy() for name, each in values.items()})
    return Quality(items, summarize({"PSNR (dB)": (items["psnr"], np.mean), "LPIPS(alex)": (items["lpips"], np.mean)}))


def measure_ldm(
    pipeline: StableDiffusionPipeline, features: nn.Module, gallery: Tensor, labels: Sequence[str],
    prompts: pd.DataFrame, seeds: Sequence[int], sampling: Sampling,
) -> Quality:  # fmt: skip
    """Measure how often the prompted subject is among the nearest real images, beside what real images reach.

    Args:
        pipeline: the LDM.
        features: as from `load_features`.
        gallery: features of the data set's images (M, D).
        labels: their code points.
        prompts: columns text, code_point.
        seeds: one a prompt.
        sampling: how to sample.
    """
    latents = sample(
        pipeline, prompts["text"].tolist(), seeds, guidance=sampling.guidance, batch_size=sampling.batch_size,
        precision=sampling.precision, progress="ldm",
    )  # fmt: skip
    images = decode(pipeline, latents, precision=sampling.precision)
    ranks = retrieval_ranks(embed(features, images), prompts["code_point"], gallery, labels)
    items = prompts.assign(seed=seeds, rank=ranks)
    real = retrieval_ranks(gallery, labels, gallery, labels, excluded=range(len(gallery)))
    metrics: dict[str, Any] = {}
    for k in (1, 5):
        # The images of a subject are not independent: its share of them is one value, as its generated image is.
        shares = pd.Series(real <= k).groupby(np.asarray(labels)).mean()
        metrics[f"R@{k}, generated"] = (items["rank"] <= k, np.mean)
        metrics[f"R@{k}, real images of the prompted subjects"] = (shares[prompts["code_point"]], np.mean)
        metrics[f"R@{k}, real images of all subjects"] = (shares, np.mean)
    return Quality(items, summarize(metrics), to_pixels(images))


def measure_crf(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, model: nn.Module, prompts: pd.DataFrame, seeds: Sequence[int],
    sampling: Sampling, iterations: int, rounds: int, threads: int,
) -> Quality:  # fmt: skip
    """Measure LatentCRF and the zero-parameter bypass against the full run from the same noise.

    Args:
        pipeline: the LDM.
        crf: the bypass CRF.
        model: as from `load_lpips`.
        prompts: columns text, code_point.
        seeds: one a prompt.
        sampling: how to sample.
        iterations: of the CRF's solver.
        rounds: how often the samplers are timed.
        threads: CPU threads while timing.
    """
    methods = {
        "full": None,
        "zero_parameter": LatentCRFScheduler(pipeline.scheduler, None, bypass=BYPASS),
        "crf": LatentCRFScheduler(pipeline.scheduler, crf, bypass=BYPASS, num_iterations=iterations),
    }
    captions = prompts["text"].tolist()
    settings: dict[str, Any] = {"guidance": sampling.guidance, "precision": sampling.precision}
    latents = {
        name: sample(
            pipeline, captions, seeds, scheduler=scheduler, batch_size=sampling.batch_size, progress=name, **settings
        )
        for name, scheduler in methods.items()
    }
    images = {name: decode(pipeline, each, precision=sampling.precision) for name, each in latents.items()}
    distances: dict[tuple[str, str], Callable[[str], Tensor]] = {
        ("latent MSE", "latent_mse"): lambda name: latent_mse(latents[name], latents["full"]),
        ("LPIPS(alex)", "lpips"): lambda name: lpips(model, images[name], images["full"]),
    }
    items = prompts.assign(seed=seeds)
    metrics: dict[str, Any] = {}
    for (title, column), measure in distances.items():
        for name, words in (("zero_parameter", ZERO_PARAMETER_BYPASS), ("crf", LATENTCRF)):
            items[f"{column}_{name}"] = measure(name).numpy()
            metrics[f"{title} to the full run, {words}"] = (items[f"{column}_{name}"], np.mean)
        difference = items[f"{column}_crf"] - items[f"{column}_zero_parameter"]
        metrics[f"{title}, {LATENTCRF} minus {ZERO_PARAMETER_BYPASS}"] = (difference, np.mean)

    counts: dict[str, float] = {}
    for name, words in (("full", FULL_RUN), ("crf", LATENTCRF)):
        with count_calls(pipeline.unet) as batches:
            sample(pipeline, captions[:1], seeds[:1], scheduler=methods[name], **settings)
        counts |= {f"denoiser calls, {words}": len(batches), f"network evaluations, {words}": sum(batches)}
    counts["parameters, bypass CRF to U-Net"] = compare_parameters(crf, pipeline)
    embeds = encode(pipeline, captions[:1])

    def run(name: str) -> None:
        run_sampler(pipeline, embeds, seeds[:1], steps=STEPS, scheduler=methods[name], **settings)

    full, bypassed = time_interleaved(run, ("full", "crf"), rounds, threads)
    metrics |= {
        f"seconds a sampler run, {FULL_RUN}": (full, np.median),
        f"seconds a sampler run, {LATENTCRF}": (bypassed, np.median),
        f"time ratio, {LATENTCRF} to {FULL_RUN}": (bypassed / full, np.median),
    }
    return Quality(items, pd.concat([summarize(metrics), tabulate_counts(counts)], ignore_index=True))


def compare_parameters(network: nn.Module, pipeline: StableDiffusionPipeline) -> float:
    """Count the parameters of a network, those of the pipeline's U-Net being 1.

    Args:
        network: a CRF.
        pipeline: the LDM.
    """
    return sum(p.numel() for p in network.parameters()) / sum(p.numel() for p in pipeline.unet.parameters())


def tabulate_counts(values: Mapping[str, float]) -> pd.DataFrame:
    """Tabulate what is counted, not estimated, as rows of a summary.

    Args:
        values: by name.
    """
    return pd.DataFrame(
        [{"measure": name, "value": value, "low": value, "high": value, "n": 1} for name, value in values.items()]
    )


def measure_cost(
    pipeline: StableDiffusionPipeline, crfs: Mapping[str, LatentCRF], iterations: int, rounds: int, threads: int,
    precision: torch.dtype,
) -> Quality:  # fmt: skip
    """Measure what each network and the VAE round trip take beside a guided denoiser call, in turn.

    Args:
        pipeline: the LDM.
        crfs: by name: bypass CRFs, finishers, plain networks.
        iterations: of their solvers.
        rounds: how often each is timed.
        threads: CPU threads while timing.
        precision: in which the networks compute.

    Returns:
        Items are rounds, in seconds.
    """
    embeds = encode(pipeline, ["red apple"])
    states = torch.cat([embeds["negative_prompt_embeds"], embeds["prompt_embeds"]])
    latents, timestep = initial_noise(pipeline, [0]), torch.tensor(500)
    at_bypass = Observation(latents, latents, 0.5, 0.9, alpha_denoised=0.45, earlier=latents, alpha_earlier=0.3)
    final = Observation(latents, latents, 1.0, 1.0)
    works: dict[str, Callable[[], Any]] = {
        GUIDED_CALL: lambda: pipeline.unet(torch.cat([latents] * 2), timestep, states),
        "call without guidance": lambda: pipeline.unet(latents, timestep, states[1:]),
        "VAE round trip": lambda: round_trip(pipeline.vae, latents),
    }
    for name, crf in crfs.items():
        works[name] = partial(crf, final if crf.corrects_clean or crf.form == "static" else at_bypass, iterations)

    def run(name: str) -> None:
        with torch.inference_mode(), autocast("cpu", precision):
            works[name]()

    seconds = dict(zip(works, time_interleaved(run, tuple(works), rounds, threads), strict=True))
    metrics: dict[str, Any] = {f"milliseconds, {name}": (1000 * each, np.median) for name, each in seconds.items()}
    metrics |= {
        f"share of a {GUIDED_CALL}, {name}": (seconds[name] / seconds[GUIDED_CALL], np.median)
        for name in list(works)[1:]
    }
    shares = {f"parameters, {name} to U-Net": compare_parameters(crf, pipeline) for name, crf in crfs.items()}
    summary = pd.concat([summarize(metrics), tabulate_counts(shares)], ignore_index=True)
    return Quality(pd.DataFrame(seconds), summary)
