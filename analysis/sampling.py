"""Sampling for measurements: one loop for all, the same noise for a seed whatever the batch."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.callbacks import PipelineCallback
from torch import Tensor
from tqdm import tqdm

from analysis.safety import draw_blocked, find_blocked
from latentcrf import LatentCRFScheduler
from latentcrf.guidance import GuidanceCutoff, cutoff
from latentcrf.inner_schedulers import check_scheduler
from latentcrf.precision import autocast
from latentcrf.utils.files import read_json
from latentcrf.utils.hub import split_revision
from latentcrf.utils.manifest import check_shipped
from latentcrf.utils.weights import MODELS
from latentcrf.vae import upcast_if_needed

STEPS, BYPASS, GUIDANCE = 50, (33, 49), 3.0
PIPELINES = {kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
ENCODED = 32  # prompts; SDXL's take 1.3 MB each
_encoded: WeakKeyDictionary[torch.nn.Module, dict[Any, dict[str, Tensor]]] = WeakKeyDictionary()
SITES = 16 * 32 * 32  # latent sites that are computed at a time, all images of a batch together


def load_pipeline(
    folder: str | Path = MODELS / "emoji-ldm", device: str = "cpu", precision: torch.dtype = torch.float32
) -> StableDiffusionPipeline:
    """Load a pipeline, without progress bars, with a scheduler that LatentCRF can wrap.

    Args:
        folder: of a `StableDiffusionPipeline` or a `StableDiffusionXLPipeline`, default the shipped LDM's; or USER/NAME
            or USER/NAME@REVISION of one on the Hugging Face hub, which is fetched.
        device: default "cpu".
        precision: of the weights but the autoencoder's, which stay in float32: SDXL's overflows in float16; default
            float32.

    Raises:
        FileNotFoundError: `folder` is no pipeline folder, and none could be fetched.
        ValueError: a pipeline of another class, or a scheduler that cannot be replaced.
    """
    if not Path(folder).exists() and len(Path(folder).parts) == 2:
        try:
            name, revision = split_revision(folder)
            folder = DiffusionPipeline.download(name, revision=revision, use_safetensors=True)
        except Exception as error:  # of the HTTP library, which is another one in each version of huggingface_hub
            raise FileNotFoundError(
                f"{folder} is no folder here, and cannot be fetched from the hub: {' '.join(str(error).split())}"
            ) from error
    index = Path(folder, "model_index.json")
    if not index.is_file():
        raise FileNotFoundError(f"{folder} is no pipeline folder: it has no model_index.json.")
    kind = dict(read_json(index)).get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(f"{folder} holds a {kind}; accepted are {' and '.join(PIPELINES)}.")
    check_shipped(folder)
    kinds = precision if precision == torch.float32 else {"vae": torch.float32, "default": precision}
    with warnings.catch_warnings():  # diffusers 0.42 prefers `dtype`, which those before it do not know
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        pipeline = PIPELINES[kind].from_pretrained(
            folder, torch_dtype=kinds, use_safetensors=True, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = choose_scheduler(pipeline.scheduler)
    return pipeline.to(device)


def choose_scheduler(scheduler: Any) -> Any:
    """Choose a pipeline's own scheduler, or DDIM of its configuration where LatentCRF cannot wrap it (PNDM).

    Args:
        scheduler: the pipeline's own.

    Raises:
        ValueError: it cannot be wrapped, and DDIM does not stand for it: its noise levels are of another kind.
    """
    try:
        check_scheduler(scheduler)
    except ValueError:
        if not hasattr(scheduler, "alphas_cumprod"):
            raise
        return build_ddim(scheduler)
    return scheduler


def build_ddim(scheduler: Any) -> DDIMScheduler:
    """Build DDIM from another scheduler's configuration.

    Args:
        scheduler: with `alphas_cumprod`.
    """
    # latents are not pixels: DDIM's default, to clip clean estimates to [-1, 1], is not for them
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def get_device(pipeline: StableDiffusionPipeline) -> torch.device:
    """Return the device on which a pipeline computes, also where its networks wait on the CPU for their turn.

    Args:
        pipeline: the LDM.
    """
    return pipeline._execution_device  # diffusers has no public name for it; `device` says where the weights lie


def get_latent_shape(pipeline: StableDiffusionPipeline) -> tuple[int, int, int]:
    """Return channels, height and width of a pipeline's latents.

    Args:
        pipeline: the LDM.
    """
    side = pipeline.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return pipeline.unet.config.in_channels, height, width


def choose_batch_size(height: int, width: int, most: int = 16) -> int:
    """Choose how many images are computed at a time: 16 of emoji size, 4 of 512 x 512 and 1 of 1024 x 1024 pixels.

    Args:
        height: of the latents.
        width: of the latents.
        most: the largest batch, default 16.
    """
    return max(1, min(most, SITES // (height * width)))


def initial_noise(pipeline: StableDiffusionPipeline, seeds: Sequence[int]) -> Tensor:
    """Draw standard normal latents, one generator a seed: an item's noise depends on no batch and on no device.

    Args:
        pipeline: whose U-Net gives the shape.
        seeds: one an item.

    Returns:
        (B, C, h, w) on the pipeline's device.
    """
    shape = get_latent_shape(pipeline)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(get_device(pipeline))


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
    """Encode prompts and the empty prompt. The last `ENCODED` single prompts of a text encoder are remembered.

    Args:
        pipeline: with tokenizer and text encoder; SDXL's has two of each.
        prompts: B texts.

    Returns:
        Token states (B, tokens, D) as the pipeline's own arguments: `prompt_embeds`, `negative_prompt_embeds`; for SDXL
        also `pooled_prompt_embeds` and `negative_pooled_prompt_embeds` (B, D).
    """
    if len(prompts) != 1:  # a batch is large, and may differ in the last bits from its single prompts
        return _encode(pipeline, prompts)
    known = _encoded.setdefault(pipeline.text_encoder, {})
    key = (prompts[0], get_device(pipeline), pipeline.text_encoder.dtype)
    if key not in known:
        known[key] = _encode(pipeline, prompts)
        if len(known) > ENCODED:
            del known[next(iter(known))]
    return dict(known[key])


def _encode(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> dict[str, Tensor]:
    device = get_device(pipeline)
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        embeds = pipeline.encode_prompt(
            prompt=list(prompts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, embeds, strict=False))


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

    tensor_inputs: list[str] = []

    def __init__(self, begin: float, cutoff: GuidanceCutoff, guidance: float, embeds: dict[str, Tensor]) -> None:
        super().__init__()
        self.begin, self.cutoff, self.guidance, self.embeds = begin, cutoff, guidance, embeds
        self.tensor_inputs = cutoff.tensor_inputs

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Switch guidance on or off for the next denoiser call.

        Args:
            pipeline: the running pipeline.
            step_index: the call that has just been made, from 0.
            timestep: not used.
            tensors: those of `tensor_inputs`.

        Returns:
            The tensors, doubled while the run is guided.

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
            empty: dict[str, Any] = {
                "prompt_embeds": self.embeds["negative_prompt_embeds"],
                "add_text_embeds": self.embeds.get("negative_pooled_prompt_embeds"),
                "add_time_ids": tensors.get("add_time_ids"),  # the same for both
            }
            return {name: torch.cat([empty[name], tensors[name]]) for name in self.tensor_inputs}
        if step_index + 1 == end:
            pipeline._guidance_scale = 1.0
            return {name: tensors[name].chunk(2)[1] for name in self.tensor_inputs}
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
    ends_early = cutoff(guidance_cutoff, pipeline)
    switch: PipelineCallback | None = ends_early if guidance_cutoff else None
    begins_late = guidance_begin > 0 and guidance > 1
    if begins_late:
        switch = GuidanceInterval(guidance_begin, ends_early, guidance, embeds)

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step is not None and on_step(step, tensors["latents"]):
            pipe._interrupt = True  # diffusers documents this attribute for callbacks
        return {} if switch is None else switch(pipe, step, timestep, tensors)

    with use_scheduler(pipeline, scheduler), autocast(get_device(pipeline), precision):
        out = pipeline(
            **embeds,
            latents=noise if isinstance(noise, Tensor) else initial_noise(pipeline, noise),
            num_inference_steps=steps,
            timesteps=timesteps,
            guidance_scale=1.0 if begins_late else guidance,
            output_type="latent",
            callback_on_step_end=on_step_end,
            callback_on_step_end_tensor_inputs=["latents", *ends_early.tensor_inputs],
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


def decode(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Decode latents to images.

    Args:
        pipeline: whose autoencoder decodes.
        latents: (B, C, h, w), scaled as the U-Net sees them.
        batch_size: images at a time; None (default): `choose_batch_size`.
        precision: in which the decoder computes, default float32.

    Returns:
        (B, 3, H, W) in [-1, 1], on the CPU; what the pipeline's safety checker blocks is replaced by a sentence.
    """
    return decode_and_check(pipeline, latents, batch_size, precision)[0]


