"""Final latents of the LDM's runs and what a finisher shall make of them, recorded once.

A chunk file holds `latents` (n, C, H, W), the final ones of n runs of few steps, and `finished` (n, C, H, W), the same after
`FinisherTeacher`; float32. The metadata hold the settings, the precision and a hash of the models and the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from safetensors import safe_open
from torch import Tensor

from latentcrf.finisher import Finisher
from latentcrf.model import LatentCRF
from latentcrf.precision import autocast
from latentcrf.training.loop import RunError
from latentcrf.training.recording import COARSE_SCHEDULERS, Chunk, record_chunks, record_run
from latentcrf.vae import VAERoundTrip

FIRST_SEED = 3_000_000  # far from those of `recording` and of measurements
SCHEDULERS = COARSE_SCHEDULERS | {"unipc": (UniPCMultistepScheduler, {})}


@dataclass(frozen=True)
class FinalLatentsSettings:
    """How runs are recorded.

    Attributes:
        runs: scheduler (a key of `SCHEDULERS`) and steps; each chunk takes the next one.
        guidances: scales of classifier-free guidance; each chunk takes the next one.
        chunk: runs a chunk.
        strength: how far the teacher blends in the static form's result, 0 to 1.
        passes: how often the teacher works. After one pass KID is higher; after three R@1 is lower.
    """

    runs: tuple[tuple[str, int], ...] = (
        ("unipc", 8), ("dpm", 8), ("unipc", 6), ("ddim", 10), ("unipc", 5), ("unipc", 12), ("dpm", 6), ("unipc", 4),
        ("dpm", 12), ("unipc", 10), ("ddim", 15),
    )  # fmt: skip
    guidances: tuple[float, ...] = (3.0, 3.0, 3.0, 2.0, 3.0, 5.0, 3.0, 3.0)
    chunk: int = 32
    strength: float = 0.4
    passes: int = 2


class FinisherTeacher:
    """What a finisher learns to do at once: blend in the static form's result, then make the VAE round trip; repeat.

    Args:
        static: a LatentCRF of the static form.
        vae: the LDM's autoencoder.
        settings: strength and passes.
    """

    def __init__(self, static: LatentCRF, vae: Any, settings: FinalLatentsSettings) -> None:
        self.finisher, self.round_trip = Finisher(static), VAERoundTrip(vae)
        self.settings = settings

    def __call__(self, latents: Tensor) -> Tensor:
        """Correct final latents (B, C, H, W)."""
        for _ in range(self.settings.passes):
            latents = self.round_trip(torch.lerp(latents, self.finisher(latents), self.settings.strength))
        return latents


@torch.no_grad()
def record_final_latents(
    pipeline: StableDiffusionPipeline, static: LatentCRF, prompts: Sequence[str], folder: Path, count: int,
    recording: FinalLatentsSettings, precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record the runs that are missing.

    Args:
        pipeline: the LDM.
        static: a LatentCRF of the static form, for the teacher.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record.
        recording: settings.
        precision: in which the networks compute.

    Raises:
        RunError: the folder holds recordings with other settings, or of other models or prompts.
    """
    teacher = FinisherTeacher(static, pipeline.vae, recording)

    def make(chunk: Chunk) -> dict[str, Tensor]:
        name, steps = recording.runs[chunk.index % len(recording.runs)]
        kind, settings = SCHEDULERS[name]
        scheduler = kind.from_config(pipeline.scheduler.config, **settings)
        path, _ = record_run(pipeline, scheduler, chunk.prompts, chunk.noise, steps, chunk.guidance, precision)
        latents = path[:, -1].to(pipeline.device)
        with autocast(latents.device, precision):
            finished = teacher(latents)
        return {"latents": latents.float().cpu(), "finished": finished.float().cpu()}

    record_chunks(
        pipeline, prompts, folder, count, recording, FIRST_SEED, make, pipeline.vae, static, name="final latents",
        precision=precision,
    )  # fmt: skip


def load_final_latents(folder: Path, count: int, recording: FinalLatentsSettings) -> tuple[Tensor, Tensor]:
    """Read recorded runs.

    Args:
        folder: of the chunk files.
        count: runs to read.
        recording: settings of the recording.

    Returns:
        Final latents and what the teacher makes of them, (count, C, H, W) each.

    Raises:
        RunError: the folder holds fewer runs.
    """
    paths = [folder / f"{index:05d}.safetensors" for index in range(-(-count // recording.chunk))]
    if missing := [path for path in paths if not path.is_file()]:
        raise RunError(f"{missing[0]} is missing: {folder} does not hold {count:,} runs.")
    chunks = []
    for path in paths:
        with safe_open(path, "pt") as file:
            chunks.append((file.get_tensor("latents"), file.get_tensor("finished")))
    latents, finished = (torch.cat(column)[:count] for column in zip(*chunks, strict=True))
    return latents, finished
