"""The LDM's own runs, recorded once, so that distilling them is cheap.

A chunk file holds a few runs, float32:

latents                 (n, S + 1, C, H, W), from pure noise to the final latents of S DDIM steps. The clean estimates are not
                        stored: two neighbouring latents determine them (`noise_levels.clean_estimate_between`).
SCHEDULER.latents       (n, s - 2, C, H, W), what a coarse run of s steps from the same noise would hand over after its second
                        step, its third, ..., the last but one; SCHEDULER is ddim and dpm.
SCHEDULER.denoised      (n, s - 2, C, H, W), the clean estimates of these steps.
prompt_embeds           (n, tokens, D), the prompts' token states, float16.

A CRF learns to correct the coarse runs' hand-overs towards the final latents of the precise run. The metadata hold the
settings, the precision and a hash of the LDM and the prompts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from latentcrf.noise_levels import clean_estimate, clean_estimate_between, coefficients, to_variance_preserving
from latentcrf.precision import autocast, precision_name
from latentcrf.training.loop import RunError
from latentcrf.utils.content_hash import content_hash
from latentcrf.utils.files import replace_file

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

    latents: Tensor
    denoised: Tensor
    alphas: Tensor
    alphas_denoised: Tensor
    runs: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class RecordedRuns:
    """Recorded runs.

    Attributes:
        latents: (n, S + 1, C, H, W), from pure noise to the final latents.
        alphas: levels abar of the S + 1 columns, the last one 1.
        prompt_embeds: token states of the prompts (n, tokens, D).
        coarse: hand-overs of the coarse runs, or None.
    """

    latents: Tensor
    alphas: Tensor
    prompt_embeds: Tensor
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
                tensors = (coarse.latents, coarse.denoised, coarse.alphas, coarse.alphas_denoised, number[coarse.runs])
                coarse = CoarseSteps(*(tensor[chosen] for tensor in tensors))
            shares.append(RecordedRuns(self.latents[own], self.alphas, self.prompt_embeds[own], coarse))
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


@dataclass(frozen=True)
class Chunk:
    """Runs to record.

    Attributes:
        index: number of the chunk.
        noise: (n, C, H, W).
        prompts: token states (n, tokens, D) of the prompts, and of as many empty ones.
        guidance: scale of classifier-free guidance.
    """

    index: int
    noise: Tensor
    prompts: tuple[Tensor, Tensor]
    guidance: float


@torch.no_grad()
def record_chunks(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], folder: Path, count: int, recording: Any, first_seed: int,
    make: Callable[[Chunk], dict[str, Tensor]], *others: nn.Module, name: str,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Write the chunk files that are missing.

    Args:
        pipeline: the LDM.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record; the last chunk is whole.
        recording: a dataclass of settings with `chunk` and `guidances`; all of it goes into the metadata.
        first_seed: of the noise; each run takes the next one.
        make: a chunk -> its tensors by name.
        others: networks on which the result depends, beside the U-Net and the text encoder.
        name: of the progress bar.
        precision: in which `make` lets the networks compute; goes into the metadata.

    Raises:
        RunError: the folder holds recordings with other settings, or of other models or prompts.
    """
    unet, config = pipeline.unet, pipeline.scheduler.config
    settings = {key: json.dumps(value) for key, value in asdict(recording).items()}
    # "_use_default_values" is a list in no fixed order
    scheduler = {key: value for key, value in config.items() if key != "_use_default_values"}
    source = {"prompts": list(prompts), "scheduler": scheduler}
    settings["ldm"] = content_hash(source, unet, pipeline.text_encoder, *others)
    settings["precision"] = precision_name(precision)
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    for index in tqdm(range(-(-count // recording.chunk)), desc=name, unit="chunk", mininterval=5):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            with safe_open(path, "pt") as file:
                _check_settings(path, file.metadata() or {}, settings, "models" if others else "weights of the LDM")
            continue
        places = range(index * recording.chunk, (index + 1) * recording.chunk)
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(first_seed + i)) for i in places]
        )
        states = pipeline.encode_prompt([prompts[i % len(prompts)] for i in places], pipeline.device, 1, True)
        tensors = make(Chunk(index, noise, states, recording.guidances[index % len(recording.guidances)]))
        with replace_file(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, metadata=settings)


def _check_settings(path: Path, metadata: dict[str, str], settings: dict[str, str], networks: str) -> None:
    # recordings without a precision are older than the choice and were made in bfloat16
    found, folder = {"precision": "bfloat16"} | metadata, path.parent
    if (chunk := found.get("chunk")) != settings["chunk"]:
        raise RunError(f"{folder} holds chunks of {chunk} runs: give --chunk {chunk}, or choose another folder.")
    if (precision := found["precision"]) != settings["precision"]:
        raise RunError(f"{folder} was recorded in {precision}: give --precision {precision}, or choose another folder.")
    if found != settings:
        raise RunError(
            f"{path} was recorded with other settings, prompts or {networks}. Remove {folder}, or choose another folder."
        )