@torch.inference_mode()
def decode_and_check(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    batch_size: int | None = None,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, list[bool]]:
    """Decode latents to images as `decode`, and say which of them the pipeline's safety checker blocked.

    Args:
        pipeline: as of `decode`.
        latents: as of `decode`.
        batch_size: as of `decode`.
        precision: as of `decode`.

    Returns:
        The images of `decode`, and whether each is blocked (B).
    """
    device, factor, images, blocked = get_device(pipeline), pipeline.vae.config.scaling_factor, [], []
    for part in latents.split(batch_size or choose_batch_size(*latents.shape[-2:])):
        with autocast(device, precision), upcast_if_needed(pipeline.vae, device):
            decoded = pipeline.vae.decode(part / factor).sample
        images.append(decoded.float().clamp(-1, 1))
        blocked += find_blocked(pipeline, images[-1], device)
    found = torch.cat(images).cpu()
    for index, is_blocked in enumerate(blocked):
        if is_blocked:
            found[index] = draw_blocked(*found.shape[-2:])
    return found, blocked


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
    device = get_device(pipeline)
    with autocast(device, precision), upcast_if_needed(pipeline.vae, device):
        latents = [pipeline.vae.encode(batch).latent_dist.mode() for batch in images.split(batch_size)]
    scaled = torch.cat(latents).float() * pipeline.vae.config.scaling_factor
    return decode(pipeline, scaled, batch_size, precision)
