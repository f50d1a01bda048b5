"""The LDM's own trajectories, recorded once, so that distilling them is cheap.

A chunk file holds a few runs, float32: `latents` (n, S + 1, C, H, W) from pure noise to the final latents, whose clean
estimates are not stored, as two neighbouring latents of a DDIM run determine them (`levels.clean_between`). What runs from
the same noise with few steps would hand over, SOLVER being ddim and dpm: `SOLVER.latents` and `SOLVER.denoised`
(n, s - 2, C, H, W), after their second step, their third, ..., the last but one; it is mended towards where the precise
run arrives. And the prompts' token states, `prompt_embeds` (n, tokens, D), float16. The metadata say how all of it was made.
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

from latentcrf.digest import digest
from latentcrf.files import replacing
from latentcrf.levels import clean_between, clean_estimate, coefficients, level
from latentcrf.precision import autocast, precision_name
from latentcrf.training.loop import RunError

FIRST_SEED = 1_000_000  # far from the small seeds that measurements use
DPM_SOLVER_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2}
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {  # of the coarse runs; the precise ones are DDIM's
    "ddim": (DDIMScheduler, {}),
    "dpm": (DPMSolverMultistepScheduler, DPM_SOLVER_2M),
}


@dataclass(frozen=True)
class Recording:
    """How trajectories are made: DDIM steps, those of the coarse runs and guidance scales (in turn), runs a chunk."""

    steps: int = 50
    coarse: tuple[int, ...] = (4, 5, 6, 8, 10, 12)
    guidances: tuple[float, ...] = (3.0, 1.0, 3.0, 5.0, 2.0, 7.0, 4.0)
    chunk: int = 16

    def coarse_steps(self, chunk: int, solver: str) -> int:
        """Steps of the coarse runs of a chunk: another number for each solver."""
        return self.coarse[(chunk + 3 * list(SOLVERS).index(solver)) % len(self.coarse)]


@dataclass(frozen=True)
class CoarseSteps:
    """What coarse runs hand over, (M, ...): `latents` at level `alphas` and `denoised`, the estimate of the U-Net's last
    call, at level `alphas_denoised` (M,).

    `runs` (M,) are the numbers of the precise runs from the same noise.
    """

    latents: Tensor
    denoised: Tensor
    alphas: Tensor
    alphas_denoised: Tensor
    runs: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Trajectories:
    """Recorded runs: latents (n, S + 1, C, H, W), the level abar of each of the S + 1 columns, the last one 1, and the
    prompts' token states (n, tokens, D)."""

    latents: Tensor
    alphas: Tensor
    prompt_embeds: Tensor
    coarse: CoarseSteps | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def steps(self) -> int:
        return self.latents.shape[1] - 1

    def split(self, every: int) -> tuple["Trajectories", "Trajectories"]:
        """Every `every`-th run, the first one among them, and the others, coarse steps with them.

        Guidance and step counts change from chunk to chunk: so both parts have all of them.
        """
        first = torch.arange(len(self)) % every == 0
        parts = []
        for own in (first, ~first):
            coarse = self.coarse
            if coarse is not None:
                kept, number = own[coarse.runs], own.cumsum(0) - 1
                tensors = (coarse.latents, coarse.denoised, coarse.alphas, coarse.alphas_denoised, number[coarse.runs])
                coarse = CoarseSteps(*(tensor[kept] for tensor in tensors))
            parts.append(Trajectories(self.latents[own], self.alphas, self.prompt_embeds[own], coarse))
        return parts[0], parts[1]

    def denoised(self, runs: Tensor, steps: Tensor) -> Tensor:
        """The LDM's clean estimate (B, C, H, W) at step `steps` (B,) of runs `runs` (B,), guidance included."""
        latents, following = (self.latents[runs, index] for index in (steps, steps + 1))
        abars = (self.alphas[index].double().view(-1, 1, 1, 1) for index in (steps, steps + 1))
        here, after = ((abar.sqrt(), (1 - abar).sqrt()) for abar in abars)
        return clean_between(latents.double(), following.double(), here, after).to(latents.dtype)


def levels(scheduler: Any, steps: int) -> Tensor:
    """abar at each of `steps` steps of a run, then 1: (steps + 1,)."""
    scheduler.set_timesteps(steps)
    return torch.tensor([level(*coefficients(scheduler, index))[0] for index in range(steps + 1)])


