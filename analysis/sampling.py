"""Sampling for measurements: one loop for all, the same noise for a seed whatever the batch."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import PipelineCallback
from torch import Tensor
from tqdm import tqdm

from latentcrf import LatentCRFScheduler
from latentcrf.guidance import GuidanceCutoff, cutoff
from latentcrf.precision import autocast
from latentcrf.utils.weights import MODELS

STEPS, BYPASS, GUIDANCE = 50, (33, 49), 3.0


def load_pipeline(folder: str | Path = MODELS / "emoji-ldm", device: str = "cpu") -> StableDiffusionPipeline:
    """Load a pipeline in float32, without progress bars.

    Args:
        folder: a pipeline folder, default the shipped LDM's.
        device: default "cpu".

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
    """Draw standard normal latents, one generator a seed: an item's noise does not depend on its batch.

    Args:
        pipeline: whose U-Net gives the shape.
        seeds: one an item.

    Returns:
        (B, C, h, w) on the pipeline's device.
    """
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    noise = [torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(pipeline.device)


@contextlib.contextmanager
def use_scheduler(pipeline: StableDiffusionPipeline, scheduler: Any) -> Iterator[StableDiffusionPipeline]:
    """Give the pipeline another scheduler within the context.

    Args:
        pipeline: gets its own scheduler back at the end.
        scheduler: the other one; None: its own.

    Yields:
        The pipeline.
    """
    own = pipeline.scheduler
    pipeline.scheduler = own if scheduler is None else scheduler
    try:
        yield pipeline
    finally:
        pipeline.scheduler = own


@contextlib.contextmanager
def count_calls(module: torch.nn.Module) -> Iterator[list[int]]:
    """Count the calls of a module within the context.

    Args:
        module: whose first argument is a batch, such as a U-Net.

    Yields:
        A list that grows by the batch size at each call: its length is the number of denoiser calls, its sum over the
        number of images the network evaluations (a guided call counts two).
    """
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    try:
        yield calls
    finally:
        handle.remove()


class CachedUNet(torch.nn.Module):
    """A U-Net that answers a repeated call from memory: the same bits without the work.

    Methods that are measured on the same noise share the beginning of their runs, and a finished run shares all of it.
    Not for runs that are timed. Calls with more than latents, timestep and prompt (SDXL's) are made every time.

    Args:
        unet: called as the pipeline calls it, with `return_dict=False`.
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
        call = hashlib.sha256()
        for part in (sample, torch.as_tensor(timestep), encoder_hidden_states):
            call.update(part.float().contiguous().cpu().numpy().tobytes())
        key = call.digest()
        if key not in self.answers:
            self.answers[key] = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return (self.answers[key],)


@contextlib.contextmanager
def use_unet(pipeline: StableDiffusionPipeline, unet: torch.nn.Module) -> Iterator[StableDiffusionPipeline]:
    """Give the pipeline another U-Net, such as a `CachedUNet`, within the context.

    Args:
        pipeline: gets its own U-Net back at the end.
        unet: the other one.

    Yields:
        The pipeline.
    """
    own = pipeline.unet
    pipeline.unet = unet
    try:
        yield pipeline
    finally:
        pipeline.unet = own


def encode(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Encode prompts and the empty prompt.

    Args:
        pipeline: with tokenizer and text encoder.
        prompts: B texts.

    Returns:
        Token states, float32, as the pipeline's own arguments: `prompt_embeds`, `negative_prompt_embeds`.
    """
    with torch.inference_mode(), torch.autocast(pipeline.device.type, enabled=False):
        embeds, empty = pipeline.encode_prompt(list(prompts), pipeline.device, 1, True)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": empty}


def import_deep_cache() -> Any:
    """Import the class that puts DeepCache into a pipeline.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        from DeepCache import DeepCacheSDHelper
    except ImportError as error:
        raise ValueError(
            "DeepCache is not installed: pip install -r requirements-train.txt -c constraints.txt"
        ) from error
    return DeepCacheSDHelper


@contextlib.contextmanager
def cache_deep_features(pipeline: StableDiffusionPipeline, interval: int) -> Iterator[StableDiffusionPipeline]:
    """Reuse the deep features of the U-Net within the context: DeepCache (arXiv 2312.00858), by its own package.

    Args:
        pipeline: gets its own U-Net's blocks back at the end.
        interval: every so many denoiser calls the whole U-Net is evaluated, the calls between evaluate the outermost
            layers alone; 1: nothing is cached. Not for runs whose guidance begins late or is cut off: the stored
            features have the batch of the call that made them.

    Yields:
        The pipeline.

    Raises:
        ValueError: the package DeepCache is not installed.
    """
    if interval == 1:
        yield pipeline
        return
    helper = import_deep_cache()(pipe=pipeline)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    try:
        helper.enable()
        yield pipeline
    finally:
        helper.disable()


class GuidanceInterval(PipelineCallback):
    """Guidance in the middle of a run only (arXiv 2404.07724): `run_sampler` begins such a run without guidance.

    Args:
        begin: share of the denoiser calls before guidance begins; at least one call is before it.
        cutoff: share of the calls after it ends, as of `latentcrf.guidance.cutoff`.
        guidance: scale in between.
        embeds: as from `encode`.
    """

    tensor_inputs = ["prompt_embeds"]

    def __init__(self, begin: float, cutoff: GuidanceCutoff, guidance: float, embeds: dict[str, Tensor]) -> None:
        super().__init__()
        self.begin, self.cutoff, self.guidance, self.embeds = begin, cutoff, guidance, embeds

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Switch guidance on or off for the next denoiser call.

        Args:
            pipeline: the running pipeline.
            step_index: the call that has just been made, from 0.
            timestep: not used.
            tensors: `prompt_embeds`.

        Returns:
            `prompt_embeds`, doubled while the run is guided.

        Raises:
            ValueError: no call is left between begin and cut-off.
        """
        calls = pipeline.num_timesteps
        first, end = max(1, round(self.begin * calls)), self.cutoff.guided_calls(calls)
        if first >= end:
            raise ValueError(
                f"guidance would begin at call {first} and end at call {end} of {calls}: take more steps, an earlier "
                "begin or a smaller cut-off."
            )
        if step_index + 1 == first:
            pipeline._guidance_scale = self.guidance
            return {"prompt_embeds": torch.cat([self.embeds["negative_prompt_embeds"], self.embeds["prompt_embeds"]])}
        if step_index + 1 == end:
            pipeline._guidance_scale = 1.0
            return {"prompt_embeds": self.embeds["prompt_embeds"]}
        return tensors


def run_sampler(
    pipeline: StableDiffusionPipeline,
    embeds: dict[str, Tensor],
    noise: Tensor | Sequence[int],
    *,
    steps: int = STEPS,
    timesteps: Sequence[int] | None = None,
    guidance: float = GUIDANCE,
    guidance_begin: float = 0.0,
    guidance_cutoff: float = 0.0,
    scheduler: Any = None,
    precision: torch.dtype = torch.float32,
    on_step: Callable[[int, Tensor], bool | None] | None = None,
) -> Tensor:
    """Run the pipeline's own loop on one batch: U-Net and scheduler, and nothing else.

    Args:
        pipeline: the LDM.
        embeds: as from `encode`.
        noise: standard normal latents (B, C, h, w), or one seed an item, as for `initial_noise`.
        steps: of the full run.
        timesteps: of the full run, in place of `steps`; None (default): the scheduler's own choice.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_begin: share of the denoiser calls, the first ones, without guidance, 0 (default) to below 1. Such a
            call is one network evaluation, not two.
        guidance_cutoff: share of the calls, the last ones, without guidance, as of `latentcrf.guidance.cutoff`.
        scheduler: stands in for the pipeline's own, e.g. a `LatentCRFScheduler`, which is given the prompts here.
        precision: in which the networks compute, default float32.
        on_step: called after each denoiser call with its number, from 0, and the latents (B, C, h, w) as the scheduler
            scales them. True: the run stops here.

    Returns:
        The final latents (B, C, h, w), float32; of a stopped run, those at which it stopped.

    Raises:
        ValueError: shares out of their ranges, or that leave no guided call.
    """
    if not 0 <= guidance_begin < 1:
        raise ValueError(f"guidance_begin is {guidance_begin}; accepted are 0 to below 1.")
    if isinstance(scheduler, LatentCRFScheduler):
        scheduler.prompt_embeds = embeds["prompt_embeds"]
    switch: PipelineCallback | None = cutoff(guidance_cutoff) if guidance_cutoff else None
    begins_late = guidance_begin > 0 and guidance > 1
    if begins_late:
        switch = GuidanceInterval(guidance_begin, cutoff(guidance_cutoff), guidance, embeds)

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None and on_step(step, tensors["latents"]):
            pipe._interrupt = True  # diffusers documents this attribute for callbacks
        return {} if switch is None else switch(pipe, step, timestep, tensors)

    with use_scheduler(pipeline, scheduler), autocast(pipeline.device, precision):
        out = pipeline(
            **embeds,
            latents=noise if isinstance(noise, Tensor) else initial_noise(pipeline, noise),
            num_inference_steps=steps,
            timesteps=timesteps,
            guidance_scale=1.0 if begins_late else guidance,
            output_type="latent",
            callback_on_step_end=on_step_end,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
    return out.images.float()


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    batch_size: int = 16,
    progress: str | None = None,
    **settings: Any,
) -> Tensor:
    """Sample the latents of each prompt with its seed, a batch at a time.

    Args:
        pipeline: the LDM.
        prompts: N texts.
        seeds: one a prompt.
        batch_size: images at a time, default 16.
        progress: the progress bar's name; None (default): no bar.
        settings: as of `run_sampler`.

    Returns:
        The final latents (N, C, h, w), float32.

    Raises:
        ValueError: not one seed a prompt.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"one seed a prompt: got {len(prompts)} prompts and {len(seeds)} seeds.")
    latents = []
    with tqdm(total=len(prompts), desc=progress, unit="image", disable=progress is None) as bar:
        for begin in range(0, len(prompts), batch_size):
            batch = slice(begin, begin + batch_size)
            latents.append(run_sampler(pipeline, encode(pipeline, prompts[batch]), seeds[batch], **settings))
            bar.update(len(latents[-1]))
    return torch.cat(latents)


@torch.inference_mode()
def decode(
    pipeline: StableDiffusionPipeline, latents: Tensor, batch_size: int = 16, precision: torch.dtype = torch.float32
) -> Tensor:
    """Decode latents to images.

    Args:
        pipeline: whose autoencoder decodes.
        latents: (B, C, h, w), scaled as the U-Net sees them.
        batch_size: images at a time, default 16.
        precision: in which the decoder computes, default float32.

    Returns:
        (B, 3, H, W) in [-1, 1], on the CPU.
    """
    factor = pipeline.vae.config.scaling_factor
    with autocast(pipeline.device, precision):
        images = [pipeline.vae.decode(part / factor).sample for part in latents.split(batch_size)]
    return torch.cat(images).float().clamp(-1, 1).cpu()


@torch.inference_mode()
def reconstruct(pipeline: StableDiffusionPipeline, images: Tensor, batch_size: int, precision: torch.dtype) -> Tensor:
    """Encode and decode images.

    Args:
        pipeline: whose autoencoder is used.
        images: (N, 3, H, W) in [-1, 1].
        batch_size: images at a time.
        precision: in which the autoencoder computes.

    Returns:
        (N, 3, H, W).
    """
    with autocast(pipeline.device, precision):
        latents = [pipeline.vae.encode(batch).latent_dist.mode() for batch in images.split(batch_size)]
    scaled = torch.cat(latents).float() * pipeline.vae.config.scaling_factor
    return decode(pipeline, scaled, batch_size, precision)
