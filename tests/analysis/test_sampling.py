"""Generation for measurements, on a pipeline of tiny random parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from analysis.sampling import (
    cache_deep_features,
    cache_denoiser_calls,
    count_calls,
    decode,
    encode,
    initial_noise,
    load_pipeline,
    run_sampler,
    sample,
    use_scheduler,
)
from latentcrf import LatentCRFScheduler

PROMPTS = ["red apple", "apple", "red", "pizza", ""]


@pytest.fixture
def pipeline(tiny_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    return tiny_pipeline


def test_noise_of_a_seed_does_not_depend_on_its_batch(pipeline: StableDiffusionPipeline) -> None:
    together = initial_noise(pipeline, [7, 8, 9])
    assert together.shape == (3, 4, 8, 8)
    for index, seed in enumerate((7, 8, 9)):
        assert torch.equal(together[index], initial_noise(pipeline, [seed])[0])
    assert not torch.equal(together[0], together[1])


def test_images_do_not_depend_on_the_batch_size(pipeline: StableDiffusionPipeline) -> None:
    seeds = range(5)
    alone = sample(pipeline, PROMPTS, seeds, steps=4, batch_size=1)
    batched = sample(pipeline, PROMPTS, seeds, steps=4, batch_size=3)
    torch.testing.assert_close(alone, batched, rtol=1e-4, atol=1e-4)
    swapped = sample(pipeline, PROMPTS[::-1], seeds, steps=4)
    assert (swapped - alone)[2].abs().max() < 1e-4
    assert (swapped - alone)[0].abs().max() > 1e-3, "the prompt matters"


def test_sample_is_the_pipelines_own_run(pipeline: StableDiffusionPipeline) -> None:
    latents = sample(pipeline, ["red apple"], [3], steps=5, guidance=2.5)
    images = decode(pipeline, latents)
    expected = pipeline(
        "red apple", latents=initial_noise(pipeline, [3]), num_inference_steps=5, guidance_scale=2.5, output_type="pt"
    ).images
    assert images.shape == (1, 3, 16, 16)
    torch.testing.assert_close(images, expected * 2 - 1, rtol=1e-5, atol=1e-5)


def test_bypass_makes_fewer_calls_and_leaves_the_pipeline_as_it_was(pipeline: StableDiffusionPipeline) -> None:
    own = pipeline.scheduler
    bypass = LatentCRFScheduler(own, None, bypass=(6, 9))
    with count_calls(pipeline.unet) as calls:
        sample(pipeline, PROMPTS, range(5), steps=10, scheduler=bypass, batch_size=5)
    assert calls == [10] * 7  # batch of five, with and without prompt
    assert pipeline.scheduler is own
    assert torch.equal(bypass.prompt_embeds, encode(pipeline, PROMPTS)["prompt_embeds"])
    with pytest.raises(KeyError), use_scheduler(pipeline, bypass):
        assert pipeline.scheduler is bypass
        raise KeyError
    assert pipeline.scheduler is own
    with count_calls(pipeline.unet) as calls:
        pass
    sample(pipeline, ["red"], [0], steps=2)
    assert calls == []


def test_a_step_is_reported_and_may_stop_the_run(pipeline: StableDiffusionPipeline) -> None:
    embeds, steps = encode(pipeline, ["red apple", "pizza"]), []

    def on_step(step: int, latents: torch.Tensor) -> bool:
        steps.append((step, latents.clone()))
        return step == 2

    with count_calls(pipeline.unet) as calls:
        stopped = run_sampler(pipeline, embeds, [3, 4], steps=6, on_step=on_step)
    assert [step for step, _ in steps] == [0, 1, 2] and calls == [4] * 3
    assert torch.equal(stopped, steps[-1][1])
    path: list[torch.Tensor] = []
    noise = initial_noise(pipeline, [3, 4])
    final = run_sampler(pipeline, embeds, noise, steps=6, on_step=lambda step, latents: path.append(latents.clone()))
    assert len(path) == 6 and torch.equal(path[2], stopped) and torch.equal(path[-1], final)
    assert torch.equal(run_sampler(pipeline, embeds, [3, 4], steps=6), final)


def test_network_evaluations_of_guided_and_unguided_runs(pipeline: StableDiffusionPipeline) -> None:
    for guidance, evaluations in ((3.0, 8), (1.0, 4)):
        with count_calls(pipeline.unet) as calls:
            sample(pipeline, PROMPTS[:2], [0, 1], steps=4, guidance=guidance)
        assert len(calls) == 4 and sum(calls) / 2 == evaluations


def test_guidance_acts_in_its_range_alone(pipeline: StableDiffusionPipeline) -> None:
    """Outside of it a call is one network evaluation: the work is saved, for each of several prompts."""
    settings: dict[str, Any] = {"steps": 12, "batch_size": 2}
    results, sizes = {}, {}
    for span in ((0, 1), (0, 2 / 3), (0, 0.5), (0.25, 2 / 3)):
        with count_calls(pipeline.unet) as calls:
            results[span] = sample(pipeline, PROMPTS[:2], [0, 1], guidance_range=span, **settings)
        sizes[span] = calls
    assert sizes[0, 1] == [4] * 12
    assert sizes[0, 2 / 3] == [4] * 8 + [2] * 4
    assert sizes[0, 0.5] == [4] * 6 + [2] * 6
    assert sizes[0.25, 2 / 3] == [2] * 3 + [4] * 5 + [2] * 4
    assert len({tuple(each.flatten().tolist()) for each in results.values()}) == 4
    # one image at a time gives the same as both together
    for span, both in results.items():
        single = sample(pipeline, PROMPTS[:2], [0, 1], guidance_range=span, steps=12, batch_size=1)
        assert torch.allclose(single, both, atol=2e-3), span
    # what is unguided is as a run without guidance, from the same latents
    states: dict[str, list[torch.Tensor]] = {"none": [], "late": []}
    embeds = encode(pipeline, PROMPTS[:2])
    for name, how in (("none", {"guidance": 1.0}), ("late", {"guidance_range": (0.5, 1)})):
        run_sampler(
            pipeline, embeds, [0, 1], steps=6, on_step=lambda _, x, name=name: states[name].append(x.clone()), **how
        )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(states["none"][:3], states["late"][:3], strict=True))
    assert not torch.equal(states["none"][3], states["late"][3])


def test_a_range_goes_with_a_bypass_and_with_chosen_timesteps(pipeline: StableDiffusionPipeline) -> None:
    bypass = LatentCRFScheduler(pipeline.scheduler, None, bypass=(6, 9))
    with count_calls(pipeline.unet) as calls:
        sample(pipeline, PROMPTS[:1], [0], steps=10, scheduler=bypass, guidance_range=(0, 0.5))
    assert calls == [2] * 3 + [1] * 4  # half of the seven kept calls, rounded: four
    solver = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    chosen = [999, 700, 400, 100]
    with count_calls(pipeline.unet) as calls:
        spaced = sample(pipeline, PROMPTS[:1], [0], timesteps=chosen, scheduler=solver)
    assert len(calls) == 4 and solver.timesteps.tolist() == chosen
    assert not torch.equal(spaced, sample(pipeline, PROMPTS[:1], [0], steps=4, scheduler=solver))


def test_deep_features_are_reused_and_the_unet_is_as_before(pipeline: StableDiffusionPipeline) -> None:
    expected = sample(pipeline, PROMPTS[:2], [0, 1], steps=9)
    flops, results = {}, {}
    for interval in (1, 3):
        with cache_deep_features(pipeline, interval), FlopCounterMode(display=False) as counter:
            results[interval] = sample(pipeline, PROMPTS[:2], [0, 1], steps=9)
        flops[interval] = counter.get_total_flops()
    assert torch.equal(results[1], expected) and not torch.equal(results[3], expected)
    assert 1 / 3 < flops[3] / flops[1] < 0.7
    assert torch.equal(sample(pipeline, PROMPTS[:2], [0, 1], steps=9), expected)


def test_a_cached_call_is_computed_once_and_answered_alike(pipeline: StableDiffusionPipeline) -> None:
    own, bypass = pipeline.unet, LatentCRFScheduler(pipeline.scheduler, None, bypass=(6, 9))
    settings: dict[str, Any] = {"steps": 10, "batch_size": 5}
    expected = [sample(pipeline, PROMPTS, range(5), scheduler=each, **settings) for each in (None, bypass)]
    with cache_denoiser_calls(pipeline), count_calls(own) as computed, count_calls(pipeline.unet) as requested:
        results = [sample(pipeline, PROMPTS, range(5), scheduler=each, **settings) for each in (None, bypass)]
        # of the bypass's seven calls the six before the bypass are the full run's
        assert (len(requested), len(computed)) == (17, 11)
        with torch.inference_mode():
            call = torch.zeros(1, 4, 8, 8), torch.tensor(1), encode(pipeline, ["red"])["prompt_embeds"]
            for _ in range(2):  # what is not cached is computed each time
                pipeline.unet(*call, cross_attention_kwargs={}, return_dict=False)
        assert len(computed) == 13
        other = sample(pipeline, PROMPTS, range(1, 6), **settings)
    assert pipeline.unet is own
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    assert torch.equal(other, sample(pipeline, PROMPTS, range(1, 6), **settings))


def test_wrong_input_is_named(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one seed a prompt: got 5 prompts and 2 seeds"):
        sample(pipeline, PROMPTS, [0, 1])
    with pytest.raises(FileNotFoundError, match=r"is no pipeline folder: it has no model_index\.json"):
        load_pipeline(tmp_path)


def test_a_saved_pipeline_comes_back_in_float32(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    for part in (again.unet, again.vae, again.text_encoder):
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
    latents = sample(again, ["red apple"], [3], steps=3)
    torch.testing.assert_close(latents, sample(pipeline, ["red apple"], [3], steps=3))
