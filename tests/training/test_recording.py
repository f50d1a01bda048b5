"""Recorded runs and the targets of distillation."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from analysis.sampling import encode, load_pipeline, use_scheduler
from latentcrf import LatentCRFScheduler
from latentcrf.noise_levels import find_earlier_calls
from latentcrf.observation import hand_over
from latentcrf.training.final_latents import FinalLatentsSettings
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import RunError
from latentcrf.training.losses import distillation_loss, ideal_latents, return_gain
from latentcrf.training.observations import LONGEST_STEP, draw_bypasses, observe_coarse, observe_recorded, observe_run
from latentcrf.training.recording import (
    COARSE_SCHEDULERS,
    FIRST_SEED,
    RecordedRuns,
    RecordingSettings,
    compute_levels,
    load_recorded_runs,
    record_runs,
)
from latentcrf.training.stages import draw_iterations
from latentcrf.training.train import least_relative_error
from recipes.emoji.train_unet import build_scheduler


def ddim_run(scheduler: DDIMScheduler, steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A DDIM run of an arbitrary nonlinear model: latents (1, steps + 1, 4, 6, 6) and the scheduler's own x0_hat."""
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    path, denoised = [x], []
    for t in scheduler.timesteps:
        done = scheduler.step(torch.tanh(x.roll(1, -1)) - 0.3 * x, t, x)
        x = done.prev_sample
        path.append(x)
        denoised.append(done.pred_original_sample)
    return torch.stack(path, 1), denoised


def test_clean_estimates_are_recovered_from_neighbouring_latents() -> None:
    scheduler = build_scheduler()
    path, denoised = ddim_run(scheduler, 50)
    runs = RecordedRuns(path, compute_levels(scheduler, 50), torch.zeros(1, 2, 3))
    for step in range(50):
        found = runs.denoised(torch.tensor([0]), torch.tensor([step]))
        assert torch.allclose(found, denoised[step], atol=2e-4), step


def test_levels_rise_from_pure_noise_to_clean() -> None:
    alphas = compute_levels(build_scheduler(), 50)
    assert len(alphas) == 51 and alphas[0] == pytest.approx(0, abs=1e-6) and alphas[-1] == 1
    assert (alphas.diff() > 0).all()


def test_with_the_ideal_latents_the_ldm_goes_on_as_in_the_full_run() -> None:
    scheduler = build_scheduler()
    path, denoised = ddim_run(scheduler, 50)
    runs = RecordedRuns(path, compute_levels(scheduler, 50), torch.zeros(1, 2, 3))
    for steps in ((32, 33, 49), (9, 10, 30), (19, 20, 50), (44, 45, 46), (30, 40, 50)):
        observation, target = observe_run(runs, torch.tensor([0]), *(torch.tensor([step]) for step in steps))
        if steps[0] + 1 == steps[1]:
            assert torch.allclose(observation.latents, path[:, steps[1]], atol=1e-5)
        at = find_earlier_calls(runs.alphas, *(torch.tensor([each]) for each in (steps[0], steps[1] - steps[0])))
        assert at < steps[0] and observation.alpha_earlier == runs.alphas[at]
        assert torch.allclose(observation.earlier, denoised[at], atol=2e-4)
        y = ideal_latents(observation.latents, target, observation.alpha_in, observation.alpha_out)
        back = hand_over(observation.latents, y, observation.alpha_in, observation.alpha_out)
        assert torch.allclose(back, target, atol=1e-4)
        loss = distillation_loss(y, observation, target)
        assert loss < 1e-6
        worse = distillation_loss(y + 0.1, observation, target)
        assert worse > 100 * loss.clamp(min=1e-9)


def test_return_gain_is_the_derivative_of_the_hand_over() -> None:
    a_in, a_out = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    x = torch.randn(1, 1, 1, 1)
    slope = hand_over(x, torch.ones(1, 1, 1, 1), a_in, a_out) - hand_over(x, torch.zeros(1, 1, 1, 1), a_in, a_out)
    assert slope.item() == pytest.approx(return_gain(a_in, a_out).item(), rel=1e-5)


def test_random_hand_overs_and_iteration_counts_cover_their_ranges() -> None:
    torch.manual_seed(0)
    call, first, last = draw_bypasses(4000, 50)
    assert first.min() == 2 and first.max() == 49
    assert call.min() == 1 and (call < first).all()
    assert set((first - call).tolist()) == set(range(1, LONGEST_STEP + 1))
    assert 0.4 < ((first - call) == 1).float().mean() < 0.7
    assert (first < last).all() and last.max() == 50
    assert {int(x) for x in last} >= set(range(10, 51))
    assert {draw_iterations() for _ in range(500)} == set(range(1, 11))
    call, first, last = draw_bypasses(4000, 50, earliest=15)
    assert call.min() == 15 and first.min() == 16 and (call < first).all() and (first < last).all()


