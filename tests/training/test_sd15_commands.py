"""The commands of docs/training.md for Stable Diffusion 1.5 run to the end on a tiny pipeline of the same classes."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from latentcrf import Finisher, LatentCRF
from tests.training.tiny import build_sd

ROOT = Path(__file__).parents[2]
# What is replaced: the LDM, and values of options that only say how much.
VALUES = {"--runs": ("16", "32"), "--batch-size": "2", "--minutes": "0.02", "--prompts": "3", "--few-prompts": "3"}


def read_commands() -> list[list[str]]:
    """The words of each command in the blocks that are marked."""
    text = (ROOT / "docs" / "training.md").read_text()
    blocks = re.findall(r"<!-- sd15 -->\n```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def make_tiny(words: list[str]) -> list[str]:
    """The command for the tiny pipeline: the module and its arguments."""
    assert words[:3] == ["accelerate", "launch", "-m"] or words[:2] == ["python", "-m"], words
    words = words[words.index("-m") + 1 :]
    tiny = []
    for before, word in zip([""] + words, words, strict=False):
        if word == "stable-diffusion-v1-5/stable-diffusion-v1-5" and before != "--base-model":
            word = "ldm"
        elif before in VALUES:
            few, *more = VALUES[before] if before == "--runs" else (VALUES[before],)
            word = more[0] if word == "7168" else few
        tiny.append(word)
    return tiny + (["--rounds", "1"] if words[0] == "analysis.benchmark" else [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_commands_run_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    build_sd(sample_size=16).save_pretrained("ldm")  # 32 px: LPIPS reads no smaller images
    Path("my-images").mkdir()
    rows = [{"file_name": f"{index}.png", "text": f"{chr(97 + index)} apple"} for index in range(24)]
    for index, row in enumerate(rows):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("my-images", row["file_name"]))
    Path("my-images", "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    commands = [make_tiny(words) for words in read_commands()]
    modules = [command[0].removeprefix("latentcrf.") for command in commands]
    assert modules == [
        "training.train", "training.record", "training.train", "training.train", "training.record",
        "training.train_finisher", "analysis.benchmark", "publishing", "publishing",
    ]  # fmt: skip
    assert all(command[-1] == "--dry-run" for command in commands[-2:])  # nothing is uploaded
    for index, (module, *arguments) in enumerate(commands):
        name = f"{module}.__main__" if module == "analysis.benchmark" else module
        assert importlib.import_module(name).main(arguments) == 0, (module, capsys.readouterr().err)
        if index == 0:
            assert not Path("runs").exists()  # a dry run

    for folder, guidances in (("recordings", [7.5, 1, 7.5, 12.5, 5, 17.5, 10]), ("final-latents", [7.5, 7.5, 7.5, 5])):
        recorded = json.loads(Path("runs", folder, "manifest.json").read_text())["guidances"]
        assert recorded[: len(guidances)] == guidances
    assert LatentCRF.from_pretrained("runs/static/latentcrf").form == "static"
    assert not LatentCRF.from_pretrained("runs/crf/latentcrf").corrects_clean
    Finisher(LatentCRF.from_pretrained("runs/finisher/finisher"))
    table = pd.read_csv("results/sd15/benchmark.csv").set_index("method")
    assert len(table) == 10 and "DDIM-50 LatentCRF (33, 49) + finisher" in table.index
    assert table.loc["UniPC-12", "time_ratio"] < 0.5 < table.loc["DDIM-50", "time_ratio"]  # measured, 12 steps of 50
