"""One comparison: the full run and LatentCRF from the same noise, watched step by step, timed alike."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from analysis.metrics.perceptual import lpips
from analysis.metrics.pixels import to_images, to_pixels
from analysis.sampling import count_calls, decode_and_check, encode, get_device, initial_noise, run_sampler
from analysis.studies.diversity import Sampler, build_latentcrf
from app.call_memory import Memory, hash_call, remember_calls
from app.loaded_models import LoadedModels
from app.previews import draw_preview
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
        self.began = self.read_clock()

    def read_clock(self) -> float:
        """Wait for the device, then read the clock, in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def restart(self) -> None:
        """Begin to measure now."""
        self.began = self.read_clock()

    @property
    def seconds(self) -> float:
        """Seconds since the stopwatch was made or restarted, without pauses."""
        return self.read_clock() - self.began

    def add(self, seconds: float) -> None:
        """Add seconds of work that was done before."""
        self.began -= seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the watch within the context.

        Yields:
            None.
        """
        stopped = self.read_clock()
        try:
            yield
        finally:
            self.began += self.read_clock() - stopped


@dataclass(frozen=True)
class Watch:
    """How a comparison is watched, and what it may reuse.

    Attributes:
        previews: whether progress comes with previews, one every `PREVIEW_SECONDS` at most.
        memory: of the visitor; None: all is computed.
        report: called with each step, each image and each comparison.
    """

    previews: bool
    memory: Memory | None
    report: Callable[[Progress | Generated | Comparison], None]

    def recall(self, key: Hashable, compute: Callable[[], tuple[Any, int]]) -> Any:
        """Look a value up, or compute it and keep it.

        Args:
            key: of the value.
            compute: gives the value and its bytes.
        """
        value = None if self.memory is None else self.memory.get(key)
        if value is None:
            value, num_bytes = compute()
            if self.memory is not None:
                self.memory.put(key, value, num_bytes)
        return value


def compare(
    models: LoadedModels,
    settings: Settings,
    previews: bool,
    visitor: str | None,
    report: Callable[[Progress | Generated | Comparison], None],
) -> None:
    """Make the full run, then LatentCRF's, for each seed.

    Seeds are drawn one by one, not as a batch: so a seed gives the same bits whatever their number.

    Args:
        models: what computes.
        settings: of the comparison.
        previews: as of `Watch`.
        visitor: the session's name: what its last comparisons computed is not computed again, and gets the seconds that
            it took then; None: everything is computed.
        report: called with each step, each image and each seed's comparison.
    """
    watch = Watch(previews, None if visitor is None else models.memories.find(visitor), report)
    for seed in settings.seeds:
        report(_compare_seed(models, replace(settings, seed=seed), watch))


def _compare_seed(models: LoadedModels, settings: Settings, watch: Watch) -> Comparison:
    pipeline = models.pipeline
    with torch.inference_mode():
        prompt = encode(pipeline, [settings.prompt])
    noise = initial_noise(pipeline, [settings.seed])

    def run_full() -> tuple[Generated, int]:
        scheduler: Any = pipeline.scheduler
        if settings.full_finisher:
            scheduler = LatentCRFScheduler(scheduler, bypass=None, finisher=build_finisher(models, settings))
        sampler = Sampler(scheduler, settings.steps, settings.steps)
        full = _generate(models, settings, "full", sampler, prompt, noise, watch)
        return full, _count_bytes(full.image)

    full_run = (settings.prompt, settings.seed, settings.steps, settings.guidance, settings.full_finisher)
    full = watch.recall((*full_run, settings.iterations if settings.full_finisher else None), run_full)
    watch.report(full)
    sampler = build_sampler(models, settings)
    latentcrf = _generate(models, settings, "latentcrf", sampler, prompt, noise, watch)
    watch.report(latentcrf)
    finish, bypass = sampler.scheduler.last_finish, sampler.scheduler.last_bypass
    # In a run of few steps, and without a bypass CRF, the finisher's is all of LatentCRF's work.
    if finish is not None and (settings.few_steps or models.crf is None):
        before, after = _decode_image(pipeline, finish.before, watch)[0], latentcrf.image
    else:
        assert bypass is not None
        before, after = (_decode_image(pipeline, each, watch)[0] for each in (bypass.observation.denoised, bypass.y))
    is_blocked = full.is_blocked or latentcrf.is_blocked
    image, reference = (_to_tensor(each.image, get_device(pipeline)) for each in (latentcrf, full))
    return Comparison(
        settings,
        full=full,
        latentcrf=latentcrf,
        before=before,
        after=after,
        lpips=None if is_blocked else float(lpips(models.lpips, image, reference)),
        origin=models.select_origin(settings),
        unread=_find_unread(pipeline, settings.prompt),
    )


def build_sampler(models: LoadedModels, settings: Settings) -> Sampler:
    """Build LatentCRF's sampler: the pipeline's own with the bypass, or UniPC for few steps.

    Args:
        models: what computes.
        settings: of the comparison.

    Returns:
        The sampler, with the finisher where the settings have it on.
    """
    return build_latentcrf(
        models.pipeline.scheduler,
        models.crf,
        steps=settings.steps,
        bypass=settings.bypass,
        iterations=settings.iterations,
        finisher=build_finisher(models, settings) if settings.finisher else None,
        few_steps=settings.few_steps,
        guidance_cutoff=settings.guidance_cutoff,
    )


def build_finisher(models: LoadedModels, settings: Settings) -> Finisher | VAERoundTrip:
    """Build what corrects final latents: the model's finisher, or a VAE round trip where it has none.

    Args:
        models: what computes.
        settings: of the comparison.
    """
    if models.finisher is None:
        return VAERoundTrip(models.pipeline.vae)
    return Finisher(models.finisher, settings.iterations)


def _generate(
    models: LoadedModels,
    settings: Settings,
    method: str,
    sampler: Sampler,
    prompt: dict[str, Tensor],
    noise: Tensor,
    watch: Watch,
) -> Generated:
    pipeline, scheduler = models.pipeline, sampler.scheduler
    latents, last_preview = noise, time.monotonic()

    def on_step(index: int, following: Tensor) -> None:
        nonlocal latents, last_preview
        with stopwatch.paused():
            preview, total, is_last = None, len(scheduler.timesteps), index + 1 == len(scheduler.timesteps)
            if was_remembered() and not is_last:  # nothing to wait for
                latents = following
                return
            if watch.previews and not is_last and time.monotonic() - last_preview > PREVIEW_SECONDS:
                estimate = _estimate(scheduler, index, latents, following)
                preview = draw_preview(models.preview, estimate, models.model_set.image_size)
                last_preview = time.monotonic()
            latents = following
            watch.report(Progress(method, index + 1, total, preview, settings.seed))

    remembering: Any = nullcontext(lambda: False)
    stopwatch = Stopwatch(get_device(pipeline))
    if watch.memory is not None:
        remembering = remember_calls(pipeline.unet, watch.memory, stopwatch)
    with count_calls(pipeline.unet) as batch_sizes, remembering as was_remembered:
        stopwatch.restart()
        final = run_sampler(
            pipeline,
            prompt,
            noise,
            steps=sampler.steps,
            guidance=settings.guidance,
            guidance_cutoff=sampler.guidance_cutoff,
            scheduler=scheduler,
            precision=models.precision,
            on_step=on_step,
        )
        seconds = stopwatch.seconds
    image, is_blocked = _decode_image(pipeline, final, watch)
    return Generated(method, image, len(batch_sizes), sum(batch_sizes), seconds, is_blocked)


def _estimate(scheduler: Any, index: int, latents: Tensor, following: Tensor) -> Tensor:
    """Compute the clean estimate of step `index`, (B, C, h, w)."""
    here, after = coefficients(scheduler, index), coefficients(scheduler, index + 1)
    return clean_estimate_between(latents.float(), following.float(), here, after)


def _decode_image(pipeline: StableDiffusionPipeline, latents: Tensor, watch: Watch) -> tuple[Image.Image, bool]:
    """Decode one image; say whether the safety checker blocked it, which the image says then."""

    def decode() -> tuple[tuple[Image.Image, bool], int]:
        # float32 whatever the sampler ran in: decoding is cheap and bfloat16 has fewer levels than 8 bits
        images, (is_blocked,) = decode_and_check(pipeline, latents.float())
        image = Image.fromarray(to_pixels(images)[0])
        return (image, is_blocked), _count_bytes(image)

    return watch.recall(("image", hash_call(latents)), decode)


def _count_bytes(image: Image.Image) -> int:
    return 3 * image.width * image.height


def _to_tensor(image: Image.Image, device: torch.device) -> Tensor:
    return to_images(np.asarray(image)[None].copy()).to(device)


def _find_unread(pipeline: StableDiffusionPipeline, prompt: str) -> str:
    """Find the end of the prompt that the text encoder does not see, as the tokenizer spells it; empty if none."""
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    return tokenizer.decode(tokens[room:]) if len(tokens) > room else ""
