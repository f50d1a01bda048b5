"""What a training needs, counted beforehand, against what it then takes."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from latentcrf import LatentCRF
from latentcrf.training import train, train_finisher
from latentcrf.training.final_latents import FinalLatentsSettings, record_final_latents
from latentcrf.training.ldm import LDM
from latentcrf.training.recording import RecordingSettings, record_runs
from latentcrf.training.sizing import build_table, count_parameters, size_ldm, size_recording
from tests.training.tiny import build_sd

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
PROMPTS = ["red apple", "pizza", "apple"]


def test_disk_and_evaluations_are_those_of_the_recordings(tmp_path: Path) -> None:
    ldm = LDM(build_sd())
    precision, text = torch.bfloat16, count_parameters(*ldm.text_encoders)
    size = size_ldm(ldm.unet.config, ldm.vae.config, (4, 8, 8), (8, 16), text, precision)
    assert size.parameters == count_parameters(ldm.unet, ldm.vae, *ldm.text_encoders)
    made = 0

    def count(module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal made
        made += len(inputs[0])

    hook = ldm.unet.register_forward_hook(count)
    runs = RecordingSettings(steps=4, coarse=(4, 5), guidances=(3.0, 1.0), chunk=3)
    final = FinalLatentsSettings(runs=(("unipc", 4), ("ddim", 5)), guidances=(1.0, 3.0), chunk=3)
    record_runs(ldm, PROMPTS, tmp_path / "runs", 5, runs, precision)
    expected = size_recording(runs, 5, size, precision)
    assert made == expected.evaluations
    stored = sum(path.stat().st_size for path in (tmp_path / "runs").glob("*.safetensors"))
    assert 0 < stored - (expected.disk - 3 * 8 * 16 * 2) < 2 * 1500  # three prompts, six runs; the files' headers
    made = 0
    record_final_latents(ldm, LatentCRF(form="static").eval(), PROMPTS, tmp_path / "final", 5, final, precision)
    expected = size_recording(final, 5, size, precision)
    assert made == expected.evaluations and expected.round_trips == 2 * 6
    stored = sum(path.stat().st_size for path in (tmp_path / "final").glob("*.safetensors"))
    assert 0 < stored - expected.disk < 2 * 1500
    hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("main", [train.main, train_finisher.main])
def test_a_dry_run_writes_nothing(
    main: object, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: StableDiffusionPipeline = build_sd()
    pipeline.save_pretrained(tmp_path / "ldm")
    monkeypatch.chdir(tmp_path)
    words = ["--base", "ldm", "--data", "none", "--out", "run", "--batch-size", "2", "--max-steps", "1000"]
    words += ["--static", "none"] if main is train_finisher.main else ["--preset", "emoji-static"]
    capsys.readouterr()
    assert main([*words, "--precision", "float32", "--dry-run"]) == 0  # type: ignore[operator]
    printed = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["ldm"]
    runs = "10,240" if main is train_finisher.main else "512"
    for line in (
        r"LDM: [\d,]+ parameters",
        r"CRF: ",
        r"memory: about",
        rf"recordings: {runs} runs",
        r"expected time: ",
    ):
        assert re.search(f"^{line}", printed, flags=re.MULTILINE), printed
    stages = {"finisher"} if main is train_finisher.main else {"stage 1", "stage 2"}
    assert {name for name in ("finisher", "stage 1", "stage 2") if f"\n{name}: " in printed} == stages
    bad = [words[0], "missing", *words[2:]]
    assert main([*bad, "--precision", "float32", "--dry-run"]) == 1  # type: ignore[operator]
    assert "missing cannot be loaded" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_table_in_the_docs_is_the_command_s() -> None:
    table = build_table()
    assert table in DOCS.read_text()
    assert "U-Net: 859.5 M parameters, 803 GFLOP" in table
