"""Training the U-Net: a killed run, the pipeline that it writes, bad options."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from latentcrf.utils.weights import MODELS
from recipes.emoji import train_unet
from tests.training.test_command_lines import assert_refused, kill_and_resume

LDM = MODELS / "emoji-ldm"


@pytest.mark.slow
def test_the_unet_resumes_after_a_kill(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_unet, "SAMPLE_PROMPTS", train_unet.SAMPLE_PROMPTS[:2])  # images for the reader
    arguments = ("--data", small_data, "--vae", LDM / "vae", "--init-from", LDM, "--batch-size", 4)
    arguments += ("--min-snr", "inf", "--detail-share", 0.5)
    printed = kill_and_resume("recipes.emoji.train_unet", tmp_path / "unet", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "unet" / "ldm")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_written_pipeline_draws_on_a_cpu_without_a_type(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    train_unet.export(tiny_pipeline, tmp_path / "ldm")
    assert next(tiny_pipeline.unet.parameters()).dtype == torch.float32, "the pipeline itself stays as it is"
    assert json.loads((tmp_path / "ldm" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "ldm")
    pipeline.set_progress_bar_config(disable=True)
    for name, network in (("text_encoder", pipeline.text_encoder), ("unet", pipeline.unet)):
        weights = dict(getattr(tiny_pipeline, name).named_parameters())
        assert all(
            w.dtype == torch.float32 and w.equal(weights[k].half().float()) for k, w in network.named_parameters()
        )
    (image,) = pipeline("red apple", num_inference_steps=2).images
    assert image.size == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "argument --batch-size: 0 is out of range"),
        (["--min-snr", "nan"], "argument --min-snr: nan is out of range: 1 to inf"),
        (["--detail-share", "2"], "argument --detail-share: 2 is out of range"),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(train_unet.main, ["--data", "x", "--vae", "x", *arguments], tmp_path, message, capsys)
