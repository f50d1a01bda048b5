"""One comparison: the full run and LatentCRF from the same noise, watched step by step, timed alike."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from analysis.metrics.perceptual import lpips
from analysis.metrics.pixels import to_images, to_pixels
from analysis.sampling import count_calls, decode_and_check, encode, get_device, initial_noise, run_sampler
from app.loaded_models import LoadedModels
from app.results import Comparison, Generated, Progress
from app.settings import Settings
from latentcrf import Finisher, LatentCRFScheduler, VAERoundTrip
from latentcrf.noise_levels import clean_estimate_between, coefficients

PREVIEW_SECONDS = 0.6  # at least this long from one preview to the next


class Stopwatch:
    """Wall-clock seconds, without those spent in `paused`. Waits for a GPU to finish before it reads the clock.

    Args:
        device: whose work is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = self._read_clock()

    def _read_clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the stopwatch was made, without pauses."""
        return self._read_clock() - self.began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the watch within the context.

        Yields:
            None.
        """
        stopped = self._read_clock()
        try:
            yield
        finally:
            self.began += self._read_clock() - stopped


def compare(
    models: LoadedModels,
    settings: Settings,
    previews: bool,
    report: Callable[[Progress | Generated | Comparison], None],
) -> None:
    """Make the full run, then LatentCRF's.

    Args:
        models: what computes.
        settings: of the comparison.
        previews: whether progress comes with previews, one every `PREVIEW_SECONDS` at most.
        report: called with each step, each image and at last the comparison.
    """
    pipeline = models.pipeline
    with torch.inference_mode():
        prompt = encode(pipeline, [settings.prompt])
    noise = initial_noise(pipeline, [settings.seed])
    latentcrf = build_scheduler(models, settings)
    results = {}
    for method, scheduler in {"full": pipeline.scheduler, "latentcrf": latentcrf}.items():
        results[method] = _generate(models, settings, method, scheduler, prompt, noise, previews, report)
        report(results[method])
    finish, bypass = latentcrf.last_finish, latentcrf.last_bypass
    # In a run of few steps, and without a bypass CRF, the finisher's is all of LatentCRF's work.
    if finish is not None and (settings.few_steps or models.crf is None):
        before, after = _decode_image(pipeline, finish.before)[0], results["latentcrf"].image
    else:
        assert bypass is not None
        before, after = (_decode_image(pipeline, each)[0] for each in (bypass.observation.denoised, bypass.y))
    is_blocked = any(result.is_blocked for result in results.values())
    image, reference = (_to_tensor(results[method].image, get_device(pipeline)) for method in ("latentcrf", "full"))
    report(
        Comparison(
            settings,
            **results,
            before=before,
            after=after,
            lpips=None if is_blocked else float(lpips(models.lpips, image, reference)),
            origin=models.select_origin(settings),
            unread=_find_unread(pipeline, settings.prompt),
        )
    )


def build_scheduler(models: LoadedModels, settings: Settings) -> LatentCRFScheduler:
    """Build LatentCRF's scheduler: the pipeline's own with the bypass, or UniPC for few steps.

    Args:
        models: what computes.
        settings: of the comparison.

    Returns:
        The scheduler, with the finisher where the settings have it on.
    """
    own = models.pipeline.scheduler
    finisher: Finisher | VAERoundTrip | None = None
    if settings.finisher:
        crf = models.finisher
        finisher = VAERoundTrip(models.pipeline.vae) if crf is None else Finisher(crf, settings.iterations)
    return LatentCRFScheduler(
        UniPCMultistepScheduler.from_config(own.config) if settings.few_steps else own,
        models.crf,
        bypass=None if settings.few_steps else settings.bypass,
        num_iterations=settings.iterations,
        finisher=finisher,
    )


def _generate(
    models: LoadedModels,
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

    def on_step(index: int, following: Tensor) -> None:
        nonlocal latents, last_preview
        with stopwatch.paused():
            preview, total = None, len(scheduler.timesteps)
            if previews and index + 1 < total and time.monotonic() - last_preview > PREVIEW_SECONDS:
                preview, _ = _decode_image(pipeline, _estimate(scheduler, index, latents, following))
                last_preview = time.monotonic()
            latents = following
            report(Progress(method, index + 1, total, preview))

    with count_calls(pipeline.unet) as batch_sizes:
        stopwatch = Stopwatch(get_device(pipeline))
        final = run_sampler(
            pipeline,
            prompt,
            noise,
            steps=settings.few_steps if method == "latentcrf" and settings.few_steps else settings.steps,
            guidance=settings.guidance,
            guidance_cutoff=settings.guidance_cutoff if method == "latentcrf" else 0.0,
            scheduler=scheduler,
            precision=models.precision,
            on_step=on_step,
        )
        seconds = stopwatch.seconds
    image, is_blocked = _decode_image(pipeline, final)
    return Generated(method, image, len(batch_sizes), sum(batch_sizes), seconds, is_blocked)


def _estimate(scheduler: Any, index: int, latents: Tensor, following: Tensor) -> Tensor:
    """Compute the clean estimate of step `index`, (B, C, h, w)."""
    here, after = coefficients(scheduler, index), coefficients(scheduler, index + 1)
    return clean_estimate_between(latents.float(), following.float(), here, after)


def _decode_image(pipeline: StableDiffusionPipeline, latents: Tensor) -> tuple[Image.Image, bool]:
    """Decode one image; say whether the safety checker blocked it, which the image says then."""
    # float32 whatever the sampler ran in: decoding is cheap and bfloat16 has fewer levels than 8 bits
    images, (is_blocked,) = decode_and_check(pipeline, latents.float())
    return Image.fromarray(to_pixels(images)[0]), is_blocked


def _to_tensor(image: Image.Image, device: torch.device) -> Tensor:
    return to_images(np.asarray(image)[None].copy()).to(device)


def _find_unread(pipeline: StableDiffusionPipeline, prompt: str) -> str:
    """Find the end of the prompt that the text encoder does not see, as the tokenizer spells it; empty if none."""
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    return tokenizer.decode(tokens[room:]) if len(tokens) > room else ""
