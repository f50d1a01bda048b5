"""The LDM's own trajectories, recorded once, so that distilling them is cheap.

A chunk file holds the latents of a few runs at every level: `latents` (n, S + 1, C, H, W), float32, from pure noise to
the final latents, and `coarse` (n, s + 1, C, H, W), the same runs with fewer steps; its metadata say how they were made.
What a few-step run hands over is mended towards where the precise run from the same noise arrives. A run's clean estimates are not stored: two neighbouring
latents of a DDIM run determine them (`levels.clean_between`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from latentcrf.files import replacing
from latentcrf.levels import clean_between
from latentcrf.training.loop import RunError

FIRST_SEED = 1_000_000  # far from the small seeds that measurements use


@dataclass(frozen=True)
class Recording:
    """How trajectories are made: DDIM steps, those of the coarse runs and guidance scales (in turn), runs a chunk."""

    steps: int = 50
    coarse: tuple[int, ...] = (4, 5, 6, 8, 10, 12)
    guidances: tuple[float, ...] = (3.0, 1.0, 3.0, 5.0, 2.0, 7.0, 4.0)
    chunk: int = 16


@dataclass(frozen=True)
class CoarseSteps:
    """Steps of coarse runs, each (M, ...): from `latents` (M, C, H, W) at level `alphas` (M,) to `following`.

    `following` is at level `alphas_after` (M,); `runs` (M,) are the numbers of the precise runs from the same noise.
    """

    latents: Tensor
    following: Tensor
    alphas: Tensor
    alphas_after: Tensor
    runs: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Trajectories:
    """Recorded runs: latents (n, S + 1, C, H, W) and the level abar of each of the S + 1 columns, the last one 1."""

    latents: Tensor
    alphas: Tensor
    coarse: CoarseSteps | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def steps(self) -> int:
        return self.latents.shape[1] - 1

    def split(self, count: int) -> tuple["Trajectories", "Trajectories"]:
        """The first `count` runs and the others, coarse steps with them."""
        parts = []
        for first, end in ((0, count), (count, len(self))):
            coarse = self.coarse
            if coarse is not None:
                own = (coarse.runs >= first) & (coarse.runs < end)
                tensors = (coarse.latents, coarse.following, coarse.alphas, coarse.alphas_after, coarse.runs - first)
                coarse = CoarseSteps(*(tensor[own] for tensor in tensors))
            parts.append(Trajectories(self.latents[first:end], self.alphas, coarse))
        return parts[0], parts[1]

    def denoised(self, runs: Tensor, steps: Tensor) -> Tensor:
        """The LDM's clean estimate (B, C, H, W) at step `steps` (B,) of runs `runs` (B,), guidance included."""
        latents, following = (self.latents[runs, index] for index in (steps, steps + 1))
        return clean_estimate(latents, following, self.alphas[steps], self.alphas[steps + 1])


def clean_estimate(latents: Tensor, following: Tensor, alphas: Tensor, alphas_after: Tensor) -> Tensor:
    """x0_hat (B, C, H, W) of deterministic DDIM steps between levels `alphas` and `alphas_after` (B,)."""
    levels = (alpha.double().view(-1, 1, 1, 1) for alpha in (alphas, alphas_after))
    here, after = ((abar.sqrt(), (1 - abar).sqrt()) for abar in levels)
    return clean_between(latents.double(), following.double(), here, after).to(latents.dtype)


def levels(scheduler: DDIMScheduler, steps: int) -> Tensor:
    """abar at each of `steps` steps of a run, then 1: (steps + 1,)."""
    scheduler.set_timesteps(steps)
    return torch.cat([scheduler.alphas_cumprod[scheduler.timesteps.cpu()], torch.ones(1)])


@torch.no_grad()
def record(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], folder: Path, count: int, recording: Recording
) -> None:
    """Record `count` runs on `prompts`, in turn, into `folder`; chunks that are there already are kept.

    Raises:
        RunError: the folder holds recordings made in another way.
    """
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    settings = {key: json.dumps(value) for key, value in asdict(recording).items()}
    shape = (pipeline.unet.config.in_channels, pipeline.unet.config.sample_size, pipeline.unet.config.sample_size)
    for index in tqdm(range(-(-count // recording.chunk)), desc="trajectories", unit="chunk", mininterval=5):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            with safe_open(path, "pt") as file:
                if file.metadata() != settings:
                    raise RunError(f"{path} was recorded with other settings: {file.metadata()}. Remove {folder}.")
            continue
        places = range(index * recording.chunk, (index + 1) * recording.chunk)
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(FIRST_SEED + i)) for i in places]
        )
        texts = [prompts[i % len(prompts)] for i in places]
        guidance = recording.guidances[index % len(recording.guidances)]
        coarse = recording.coarse[index % len(recording.coarse)]
        recorded = {
            name: _path(pipeline, texts, noise, steps, guidance)
            for name, steps in (("latents", recording.steps), ("coarse", coarse))
        }
        with replacing(path) as temporary:
            save_file(recorded, temporary, metadata=settings)


def _path(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Latents (n, steps + 1, C, H, W), float32 on the CPU, of a DDIM run from `noise` (n, C, H, W), itself the first."""
    path = [noise]

    def keep(_: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict:
        path.append(tensors["latents"].float().cpu())
        return {}

    with torch.autocast(pipeline.device.type, torch.bfloat16):
        pipeline(
            list(prompts),
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise.to(pipeline.device),
            output_type="latent",
            callback_on_step_end=keep,
        )
    return torch.stack(path, dim=1)


def load_trajectories(folder: Path, scheduler: DDIMScheduler, recording: Recording) -> Trajectories:
    """All chunks of `folder`, in order.

    Raises:
        RunError: there are none.
    """
    parts: list[Tensor] = []
    steps: list[tuple[Tensor, ...]] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            latents, coarse = file.get_tensor("latents"), file.get_tensor("coarse")
        first = sum(map(len, parts))
        parts.append(latents)
        # The first call is at pure noise; after the last step there is nothing left to bypass.
        kept = torch.arange(1, coarse.shape[1] - 2)
        alphas = levels(scheduler, coarse.shape[1] - 1)
        runs = torch.arange(first, first + len(latents)).repeat_interleave(len(kept))
        at, after = (alphas[index].repeat(len(latents)) for index in (kept, kept + 1))
        steps.append((coarse[:, kept].flatten(0, 1), coarse[:, kept + 1].flatten(0, 1), at, after, runs))
    if not parts:
        raise RunError(f"{folder} holds no trajectories.")
    coarse_steps = CoarseSteps(*(torch.cat(column) for column in zip(*steps, strict=True)))
    return Trajectories(torch.cat(parts), levels(scheduler, recording.steps), coarse_steps)
