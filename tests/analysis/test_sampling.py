"""Generation for measurements, on a pipeline of tiny random parts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch.utils.flop_counter import FlopCounterMode

from analysis.sampling import (
    CachedUNet,
    cache_deep_features,
    count_calls,
    decode,
    encode,
    initial_noise,
    load_pipeline,
    run_sampler,
    sample,
    use_scheduler,
    use_unet,
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


def test_unguided_calls_are_one_evaluation_for_each_of_several_prompts(pipeline: StableDiffusionPipeline) -> None:
    settings: dict[str, Any] = {"steps": 12, "batch_size": 2}
    results, sizes = [], []
    how: list[dict[str, float]] = [
        {}, {"guidance_cutoff": 1 / 3}, {"guidance_cutoff": 0.5}, {"guidance_begin": 0.25, "guidance_cutoff": 1 / 3},
    ]  # fmt: skip
    for guidance in how:
        with count_calls(pipeline.unet) as calls:
            results.append(sample(pipeline, PROMPTS[:2], [0, 1], **settings, **guidance))
        sizes.append(calls)
    assert sizes == [[4] * 12, [4] * 8 + [2] * 4, [4] * 6 + [2] * 6, [2] * 3 + [4] * 5 + [2] * 4]
    assert len({tuple(each.flatten().tolist()) for each in results}) == 4
    # one image at a time gives the same as both together
    for guidance, both in zip(how, results, strict=True):
        single = sample(pipeline, PROMPTS[:2], [0, 1], steps=12, batch_size=1, **guidance)
        assert torch.allclose(single, both, atol=2e-3), guidance
    # before its begin the run is one without guidance, and a run without guidance has none to switch
    states: list[list[torch.Tensor]] = []
    embeds = encode(pipeline, PROMPTS[:2])
    for guidance in ({"guidance": 1.0}, {"guidance_begin": 0.5}, {"guidance": 1.0, "guidance_begin": 0.5}):
        seen: list[torch.Tensor] = []
        run_sampler(
            pipeline, embeds, [0, 1], steps=6, on_step=lambda _, x, seen=seen: seen.append(x.clone()), **guidance
        )
        states.append(seen)
    none, late, neither = states
    assert all(torch.equal(a, b) for a, b in zip(none[:3], late[:3], strict=True)) and not torch.equal(none[3], late[3])
    assert torch.equal(none[-1], neither[-1])
    for wrong in ({"guidance_begin": 1.0}, {"guidance_cutoff": 1.0}, {"guidance_begin": 0.5, "guidance_cutoff": 0.6}):
        with pytest.raises(ValueError, match="below 1|would begin at call 3 and end at call 2 of 6"):
            run_sampler(pipeline, embeds, [0, 1], steps=6, **wrong)
    assert torch.equal(sample(pipeline, PROMPTS[:2], [0, 1], **settings), results[0])  # guided again after all that


def test_a_cutoff_goes_with_a_bypass_and_timesteps_can_be_chosen(pipeline: StableDiffusionPipeline) -> None:
    bypass = LatentCRFScheduler(pipeline.scheduler, None, bypass=(6, 9))
    with count_calls(pipeline.unet) as calls:
        sample(pipeline, PROMPTS[:1], [0], steps=10, scheduler=bypass, guidance_cutoff=0.5)
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
    with use_unet(pipeline, CachedUNet(own)), count_calls(own) as computed, count_calls(pipeline.unet) as requested:
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


def test_a_prompt_is_encoded_once(pipeline: StableDiffusionPipeline) -> None:
    with count_calls(pipeline.text_encoder) as calls:
        first = encode(pipeline, ["a prompt of this test alone"])
        first["more"] = first["prompt_embeds"]  # callers may add to what they got
        made = len(calls)
        again = encode(pipeline, ["a prompt of this test alone"])
        assert len(calls) == made and set(again) == {"prompt_embeds", "negative_prompt_embeds"}
        assert torch.equal(again["prompt_embeds"], first["prompt_embeds"])
        encode(pipeline, ["another prompt"])
        assert len(calls) > made


def test_a_pipeline_of_the_hub_is_fetched(
    pipeline: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the function that reaches the hub is replaced."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="nobody/nothing is no folder here, and cannot be fetched from the hub"):
        load_pipeline("nobody/nothing")
    pipeline.save_pretrained(tmp_path)
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    for name in ("somebody/model", "somebody/model@abc123"):
        assert load_pipeline(name).unet.config.sample_size == pipeline.unet.config.sample_size
    assert asked == [
        ("somebody/model", {"revision": None, "use_safetensors": True}),
        ("somebody/model", {"revision": "abc123", "use_safetensors": True}),
    ]
