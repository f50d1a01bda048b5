"""The training command lines: killed at any moment they go on; bad options are refused by name."""

import contextlib
import importlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from latentcrf import LatentCRF, Observation
from latentcrf.training import train, train_finisher
from latentcrf.training.loop import COMPONENTS, find_checkpoints
from tests.training.tiny import build_sd

ROOT = Path(__file__).parents[2]
LDM = ROOT / "assets" / "models" / "emoji-ldm"
STATIC = ROOT / "assets" / "models" / "emoji-latentcrf-static"
CRF = ["--data", "x", "--base", "x"]
FINISHER = [*CRF, "--static", "x"]


@pytest.fixture(scope="module")
def tiny_ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LDM: latents (4, 16, 16), images of 32 px."""
    folder = tmp_path_factory.mktemp("tiny") / "ldm"
    build_sd("v_prediction", sample_size=16).save_pretrained(folder)
    return folder


def kill_and_resume(module: str, out: Path, *arguments: object) -> str:
    """Start a long run, kill it (SIGKILL) after its first checkpoint, go on with a budget that is used up.

    The killed run is a process of its own. The resumed one runs in this process, which knows nothing of it.

    Returns:
        What the resumed run prints.
    """
    common = ["--precision", "float32", "--out", out, *arguments]
    long = [*common, "--minutes", 30, "--checkpoint-seconds", 1]
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, *map(str, long)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not find_checkpoints(out):
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint within four minutes"
        time.sleep(0.2)
    time.sleep(1)  # somewhere in the middle of a step, or of the next checkpoint
    run.send_signal(signal.SIGKILL)
    run.communicate()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = importlib.import_module(module).main([*map(str, common), "--minutes", "0.001", "--resume"])
    assert status == 0, printed.getvalue()
    return printed.getvalue()


def assert_refused(
    main: Callable[[list[str]], int],
    arguments: list[str],
    folder: Path,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run a command line that ends with a usage error, before it makes the run's folder."""
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--out", str(folder / "run")])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_the_crf_resumes_after_a_kill(small_data: Path, tiny_ldm: Path, tmp_path: Path) -> None:
    arguments = ("--base", tiny_ldm, "--data", small_data, "--runs", 16, "--stage1-until", 0, "--stage3-from", 0)
    arguments += ("--discriminator", "alexnet", "--batch-size", 4)
    printed = kill_and_resume("latentcrf.training.train", tmp_path / "crf", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    LatentCRF.from_pretrained(tmp_path / "crf" / "latentcrf")


@pytest.mark.slow
def test_the_finisher_resumes_after_a_kill(small_data: Path, tiny_ldm: Path, tmp_path: Path) -> None:
    arguments = ("--base", tiny_ldm, "--static", STATIC, "--data", small_data, "--runs", 32, "--batch-size", 4)
    printed = kill_and_resume("latentcrf.training.train_finisher", tmp_path / "run", *arguments)
    assert "resumed" in printed and "at step 0," not in printed
    finisher = LatentCRF.from_pretrained(tmp_path / "run" / "finisher", torch_dtype=torch.float32)
    assert finisher.corrects_clean
    state = torch.load(find_checkpoints(tmp_path / "run")[-1] / COMPONENTS, weights_only=True)
    average, latest = state["ema"]["shadow_params"], list(state["components"]["model"].values())
    assert all(w.equal(a.half().float()) for w, a in zip(finisher.parameters(), average, strict=True))
    assert not all(w.equal(a) for w, a in zip(latest, average, strict=True))  # it was trained
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert "remaining_error" in log[0]


@pytest.mark.slow
@pytest.mark.usefixtures("one_second_steps")
def test_the_crf_goes_through_its_three_stages(
    small_data: Path, tiny_ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--base", tiny_ldm, "--data", small_data, "--runs", "16", "--recordings", tmp_path / "runs"]
    common += ["--batch-size", 4]
    stages = ["--minutes", 10 / 60, "--stage1-until", "0.4", "--stage3-from", "0.6", "--out", tmp_path / "crf"]
    stages += ["--discriminator", "alexnet"]
    assert train.main([str(word) for word in (*common, *stages)]) == 0
    log = (tmp_path / "crf" / "log.csv").read_text()
    assert all(
        loss in log for loss in ("denoising", "distillation", "pixels", "features", "pair_discriminator", "few_crf")
    )
    crf = tmp_path / "crf" / "latentcrf"
    LatentCRF.from_pretrained(crf)
    alone = ["--stage1-until", "0", "--stage3-from", "0", "--minutes", 3 / 60, "--preset", "emoji-no-adversary"]
    alone += ["--init-from", crf, "--keep-start", "0.25", "--discriminator", "alexnet", "--out", tmp_path / "alone"]
    assert train.main([str(word) for word in (*common, *alone)]) == 0
    log = (tmp_path / "alone" / "log.csv").read_text()
    assert "features" in log and "pair_discriminator" not in log
    before, after = (
        list(LatentCRF.from_pretrained(path, torch_dtype=torch.float32).parameters())
        for path in (crf, tmp_path / "alone" / "latentcrf")
    )
    state = torch.load(find_checkpoints(tmp_path / "alone")[-1] / COMPONENTS, weights_only=True)
    average, latest = state["ema"]["shadow_params"], list(state["components"]["model"].values())
    assert all(w.equal(a.lerp(b, 0.25).half().float()) for w, a, b in zip(after, average, before, strict=True))
    # training goes on from its own weights
    assert not all(w.half().equal(a.half()) for w, a in zip(latest, after, strict=True))
    short = ["--stage1-until", "0.5", "--minutes", 4 / 60, "--preset", "emoji-prompt", "--out", tmp_path / "prompt"]
    assert train.main([str(word) for word in (*common, *short)]) == 0
    reading = LatentCRF.from_pretrained(tmp_path / "prompt" / "latentcrf")
    x, prompts = torch.randn(1, 4, 16, 16), torch.randn(2, 1, 5, reading.config.prompt_dim)
    seen = [reading.potentials(Observation(x, x, 0.5, 1.0, prompt)).u for prompt in (*prompts, None)]
    assert not any(a.equal(b) for a, b in zip(seen, seen[1:], strict=False))
    other = ["--out", tmp_path / "plain", "--init-from", crf, "--preset", "emoji-plain"]
    assert train.main([str(word) for word in (*common, *other)]) == 1
    assert "holds a network of another kind than the preset's: its num_experts is 12, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (train.main, [*CRF, "--runs", "1"], "argument --runs: 1 is out of range: 16 to"),
        (train.main, [*CRF, "--preset", "emoji-finisher"], "invalid choice: 'emoji-finisher'"),
        (train.main, [*CRF, "--batch-size", "0"], "argument --batch-size: 0 is out of range: 1 to 4096"),
        (train.main, [*CRF, "--chunk", "5000"], "argument --chunk: 5000 is out of range: 10 to 4096"),
        (train.main, [*CRF, "--chunk", "128"], "--chunk 128 is too much for 512 runs"),
        (train_finisher.main, [*FINISHER, "--chunk", "0"], "argument --chunk: 0 is out of range: 10 to 4096"),
        (train_finisher.main, [*FINISHER, "--learning-rate", "nan"], "argument --learning-rate: nan is out of range"),
        (train_finisher.main, [*FINISHER, "--runs", "31"], "argument --runs: 31 is out of range: 32 to"),
        (train_finisher.main, [*FINISHER, "--preset", "emoji"], "invalid choice: 'emoji'"),
        (train_finisher.main, [*FINISHER, "--minutes", "0"], "above 0, at most 100000"),
        (train.main, [*CRF, "--minutes", "1", "--max-steps", "5"], "--max-steps: not allowed with argument --minutes"),
        (train.main, [*CRF, "--max-steps", "0"], "argument --max-steps: 0 is out of range: 1 to"),
        (train.main, [*CRF, "--gradient-accumulation", "0"], "--gradient-accumulation: 0 is out of range: 1 to 4096"),
        (train.main, [*CRF, "--stage1-until", "-1"], "is out of range: 0 to 1"),
        (train.main, [*CRF, "--discriminator", "patches"], "invalid choice: 'patches'"),
        (train.main, [*CRF, "--keep-start", "0.5"], "--keep-start needs --init-from FOLDER"),
        (
            train.main,
            [*CRF, "--init-from", "x", "--keep-start", "nan"],
            "argument --keep-start: nan is out of range: 0 to 1",
        ),
        (train.main, [*CRF, "--stage3-from", "2"], "argument --stage3-from: 2 is out of range: 0 to 1"),
        (train_finisher.main, [*FINISHER, "--passes", "1"], "unrecognized arguments: --passes 1"),
    ],
)
def test_bad_options_are_named(
    main: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(main, arguments, tmp_path, message, capsys)


@pytest.mark.usefixtures("one_second_steps")
def test_a_finished_run_resumes_with_its_options_only(
    small_data: Path, tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "ldm")
    begun = [
        "--base",
        tmp_path / "ldm",
        "--data",
        small_data,
        "--runs",
        16,
        "--stage1-until",
        0,
        "--preset",
        "emoji-static",
    ]
    begun += ["--precision", "float32", "--out", tmp_path / "run"]

    def run(*more: object) -> int:
        return train.main([str(word) for word in (*begun, *more)])

    assert run("--minutes", 2 / 60) == 0
    stored = json.loads((tmp_path / "run" / "options.json").read_text())
    assert (stored["preset"], stored["runs"], stored["precision"]) == ("emoji-static", 16, "float32")
    assert run("--minutes", 4 / 60) == 1
    assert "holds a run already. Add --resume" in capsys.readouterr().err
    assert run("--minutes", 4 / 60, "--resume", "--seed", 5, "--learning-rate", 0.01) == 1
    error = capsys.readouterr().err
    assert "was begun with other options: --seed was 0, is 5; --learning-rate was None, is 0.01. Give the" in error
    assert run("--minutes", 4 / 60, "--resume", "--checkpoint-seconds", 60) == 0
    assert "at step 2," in capsys.readouterr().out
    assert (tmp_path / "run" / "log.csv").read_text().splitlines()[-1].startswith("4,")


@pytest.mark.parametrize("main", [train.main, train_finisher.main])
def test_another_class_of_pipeline_is_refused_before_anything_is_computed(
    main: Callable[[list[str]], int], small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    arguments = ["--base", tmp_path / "flux", "--data", small_data, "--out", tmp_path / "run"]
    static = ["--static", STATIC] if main is train_finisher.main else []
    assert main([str(word) for word in (*arguments, *static)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "flux is a FluxPipeline; accepted is" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["options.json"]


def test_data_that_cannot_be_used_end_the_command_before_runs_are_recorded(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "ldm")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.txt").write_text("apple\n")
    (tmp_path / "data" / "metadata.csv").write_text("file_name,text\nnone.png,apple\n")
    arguments = ["--base", tmp_path / "ldm", "--data", tmp_path / "data", "--out", tmp_path / "run", "--runs", 16]
    assert train.main([str(word) for word in arguments]) == 1
    assert "holds no usable entry to learn from. 0 images, 1 entries skipped" in capsys.readouterr().err
    assert not (tmp_path / "run" / "runs").exists()


def test_weights_that_are_missing_are_named_with_the_option(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--base", LDM, "--data", small_data, "--runs", 16, "--stage1-until", 0, "--stage3-from", 0]
    arguments += ["--feature-weights", tmp_path / "none", "--precision", "float32", "--out", tmp_path / "run"]
    assert train.main([str(word) for word in arguments]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'none' / 'model.safetensors'} is missing" in error and "--feature-weights" in error
