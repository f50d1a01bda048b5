"""The shared arguments: defaults, ranges, and the folders of the metrics' weights."""

import argparse
from pathlib import Path

import pytest

from analysis.arguments import (
    SHARED,
    add_arguments,
    build_parser,
    find_network,
    load_features_argument,
    load_lpips_argument,
    parse_prompt,
)
from analysis.diversity import main
from latentcrf.utils.weights import MODELS


def test_each_shared_argument_has_a_default_and_a_help() -> None:
    parser = build_parser("analysis.demo", "Demo.")
    add_arguments(parser, *SHARED, "precision", seed={"default": 5})
    options = parser.parse_args(["--out", "x"])
    assert (options.out, options.bypass, options.guidance, options.seed) == (Path("x"), [33, 49], 3.0, 5)
    assert options.precision == "auto" and options.model.name == "emoji-ldm" and options.lpips is None
    assert all("default" in values["help"] for name, values in SHARED.items() if name != "out")


@pytest.mark.parametrize(
    "words", (["--guidance", "0.5"], ["--seed", "-1"], ["--batch-size", "0"], ["--bypass", "0", "9"])
)
def test_a_value_out_of_range_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser("analysis.demo", "Demo.")
    add_arguments(parser, *SHARED)
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "x", *words])
    assert f"argument {words[0]}: {words[1]} is out of range: " in capsys.readouterr().err


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="left empty"):
        parse_prompt(" ")


def test_missing_weights_of_metrics_name_their_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(lpips=tmp_path, features=tmp_path)
    for load, option in ((load_lpips_argument, "--lpips"), (load_features_argument, "--features")):
        with pytest.raises(FileNotFoundError, match=rf"model.safetensors is missing.*`folder`.*{option} FOLDER"):
            load(options)
    assert main(["--out", str(tmp_path / "out"), "--lpips", str(tmp_path)]) == 1
    assert "--lpips FOLDER" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_model_has_no_shipped_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(MODELS)
    for model, named, found in (
        (MODELS / "emoji-ldm", None, MODELS / "emoji-plain"),
        (Path("emoji-ldm"), None, MODELS / "emoji-plain"),
        (MODELS / "emoji-ldm", Path("mine"), Path("mine")),
        (Path("sd"), None, None),
        (Path("sd"), Path("mine"), Path("mine")),
    ):
        options = argparse.Namespace(model=model, plain=named)
        assert find_network(options, "plain", "emoji-plain") == found
