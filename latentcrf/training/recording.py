"""The LDM's own runs, recorded once, so that distilling them is cheap.

A chunk file (see `chunks`) holds a few runs:

latents                 (n, S + 1, C, H, W), from pure noise to the final latents of S DDIM steps. The clean estimates
                        are not stored: two neighbouring latents determine them, see
                        `noise_levels.clean_estimate_between`.
SCHEDULER.latents       (n, s - 2, C, H, W), what a coarse run of s steps from the same noise would hand over after its
                        second step, its third, ..., the last but one; SCHEDULER is ddim and dpm.
SCHEDULER.denoised      (n, s - 2, C, H, W), the clean estimates of these steps.
prompt_embeds           (m, tokens, D), the token states of those prompts whose first run is in the chunk.

A CRF learns to correct the coarse runs' hand-overs towards the final latents of the precise run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from latentcrf.noise_levels import clean_estimate, clean_estimate_between, coefficients, to_variance_preserving
from latentcrf.training.chunks import PROMPT_EMBEDS, Chunk, MappedRows, Rows, open_chunks, record_chunks, select_rows
from latentcrf.training.ldm import LDM, Conditioning
from latentcrf.training.presets import scale_guidances

HELD_OUT_EVERY = 10  # every tenth recorded run only validates
FIRST_SEED = 1_000_000  # far from the small seeds that measurements use
DPM_SOLVER_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2}
COARSE_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {  # class, settings; the precise runs are DDIM's
    "ddim": (DDIMScheduler, {}),
    "dpm": (DPMSolverMultistepScheduler, DPM_SOLVER_2M),
}


@dataclass(frozen=True)
class RecordingSettings:
    """How runs are recorded.

    Attributes:
        steps: S, DDIM steps of the precise runs.
        coarse: steps of the coarse runs; each chunk takes the next one.
        guidances: scales of classifier-free guidance; each chunk takes the next one.
        chunk: runs a chunk.
    """

    steps: int = 50
    coarse: tuple[int, ...] = (4, 5, 6, 8, 10, 12)
    guidances: tuple[float, ...] = (3.0, 1.0, 3.0, 5.0, 2.0, 7.0, 4.0)
    chunk: int = 16

    @classmethod
    def choose(cls, guidance: float, chunk: int) -> "RecordingSettings":
        """Choose the recipe's settings for an LDM.

        Args:
            guidance: the main scale, as of `scale_guidances`.
            chunk: runs a chunk.
        """
        return cls(guidances=scale_guidances(cls.guidances, guidance), chunk=chunk)

    @property
    def num_kinds(self) -> int:
        """Chunks until every scale of guidance and every number of steps has occurred."""
        return max(len(self.guidances), len(self.coarse))

    def coarse_steps(self, chunk: int, scheduler: str) -> int:
        """Return the steps of a chunk's coarse runs: another number for each scheduler.

        Args:
            chunk: its number.
            scheduler: a key of `COARSE_SCHEDULERS`.
        """
        return self.coarse[(chunk + 3 * list(COARSE_SCHEDULERS).index(scheduler)) % len(self.coarse)]


@dataclass(frozen=True)
class CoarseSteps:
    """Hand-overs of coarse runs.

    Attributes:
        latents: (M, C, H, W).
        denoised: clean estimates of the last denoiser calls (M, C, H, W).
        alphas: levels abar of `latents` (M,).
        alphas_denoised: levels abar of the last denoiser calls (M,).
        runs: numbers of the precise runs from the same noise (M,).
    """

    latents: Rows
    denoised: Rows
    alphas: Tensor
    alphas_denoised: Tensor
    runs: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class RecordedRuns:
    """Recorded runs. Those of a folder are memory-mapped: an index reads what it names, as a float32 tensor.

    Attributes:
        latents: (n, S + 1, C, H, W), from pure noise to the final latents.
        alphas: levels abar of the S + 1 columns, the last one 1.
        prompt_embeds: token states of the prompts (n, tokens, D).
        coarse: hand-overs of the coarse runs, or None.
    """

    latents: Rows
    alphas: Tensor
    prompt_embeds: Rows
    coarse: CoarseSteps | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def steps(self) -> int:
        """S, the number of steps."""
        return self.latents.shape[1] - 1

    def split(self, every: int) -> tuple["RecordedRuns", "RecordedRuns"]:
        """Split the runs, with their coarse steps.

        Guidance and step counts change from chunk to chunk, so both shares have all of them.

        Args:
            every: at least 2.

        Returns:
            Every `every`-th run, beginning with the first, and the others.
        """
        first = torch.arange(len(self)) % every == 0
        shares = []
        for own in (first, ~first):
            coarse = self.coarse
            if coarse is not None:
                chosen, number = own[coarse.runs], own.cumsum(0) - 1
                coarse = CoarseSteps(
                    select_rows(coarse.latents, chosen),
                    select_rows(coarse.denoised, chosen),
                    coarse.alphas[chosen],
                    coarse.alphas_denoised[chosen],
                    number[coarse.runs][chosen],
                )
            latents, prompt_embeds = (select_rows(rows, own) for rows in (self.latents, self.prompt_embeds))
            shares.append(RecordedRuns(latents, self.alphas, prompt_embeds, coarse))
        return shares[0], shares[1]

    def denoised(self, runs: Tensor, steps: Tensor) -> Tensor:
        """Compute the LDM's clean estimates, guidance included.

        Args:
            runs: numbers of runs (B,).
            steps: numbers of their steps (B,).

        Returns:
            Clean estimates (B, C, H, W).
        """
        latents, following = (self.latents[runs, index] for index in (steps, steps + 1))
        abars = (self.alphas[index].double().view(-1, 1, 1, 1) for index in (steps, steps + 1))
        here, after = ((abar.sqrt(), (1 - abar).sqrt()) for abar in abars)
        return clean_estimate_between(latents.double(), following.double(), here, after).to(latents.dtype)


def compute_levels(scheduler: Any, steps: int) -> Tensor:
    """Compute the noise levels of a run.

    Args:
        scheduler: a diffusers scheduler; its timesteps are set.
        steps: S.

    Returns:
        abar at each step, then 1 (S + 1,).
    """
    scheduler.set_timesteps(steps)
    return torch.tensor([to_variance_preserving(*coefficients(scheduler, index))[0] for index in range(steps + 1)])


def record_runs(
    ldm: LDM, prompts: Sequence[str], folder: Path, count: int, recording: RecordingSettings,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record the runs that are missing: this process's share of them, see `record_chunks`.

    Args:
        ldm: the LDM.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record.
        recording: settings.
        precision: in which the U-Net computes.

    Raises:
        RunError: the folder holds recordings with other settings, or of another LDM or other prompts.
    """

    def make(chunk: Chunk) -> dict[str, Tensor]:
        def run(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
            return record_run(ldm, scheduler, chunk.prompts, chunk.noise, steps, chunk.guidance, precision)

        tensors = {"latents": run(DDIMScheduler.from_config(ldm.scheduler.config), recording.steps)[0]}
        for name, (kind, settings) in COARSE_SCHEDULERS.items():
            scheduler = kind.from_config(ldm.scheduler.config, **settings)
            latents, denoised = run(scheduler, recording.coarse_steps(chunk.index, name))
            # The first call is at pure noise; after the last step no step is left to bypass.
            tensors |= {f"{name}.latents": latents[:, 2:-1], f"{name}.denoised": denoised[:, 1:-1]}
        return tensors

    record_chunks(
        ldm, prompts, folder, count, recording, FIRST_SEED, make, name="runs", keep_prompts=True, precision=precision
    )


@torch.no_grad()
def record_run(
    ldm: LDM, scheduler: Any, prompts: Conditioning, noise: Tensor, steps: int, guidance: float,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the sampler as the pipeline does, and return what happens at each step.

    Args:
        ldm: the LDM.
        scheduler: a diffusers scheduler; its timesteps are set.
        prompts: n prompts, encoded.
        noise: (n, C, H, W).
        steps: s.
        guidance: scale of classifier-free guidance; at most 1: none.
        precision: in which the U-Net computes.

    Returns:
        Latents (n, s + 1, C, H, W), `noise` first, and the clean estimates (n, s, C, H, W); float32 on the CPU.
    """
    scheduler.set_timesteps(steps, device=ldm.device)
    latents = noise.to(ldm.device) * scheduler.init_noise_sigma
    path, estimates = [noise], []
    for index, timestep in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(latents, timestep)
        predicted = ldm.predict(inputs, timestep, prompts, guidance, precision)
        estimates.append(clean_estimate(scheduler, index, predicted, latents).cpu())
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        path.append(latents.float().cpu())
    return torch.stack(path, dim=1), torch.stack(estimates, dim=1)


def load_recorded_runs(folder: Path, scheduler: DDIMScheduler, count: int | None = None) -> RecordedRuns:
    """Map recorded runs into memory.

    Args:
        folder: of the chunk files.
        scheduler: of the LDM.
        count: runs to read, their chunks whole; None (default): all.

    Returns:
        The runs, in order.

    Raises:
        RunError: the folder holds fewer, or none.
    """

    @cache
    def find_levels(name: str, steps: int) -> Tensor:
        kind, settings = COARSE_SCHEDULERS[name]
        return compute_levels(kind.from_config(scheduler.config, **settings), steps)

    manifest, chunks = open_chunks(folder, count)
    runs = torch.arange(len(chunks) * manifest["chunk"])
    parts: dict[str, list[Tensor]] = {"latents": [], "denoised": []}
    levels: list[tuple[Tensor, Tensor, Tensor]] = []
    for numbers, chunk in zip(runs.split(manifest["chunk"]), chunks, strict=True):
        for name in COARSE_SCHEDULERS:
            for key, of_chunks in parts.items():
                of_chunks.append(chunk[f"{name}.{key}"].flatten(0, 1))
            steps = chunk[f"{name}.latents"].shape[1]
            alphas = find_levels(name, steps + 2)
            a_in, a_denoised = (alphas[own].repeat(len(numbers)) for own in (slice(2, -1), slice(1, -2)))
            levels.append((a_in, a_denoised, numbers.repeat_interleave(steps)))
    coarse = CoarseSteps(
        MappedRows(parts["latents"]),
        MappedRows(parts["denoised"]),
        *(torch.cat(column) for column in zip(*levels, strict=True)),
    )
    stored = [chunk[PROMPT_EMBEDS] for chunk in chunks if PROMPT_EMBEDS in chunk]
    return RecordedRuns(
        MappedRows([chunk["latents"] for chunk in chunks]),
        compute_levels(scheduler, manifest["steps"]),
        MappedRows(stored, runs % manifest["num_prompts"]),
        coarse,
    )
