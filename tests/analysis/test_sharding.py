"""Shares of processes: the parts' files, folders of other settings, two real processes, one of them killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from analysis import variance
from analysis.benchmark import __main__ as benchmark
from analysis.benchmark import run
from analysis.sharding import Part, compute_share, join_processes, open_folder, read_parts
from latentcrf import LatentCRF
from tests.analysis.benchmark.test_run import count_steps
from tests.training.tiny import build_sd

ROOT = Path(__file__).parents[2]
FLOAT32 = ("--precision", "float32")


def process(index: int, number: int) -> Any:
    """Stands in for the state of one of several processes."""
    return SimpleNamespace(
        process_index=index, num_processes=number, is_main_process=index == 0, wait_for_everyone=lambda: None
    )


def test_a_part_is_read_by_its_key_alone(tmp_path: Path) -> None:
    part = Part(tmp_path / "a.npz", "one")
    assert part.read() is None and not part.is_stored()
    part.write({"x": np.arange(3, dtype=np.float32), "name": np.array(["full run"])})
    stored = part.read()
    assert stored is not None and set(stored) == {"x", "name"}
    assert stored["x"].dtype == np.float32 and stored["name"].tolist() == ["full run"]
    other = Part(part.path, "two")
    assert part.is_stored() and not other.is_stored() and other.read() is None
    with pytest.raises(ValueError, match=r"a\.npz is missing: the processes need one folder .* goes on"):
        read_parts([part, other])


@pytest.mark.parametrize("number", (1, 2, 3))
def test_each_piece_of_work_is_in_one_share(number: int) -> None:
    shares: list[list[int]] = []
    for index in range(number):
        shares.append([])
        compute_share(7, shares[-1].append, process(index, number), "work")
    assert sorted(sum(shares, [])) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    settings = {"guidance": 3.0, "prompts": ["red apple"] * 50}
    with pytest.raises(ValueError, match="process 1 finds .* missing"):
        open_folder(tmp_path / "parts", settings, {"unet": first}, process(1, 2))
    key = open_folder(tmp_path / "parts", settings, {"unet": first}, process(0, 2))
    for index in (0, 1):
        assert open_folder(tmp_path / "parts", dict(settings), {"unet": first}, process(index, 2)) == key
    for changed, network, words in (
        ({"guidance": 7.5}, first, r"weights: guidance is 3\.0 there and 7\.5 here\. Choose another --out"),
        ({"prompts": ["pizza"] * 50}, first, r"weights: another prompts\."),
        ({}, second, r"weights: another unet\."),
    ):
        with pytest.raises(ValueError, match=f"parts holds results of other settings or {words}"):
            open_folder(tmp_path / "parts", settings | changed, {"unet": network}, process(0, 1))


def test_one_process_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    state = join_processes()
    assert (state.process_index, state.num_processes, state.is_main_process) == (0, 1, True)
    assert state.device == torch.device("cpu")


# --- two real processes -----------------------------------------------------------------------------------------------


def launch(module: str, arguments: list[str]) -> subprocess.Popen[str]:
    """Start two processes of a module, as `torchrun` does; each has one CPU thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module]
    # figures as PNG are tested elsewhere
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "BROWSER_PATH": "none"}
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill(launched: subprocess.Popen[str]) -> None:
    """End a launcher and its processes at once, by SIGKILL."""
    launcher = psutil.Process(launched.pid)
    for each in [launcher, *launcher.children(recursive=True)]:
        os.kill(each.pid, signal.SIGKILL)
    launched.communicate()


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This process computes as those of `launch`."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny LDM (`ldm`, images of 32 px) and a tiny CRF (`crf`)."""
    folder = tmp_path_factory.mktemp("models")
    build_sd("v_prediction", sample_size=16).save_pretrained(folder / "ldm")
    LatentCRF(form="static", num_experts=3, pairwise_rank=3, channels=8).save_pretrained(folder / "crf")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_that_are_killed_give_the_table_of_one(models: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red apple\n\npizza\nblue heart\n" + "rocket\n" * 9)
    arguments = ["--model", str(models / "ldm"), "--crf", str(models / "crf"), "--prompts", str(prompts)]
    arguments += ["--batch-size", "1", "--bypass", "2", "49", "--summary-only", *FLOAT32]
    two, parts = [*arguments, "--out", str(tmp_path / "two")], tmp_path / "two" / "parts"
    launched = launch("analysis.variance", two)
    while not list(parts.glob("0*.npz")):
        assert launched.poll() is None, launched.communicate()[0]
        time.sleep(0.05)
    kill(launched)
    assert 0 < len(list(parts.glob("0*.npz"))) < 12 and not (tmp_path / "two" / "variance.csv").exists()
    launched = launch("analysis.variance", two)
    output = launched.communicate()[0]
    assert launched.returncode == 0 and output.count("\nwritten: ") == 1, output
    assert variance.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    for name in ("variance.csv", "settings.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not parts.exists() and pd.read_csv(tmp_path / "two" / "variance.csv")["n"].eq(12).all()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_benchmark_by_two_processes_has_the_metrics_of_one(
    models: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--model", str(models / "ldm"), "--finisher", str(models / "crf"), "--data", str(small_data)]
    arguments += ["--prompts", "2", "--seeds", "2", "--batch-size", "2"]
    arguments += ["--rounds", "1", *FLOAT32, "--only", "DDIM-4", "UniPC-6 + finisher"]
    launched = launch("analysis.benchmark", [*arguments, "--out", str(tmp_path / "two")])
    output = launched.communicate()[0]
    assert launched.returncode == 0 and output.count("\nwritten: ") == 1, output
    monkeypatch.setattr(run, "measure_time_ratios", count_steps)
    assert benchmark.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    for name in ("benchmark", "comparisons", "floors"):
        one, two = (pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("one", "two"))
        times = [column for column in one if column.startswith("time_ratio")]
        pd.testing.assert_frame_equal(one.drop(columns=times), two.drop(columns=times), check_exact=True)
    assert not (tmp_path / "two" / "methods" / "parts").exists()
