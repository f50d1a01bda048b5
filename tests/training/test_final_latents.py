"""Final latents and what the teacher makes of them: recorded, read back, refused where the settings differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UniPCMultistepScheduler

from latentcrf import LatentCRF, Observation
from latentcrf.training.final_latents import FIRST_SEED, FinalLatentsSettings, load_final_latents, record_final_latents
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import RunError
from latentcrf.training.recording import DPM_SOLVER_2M
from latentcrf.training.train_finisher import remaining_error

RECORDING = FinalLatentsSettings(runs=(("unipc", 4), ("dpm", 5), ("ddim", 4)), guidances=(3.0, 1.0), chunk=2)
PROMPTS = ["red apple", "pizza", "apple"]


@pytest.fixture
def static() -> LatentCRF:
    static = LatentCRF(form="static")
    torch.nn.init.constant_(static.raw_reliability, 1.0)  # a fresh one hardly changes anything
    return static.eval()


def test_final_latents_are_those_of_the_pipeline_and_of_the_teacher(
    tiny_pipeline: StableDiffusionPipeline, static: LatentCRF, tmp_path: Path
) -> None:
    record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 6, RECORDING)
    latents, finished = (rows[:] for rows in load_final_latents(tmp_path, 6))
    assert latents.shape == finished.shape == (6, 4, 8, 8)
    own = tiny_pipeline.scheduler
    unipc = UniPCMultistepScheduler.from_config(own.config)
    dpm = DPMSolverMultistepScheduler.from_config(own.config, **DPM_SOLVER_2M)

    def sample(run: int, scheduler: Any, steps: int, guidance: float, prompt: str) -> torch.Tensor:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(FIRST_SEED + run))
        tiny_pipeline.scheduler = scheduler
        settings = {"num_inference_steps": steps, "guidance_scale": guidance, "latents": noise}
        try:
            return tiny_pipeline(prompt, output_type="latent", **settings).images
        finally:
            tiny_pipeline.scheduler = own

    def finish(x: torch.Tensor) -> torch.Tensor:
        """Twice: 0.4 of the way to the static form's result, then the round trip."""
        vae, scale = tiny_pipeline.vae, tiny_pipeline.vae.config.scaling_factor
        with torch.no_grad():
            for _ in range(2):
                x = x + 0.4 * (static(Observation(x, x, 1.0, 1.0), 5) - x)
                image = vae.decode(x / scale).sample.clamp(-1, 1)
                x = scale * vae.encode(image).latent_dist.mean
        return x

    for run, *how in ((1, unipc, 4, 3.0, "pizza"), (2, dpm, 5, 1.0, "apple"), (3, dpm, 5, 1.0, "red apple")):
        scheduler, steps, guidance, prompt = how
        same, others = (
            sample(run, *how),
            (
                sample(run, scheduler, steps, guidance + 1, prompt),
                sample(run, scheduler, steps, guidance, "pizza pizza pizza"),
            ),
        )
        for recorded, process in ((latents[run], lambda x: x), (finished[run], finish)):
            error = (process(same)[0] - recorded).std()
            assert error < 1e-4
            assert all((process(other)[0] - recorded).std() > 10 * error + 1e-4 for other in others)
        assert (finished[run] - latents[run]).std() > 0.3


def test_recordings_are_neither_made_again_nor_mixed_with_others(
    tiny_pipeline: StableDiffusionPipeline, static: LatentCRF, tmp_path: Path
) -> None:
    record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 2, RECORDING)
    first = (tmp_path / "00000.safetensors").read_bytes()
    record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 4, RECORDING)
    assert (tmp_path / "00000.safetensors").read_bytes() == first
    assert len(load_final_latents(tmp_path, 3)[0]) == 3
    with pytest.raises(RunError, match="00002.safetensors is missing: .* does not hold 5 runs"):
        load_final_latents(tmp_path, 5)
    with pytest.raises(RunError, match="was recorded with other strength. Remove it"):
        record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 4, replace(RECORDING, strength=0.5))
    with pytest.raises(RunError, match="was recorded with other passes. Remove it"):
        record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 4, replace(RECORDING, passes=1))
    scheduler = tiny_pipeline.scheduler
    tiny_pipeline.scheduler = DDIMScheduler.from_config(scheduler.config, beta_end=0.03)
    with pytest.raises(RunError, match="was recorded with other weights of its models"):
        record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 4, RECORDING)
    tiny_pipeline.scheduler = scheduler
    with torch.no_grad():
        static.log_weight.add_(1)
    with pytest.raises(RunError, match="was recorded with other weights of its models"):
        record_final_latents(LDM(tiny_pipeline), static, PROMPTS, tmp_path, 4, RECORDING)


def test_a_finisher_that_changes_nothing_leaves_all_of_the_error() -> None:
    latents, finished = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    crf = LatentCRF(num_experts=0, pairwise_rank=0, reads_trend=False, corrects_clean=True)  # fresh: u = x
    assert remaining_error(crf, latents, finished, batch_size=2) == pytest.approx(1, abs=1e-3)
