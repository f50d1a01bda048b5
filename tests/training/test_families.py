"""Both command lines, from the data to the finished CRF, for every kind of LDM."""

from pathlib import Path

import pytest
import torch

from latentcrf import Finisher, LatentCRF, LatentCRFScheduler
from latentcrf.training import train, train_finisher
from latentcrf.training.ldm import load_ldm
from tests.training import tiny

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    [("StableDiffusionPipeline", "v_prediction"), ("StableDiffusionXLPipeline", "epsilon")],
)
def test_a_crf_and_a_finisher_are_trained_and_used(
    name: str, prediction_type: str, small_data: Path, tmp_path: Path
) -> None:
    tiny.PIPELINES[name](prediction_type, sample_size=[8, 12]).save_pretrained(tmp_path / "ldm")
    common = ["--base", tmp_path / "ldm", "--data", small_data, "--batch-size", 4, "--precision", "float32"]
    stages = ["--runs", 16, "--stage1-until", 0.4, "--stage3-from", 0.8, "--discriminator", "alexnet"]
    crf = ["--preset", "emoji-prompt", "--max-steps", 5, "--gradient-accumulation", 2, "--out", tmp_path / "crf"]
    assert train.main([str(word) for word in (*common, *stages, *crf)]) == 0
    log = (tmp_path / "crf" / "log.csv").read_text()
    assert all(loss in log for loss in ("denoising", "distillation", "pixels", "mse_zero_parameter"))
    assert "nan" not in log and log.splitlines()[-1].split(",")[2] == str(2 * (2 * 4 + 2 * 4 + 2))  # images

    static = ["--preset", "emoji-static", "--runs", 16, "--max-steps", 2, "--stage1-until", 0]
    shared = ["--recordings", tmp_path / "crf" / "runs", "--out", tmp_path / "static"]
    assert train.main([str(word) for word in (*common, *static, *shared)]) == 0
    finisher = ["--static", tmp_path / "static" / "latentcrf", "--runs", 32, "--max-steps", 2, "--out", tmp_path / "f"]
    assert train_finisher.main([str(word) for word in (*common, *finisher)]) == 0

    ldm = load_ldm(tmp_path / "ldm")
    bypass = LatentCRF.from_pretrained(tmp_path / "crf" / "latentcrf", torch_dtype=torch.float32)
    last = LatentCRF.from_pretrained(tmp_path / "f" / "finisher", torch_dtype=torch.float32)
    states = ldm.encode_prompts(["red shape"]).states
    assert bypass.config.prompt_dim == states.shape[-1]
    scheduler = LatentCRFScheduler(ldm.scheduler, bypass, bypass=(6, 9), finisher=Finisher(last))
    scheduler.prompt_embeds = states
    ldm.pipeline.scheduler = scheduler
    images = ldm.pipeline("red shape", num_inference_steps=10, height=16, width=24, output_type="pt").images
    assert images.shape == (1, 3, 16, 24) and scheduler.num_denoiser_calls == 7
