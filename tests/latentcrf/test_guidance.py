"""The guidance cut-off: real work is saved, for each prompt and image, in Stable Diffusion and in SDXL."""

from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from latentcrf import LatentCRFScheduler
from latentcrf.guidance import cutoff


def build_unet(**options: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )  # fmt: skip


def build_pipeline(kind: str) -> Any:
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4)
    scheduler = DDIMScheduler(clip_sample=False)
    parts: dict[str, Any] = {"vae": vae.eval(), "scheduler": scheduler, "text_encoder": None, "tokenizer": None}
    if kind == "sd":
        parts |= {"safety_checker": None, "feature_extractor": None}
        pipe: Any = StableDiffusionPipeline(unet=build_unet().eval(), **parts, requires_safety_checker=False)
    else:
        unet = build_unet(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32
        )
        pipe = StableDiffusionXLPipeline(unet=unet.eval(), text_encoder_2=None, tokenizer_2=None, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(
    pipe: Any, kind: str, callback: Any, images: int = 1, steps: int = 9, scale: float = 3.0
) -> tuple[Any, list[int]]:
    """The final latents of two prompts, and the batch size of each denoiser call."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 2, 5, 16, generator=generator)
    how = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    if kind == "sdxl":
        pooled = torch.randn(2, 2, 8, generator=generator)
        how |= {"pooled_prompt_embeds": pooled[0], "negative_pooled_prompt_embeds": pooled[1]}
    latents = torch.randn(2 * images, 4, 8, 8, generator=generator)
    sizes: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    try:
        result = pipe(
            **how, latents=latents, num_inference_steps=9, guidance_scale=scale, output_type="latent",
            callback_on_step_end=callback, num_images_per_prompt=images, height=8, width=8,
        ).images  # fmt: skip
    finally:
        handle.remove()
    return result, sizes


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("images", [1, 2])
def test_the_last_part_of_the_run_is_not_guided_and_costs_half(kind: str, images: int) -> None:
    pipe = build_pipeline(kind)
    guided, sizes = run(pipe, kind, None, images)
    assert sizes == [4 * images] * 9
    cut, sizes = run(pipe, kind, cutoff(1 / 3, pipe), images)
    assert sizes == [4 * images] * 6 + [2 * images] * 3
    assert not torch.allclose(cut, guided, atol=1e-3)
    again, sizes = run(pipe, kind, None, images)  # the next run is guided again
    assert torch.equal(again, guided) and sizes == [4 * images] * 9


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_each_prompt_keeps_its_own_condition(kind: str) -> None:
    """From the cut-off on the run is one of guidance 1: the same as two pipelines, one after the other."""
    pipe = build_pipeline(kind)
    path: list[torch.Tensor] = []

    class Watch(type(cutoff(0.5))):  # type: ignore[misc]
        def callback_fn(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            path.append(tensors["latents"].clone())
            return tensors

    watch = Watch(0.0, ["latents"])
    run(pipe, kind, watch)
    first = list(path)
    path.clear()
    run(pipe, kind, watch, scale=1.0)
    cut, _ = run(pipe, kind, cutoff(0.0, pipe))
    assert torch.equal(cut, first[-1])
    half = cutoff(4 / 9, pipe)
    latents, _ = run(pipe, kind, half)
    # by hand: the guided latents after five steps, then four unguided DDIM steps
    expected = first[4]
    pipe.scheduler.set_timesteps(9)
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 2, 5, 16, generator=generator)[0]
    added = {}
    if kind == "sdxl":
        pooled = torch.randn(2, 2, 8, generator=generator)[0]
        added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.tensor([[8, 8, 0, 0, 8, 8]] * 2)}}
    with torch.no_grad():
        for timestep in pipe.scheduler.timesteps[5:]:
            predicted = pipe.unet(expected, timestep, embeds, **added).sample
            expected = pipe.scheduler.step(predicted, timestep, expected).prev_sample
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)


def test_it_counts_the_kept_calls_of_a_bypass() -> None:
    pipe = build_pipeline("sd")
    pipe.scheduler = LatentCRFScheduler(pipe.scheduler, None, bypass=(5, 8))
    _, sizes = run(pipe, "sd", cutoff(0.5))
    assert sizes == [4, 4, 4, 2, 2, 2]


def test_one_call_is_always_guided() -> None:
    _, sizes = run(build_pipeline("sd"), "sd", cutoff(0.99))
    assert sizes == [4] + [2] * 8


def test_a_run_without_guidance_stays_as_it_is() -> None:
    pipe = build_pipeline("sd")
    plain, sizes = run(pipe, "sd", None, scale=1.0)
    cut, cut_sizes = run(pipe, "sd", cutoff(0.5), scale=1.0)
    assert torch.equal(plain, cut) and sizes == cut_sizes == [2] * 9


def test_what_cannot_be_cut_is_refused_with_a_sentence() -> None:
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="accepted are 0 to below 1"):
            cutoff(fraction)
    with pytest.raises(
        ValueError, match=r"StableDiffusionXLPipeline also keeps add_text_embeds .* cutoff\(fraction, pipe\)"
    ):
        run(build_pipeline("sdxl"), "sdxl", cutoff(0.5))
