"""The LDM as training calls it: exactly as its pipeline does, or refused before anything is computed."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from latentcrf.training.ldm import LDM, load_ldm
from latentcrf.training.loop import RunError
from tests.training import tiny


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", tiny.PIPELINES)
def test_a_run_by_predict_is_the_pipelines_own(
    name: str, prediction_type: str, guidance: float, tmp_path: Path
) -> None:
    tiny.PIPELINES[name](prediction_type, sample_size=[8, 12]).save_pretrained(tmp_path)
    ldm = load_ldm(tmp_path)
    assert type(ldm.pipeline).__name__ == name and type(ldm.scheduler).__name__ == "DDIMScheduler"
    assert ldm.latent_shape == (4, 8, 12) and ldm.image_size == (16, 24)
    prompts, noise = ["red apple", "", "pizza"], torch.randn(3, 4, 8, 12)
    conditioning, latents = ldm.encode_prompts(prompts, batch_size=2), noise
    if name == "StableDiffusionXLPipeline":  # the second text encoder says what the first one does not
        assert conditioning.states.shape == (3, 8, 32) and conditioning.pooled.shape == (3, 12)
        assert not conditioning.states[1].any()  # SDXL puts zeros where there is no prompt
    scheduler = diffusers.DDIMScheduler.from_config(ldm.scheduler.config)
    scheduler.set_timesteps(4)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            predicted = ldm.predict(latents, timestep, conditioning, guidance)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    pooled = {} if conditioning.pooled is None else {"pooled_prompt_embeds": conditioning.pooled}
    own = ldm.pipeline(
        prompt_embeds=conditioning.states, **pooled, **negative(ldm, guidance), latents=noise, num_inference_steps=4,
        guidance_scale=guidance, height=16, width=24, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(latents, own, atol=1e-5, rtol=1e-5)


def negative(ldm: LDM, guidance: float) -> dict[str, Any]:
    """The empty prompt as the pipeline itself encodes it."""
    if guidance <= 1:
        return {}
    encoded = ldm.pipeline.encode_prompt(
        prompt=["a"] * 3, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    names = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, encoded[1::2], strict=False))


def test_a_batch_of_prompts_equals_its_prompts_one_by_one() -> None:
    ldm, prompts = LDM(tiny.build_sdxl()), ["red apple", "", "a prompt of many more words than the eight tokens"]
    batch, singles = ldm.encode_prompts(prompts), [ldm.encode_prompts([prompt]) for prompt in prompts]
    for index, single in enumerate(singles):
        torch.testing.assert_close(batch[index : index + 1].states, single.states)
        torch.testing.assert_close(batch[index : index + 1].pooled, single.pooled)
    half = batch.to(torch.float16)[[0, 2]]
    assert half.states.dtype == half.pooled.dtype == torch.float16 and len(half) == 2


def test_what_cannot_be_trained_on_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match="none cannot be loaded .there is no such folder.; accepted is a folder or a hub"
    ):
        load_ldm(tmp_path / "none")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(RunError, match="is a FluxPipeline; accepted is a folder or a hub id of a StableDiffusionPip"):
        load_ldm(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(RunError, match="cannot be loaded"):
        load_ldm(tmp_path)
    for build, reason in (
        (
            lambda: tiny.build_sd(in_channels=9),
            "reads 9 channels and returns 4, the latents have 4; accepted is a text",
        ),
        (lambda: tiny.build_sd(time_cond_proj_dim=4), "reads the guidance scale"),
        (
            lambda: with_scheduler(diffusers.FlowMatchEulerDiscreteScheduler()),
            "is of class FlowMatchEulerDiscreteScheduler",
        ),
        (lambda: with_scheduler(diffusers.EDMEulerScheduler()), "is of class EDMEulerScheduler, with prediction type"),
        (lambda: with_vae(diffusers.AutoencoderTiny()), "is of class AutoencoderTiny, with 0.0 as shift"),
        (lambda: with_vae(diffusers.AutoencoderKL(shift_factor=0.1)), "is of class AutoencoderKL, with 0.1 as shift"),
        (lambda: diffusers.DDPMPipeline(None, None), "cannot be trained for a DDPMPipeline; accepted are Stable"),
    ):
        with pytest.raises(RunError, match=reason):
            LDM(build())


def with_scheduler(scheduler: Any) -> Any:
    pipeline = tiny.build_sd()
    pipeline.scheduler = scheduler
    return pipeline


def with_vae(vae: Any) -> Any:
    pipeline = tiny.build_sd()
    pipeline.vae = vae
    return pipeline