@dataclass(frozen=True)
class Chunk:
    """Runs that have to be recorded: the chunk's number, their noise (n, C, H, W), the prompts' token states (n, tokens, D) and
    as many empty ones, and the guidance."""

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
    """Write what `make` gives for each chunk of `count` runs on `prompts`, in turn, into `folder`; chunks that are there
    already are kept.

    Args:
        recording: a dataclass with `chunk` and `guidances`: runs a chunk, and guidance scales in turn. All of it is kept beside
            the tensors.
        first_seed: of the noise.
        others: networks on which the result depends, beside U-Net and text encoder.
        name: the progress bar's.
        precision: in which `make` lets the networks compute; kept beside the tensors, too.

    Raises:
        RunError: the folder holds recordings made in another way, or of other models or prompts.
    """
    unet, config = pipeline.unet, pipeline.scheduler.config
    settings = {key: json.dumps(value) for key, value in asdict(recording).items()}
    # which settings were left at their defaults is kept as a list in no fixed order
    kept = {key: value for key, value in config.items() if key != "_use_default_values"}
    made_by = {"prompts": list(prompts), "scheduler": kept}
    settings["ldm"] = digest(made_by, unet, pipeline.text_encoder, *others)
    settings["precision"] = precision_name(precision)
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    for index in tqdm(range(-(-count // recording.chunk)), desc=name, unit="chunk", mininterval=5):
        path = folder / f"{index:05d}.safetensors"
        if path.exists():
            with safe_open(path, "pt") as file:
                # recordings without a precision are older than the choice and were made in bfloat16
                found = {"precision": "bfloat16"} | (file.metadata() or {})
                if (chunk := found.get("chunk")) != settings["chunk"]:
                    raise RunError(
                        f"{folder} holds chunks of {chunk} runs: give --chunk {chunk}, or choose another folder."
                    )
                if (recorded_in := found["precision"]) != settings["precision"]:
                    raise RunError(
                        f"{folder} was recorded in {recorded_in}: give --precision {recorded_in}, or choose another folder."
                    )
                if found != settings:
                    raise RunError(
                        f"{path} was recorded with other settings, prompts or {'models' if others else 'weights of the LDM'}. "
                        f"Remove {folder}, or choose another folder."
                    )
            continue
        places = range(index * recording.chunk, (index + 1) * recording.chunk)
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(first_seed + i)) for i in places]
        )
        states = pipeline.encode_prompt([prompts[i % len(prompts)] for i in places], pipeline.device, 1, True)
        recorded = make(Chunk(index, noise, states, recording.guidances[index % len(recording.guidances)]))
        with replacing(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in recorded.items()}, temporary, metadata=settings)


def record(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], folder: Path, count: int, recording: Recording,
    precision: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Record `count` runs on `prompts`, in turn, into `folder`; chunks that are there already are kept.

    Raises:
        RunError: the folder holds recordings made in another way, or of another LDM or other prompts.
    """
    config = pipeline.scheduler.config

    def make(chunk: Chunk) -> dict[str, Tensor]:
        noise, states, guidance = chunk.noise, chunk.prompts, chunk.guidance
        precise = DDIMScheduler.from_config(config)
        recorded = {
            "latents": solve(pipeline, precise, states, noise, recording.steps, guidance, precision)[0],
            "prompt_embeds": states[0].half().cpu(),
        }
        for solver, (kind, how) in SOLVERS.items():
            steps = recording.coarse_steps(chunk.index, solver)
            scheduler = kind.from_config(config, **how)
            path_of, denoised = solve(pipeline, scheduler, states, noise, steps, guidance, precision)
            # The first call is at pure noise; after the last step there is nothing left to bypass.
            recorded |= {f"{solver}.latents": path_of[:, 2:-1], f"{solver}.denoised": denoised[:, 1:-1]}
        return recorded

    record_chunks(
        pipeline, prompts, folder, count, recording, FIRST_SEED, make, name="trajectories", precision=precision
    )


def guided(both: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: the U-Net's outputs (2B, C, H, W) for the empty captions, then the others, to (B, C, H, W)."""
    without, conditional = both.chunk(2)
    return without + guidance * (conditional - without)


def solve(
    pipeline: StableDiffusionPipeline,
    scheduler: Any,
    prompts: tuple[Tensor, Tensor],
    noise: Tensor,
    steps: int,
    guidance: float,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Latents (n, steps + 1, C, H, W) of a run from `noise` (n, C, H, W), itself the first, and the clean estimate of each
    step (n, steps, C, H, W); float32 on the CPU. What the pipeline does, seen from within.

    `prompts`: token states (n, tokens, D) of the prompts and of as many empty ones.
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
                predicted = guided(both, guidance)
            else:
                predicted = pipeline.unet(inputs, timestep, states).sample
            estimates.append(clean_estimate(scheduler, index, predicted, latents).cpu())
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            path.append(latents.float().cpu())
    return torch.stack(path, dim=1), torch.stack(estimates, dim=1)


def load_trajectories(
    folder: Path, scheduler: DDIMScheduler, recording: Recording, count: int | None = None
) -> Trajectories:
    """The chunks of `folder` that hold its first `count` runs (None: all), in order.

    Raises:
        RunError: there are none.
    """
    parts: list[tuple[Tensor, ...]] = []
    steps: list[tuple[Tensor, ...]] = []
    paths = sorted(folder.glob("[0-9]*.safetensors"))  # others are being written
    for path in paths if count is None else paths[: -(-count // recording.chunk)]:
        first = sum(len(latents) for latents, _ in parts)
        with safe_open(path, "pt") as file:
            parts.append((file.get_tensor("latents"), file.get_tensor("prompt_embeds").float()))
            for solver, (kind, how) in SOLVERS.items():
                latents, denoised = (file.get_tensor(f"{solver}.{name}") for name in ("latents", "denoised"))
                count, kept = latents.shape[:2]
                alphas = levels(kind.from_config(scheduler.config, **how), kept + 2)
                runs = torch.arange(first, first + count).repeat_interleave(kept)
                after, at = alphas[2:-1].repeat(count), alphas[1:-2].repeat(count)
                steps.append((latents.flatten(0, 1), denoised.flatten(0, 1), after, at, runs))
    if not parts:
        raise RunError(f"{folder} holds no trajectories.")
    latents, prompt_embeds = (torch.cat(column) for column in zip(*parts, strict=True))
    coarse_steps = CoarseSteps(*(torch.cat(column) for column in zip(*steps, strict=True)))
    return Trajectories(latents, levels(scheduler, recording.steps), prompt_embeds, coarse_steps)
