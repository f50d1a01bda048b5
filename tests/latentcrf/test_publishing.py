"""Publishing a LatentCRF: what is uploaded, its card, and the refusals. The Hub alone is replaced, at its client."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from torch import Tensor

from latentcrf import LatentCRF, Observation
from latentcrf.card import format_recipe, format_results
from latentcrf.publishing import main

ROOT = Path(__file__).parents[2]
REPO, BASE = "someone/tiny-crf", "someone/tiny-ldm"
RESULTS = [{"method": "DDIM-50", "KID": 0.0598, "calls": 50}, {"method": "LatentCRF", "KID": 0.0676, "calls": 34}]
GOOD: dict[str, Any] = {
    "base_model": BASE,
    "license": "creativeml-openrail-m",
    "recipe": "By hand.",
    "results": RESULTS,
}


def build(**settings: Any) -> LatentCRF:
    return LatentCRF(channels=8, coarse_channels=8, **settings).eval()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the Hub's client is asked for, by method; the uploaded folder is kept in "folder"."""
    asked: dict[str, Any] = {"folder": tmp_path / "uploaded"}

    def create_repo(self: HfApi, repo_id: str, **arguments: Any) -> None:
        asked["create_repo"] = {"repo_id": repo_id, "token": self.token, **arguments}

    def upload_folder(self: HfApi, *, folder_path: str, **arguments: Any) -> SimpleNamespace:
        assert "create_repo" in asked
        shutil.copytree(folder_path, asked["folder"])
        asked["upload_folder"] = arguments
        return SimpleNamespace(commit_url=f"https://huggingface.co/{arguments['repo_id']}/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


def observe() -> Observation:
    return Observation(torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), 0.5, 0.9)


