"""The training command lines: killed at any moment they go on; bad options are met with a sentence."""

import copy
import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from latentcrf import LatentCRF, Observation
from latentcrf.emoji import train_unet, train_vae
from latentcrf.emoji.captions import encode_captions
from latentcrf.emoji.latents import redrawn
from latentcrf.emoji.widening import widened
from latentcrf.training import train, train_finisher
from latentcrf.training.loop import RunError
from latentcrf.training.presets import PRESETS
from tests.test_model import stirred

ROOT = Path(__file__).parents[2]
LDM = ROOT / "assets" / "models" / "emoji-ldm"
STATIC = ROOT / "assets" / "models" / "emoji-latentcrf-static"
FINISHER = ["--data", "x", "--base", "x", "--static", "x"]


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", module, "--precision", "float32", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_and_resume(module: str, out: Path, *arguments: object) -> str:
    """Start a long run, kill it (SIGKILL) after its first checkpoint, go on with a budget that is used up."""
    run = start(module, "--out", out, "--minutes", 30, "--checkpoint-seconds", 1, *arguments)
    deadline = time.monotonic() + 240
    while not (out / "checkpoint.pt").exists():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint within four minutes"
        time.sleep(0.2)
    time.sleep(3)  # somewhere in the middle of a step, or of the next checkpoint
    run.send_signal(signal.SIGKILL)
    run.communicate()
    again = start(module, "--out", out, "--minutes", 0.001, "--resume", *arguments)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    return printed


@pytest.mark.slow
def test_the_autoencoder_resumes_after_a_kill(small_data: Path, tmp_path: Path) -> None:
    printed = kill_and_resume("latentcrf.emoji.train_vae", tmp_path / "vae", "--data", small_data)
    assert "resumed" in printed and "at step 0," not in printed
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae" / "vae")
    assert vae.config.scaling_factor == 1.0
    assert list((tmp_path / "vae").glob("sample-*.png")) and (tmp_path / "vae" / "log.csv").exists()


