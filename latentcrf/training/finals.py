"""The last latents of the LDM's runs and what they should become: what a finisher is trained on, recorded once.

A chunk file holds `latents` (n, C, H, W), the last ones of n runs of few steps, and `finished` (n, C, H, W), the same after
the static form of LatentCRF (part of the way) and the autoencoder's round trip, both twice; float32. The metadata say how it was
made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from safetensors import safe_open
from torch import Tensor

from latentcrf.model import LatentCRF
from latentcrf.precision import autocast
from latentcrf.scheduler import LatentCRFScheduler
from latentcrf.training.loop import RunError
from latentcrf.training.trajectories import SOLVERS, Chunk, record_chunks, solve

FIRST_SEED = 3_000_000  # far from those of the trajectories and of measurements
KINDS = SOLVERS | {"unipc": (UniPCMultistepScheduler, {})}


@dataclass(frozen=True)
class FinalsRecording:
    """How the runs are made: solver, steps and guidance of a chunk, each in turn; runs a chunk; how far the static form goes, and
    how often it and the round trip are done."""

    runs: tuple[tuple[str, int], ...] = (
        ("unipc", 8), ("dpm", 8), ("unipc", 6), ("ddim", 10), ("unipc", 5), ("unipc", 12), ("dpm", 6), ("unipc", 4),
        ("dpm", 12), ("unipc", 10), ("ddim", 15),
    )  # fmt: skip
    guidances: tuple[float, ...] = (3.0, 3.0, 3.0, 2.0, 3.0, 5.0, 3.0, 3.0)
    chunk: int = 32
    strength: float = 0.4
    passes: int = 2  # of one its KID is higher, of three R@1 lower (on prompts of `--validation`)


def teacher(scheduler: Any, static: LatentCRF, vae: Any, recording: FinalsRecording) -> LatentCRFScheduler:
    """Whose `finish` a finisher learns: around the LDM's `scheduler`, with nothing left out."""
    return LatentCRFScheduler(
        scheduler,
        bypass=None,
        finisher=static,
        finisher_strength=recording.strength,
        vae=vae,
        finisher_passes=recording.passes,
    )


@torch.no_grad()
def record_finals(
    pipeline: StableDiffusionPipeline, static: LatentCRF, prompts: Sequence[str], folder: Path, count: int,
    recording: FinalsRecording, precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record `count` runs on `prompts`, in turn, into `folder`; chunks that are there already are kept.

    Raises:
        RunError: the folder holds recordings made in another way, or of other models or prompts.
    """
    teaches = teacher(pipeline.scheduler, static, pipeline.vae, recording)

    def make(chunk: Chunk) -> dict[str, Tensor]:
        solver, steps = recording.runs[chunk.index % len(recording.runs)]
        kind, how = KINDS[solver]
        scheduler = kind.from_config(pipeline.scheduler.config, **how)
        path_of, _ = solve(pipeline, scheduler, chunk.prompts, chunk.noise, steps, chunk.guidance, precision)
        latents = path_of[:, -1].to(pipeline.device)
        with autocast(latents.device, precision):
            finished = teaches.finish(latents)
        return {"latents": latents.float().cpu(), "finished": finished.float().cpu()}

    record_chunks(
        pipeline, prompts, folder, count, recording, FIRST_SEED, make, pipeline.vae, static, name="last latents",
        precision=precision,
    )  # fmt: skip


def load_finals(folder: Path, count: int, recording: FinalsRecording) -> tuple[Tensor, Tensor]:
    """The first `count` runs that `record_finals` wrote into `folder`: latents and finished latents, (count, C, H, W) each.

    Raises:
        RunError: there are not so many.
    """
    names = [folder / f"{index:05d}.safetensors" for index in range(-(-count // recording.chunk))]
    if missing := [path for path in names if not path.is_file()]:
        raise RunError(f"{missing[0]} is missing: {folder} does not hold {count:,} runs.")
    parts = []
    for path in names:
        with safe_open(path, "pt") as file:
            parts.append((file.get_tensor("latents"), file.get_tensor("finished")))
    latents, finished = (torch.cat(column)[:count] for column in zip(*parts, strict=True))
    return latents, finished
