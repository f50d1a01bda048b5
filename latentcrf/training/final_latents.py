"""Final latents of the LDM's runs and what a finisher shall make of them, recorded once.

A chunk file (see `chunks`) holds `latents` (n, C, H, W), the final ones of n runs of few steps, and `finished`
(n, C, H, W), the same after `FinisherTeacher`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from latentcrf.finisher import Finisher
from latentcrf.model import LatentCRF
from latentcrf.precision import autocast
from latentcrf.training.chunks import Chunk, MappedRows, open_chunks, record_chunks
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import RunError
from latentcrf.training.presets import scale_guidances
from latentcrf.training.recording import COARSE_SCHEDULERS, record_run
from latentcrf.vae import VAERoundTrip

FIRST_SEED = 3_000_000  # far from those of `recording` and of measurements
SCHEDULERS = COARSE_SCHEDULERS | {"unipc": (UniPCMultistepScheduler, {})}
TAUGHT_AT_ONCE = 4  # latents: a VAE needs more memory for an image of 512 px than the U-Net for its latents


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

    @classmethod
    def choose(cls, guidance: float, chunk: int) -> "FinalLatentsSettings":
        """Choose the recipe's settings for an LDM.

        Args:
            guidance: the main scale, as of `scale_guidances`.
            chunk: runs a chunk.
        """
        return cls(guidances=scale_guidances(cls.guidances, guidance), chunk=chunk)

    @property
    def num_kinds(self) -> int:
        """Chunks until every scale of guidance and every kind of run has occurred."""
        return max(len(self.guidances), len(self.runs))


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


def load_static(folder: str | Path, ldm: LDM) -> LatentCRF:
    """Load the teacher's LatentCRF.

    Args:
        folder: or hub id, of a LatentCRF of the static form.
        ldm: whose latents it corrects.

    Returns:
        The CRF, float32, on the LDM's device.

    Raises:
        RunError: it is of another form, or for latents of other channels.
    """
    static = LatentCRF.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True).to(ldm.device)
    if static.form != "static":
        raise RunError(f"--static {folder} holds a CRF of form {static.form!r}; the teacher's is 'static'.")
    if static.latent_channels != ldm.latent_shape[0]:
        raise RunError(
            f"--static {folder} is for latents of {static.latent_channels} channels; those of the LDM have "
            f"{ldm.latent_shape[0]}."
        )
    return static


def record_final_latents(
    ldm: LDM, static: LatentCRF, prompts: Sequence[str], folder: Path, count: int, recording: FinalLatentsSettings,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record the runs that are missing: this process's share of them, see `record_chunks`.

    Args:
        ldm: the LDM.
        static: a LatentCRF of the static form, for the teacher.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record.
        recording: settings.
        precision: in which the networks compute.

    Raises:
        RunError: the folder holds recordings with other settings, or of other models or prompts.
    """
    teacher = FinisherTeacher(static, ldm.vae, recording)

    def make(chunk: Chunk) -> dict[str, Tensor]:
        name, steps = recording.runs[chunk.index % len(recording.runs)]
        kind, settings = SCHEDULERS[name]
        scheduler = kind.from_config(ldm.scheduler.config, **settings)
        path, _ = record_run(ldm, scheduler, chunk.prompts, chunk.noise, steps, chunk.guidance, precision)
        latents = path[:, -1]
        with autocast(ldm.device, precision):
            finished = [teacher(part.to(ldm.device)).float() for part in latents.split(TAUGHT_AT_ONCE)]
        return {"latents": latents, "finished": torch.cat(finished)}

    record_chunks(
        ldm, prompts, folder, count, recording, FIRST_SEED, make, ldm.vae, static, name="final latents",
        precision=precision,
    )  # fmt: skip


def load_final_latents(folder: Path, count: int | None = None) -> tuple[MappedRows, MappedRows]:
    """Map recorded runs into memory.

    Args:
        folder: of the chunk files.
        count: runs to read; None (default): all.

    Returns:
        Final latents and what the teacher makes of them, (count, C, H, W) each.

    Raises:
        RunError: the folder holds fewer runs, or none.
    """
    _, chunks = open_chunks(folder, count)
    latents, finished = (MappedRows([chunk[name] for chunk in chunks]) for name in ("latents", "finished"))
    rows = torch.arange(len(latents))[:count]
    return latents.select(rows), finished.select(rows)