def record_runs(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], folder: Path, count: int, recording: RecordingSettings,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record the runs that are missing.

    Args:
        pipeline: the LDM.
        prompts: of the runs, in turn.
        folder: of the chunk files.
        count: runs to record.
        recording: settings.
        precision: in which the U-Net computes.

    Raises:
        RunError: the folder holds recordings with other settings, or of another LDM or other prompts.
    """
    config = pipeline.scheduler.config

    def make(chunk: Chunk) -> dict[str, Tensor]:
        noise, states, guidance = chunk.noise, chunk.prompts, chunk.guidance
        precise = DDIMScheduler.from_config(config)
        tensors = {
            "latents": record_run(pipeline, precise, states, noise, recording.steps, guidance, precision)[0],
            "prompt_embeds": states[0].half().cpu(),
        }
        for name, (kind, settings) in COARSE_SCHEDULERS.items():
            steps = recording.coarse_steps(chunk.index, name)
            scheduler = kind.from_config(config, **settings)
            latents, denoised = record_run(pipeline, scheduler, states, noise, steps, guidance, precision)
            # The first call is at pure noise; after the last step no step is left to bypass.
            tensors |= {f"{name}.latents": latents[:, 2:-1], f"{name}.denoised": denoised[:, 1:-1]}
        return tensors

    record_chunks(pipeline, prompts, folder, count, recording, FIRST_SEED, make, name="runs", precision=precision)


def guide(both: Tensor, guidance: float) -> Tensor:
    """Apply classifier-free guidance.

    Args:
        both: the U-Net's outputs (2B, C, H, W), those of the empty captions first.
        guidance: the scale.

    Returns:
        The guided output (B, C, H, W).
    """
    without, conditional = both.chunk(2)
    return without + guidance * (conditional - without)


def record_run(
    pipeline: StableDiffusionPipeline,
    scheduler: Any,
    prompts: tuple[Tensor, Tensor],
    noise: Tensor,
    steps: int,
    guidance: float,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Run the sampler as the pipeline does, and return what happens at each step.

    Args:
        pipeline: the LDM.
        scheduler: a diffusers scheduler; its timesteps are set.
        prompts: token states (n, tokens, D) of the prompts, and of as many empty ones.
        noise: (n, C, H, W).
        steps: s.
        guidance: scale of classifier-free guidance; at most 1: none.
        precision: in which the U-Net computes.

    Returns:
        Latents (n, s + 1, C, H, W), `noise` first, and the clean estimates (n, s, C, H, W); float32 on the CPU.
    """
    device = pipeline.device
    scheduler.set_timesteps(steps, device=device)
    latents = noise.to(device) * scheduler.init_noise_sigma
    (states, empty), path, estimates = prompts, [noise], []
    with autocast(device, precision):
        for index, timestep in enumerate(scheduler.timesteps):
            inputs = scheduler.scale_model_input(latents, timestep)
            if guidance > 1:
                both = pipeline.unet(torch.cat([inputs] * 2), timestep, torch.cat([empty, states])).sample
                predicted = guide(both, guidance)
            else:
                predicted = pipeline.unet(inputs, timestep, states).sample
            estimates.append(clean_estimate(scheduler, index, predicted, latents).cpu())
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            path.append(latents.float().cpu())
    return torch.stack(path, dim=1), torch.stack(estimates, dim=1)


def load_recorded_runs(
    folder: Path, scheduler: DDIMScheduler, recording: RecordingSettings, count: int | None = None
) -> RecordedRuns:
    """Read recorded runs.

    Args:
        folder: of the chunk files.
        scheduler: of the LDM.
        recording: settings of the recording.
        count: runs to read, their chunks whole; None (default): all.

    Returns:
        The runs, in order.

    Raises:
        RunError: the folder holds none.
    """
    runs: list[tuple[Tensor, ...]] = []
    steps: list[tuple[Tensor, ...]] = []
    paths = sorted(folder.glob("[0-9]*.safetensors"))  # a file that is being written begins with a dot
    for path in paths if count is None else paths[: -(-count // recording.chunk)]:
        first = sum(len(latents) for latents, _ in runs)
        with safe_open(path, "pt") as file:
            runs.append((file.get_tensor("latents"), file.get_tensor("prompt_embeds").float()))
            for name, (kind, settings) in COARSE_SCHEDULERS.items():
                latents, denoised = (file.get_tensor(f"{name}.{key}") for key in ("latents", "denoised"))
                num_runs, num_steps = latents.shape[:2]
                alphas = compute_levels(kind.from_config(scheduler.config, **settings), num_steps + 2)
                numbers = torch.arange(first, first + num_runs).repeat_interleave(num_steps)
                a_in, a_denoised = alphas[2:-1].repeat(num_runs), alphas[1:-2].repeat(num_runs)
                steps.append((latents.flatten(0, 1), denoised.flatten(0, 1), a_in, a_denoised, numbers))
    if not runs:
        raise RunError(f"{folder} holds no recorded runs.")
    latents, prompt_embeds = (torch.cat(column) for column in zip(*runs, strict=True))
    coarse_steps = CoarseSteps(*(torch.cat(column) for column in zip(*steps, strict=True)))
    return RecordedRuns(latents, compute_levels(scheduler, recording.steps), prompt_embeds, coarse_steps)
