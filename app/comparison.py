"""One comparison: the full LDM and LatentCRF from the same noise, watched step by step, timed alike."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor, nn

from analysis.generate import counted, decode, encode, initial_noise, scheduled
from analysis.measures import lpips, to_images, to_pixels
from app.results import Comparison, Generated, Progress
from app.settings import Settings
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.levels import clean_between, coefficients
from latentcrf.precision import autocast, precision_name

PREVIEW_SECONDS = 0.6  # at least this long from one preview to the next


@dataclass(frozen=True)
class Models:
    """What a comparison needs, on its device: the sampler's networks compute in `precision`; `origin` says what made
    the images (weights, device, precision); `finisher` is the CRF that ends runs; `features` are EfficientNet-Lite0's, for Vendi scores."""

    pipeline: StableDiffusionPipeline
    crf: LatentCRF
    finisher: LatentCRF
    lpips: nn.Module
    features: nn.Module
    precision: torch.dtype
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def precision_name(self) -> str:
        """The precision as exports record it, "bfloat16"."""
        return precision_name(self.precision)

    def origin_of(self, settings: Settings) -> dict[str, str]:
        """`origin` without what `settings` do not use."""
        unused = {"finisher": not settings.finisher, "crf": bool(settings.few_steps)}
        return {key: value for key, value in self.origin.items() if not unused.get(key)}

    def autocast(self) -> torch.autocast:
        """The context in which the sampler computes."""
        return autocast(self.pipeline.device, self.precision)


class Stopwatch:
    """Wall-clock seconds, without those spent in `paused`. Waits for a GPU to finish before it looks at the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._now() - self.began

    @contextmanager
    def paused(self) -> Iterator[None]:
        stopped = self._now()
        try:
            yield
        finally:
            self.began += self._now() - stopped


def compare(
    models: Models, settings: Settings, previews: bool, report: Callable[[Progress | Generated | Comparison], None]
) -> None:
    """Run the full LDM, then LatentCRF, and report each step, each image and at last the comparison."""
    pipeline = models.pipeline
    with torch.inference_mode():
        prompt = encode(pipeline, [settings.prompt])
    noise = initial_noise(pipeline, [settings.seed])
    schedulers = {"full": pipeline.scheduler, "latentcrf": our_scheduler(models, settings)}
    schedulers["latentcrf"].prompt_embeds = prompt["prompt_embeds"]
    results = {}
    for method, scheduler in schedulers.items():
        results[method] = _generate(models, settings, method, scheduler, prompt, noise, previews, report)
        report(results[method])
    crf = schedulers["latentcrf"]
    jump = crf.last_finish if settings.few_steps else crf.last_hand_over
    # what a hand-over gives back is noisy, what the finisher lets go on is the result
    after = jump.latents if settings.few_steps else jump.y
    ours, full = (_as_tensor(results[method].image, pipeline.device) for method in ("latentcrf", "full"))
    distance = lpips(models.lpips, ours, full)
    report(
        Comparison(
            settings,
            **results,
            before=_image(pipeline, jump.observation.denoised),
            after=_image(pipeline, after),
            lpips=float(distance),
            origin=models.origin_of(settings),
            unread=_unread(pipeline, settings.prompt),
        )
    )


def our_scheduler(models: Models, settings: Settings) -> LatentCRFScheduler:
    """LatentCRF's side: the pipeline's own scheduler with the bypass, or a solver of few steps; finished."""
    own = models.pipeline.scheduler
    return LatentCRFScheduler(
        UniPCMultistepScheduler.from_config(own.config) if settings.few_steps else own,
        models.crf,
        bypass=None if settings.few_steps else (settings.bypass_start, settings.bypass_end),
        num_iterations=settings.iterations,
        finisher=models.finisher if settings.finisher else None,
        finisher_strength=settings.finisher,
    )


def _generate(
    models: Models,
    settings: Settings,
    method: str,
    scheduler: Any,
    prompt: dict[str, Tensor],
    noise: Tensor,
    previews: bool,
    report: Callable[[Any], None],
) -> Generated:
    pipeline = models.pipeline
    latents, last_preview = noise, time.monotonic()

    def on_step_end(_: Any, index: int, __: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal latents, last_preview
        with stopwatch.paused():
            preview, total = None, len(scheduler.timesteps)
            if previews and index + 1 < total and time.monotonic() - last_preview > PREVIEW_SECONDS:
                preview = _image(pipeline, _clean(scheduler, index, latents, tensors["latents"]))
                last_preview = time.monotonic()
            latents = tensors["latents"]
            report(Progress(method, index + 1, total, preview))
        return tensors

    with scheduled(pipeline, scheduler), counted(pipeline.unet) as calls, models.autocast():
        stopwatch = Stopwatch(pipeline.device)
        final = pipeline(
            **prompt,
            latents=noise,
            num_inference_steps=settings.few_steps if method == "latentcrf" and settings.few_steps else settings.steps,
            guidance_scale=settings.guidance,
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).images
        seconds = stopwatch.seconds
    return Generated(method, _image(pipeline, final), len(calls), seconds)


def _clean(scheduler: Any, index: int, latents: Tensor, following: Tensor) -> Tensor:
    """x0_hat of step `index`, (B, C, h, w)."""
    here, after = coefficients(scheduler, index), coefficients(scheduler, index + 1)
    return clean_between(latents.float(), following.float(), here, after)


def _image(pipeline: StableDiffusionPipeline, latents: Tensor) -> Image.Image:
    # float32 whatever the sampler ran in: decoding is cheap and bfloat16 has fewer levels than 8 bits
    return Image.fromarray(to_pixels(decode(pipeline, latents.float()))[0])


def _as_tensor(image: Image.Image, device: torch.device) -> Tensor:
    return to_images(np.asarray(image)[None].copy()).to(device)


def _unread(pipeline: StableDiffusionPipeline, prompt: str) -> str:
    """The end of the prompt that the text encoder does not see, as the tokenizer spells it; empty if it sees all."""
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    return tokenizer.decode(tokens[room:]) if len(tokens) > room else ""
