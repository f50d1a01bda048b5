"""Two processes train as one with the doubled batch, and go on exactly after a kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from latentcrf import LatentCRF
from latentcrf.training.loop import COMPONENTS, Run, find_checkpoints
from tests.golden import cases
from tests.training import launch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 12
ALL_STAGES = ("--stage1-until", 0.34, "--stage3-from", 0.67, "--discriminator", "alexnet")


def start_two(losses: Path, module: str, *arguments: object, step_seconds: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.launch", str(losses), module, *map(str, arguments)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["STEP_SECONDS"] = str(step_seconds)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def train_in_two(losses: Path, module: str, *arguments: object) -> list[dict[str, float]]:
    run = start_two(losses, module, *arguments)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0, printed
    return json.loads(losses.read_text())  # type: ignore[no-any-return]


def train_in_one(losses: Path, module: str, *arguments: object) -> list[dict[str, float]]:
    """Train in this process, as each of two processes does: on one thread of the CPU."""
    with pytest.MonkeyPatch.context() as patch, cases.exact():
        patch.setenv("ACCELERATE_USE_CPU", "1")
        patch.setattr(sys, "argv", ["launch", str(losses), module, *map(str, arguments)])
        patch.setattr(torch.optim, "AdamW", torch.optim.AdamW)  # what `launch` changes is changed back
        patch.setattr(Run, "count", Run.count)
        assert launch.main() == 0
    return json.loads(losses.read_text())  # type: ignore[no-any-return]


def kill_after_a_checkpoint(run: subprocess.Popen[str], out: Path) -> None:
    """SIGKILL to the launcher and its processes at once, as a lost machine would end them."""
    deadline = time.monotonic() + 240
    while not any(int(path.name.split("-")[1]) >= 5 for path in find_checkpoints(out)):
        assert run.poll() is None, run.stdout and run.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint within four minutes"
        time.sleep(0.02)
    processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in processes:  # torchrun gives each worker a session of its own
        process.kill()
    psutil.wait_procs(processes, timeout=30)
    run.wait()


def common(out: Path, batch_size: int) -> tuple[object, ...]:
    return ("--out", out, "--batch-size", batch_size, "--max-steps", STEPS, "--seed", 1, "--precision", "float32")


def assert_equal_losses(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) == STEPS
    for step, (a, b) in enumerate(zip(found[:10], expected[:10], strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=1e-5, rel=1e-5), (step, name)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The golden tests' data and models, and recordings that all trainings share."""
    return cases.work_folder()


def test_the_crf_in_two_processes(folder: Path, tmp_path: Path) -> None:
    module = "latentcrf.training.train"
    arguments = ["--base", folder / "ldm", "--data", folder / "data", "--recordings", folder / "recordings"]
    arguments += ["--runs", 16, *ALL_STAGES]
    one = train_in_one(tmp_path / "one.json", module, *arguments, *common(tmp_path / "one", 4))
    two = train_in_two(tmp_path / "two.json", module, *arguments, *common(tmp_path / "two", 2))
    assert {"denoising", "latent_discriminator", "distillation", "pixels", "pair_discriminator"} <= set().union(*one)
    assert_equal_losses(two, one)

    more = (*arguments, *common(tmp_path / "killed", 2), "--checkpoint-seconds", 1)
    run = start_two(tmp_path / "killed.json", module, *more, step_seconds=1)
    kill_after_a_checkpoint(run, tmp_path / "killed")
    resumed = train_in_two(tmp_path / "resumed.json", module, *more, "--resume")
    assert 0 < len(resumed) < STEPS and resumed == two[-len(resumed) :]
    states = [torch.load(find_checkpoints(tmp_path / name)[-1] / COMPONENTS) for name in ("two", "killed")]
    for state in states:
        assert state["step"] == STEPS and state["processes"] == 2
        del state["seconds"]
    assert cases.unequal(*states) == []
    models = [LatentCRF.from_pretrained(tmp_path / name / "latentcrf").state_dict() for name in ("two", "killed")]
    assert cases.unequal(*map(dict, models)) == []


def test_the_finisher_in_two_processes(folder: Path, tmp_path: Path) -> None:
    module = "latentcrf.training.train_finisher"
    arguments = ["--base", folder / "ldm", "--data", folder / "data", "--static", folder / "static", "--runs", 32]
    arguments += ["--recordings", tmp_path / "recordings"]
    one = train_in_one(tmp_path / "one.json", module, *arguments, *common(tmp_path / "one", 4))
    two = train_in_two(tmp_path / "two.json", module, *arguments, *common(tmp_path / "two", 2))
    assert_equal_losses(two, one)
