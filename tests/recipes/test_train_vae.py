"""Training the autoencoder: its options, a killed run, bad options."""

import copy
import csv
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latentcrf.utils.weights import MODELS
from recipes.emoji import train_vae
from tests.training.test_command_lines import assert_refused, kill_and_resume

LDM = MODELS / "emoji-ldm"


@pytest.mark.slow
def test_the_autoencoder_resumes_after_a_kill(small_data: Path, tmp_path: Path) -> None:
    printed = kill_and_resume("recipes.emoji.train_vae", tmp_path / "vae", "--data", small_data, "--batch-size", 2)
    assert "resumed" in printed and "at step 0," not in printed
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae" / "vae")
    assert vae.config.scaling_factor == 1.0
    assert list((tmp_path / "vae").glob("sample-*.png")) and (tmp_path / "vae" / "log.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("discriminator", ["patches", "alexnet"])
@pytest.mark.usefixtures("one_second_steps")
def test_refining_the_decoder_leaves_the_latents_as_they_are(
    small_data: Path, tmp_path: Path, discriminator: str
) -> None:
    arguments = ["--data", small_data, "--out", tmp_path / "run", "--init-from", LDM / "vae", "--decoder-only"]
    arguments += ["--discriminator", discriminator, "--adversarial-weight", 0.1, "--batch-size", 2]
    arguments += ["--ldm", LDM] if discriminator == "alexnet" else ["--latent-noise", 0.2]
    assert train_vae.main([*map(str, arguments), "--minutes", str(2 / 60), "--adversarial-from", "0"]) == 0
    assert "discriminator" in (tmp_path / "run" / "log.csv").read_text()
    before, after = (AutoencoderKL.from_pretrained(path).state_dict() for path in (LDM / "vae", tmp_path / "run/vae"))
    changed = {name for name, weight in after.items() if not weight.equal(before[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_drift_is_the_distance_of_the_latents_and_leads_back() -> None:
    torch.manual_seed(0)
    start = train_vae.build_vae().eval().requires_grad_(False)
    moved, images = copy.deepcopy(start).requires_grad_(True), torch.rand(2, 3, 64, 64) * 2 - 1

    def now() -> torch.Tensor:
        return train_vae.latent_drift(moved.encode(images).latent_dist.mean, start, images)

    assert now() < 1e-10  # with gradients kernels may round differently
    bias = moved.quant_conv.get_parameter("bias")
    with torch.no_grad():
        bias.add_(0.5)
    before = now()
    assert before.item() == pytest.approx(0.25, rel=1e-3)  # all latents moved by a half
    before.backward()
    with torch.no_grad():
        bias -= bias.grad
    assert now() < 0.9 * before


@pytest.mark.slow
@pytest.mark.usefixtures("one_second_steps")
def test_an_encoder_that_learns_is_held_near_its_latents(small_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", small_data, "--init-from", LDM / "vae", "--stay-near", 10, "--learning-rate", 1e-2]
    arguments += ["--out", tmp_path / "run", "--adversarial-from", 1, "--crops-until", 0, "--batch-size", 2]
    assert train_vae.main([*map(str, arguments), "--minutes", str(2 / 60)]) == 0
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["drift"]) > 0
    before, after = (AutoencoderKL.from_pretrained(path).encoder for path in (LDM / "vae", tmp_path / "run/vae"))
    assert not before.conv_in.weight.equal(after.conv_in.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "nan"], "argument --minutes: nan is out of range"),
        (["--minutes", "0"], "above 0, at most 100000"),
        (["--seed", "-1"], "argument --seed: -1 is out of range"),
        (["--crops-until", "2"], "argument --crops-until: 2 is out of range: 0 to 1"),
        (["--learning-rate", "nan"], "argument --learning-rate: nan is out of range"),
        (["--checkpoint-seconds", "0"], "argument --checkpoint-seconds: 0 is out of range"),
        (["--decoder-only"], "--decoder-only needs --init-from FOLDER"),
        (["--latent-noise", "0.2"], "--latent-noise needs --decoder-only"),
        (["--ldm", "x"], "--ldm needs --decoder-only"),
        (["--widen", "2"], "--widen needs --init-from FOLDER"),
        (["--stay-near", "1"], "--stay-near needs --init-from FOLDER"),
        (["--init-from", "x", "--stay-near", "nan"], "argument --stay-near: nan is out of range"),
        (["--batch-size", "0"], "argument --batch-size: 0 is out of range: 1 to 4096"),
        (["--widen", "0"], "argument --widen: 0 is out of range: 1 to 8"),
        (["--clean-share", "1"], "argument --clean-share: 1 is out of range"),
        (["--clean-share", "0.3"], "--clean-share needs --latent-noise"),
        (["--adversarial-weight", "nan"], "argument --adversarial-weight: nan is out of range: 0 to"),
        (
            ["--init-from", "x", "--decoder-only", "--latent-noise", "-1"],
            "argument --latent-noise: -1 is out of range: 0 to 2",
        ),
        (
            ["--init-from", "x", "--stay-near", "1", "--adversarial-from", "0"],
            "--stay-near needs an encoder that learns",
        ),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(train_vae.main, ["--data", "x", *arguments], tmp_path, message, capsys)


def test_a_missing_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = train_vae.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")])
    assert code == 1
    assert "holds no metadata.jsonl. Accepted is an image folder" in capsys.readouterr().err
