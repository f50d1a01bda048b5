"""Last latents and what becomes of them: recorded as a scheduler would make them, read back, refused where made otherwise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UniPCMultistepScheduler

from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.training.finals import FIRST_SEED, FinalsRecording, load_finals, record_finals
from latentcrf.training.loop import RunError
from latentcrf.training.train_finisher import remaining_error
from latentcrf.training.trajectories import DPM_SOLVER_2M

RECORDING = FinalsRecording(runs=(("unipc", 4), ("dpm", 5), ("ddim", 4)), guidances=(3.0, 1.0), chunk=2)
PROMPTS = ["red apple", "pizza", "apple"]


@pytest.fixture
def static() -> LatentCRF:
    static = LatentCRF(form="static")
    torch.nn.init.constant_(static.raw_reliability, 1.0)  # a fresh one hardly changes anything
    return static.eval()


def test_finals_are_what_the_pipeline_and_its_finisher_make(
    tiny_pipeline: StableDiffusionPipeline, static: LatentCRF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 6, RECORDING)
    latents, finished = load_finals(tmp_path, 6, RECORDING)
    assert latents.shape == finished.shape == (6, 4, 8, 8)
    own = tiny_pipeline.scheduler
    unipc = UniPCMultistepScheduler.from_config(own.config)
    dpm = DPMSolverMultistepScheduler.from_config(own.config, **DPM_SOLVER_2M)

    def made(
        run: int, inner: Any, steps: int, guidance: float, prompt: str, finisher: LatentCRF | None
    ) -> torch.Tensor:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(FIRST_SEED + run))
        tiny_pipeline.scheduler = LatentCRFScheduler(
            inner,
            bypass=None,
            finisher=finisher,
            finisher_strength=0.4,
            vae=finisher and tiny_pipeline.vae,
            finisher_passes=2,
        )
        how = {"num_inference_steps": steps, "guidance_scale": guidance, "latents": noise, "output_type": "latent"}
        try:
            return tiny_pipeline(prompt, **how).images[0]
        finally:
            tiny_pipeline.scheduler = own

    for run, *how in ((1, unipc, 4, 3.0, "pizza"), (2, dpm, 5, 1.0, "apple"), (3, dpm, 5, 1.0, "red apple")):
        for recorded, finisher in ((latents[run], None), (finished[run], static)):
            error = (made(run, *how, finisher) - recorded).std()
            assert error < 1e-4
            inner, steps, guidance, prompt = how
            assert (made(run, inner, steps, guidance + 1, prompt, finisher) - recorded).std() > 10 * error + 1e-4
            assert (
                made(run, inner, steps, guidance, "pizza pizza pizza", finisher) - recorded
            ).std() > 10 * error + 1e-4
        assert (finished[run] - latents[run]).std() > 0.3


def test_kept_finals_are_neither_made_again_nor_mixed_with_others(
    tiny_pipeline: StableDiffusionPipeline, static: LatentCRF, tmp_path: Path
) -> None:
    record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 2, RECORDING)
    first = (tmp_path / "00000.safetensors").read_bytes()
    record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 4, RECORDING)
    assert (tmp_path / "00000.safetensors").read_bytes() == first
    assert len(load_finals(tmp_path, 3, RECORDING)[0]) == 3
    with pytest.raises(RunError, match="00002.safetensors is missing: .* does not hold 5 runs"):
        load_finals(tmp_path, 5, RECORDING)
    with pytest.raises(RunError, match="was recorded with other settings, prompts or models"):
        record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 4, replace(RECORDING, strength=0.5))
    with pytest.raises(RunError, match="was recorded with other settings, prompts or models"):
        record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 4, replace(RECORDING, passes=1))
    scheduler = tiny_pipeline.scheduler
    tiny_pipeline.scheduler = DDIMScheduler.from_config(scheduler.config, beta_end=0.03)
    with pytest.raises(RunError, match="was recorded with other settings, prompts or models"):
        record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 4, RECORDING)
    tiny_pipeline.scheduler = scheduler
    with torch.no_grad():
        static.log_weight.add_(1)
    with pytest.raises(RunError, match="was recorded with other settings, prompts or models"):
        record_finals(tiny_pipeline, static, PROMPTS, tmp_path, 4, RECORDING)


def test_a_finisher_that_changes_nothing_leaves_all_of_the_error() -> None:
    latents, finished = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    crf = LatentCRF(num_experts=0, pairwise_rank=0, reads_trend=False, corrects_clean=True)  # fresh: u = x
    assert remaining_error(crf, latents, finished, batch_size=2) == pytest.approx(1, abs=1e-3)
