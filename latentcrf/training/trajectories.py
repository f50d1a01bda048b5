"""The LDM's own trajectories, recorded once, so that distilling them is cheap.

A chunk file holds the latents of a few runs at every level: `latents` (n, S + 1, C, H, W), float32, from pure noise to
the final latents; its metadata say how they were made. A run's clean estimates are not stored: two neighbouring
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
    """How trajectories are made: DDIM steps, guidance scales (one drawn for each chunk), runs a chunk."""

    steps: int = 50
    guidances: tuple[float, ...] = (2.0, 3.0, 3.0, 4.0)
    chunk: int = 16


@dataclass(frozen=True)
class Trajectories:
    """Recorded runs: latents (n, S + 1, C, H, W) and the level abar of each of the S + 1 columns, the last one 1."""

    latents: Tensor
    alphas: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def steps(self) -> int:
        return self.latents.shape[1] - 1

    def denoised(self, runs: Tensor, steps: Tensor) -> Tensor:
        """The LDM's clean estimate (B, C, H, W) at step `steps` (B,) of runs `runs` (B,), guidance included."""
        here, after = ((abar.sqrt(), (1 - abar).sqrt()) for abar in (self._level(steps), self._level(steps + 1)))
        latents, following = (self.latents[runs, index].double() for index in (steps, steps + 1))
        return clean_between(latents, following, here, after).to(self.latents.dtype)

    def _level(self, steps: Tensor) -> Tensor:
        return self.alphas[steps].double().view(-1, 1, 1, 1)


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
        path_so_far = [noise]

        def keep(
            _: Any, step: int, timestep: int, tensors: dict[str, Tensor], kept: list[Tensor] = path_so_far
        ) -> dict:
            kept.append(tensors["latents"].float().cpu())
            return {}

        with torch.autocast(pipeline.device.type, torch.bfloat16):
            pipeline(
                [prompts[i % len(prompts)] for i in places],
                num_inference_steps=recording.steps,
                guidance_scale=recording.guidances[index % len(recording.guidances)],
                latents=noise.to(pipeline.device),
                output_type="latent",
                callback_on_step_end=keep,
            )
        with replacing(path) as temporary:
            save_file({"latents": torch.stack(path_so_far, dim=1)}, temporary, metadata=settings)


def load_trajectories(folder: Path, scheduler: DDIMScheduler, recording: Recording) -> Trajectories:
    """All chunks of `folder`, in order."""
    parts = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            parts.append(file.get_tensor("latents"))
    if not parts:
        raise RunError(f"{folder} holds no trajectories.")
    return Trajectories(torch.cat(parts), levels(scheduler, recording.steps))
