"""Generation for measurements: the same noise for a seed whatever the batch, latents and images kept apart."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from latentcrf import LatentCRFScheduler
from latentcrf.perceptual import MODELS
from latentcrf.precision import autocast

STEPS, BYPASS, GUIDANCE = 50, (33, 49), 3.0


def load_pipeline(folder: str | Path = MODELS / "emoji-ldm", device: str = "cpu") -> StableDiffusionPipeline:
    """The pipeline of `folder` in float32 on `device`, without progress bars.

    Raises:
        FileNotFoundError: `folder` is no pipeline folder.
    """
    if not Path(folder, "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} is no pipeline folder: it has no model_index.json.")
    with warnings.catch_warnings():  # diffusers 0.42 prefers `dtype`, which those before it do not know
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def initial_noise(pipeline: StableDiffusionPipeline, seeds: Sequence[int]) -> Tensor:
    """Standard normal latents (B, C, h, w), one generator a seed: an item's noise does not depend on its batch."""
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    noise = [torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(pipeline.device)


@contextlib.contextmanager
def scheduled(pipeline: StableDiffusionPipeline, scheduler: Any) -> Iterator[StableDiffusionPipeline]:
    """The pipeline with another scheduler (None: its own) for the duration of the context."""
    own = pipeline.scheduler
    pipeline.scheduler = own if scheduler is None else scheduler
    try:
        yield pipeline
    finally:
        pipeline.scheduler = own


@contextlib.contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """A list with one entry, the batch size, for each call of `module` within the context."""
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    try:
        yield calls
    finally:
        handle.remove()


class RememberedUNet(torch.nn.Module):
    """A U-Net that answers a call it has had before from memory: the same bits without the work.

    Methods that are measured on the same noise share the beginning of their runs, and a finished run shares all of it.
    Give it to nothing whose time counts. Calls with more than latents, timestep and prompt (SDXL's) are made every time.

    Args:
        unet: the U-Net whose answers are kept; called as the pipeline calls it, with `return_dict=False`.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet, self.config = unet, unet.config
        self.answers: dict[bytes, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False, **others: Any
    ) -> tuple[Tensor]:
        if any(value is not None for value in others.values()):
            return self.unet(sample, timestep, encoder_hidden_states, return_dict=False, **others)
        asked = hashlib.sha256()
        for part in (sample, torch.as_tensor(timestep), encoder_hidden_states):
            asked.update(part.float().contiguous().cpu().numpy().tobytes())
        key = asked.digest()
        if key not in self.answers:
            made = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)
            self.answers[key] = made[0]
        return (self.answers[key],)


@contextlib.contextmanager
def remembering(pipeline: StableDiffusionPipeline) -> Iterator[StableDiffusionPipeline]:
    """The pipeline with a `RememberedUNet` for the duration of the context."""
    own = pipeline.unet
    pipeline.unet = RememberedUNet(own)
    try:
        yield pipeline
    finally:
        pipeline.unet = own


def encode(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Prompt and empty-prompt token states, float32, as the pipeline's own arguments."""
    with torch.inference_mode(), torch.autocast(pipeline.device.type, enabled=False):
        embeds, empty = pipeline.encode_prompt(list(prompts), pipeline.device, 1, True)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": empty}


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    scheduler: Any = None,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
    progress: str | None = None,
) -> Tensor:
    """Final latents (B, C, h, w) of each prompt with its seed, by the pipeline's own loop.

    Args:
        scheduler: stands in for the pipeline's own, e.g. a `LatentCRFScheduler`.
        precision: in which the networks compute.
        progress: the progress bar's name; None shows none.

    Raises:
        ValueError: not one seed a prompt.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"one seed a prompt: got {len(prompts)} prompts and {len(seeds)} seeds.")
    latents = []
    bar = tqdm(total=len(prompts), desc=progress, unit="image", disable=progress is None)
    for begin in range(0, len(prompts), batch_size):
        part = slice(begin, begin + batch_size)
        latents.append(
            sample_encoded(
                pipeline, encode(pipeline, prompts[part]), seeds[part],
                steps=steps, guidance=guidance, scheduler=scheduler, precision=precision,
            )
        )  # fmt: skip
        bar.update(len(latents[-1]))
    bar.close()
    return torch.cat(latents)


def sample_encoded(
    pipeline: StableDiffusionPipeline,
    embeds: dict[str, Tensor],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    scheduler: Any = None,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """`sample` of one batch whose prompts have been through `encode`: U-Net and scheduler, and nothing else."""
    if isinstance(scheduler, LatentCRFScheduler):
        scheduler.prompt_embeds = embeds["prompt_embeds"]
    with scheduled(pipeline, scheduler), autocast(pipeline.device, precision):
        out = pipeline(
            **embeds,
            latents=initial_noise(pipeline, seeds),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        )
    return out.images.float()


@torch.inference_mode()
def decode(
    pipeline: StableDiffusionPipeline, latents: Tensor, batch_size: int = 16, precision: torch.dtype = torch.float32
) -> Tensor:
    """Scaled latents (B, C, h, w) -> images (B, 3, H, W) in [-1, 1], on the CPU."""
    factor = pipeline.vae.config.scaling_factor
    with autocast(pipeline.device, precision):
        parts = [pipeline.vae.decode(part / factor).sample for part in latents.split(batch_size)]
    return torch.cat(parts).float().clamp(-1, 1).cpu()