@pytest.mark.slow
def test_coarse_runs_hand_over_towards_where_the_precise_run_arrives(tmp_path: Path) -> None:
    pipeline = load_pipeline()
    ldm, prompts = LDM(pipeline), ["red apple", "rocket", "pizza"]
    recording = RecordingSettings(steps=6, coarse=(5, 4), guidances=(3.0, 1.0), chunk=2)
    record_runs(ldm, prompts, tmp_path, 4, recording)
    record_runs(ldm, prompts, tmp_path, 4, recording)  # is there already
    with pytest.raises(RunError, match="was recorded with other prompts. Remove it, or choose another folder"):
        record_runs(ldm, ["red apple", "rocket"], tmp_path, 4, recording)
    with pytest.raises(RunError, match="was recorded with --precision float32: give it, or choose another folder"):
        record_runs(ldm, prompts, tmp_path, 4, recording, torch.bfloat16)
    runs = load_recorded_runs(tmp_path, pipeline.scheduler)
    assert len(torch.cat(runs.prompt_embeds.parts)) == 3  # each prompt once, though red apple has two runs
    (tmp_path / ".00002.x.safetensors").touch()  # being written by another training
    assert len(load_recorded_runs(tmp_path, pipeline.scheduler, count=1)) == 2  # its whole chunk
    assert len(load_recorded_runs(tmp_path, pipeline.scheduler)) == 4
    # Steps 1, 2, 3 of 5 and 1, 2 of 4: chunk 0 has 5 of DDIM and 4 of DPM-Solver++, chunk 1 the other way round.
    assert len(runs) == 4 and len(runs.coarse) == 2 * (2 * 3 + 2 * 2)
    levels = [
        torch.as_tensor(observe_recorded(runs, 8, earliest)[0].alpha_denoised) for earliest in (1, 3) for _ in range(20)
    ]
    assert torch.cat(levels[:20]).min() < runs.alphas[3] - 1e-4 <= torch.cat(levels[20:]).min()
    every_second, others = runs.split(2)  # one of each chunk
    assert every_second.latents[:].equal(runs.latents[::2]) and others.latents[:].equal(runs.latents[1::2])
    assert every_second.prompt_embeds[:].equal(runs.prompt_embeds[::2])
    for share, own in ((every_second, (0, 2)), (others, (1, 3))):
        assert len(share.coarse) == 10 and sorted(set(share.coarse.runs.tolist())) == [0, 1]
        whole = torch.isin(runs.coarse.runs, torch.tensor(own))
        assert share.coarse.latents[:].equal(runs.coarse.latents[whole])
        assert torch.equal(torch.tensor(own)[share.coarse.runs], runs.coarse.runs[whole])

    # The same as LatentCRFScheduler sees in a run of its own from the same noise.
    observation, target = observe_coarse(runs, torch.arange(len(runs.coarse)))
    states = encode(pipeline, ["red apple", "rocket", "pizza", "red apple"])["prompt_embeds"]
    assert torch.allclose(observation.prompt_embeds, states[runs.coarse.runs], atol=2e-3)  # stored in float16
    assert torch.equal(target, runs.latents[runs.coarse.runs, -1]) and (observation.alpha_out == 1).all()
    assert distillation_loss(target, observation, target) < 1e-6
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(FIRST_SEED))
    assert torch.equal(runs.latents[:1, 0], noise)
    for start, solver, steps in ((0, "ddim", 5), (6, "dpm", 4)):
        kind, settings = COARSE_SCHEDULERS[solver]
        for bypassed in range(2, steps):
            wrapped = LatentCRFScheduler(
                kind.from_config(pipeline.scheduler.config, **settings), None, bypass=(bypassed, steps)
            )
            with use_scheduler(pipeline, wrapped):
                pipeline(
                    "red apple", num_inference_steps=steps, guidance_scale=3.0, latents=noise, output_type="latent"
                )
            seen, index = wrapped.last_bypass.observation, start + bypassed - 2
            assert observation.alpha_in[index].item() == pytest.approx(seen.alpha_in, abs=1e-6)
            assert observation.alpha_denoised[index].item() == pytest.approx(seen.alpha_denoised, abs=1e-6)
            # float32 throughout; another batch size rounds differently
            assert (observation.latents[index] - seen.latents[0]).abs().mean() < 1e-3
            assert (observation.denoised[index] - seen.denoised[0]).abs().mean() < 1e-3
            if bypassed == 2:  # before it there was only pure noise
                assert seen.earlier is None and torch.equal(observation.earlier[index], observation.denoised[index])
                assert observation.alpha_earlier[index] == observation.alpha_denoised[index]
            else:
                assert observation.alpha_earlier[index].item() == pytest.approx(seen.alpha_earlier, abs=1e-6)
                assert (observation.earlier[index] - seen.earlier[0]).abs().mean() < 1e-3


def test_the_recipes_guidance_follows_the_main_scale() -> None:
    """The emoji model's own scale gives the recipe as it is, to the last bit: its recordings stay valid."""
    for kind in (RecordingSettings, FinalLatentsSettings):
        assert kind.choose(3.0, 7) == kind(chunk=7)
        assert set(kind.choose(1.0, 7).guidances) == {1.0}
    assert RecordingSettings.choose(7.5, 7).guidances == pytest.approx((7.5, 1, 7.5, 12.5, 5, 17.5, 10))
    assert min(RecordingSettings.choose(1.2, 7).guidances) == 1


def test_an_empty_folder_of_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no recorded runs"):
        load_recorded_runs(tmp_path, build_scheduler())


def test_the_best_report_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    assert least_relative_error(log) == float("inf")
    rows = [(0.9, 1.0, 0.8, 1.0), (0.5, 1.0, 0.8, 1.0), (1.5, 1.0, 0.6, 1.0)]
    lines = [",".join(map(str, ("", *row))) for row in rows]  # a stage that is over leaves its loss empty
    log.write_text("denoising,mse_crf,mse_zero_parameter,few_crf,few_zero_parameter\n" + "\n".join(lines) + "\n")
    assert least_relative_error(log) == pytest.approx((0.5 + 0.8) / 2)
    log.write_text(log.read_text().replace("0.6", "o.6"))
    with pytest.raises(RunError, match="log.csv, line 4, column few_crf: 'o.6' is no number"):
        least_relative_error(log)