def test_the_uploaded_folder_loads_and_computes_the_same(hub: dict[str, Any]) -> None:
    crf, observation = build(), observe()
    url = crf.push_to_hub(REPO, **GOOD, private=True, token="hf_x")
    assert url == f"https://huggingface.co/{REPO}/commit/1"
    assert hub["create_repo"] == {"repo_id": REPO, "token": "hf_x", "private": True, "exist_ok": True}
    assert hub["upload_folder"] == {"repo_id": REPO, "commit_message": "Upload LatentCRF", "create_pr": False}
    assert {path.name for path in hub["folder"].iterdir()} == {
        "README.md", "config.json", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(LatentCRF.from_pretrained(hub["folder"])(observation), crf(observation))


@pytest.mark.parametrize("place", [{}, {"subfolder": "crf"}, {"revision": "v1"}])
def test_a_model_loads_by_its_name_on_the_hub(place: dict[str, str], tmp_path: Path) -> None:
    """From the Hub's own cache as a download leaves it: by name, from a folder of the repository, at a revision."""
    crf, observation, commit = build(), observe(), "0" * 40
    repository = tmp_path / "models--someone--tiny-crf"
    crf.save_pretrained(repository / "snapshots" / commit / place.get("subfolder", ""))
    reference = repository / "refs" / place.get("revision", "main")
    reference.parent.mkdir()
    reference.write_text(commit)
    loaded = LatentCRF.from_pretrained(REPO, cache_dir=tmp_path, local_files_only=True, use_safetensors=True, **place)
    with torch.inference_mode():
        assert torch.equal(loaded(observation), crf(observation))
    with pytest.raises(OSError, match=REPO):
        LatentCRF.from_pretrained(REPO, cache_dir=tmp_path, local_files_only=True, revision="v2")


@pytest.mark.parametrize(
    ("settings", "tag"),
    [({}, "bypass"), ({"form": "static"}, "bypass"), ({"prompt_dim": 16}, "bypass"),
     ({"corrects_clean": True, "reads_trend": False}, "finisher")],
    ids=["bypass", "static", "prompt", "finisher"],
)  # fmt: skip
def test_the_cards_example_runs(
    settings: dict[str, Any], tag: str, hub: dict[str, Any], tiny_pipeline: StableDiffusionPipeline, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    build(**settings).push_to_hub(REPO, **GOOD)
    card = ModelCard((hub["folder"] / "README.md").read_text())
    assert card.data.to_dict() == {
        "license": "creativeml-openrail-m", "library_name": "diffusers", "base_model": BASE,
        "base_model_relation": "adapter", "pipeline_tag": "text-to-image",
        "tags": ["latentcrf", "conditional-random-field", tag],
    }  # fmt: skip
    (example,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 10 or "prompt_dim" in settings
    tiny_pipeline.save_pretrained(tmp_path / "ldm")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace(BASE, str(tmp_path / "ldm")).replace(REPO, str(hub["folder"])), names)
    scheduler = names["pipe"].scheduler
    assert scheduler.num_denoiser_calls == int(re.findall(r"# (\d+) denoiser calls", example)[0])
    record = scheduler.last_finish if tag == "finisher" else scheduler.last_bypass
    assert record is not None and Image.open("image.png").size == (16, 16)
    if "prompt_dim" in settings:
        embeds: Tensor = record.observation.prompt_embeds
        assert embeds.shape == (1, 8, 16)


def test_cards_that_ship_and_new_ones_have_the_same_shape(hub: dict[str, Any]) -> None:
    build().push_to_hub(REPO, **GOOD)
    new = ModelCard((hub["folder"] / "README.md").read_text())
    old = ModelCard((ROOT / "assets" / "models" / "emoji-latentcrf" / "README.md").read_text())
    assert set(old.data.to_dict()) <= set(new.data.to_dict())
    for name in ("library_name", "base_model_relation", "pipeline_tag"):
        assert old.data[name] == new.data[name]
    headings = [re.findall(r"^## .*$", card.text, flags=re.MULTILINE) for card in (old, new)]
    assert headings[0] == headings[1]


def test_results_from_a_dataframe_a_list_and_a_file(tmp_path: Path) -> None:
    table = "| method | KID | calls |\n| --- | --- | --- |\n| DDIM-50 | 0.0598 | 50 |\n| LatentCRF | 0.0676 | 34 |"
    pd.DataFrame(RESULTS).to_csv(tmp_path / "results.csv", index=False)
    for results in (RESULTS, pd.DataFrame(RESULTS), tmp_path / "results.csv", str(tmp_path / "results.csv")):
        assert format_results(results) == table
    row = {"time": 1.0, "time_low": 0.9, "time_high": 1234.5, "note": "a|b\nc"}
    assert format_results([row]).splitlines()[::2] == ["| time | note |", "| 1 (0.9 to 1,234) | a\\|b c |"]


def test_results_of_a_benchmark_on_images_without_subjects(tmp_path: Path) -> None:
    table = pd.read_csv(ROOT / "assets" / "results" / "benchmark" / "benchmark.csv").head(2)
    table.drop(columns=[name for name in table if name.startswith("r_at_")]).to_csv(tmp_path / "own.csv", index=False)
    assert format_results(tmp_path / "own.csv").splitlines()[0].endswith("| KID | pairwise LPIPS | prompts |")


def test_results_of_the_benchmark() -> None:
    table = format_results(ROOT / "assets" / "results" / "benchmark" / "benchmark.csv").splitlines()
    assert table[0] == (
        "| method | network evaluations | time / full run | KID | R@5 | pairwise LPIPS | prompts |"
    )  # fmt: skip
    assert re.fullmatch(r"\| DDIM-50 \| 100 \| [\d.]+ \([\d.]+ to [\d.]+\) .* \| 200 \|", table[2])
    assert "95 % bootstrap interval" in " ".join(table[-3:])


def test_a_recipe_of_options() -> None:
    assert format_recipe({"minutes": 60, "init_from": None}).splitlines()[2:] == [
        "| `minutes` | `60` |", "| `init_from` |  |",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo_id": "no name"}, "repo_id is 'no name'. Accepted is USER/NAME"),
        ({"repo_id": "tiny-crf"}, "repo_id is 'tiny-crf'. Accepted is USER/NAME"),
        ({"repo_id": "some one/tiny"}, "repo_id is 'some one/tiny'"),
        ({"base_model": ""}, "base_model is ''"),
        ({"base_model": None}, "base_model is None"),
        ({"base_model": "assets/models/emoji-ldm"}, "base_model is 'assets/models/emoji-ldm'"),
        ({"license": "free"}, "license is 'free'. Accepted are the Hub's identifiers: afl-3.0, "),
        ({"license": None}, "license is None"),
        ({"recipe": " "}, "recipe is empty"),
        ({"recipe": {}}, "recipe is empty"),
        ({"results": []}, "results has no rows"),
        ({"results": pd.DataFrame()}, "results has no rows"),
        ({"results": 3}, "results has no rows"),
        ({"results": [{"KID": 1.0}, {"KID": math.nan}]}, "results: row 2, column 'KID' is nan"),
        ({"results": pd.DataFrame({"KID": [math.inf]})}, "results: row 1, column 'KID' is inf"),
        ({"results": [{"KID": None}]}, "results: row 1, column 'KID' is empty"),
        ({"results": [{"KID": 1.0}, {"LPIPS": 1.0}]}, "results: row 2 has other columns"),
    ],
)
def test_bad_input_is_refused_before_anything_is_uploaded(
    change: dict[str, Any], message: str, hub: dict[str, Any]
) -> None:
    arguments = {"repo_id": REPO, **GOOD, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        build().push_to_hub(**arguments)
    assert set(hub) == {"folder"} and not hub["folder"].exists()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished training: float16 weights, its options, a table beside it."""
    folder = tmp_path / "run"
    build().half().save_pretrained(folder / "latentcrf")
    options = {"base": str(tmp_path / "ldm"), "minutes": 60.0, "out": str(folder), "resume": False}
    (folder / "options.json").write_text(json.dumps(options))
    pd.DataFrame(RESULTS).to_csv(folder / "results.csv", index=False)
    return folder


@pytest.fixture
def command(run: Path) -> Callable[..., int]:
    def publish(*words: str, folder: Path = run, **options: Any) -> int:
        table = str(run / "results.csv")
        values = {"to": REPO, "base-model": BASE, "license": "mit", "results": table} | options
        return main([str(folder), *(f"--{name}={value}" for name, value in values.items()), *words])

    return publish


def test_the_command_publishes_a_runs_folder(
    command: Callable[..., int], run: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    assert capsys.readouterr().out == f"published: https://huggingface.co/{REPO}/commit/1\n"
    card = (hub["folder"] / "README.md").read_text()
    assert "| `minutes` | `60.0` |" in card and "| `base` | `ldm` |" in card
    assert str(run) not in card and "float16" in card and "| LatentCRF | 0.0676 | 34 |" in card
    weights = "diffusion_pytorch_model.safetensors"
    assert (hub["folder"] / weights).read_bytes() == (run / "latentcrf" / weights).read_bytes()


def test_a_dry_run_shows_the_card_and_the_files(
    command: Callable[..., int], run: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--dry-run", "--recipe=Ten minutes.", folder=run / "latentcrf") == 0
    shown = capsys.readouterr().out
    assert set(hub) == {"folder"}
    assert "base_model_relation: adapter" in shown and "## Training\n\nTen minutes.\n" in shown
    size = (run / "latentcrf" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert f"Would go to {REPO}" in shown and f"{size:,}  diffusion_pytorch_model.safetensors" in shown


def test_the_commands_errors_are_one_sentence(
    command: Callable[..., int], run: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    def error(*words: str, **options: Any) -> str:
        assert command(*words, **options) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    assert "holds no trained LatentCRF" in error(folder=tmp_path)
    assert "license is 'free'" in error(license="free")
    assert "none.csv" in error(results=str(tmp_path / "none.csv"))
    assert set(hub) == {"folder"}
    monkeypatch.setattr(HfApi, "create_repo", refuse)
    assert "no network. Is the name right, and did you log in" in error()
    (run / "options.json").unlink()
    assert "options.json is missing" in error()
    (run / "latentcrf" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    assert "no LatentCRF that can be loaded" in error("--recipe=x")
    (run / "finisher").mkdir()
    (run / "finisher" / "config.json").touch()
    assert "name one of them" in error()