@pytest.mark.parametrize("judge", ["patches", "alexnet"])
@pytest.mark.usefixtures("one_second_steps")
def test_refining_the_decoder_leaves_the_latents_as_they_are(small_data: Path, tmp_path: Path, judge: str) -> None:
    arguments = ["--data", small_data, "--out", tmp_path / "run", "--init-from", LDM / "vae", "--decoder-only"]
    arguments += ["--judge", judge, "--adversarial-weight", 0.1, "--batch-size", 2]
    arguments += ["--ldm", LDM] if judge == "alexnet" else ["--latent-noise", 0.2]
    assert train_vae.main([*map(str, arguments), "--minutes", str(2 / 60), "--adversarial-from", "0"]) == 0
    assert "discriminator" in (tmp_path / "run" / "log.csv").read_text()
    before, after = (AutoencoderKL.from_pretrained(path).state_dict() for path in (LDM / "vae", tmp_path / "run/vae"))
    changed = {name for name, weight in after.items() if not weight.equal(before[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_a_wider_decoder_begins_with_the_same_pictures_and_all_of_it_learns() -> None:
    torch.manual_seed(0)
    vae = train_vae.build_vae().eval()
    wide = widened(vae, 2).eval()
    assert wide.config.block_out_channels == [32, 64, 128, 256] and wide.config.scaling_factor == 1.0
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = wide.encode(images).latent_dist, vae.encode(images).latent_dist
        torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.logvar, theirs.logvar, atol=1e-4, rtol=0)
        latents = theirs.mean
        torch.testing.assert_close(wide.decode(latents).sample, vae.decode(latents).sample, atol=1e-4, rtol=0)
    optimizer = torch.optim.SGD(wide.decoder.parameters(), lr=1e-2)
    before = {name: weight.detach().clone() for name, weight in wide.decoder.named_parameters()}
    for _ in range(2):  # in the first step nobody listens to the new channels yet
        optimizer.zero_grad()
        (wide.decode(latents).sample - images).square().mean().backward()
        optimizer.step()
    unmoved = {name for name, weight in wide.decoder.named_parameters() if (weight == before[name]).all()}
    assert all("to_k.bias" in name for name in unmoved)  # softmax does not feel what all keys have in common
    with pytest.raises(ValueError, match="whole factor of at least 1, not 0"):
        widened(vae, 0)


def test_drift_is_the_distance_of_the_latents_and_leads_back() -> None:
    torch.manual_seed(0)
    start = train_vae.build_vae().eval().requires_grad_(False)
    moved, images = copy.deepcopy(start).requires_grad_(True), torch.rand(2, 3, 64, 64) * 2 - 1

    def now() -> torch.Tensor:
        return train_vae.drift(moved.encode(images).latent_dist.mean, start, images)

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


@pytest.mark.usefixtures("one_second_steps")
def test_an_encoder_that_learns_begins_with_the_same_latents(small_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = train_vae.build_vae().eval()
    wide = widened(vae, 2, encoder_learns=True).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            wide.encode(images).latent_dist.mean, vae.encode(images).latent_dist.mean, atol=1e-5, rtol=0
        )
    silent = widened(vae, 2).encoder.conv_in.weight[16:]
    assert (wide.encoder.conv_in.weight[16:] != 0).all() and (silent == 0).all()  # what leads to the new channels
    arguments = ["--data", small_data, "--init-from", LDM / "vae", "--stay-near", 10, "--learning-rate", 1e-2]
    arguments += ["--out", tmp_path / "run", "--adversarial-from", 1, "--crops-until", 0, "--batch-size", 2]
    assert train_vae.main([*map(str, arguments), "--minutes", str(2 / 60)]) == 0
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["drift"]) > 0  # and what it is: see above
    before, after = (AutoencoderKL.from_pretrained(path).encoder for path in (LDM / "vae", tmp_path / "run/vae"))
    assert not before.conv_in.weight.equal(after.conv_in.weight)


def test_a_crf_that_grows_out_of_a_plain_network_begins_near_its_result(tmp_path: Path) -> None:
    plain = stirred(train.build_crf(PRESETS["emoji-plain-finisher"], 4))
    plain.save_pretrained(tmp_path)
    crf = train.build_crf(PRESETS["emoji-finisher"], 4, init_from=str(tmp_path)).eval()
    fresh = train.build_crf(PRESETS["emoji-finisher"], 4).eval()
    x = torch.randn(2, 4, 16, 16)
    observation = Observation(x, x, 1.0, 1.0)
    with torch.no_grad():
        wanted, found, before = (model(observation, 5) for model in (plain.eval(), crf, fresh))
    assert (found - wanted).std() < 0.2 * (before - wanted).std()
    for name, weight in plain.state_dict().items():
        if name.startswith("network."):
            assert weight.equal(crf.state_dict()[name])
    with pytest.raises(RunError, match="of another kind than the preset's: .*its reads_trend is False, not True"):
        train.build_crf(PRESETS["emoji"], 4, init_from=str(tmp_path))
    with pytest.raises(RunError, match="its form is 'conditional', not 'static'"):
        train.build_crf(PRESETS["emoji-static"], 4, init_from=str(tmp_path))


def test_latents_that_the_ldm_drew_again_are_near_and_the_nearer_the_less_noise() -> None:
    ldm = StableDiffusionPipeline.from_pretrained(LDM, torch_dtype=torch.float32)
    captions = ["red apple", "pizza", "cat", "umbrella"]
    images = [ldm(caption, num_inference_steps=6, output_type="latent").images for caption in captions]
    clean, states = torch.cat(images), encode_captions(ldm, captions).float()
    errors = [(redrawn(ldm, clean, states, latest) - clean).square().mean().item() for latest in (1, 100, 500)]
    assert errors[0] < 0.005 < errors[1] < errors[2] < 0.5 * clean.var().item()
    white = 1 - ldm.scheduler.alphas_cumprod[250].item()  # the noise itself, at the mean of the last one's levels
    assert errors[2] < 0.7 * white


@pytest.mark.slow
def test_the_unet_resumes_after_a_kill(small_data: Path, tmp_path: Path) -> None:
    arguments = ("--data", small_data, "--vae", LDM / "vae", "--init-from", LDM, "--batch-size", 4)
    arguments += ("--min-snr", "inf", "--detail-share", 0.5)
    printed = kill_and_resume("latentcrf.emoji.train_unet", tmp_path / "unet", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "unet" / "ldm")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
def test_the_crf_resumes_after_a_kill(small_data: Path, tmp_path: Path) -> None:
    arguments = ("--base", LDM, "--data", small_data, "--runs", 16, "--stage1-until", 0, "--stage3-from", 0)
    arguments += ("--judge", "alexnet")
    printed = kill_and_resume("latentcrf.training.train", tmp_path / "crf", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    LatentCRF.from_pretrained(tmp_path / "crf" / "latentcrf")


@pytest.mark.slow
def test_the_finisher_resumes_after_a_kill(small_data: Path, tmp_path: Path) -> None:
    arguments = ("--base", LDM, "--static", STATIC, "--data", small_data, "--runs", 32)
    printed = kill_and_resume("latentcrf.training.train_finisher", tmp_path / "run", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    finisher = LatentCRF.from_pretrained(tmp_path / "run" / "finisher")
    assert finisher.corrects_clean
    torch.manual_seed(0)  # what the run began with
    fresh = train.build_crf(PRESETS["emoji-finisher"], 4)
    assert not torch.equal(finisher.network.stem.weight.float(), fresh.network.stem.weight.half().float())
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert "remaining_error" in log[0]


@pytest.mark.slow
def test_the_crf_goes_through_its_three_stages(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--base", LDM, "--data", small_data, "--runs", "16", "--recordings", tmp_path / "runs"]
    stages = ["--minutes", "0.3", "--stage1-until", "0.4", "--stage3-from", "0.6", "--out", tmp_path / "crf"]
    stages += ["--judge", "alexnet"]
    assert train.main([str(word) for word in (*common, *stages)]) == 0
    log = (tmp_path / "crf" / "log.csv").read_text()
    assert all(loss in log for loss in ("denoising", "distillation", "pixels", "features", "images_judged", "few_crf"))
    crf = tmp_path / "crf" / "latentcrf"
    LatentCRF.from_pretrained(crf)
    alone = ["--stage1-until", "0", "--stage3-from", "0", "--minutes", "0.05", "--preset", "emoji-no-adversary"]
    alone += ["--init-from", crf, "--keep-start", "0.25", "--judge", "alexnet", "--out", tmp_path / "alone"]
    assert train.main([str(word) for word in (*common, *alone)]) == 0
    log = (tmp_path / "alone" / "log.csv").read_text()
    assert "features" in log and "images_judged" not in log
    before, after = (
        list(LatentCRF.from_pretrained(path, torch_dtype=torch.float32).parameters())
        for path in (crf, tmp_path / "alone" / "latentcrf")
    )
    state = torch.load(tmp_path / "alone" / "checkpoint.pt", weights_only=True)["parts"]
    average, latest = state["ema"]["average"], list(state["crf"].values())
    assert all(w.equal(a.lerp(b, 0.25).half().float()) for w, a, b in zip(after, average, before, strict=True))
    # training goes on from its own weights
    assert not all(w.half().equal(a.half()) for w, a in zip(latest, after, strict=True))
    short = ["--stage1-until", "0.5", "--minutes", "0.05", "--preset", "emoji-prompt", "--out", tmp_path / "prompt"]
    assert train.main([str(word) for word in (*common, *short)]) == 0
    reading = LatentCRF.from_pretrained(tmp_path / "prompt" / "latentcrf")
    x, prompts = torch.randn(1, 4, 16, 16), torch.randn(2, 1, 5, reading.config.prompt_dim)
    seen = [reading.potentials(Observation(x, x, 0.5, 1.0, prompt)).u for prompt in (*prompts, None)]
    assert not any(a.equal(b) for a, b in zip(seen, seen[1:], strict=False))
    other = ["--out", tmp_path / "plain", "--init-from", crf, "--preset", "emoji-plain"]
    assert train.main([str(word) for word in (*common, *other)]) == 1
    assert "holds a network of another kind than the preset's: its num_experts is 12, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "sentence"),
    [
        (train_vae.main, ["--data", "x", "--minutes", "nan"], "--minutes nan is out of range"),
        (train_vae.main, ["--data", "x", "--minutes", "0"], "above 0, at most 100000"),
        (train_vae.main, ["--data", "x", "--seed", "-1"], "--seed -1 is out of range"),
        (train_vae.main, ["--data", "x", "--crops-until", "2"], "--crops-until 2.0 is out of range: 0 to 1"),
        (train_vae.main, ["--data", "x", "--learning-rate", "nan"], "--learning-rate nan is out of range"),
        (train_vae.main, ["--data", "x", "--checkpoint-seconds", "0"], "--checkpoint-seconds 0.0 is out of range"),
        (train_vae.main, ["--data", "x", "--decoder-only"], "--decoder-only needs --init-from FOLDER"),
        (train_vae.main, ["--data", "x", "--latent-noise", "0.2"], "--latent-noise is for --decoder-only"),
        (train_vae.main, ["--data", "x", "--ldm", "x"], "--ldm is for --decoder-only"),
        (train_vae.main, ["--data", "x", "--widen", "2"], "--widen needs --init-from FOLDER"),
        (train_vae.main, ["--data", "x", "--stay-near", "1"], "--stay-near needs --init-from FOLDER"),
        (train_vae.main, ["--data", "x", "--init-from", "x", "--stay-near", "nan"], "--stay-near nan is out of range"),
        (train_vae.main, ["--data", "x", "--batch-size", "0"], "--batch-size 0 is out of range: 1 to 4096"),
        (train_vae.main, ["--data", "x", "--widen", "0"], "--widen 0 is out of range: 1 to 8"),
        (train_vae.main, ["--data", "x", "--clean-share", "1"], "--clean-share 1.0 is out of range"),
        (
            train_vae.main,
            ["--data", "x", "--clean-share", "0.3"],
            "--clean-share is a share of what --latent-noise spoils",
        ),
        (
            train_vae.main,
            ["--data", "x", "--adversarial-weight", "nan"],
            "--adversarial-weight nan is out of range: 0 to",
        ),
        (
            train_vae.main,
            ["--data", "x", "--init-from", "x", "--decoder-only", "--latent-noise", "-1"],
            "--latent-noise -1.0 is out of range: 0 to 2",
        ),
        (train_unet.main, ["--data", "x", "--vae", "x", "--batch-size", "0"], "--batch-size 0 is out of range"),
        (train_unet.main, ["--data", "x", "--vae", "x", "--min-snr", "nan"], "--min-snr nan is out of range: 1 to inf"),
        (train_unet.main, ["--data", "x", "--vae", "x", "--detail-share", "2"], "--detail-share 2.0 is out of range"),
        (train.main, ["--data", "x", "--base", "x", "--runs", "1"], "--runs 1 is out of range: 16 to"),
        (train.main, ["--data", "x", "--base", "x", "--preset", "emoji-finisher"], "invalid choice: 'emoji-finisher'"),
        (train.main, ["--data", "x", "--base", "x", "--batch-size", "0"], "--batch-size 0 is out of range: 1 to 4096"),
        (train.main, ["--data", "x", "--base", "x", "--chunk", "5000"], "--chunk 5000 is out of range: 10 to 4096"),
        (train.main, ["--data", "x", "--base", "x", "--chunk", "128"], "--chunk 128 is too much for 512 runs"),
        (train_finisher.main, [*FINISHER, "--chunk", "0"], "--chunk 0 is out of range: 10 to 4096"),
        (
            train_vae.main,
            ["--data", "x", "--init-from", "x", "--stay-near", "1", "--adversarial-from", "0"],
            "--stay-near holds an encoder that learns",
        ),
        (train_finisher.main, [*FINISHER, "--learning-rate", "nan"], "--learning-rate nan is out of range"),
        (train_finisher.main, [*FINISHER, "--runs", "31"], "--runs 31 is out of range: 32 to"),
        (train_finisher.main, [*FINISHER, "--passes", "0"], "--passes 0 is out of range: 1 to 10"),
        (train_finisher.main, [*FINISHER, "--preset", "emoji"], "invalid choice: 'emoji'"),
        (train_finisher.main, [*FINISHER, "--minutes", "0"], "above 0, at most 100000"),
        (train.main, ["--data", "x", "--base", "x", "--stage1-until", "-1"], "is out of range: 0 to 1"),
        (train.main, ["--data", "x", "--base", "x", "--judge", "patches"], "invalid choice: 'patches'"),
        (train.main, ["--data", "x", "--base", "x", "--keep-start", "0.5"], "--keep-start needs --init-from FOLDER"),
        (
            train.main,
            ["--data", "x", "--base", "x", "--init-from", "x", "--keep-start", "nan"],
            "--keep-start nan is out of range: 0 to 1",
        ),
        (train.main, ["--data", "x", "--base", "x", "--stage3-from", "2"], "--stage3-from 2.0 is out of range: 0 to 1"),
    ],
)
def test_bad_options_are_named(
    main: object, arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--out", str(tmp_path / "run")])  # type: ignore[operator]
    assert exit_.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = train_vae.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")])
    assert code == 1
    assert "holds no data set. Build it: python -m latentcrf.emoji.dataset" in capsys.readouterr().err
