"""The choice of the networks' number type, and the option `--precision` of every command line that runs them."""

import argparse
import importlib
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import method
from latentcrf import precision
from latentcrf.precision import PRECISIONS, add_precision_argument, autocast, choose_precision, precision_name

ROOT = Path(__file__).parents[1]
COMMANDS = (
    *(
        f"analysis.{name}"
        for name in ("ablation", "benchmark.__main__", "convergence", "diversity", "method", "variance")
    ),
    "analysis.quality",
    *("latentcrf.training.train", "latentcrf.training.train_finisher"),
    *("recipes.emoji.train_unet", "recipes.emoji.train_vae"),
)


@pytest.fixture
def native_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has bfloat16 and an environment that allows it."""
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("native_cpu")
def test_auto_on_a_cpu_is_bfloat16_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", "cpu") == torch.bfloat16
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    assert choose_precision("auto", torch.device("cpu")) == torch.float32


@pytest.mark.usefixtures("native_cpu")
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        *(("ATEN_CPU_CAPABILITY", value, torch.float32) for value in ("default", "avx2", "AVX2")),
        *(("ATEN_CPU_CAPABILITY", value, torch.bfloat16) for value in ("avx512", "")),
        *(("ONEDNN_MAX_CPU_ISA", value, torch.float32) for value in ("SSE41", "AVX2", "avx2", "AVX512_CORE")),
        *(("ONEDNN_MAX_CPU_ISA", value, torch.float32) for value in ("AVX512_CORE_VNNI", "AVX2_VNNI_2")),
        *(("ONEDNN_MAX_CPU_ISA", value, torch.bfloat16) for value in ("AVX512_CORE_BF16", "AVX512_CORE_AMX")),
        *(("ONEDNN_MAX_CPU_ISA", value, torch.bfloat16) for value in ("ALL", "DEFAULT", "")),
    ],
)
def test_auto_respects_a_limit_on_the_cpus_instructions(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: torch.dtype
) -> None:
    monkeypatch.setenv(variable, value)
    assert choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu_has_16_bits(monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose_precision("auto", "cuda") == expected


def test_other_names_stand_for_themselves_and_wrong_ones_are_refused() -> None:
    for name in PRECISIONS[1:]:
        assert precision_name(choose_precision(name, "cuda")) == name
    assert choose_precision("bfloat16", "cpu") == torch.bfloat16
    with pytest.raises(ValueError, match="'half' is unknown; accepted are auto, float32, bfloat16, float16"):
        choose_precision("half", "cpu")
    with pytest.raises(ValueError, match="float16 needs a GPU; accepted on a CPU are auto, float32, bfloat16"):
        choose_precision("float16", "cpu")


def test_networks_compute_in_the_precision() -> None:
    network, x = torch.nn.Linear(3, 2), torch.randn(1, 3)
    for each in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16), autocast("cpu", each):
            assert network(x).dtype == each


def _help_texts(module: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Help texts of a command line, of each subcommand where it has some."""
    commands = ("autoencoder", "ldm", "crf", "cost") if module == "analysis.quality" else ("",)
    texts = []
    for command in commands:
        with pytest.raises(SystemExit):
            importlib.import_module(module).main([*command.split(), "--help"])
        texts.append(" ".join(capsys.readouterr().out.split()))
    return texts


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_line_has_the_same_option(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = argparse.ArgumentParser(add_help=False)
    add_precision_argument(alone)
    wanted = " ".join(alone.format_help().split()).partition("options: ")[2]
    for text in _help_texts(module, capsys):
        assert wanted in text and "--fp32" not in text


def test_float16_on_a_cpu_is_refused_by_the_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert method.main(["--precision", "float16", "--out", "x"]) == 1
    assert "error: precision float16 needs a GPU" in capsys.readouterr().err


def test_the_shipped_tables_tell_their_precision() -> None:
    tables = sorted((ROOT / "assets" / "results").glob("*/*.csv"))
    found = {path.parent.name: set(pd.read_csv(path)["precision"]) for path in tables}
    # bfloat16 rounds the small changes of the clean estimate in late steps
    assert found.pop("variance") == {"float32"}
    assert found and all(precisions == {"bfloat16"} for precisions in found.values())
