"""The benchmark: methods, intervals and comparisons on known numbers, the figure, and one small run for real."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import benchmark, frontier
from analysis.benchmark import main
from analysis.frontier import FULL
from analysis.generate import load_pipeline, sample
from analysis.prompts import core_subjects, draw_prompts, remaining_prompts, validation_prompts
from analysis.rivals import ENDINGS, SCALE, Method, Scaling, all_methods, scheduler_of
from analysis.tables import compare, markdown, row_of
from analysis.trials import clock, measure
from latentcrf import LatentCRF, LatentCRFScheduler, Observation
from latentcrf.autoencoder import round_trip
from latentcrf.perceptual import MODELS
from tests.test_model import stirred


def subject_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"subject": f"subject {i}", "code_point": f"{i:x}", "style": style, "core": True, "split": "train",
         "pixels_sha256": f"{i}-{style}"}
        for i in range(count) for style in ("flat", "noto")
    ]  # fmt: skip


def test_methods_have_names_of_their_own_and_the_full_run_comes_first() -> None:
    methods = all_methods(("bypass", "LatentCRF", "static", "plain"), ("static", "scaling", "learned", "plain"))
    assert methods[0].name == FULL
    names = [method.name for method in methods]
    assert len(set(names)) == len({frontier.file_name(name) for name in names}) == len(names)
    assert Method("DDIM", 50, (33, 49), "LatentCRF").name == "DDIM-50 LatentCRF (33, 49)"
    assert Method("UniPC", 6, finisher="finisher").name == "UniPC-6 + finisher"
    ours = {method.name for method in methods if method.is_ours}
    assert {
        "DDIM-50 static (33, 49) + finisher",
        "DPM-Solver++-8 + finisher",
        "UniPC-8 + static CRF",
        "UniPC-8 + static finisher",
        "DDIM-50 LatentCRF (17, 42)",
        "DDIM-50 bypass (17, 42) + finisher",
    } <= ours
    assert {
        "DPM-Solver++-8",
        "UniPC-8 + scaling",
        "UniPC-8 + round trip",
        "UniPC-8 + two round trips",
        "UniPC-8 + scaled round trip",
        "UniPC-8 + plain finisher",
        "DDIM-50 plain (17, 42)",
        "DDIM-50 bypass (17, 42)",
    } <= set(names) - ours


def test_schedulers_make_as_many_calls_as_their_method_says() -> None:
    pipeline = load_pipeline()
    finishers = {
        "static": LatentCRF(form="static"),
        "scaling": Scaling(),
        "learned": LatentCRF(corrects_clean=True),
        "plain": LatentCRF(corrects_clean=True, num_experts=0, pairwise_rank=0),
    }
    for method in all_methods(("bypass", "static"), tuple(finishers)):
        scheduler = scheduler_of(method, pipeline, {"bypass": None, "static": finishers["static"]}, finishers)
        scheduler.set_timesteps(method.steps)
        left_out = 0 if method.bypass is None else method.bypass[1] - method.bypass[0]
        assert len(scheduler.timesteps) == method.steps - left_out, method.name
        assert isinstance(scheduler, LatentCRFScheduler) == (method.bypass is not None or method.finisher != "")
        found = getattr(scheduler, "finisher", None)
        settles = ENDINGS[method.finisher].settles if method.finisher else ""
        assert found is finishers.get(settles), method.name
        goes_round = method.finisher == "static finisher" or "round trip" in method.finisher
        assert (getattr(scheduler, "vae", None) is pipeline.vae) == goes_round, method.name
        twice = method.finisher in ("static finisher", "two round trips")
        assert getattr(scheduler, "finisher_passes", 1) == 1 + twice, method.name


def test_what_becomes_of_the_last_latents() -> None:
    pipeline = load_pipeline()
    static = LatentCRF.from_pretrained(MODELS / "emoji-latentcrf-static").eval()
    learned, plain = (stirred(LatentCRF(corrects_clean=True, channels=16, coarse_channels=16), seed) for seed in (0, 1))
    finishers = {"static": static, "scaling": Scaling(), "learned": learned, "plain": plain}
    method, made = Method("DPM-Solver++", 4), {}
    for name in ("", *ENDINGS):
        scheduler = scheduler_of(replace(method, finisher=name), pipeline, {}, finishers)
        made[name] = sample(pipeline, ["rocket"], [0], steps=4, scheduler=scheduler)
    latents = made[""]
    with torch.no_grad():
        settled = static(Observation(latents, latents, 1.0, 1.0))
    assert torch.allclose(made["scaling"], SCALE * latents, atol=1e-5)
    assert torch.allclose(made["static CRF"], torch.lerp(latents, settled, 0.7), atol=1e-5)
    with torch.no_grad():
        for name, network in (("finisher", learned), ("plain finisher", plain)):
            assert torch.allclose(made[name], network(Observation(latents, latents, 1.0, 1.0)), atol=1e-4), name
    once = round_trip(pipeline.vae, torch.lerp(latents, settled, 0.4))
    with torch.no_grad():
        settled = static(Observation(once, once, 1.0, 1.0))
    for name, before in (
        ("round trip", latents),
        ("two round trips", made["round trip"]),
        ("scaled round trip", SCALE * latents),
        ("static finisher", torch.lerp(once, settled, 0.4)),
    ):
        assert torch.allclose(made[name], round_trip(pipeline.vae, before), atol=1e-4), name


def test_reported_prompts_are_not_those_of_choices() -> None:
    rows = subject_rows(400)
    reported = set(remaining_prompts(rows, 100, 0)["code_point"])
    assert len(reported) == 100
    for count in (100, 200):
        assert not reported & set(draw_prompts(rows, count, 0)["code_point"])
    assert reported <= set(core_subjects(rows)["code_point"])
    for count in (10, 50, 100):
        chosen = set(validation_prompts(rows, count, 0)["code_point"])
        assert len(chosen) == count and not chosen & reported
    with pytest.raises(ValueError, match="out of range: 1 to "):
        remaining_prompts(rows, 400, 0)


def kept(ratio: float, kid: float, r_at_5: float) -> dict[str, np.ndarray]:
    spread = np.linspace(-0.1, 0.1, 201)
    draws = {
        name: np.concatenate([[value], value + spread * value])
        for name, value in (("kid", kid), ("r_at_5", r_at_5), ("pairwise_lpips", 0.3), ("vendi", 3.0))
    }
    return {
        **{f"draws_{name}": values for name, values in draws.items()},
        "ratios": np.full(5, ratio),
        "calls": np.array(8),
        "spectrum_error": np.array(0.5),
    }


def test_latentcrf_is_compared_with_the_best_that_takes_no_more_time() -> None:
    ours = Method("DDIM", 9, (8, 9), "LatentCRF")
    twin = Method("DDIM", 9, (8, 9), "bypass")
    plain = Method("DDIM", 9, (8, 9), "plain")
    methods = [Method("DDIM", 50), Method("DDIM", 8), Method("UniPC", 6), Method("UniPC", 8), twin, ours, plain]
    found = dict(
        zip(
            [method.name for method in methods],
            [
                kept(1, 0.1, 0.6),
                kept(0.16, 0.5, 0.3),
                kept(0.12, 0.4, 0.2),
                kept(0.2, 0.1, 0.9),
                kept(0.17, 0.45, 0.1),
                kept(0.18, 0.2, 0.5),
                kept(0.19, 0.1, 0.4),
            ],
            strict=True,
        )
    )
    table = compare(methods, found)
    others = table[table["method"] != ours.name]  # only with the full run
    assert set(others["method"]) == {method.name for method in methods} - {FULL, ours.name}
    assert set(others["against"]) == {FULL}
    assert set(others["measure"]) == {"kid, difference", "r_at_5, difference"}
    table = table[table["method"] == ours.name]
    kid = table[table["measure"] == "kid, difference"].set_index("against")
    assert set(kid.index) == {FULL, "UniPC-6", twin.name, plain.name}  # UniPC-8 takes longer, DDIM-8 is worse
    assert not kid.loc[plain.name, "better"]  # listed though it takes longer than ours
    assert kid.loc["UniPC-6", "value"] == pytest.approx(-0.2)
    assert kid.loc["UniPC-6", "low"] == pytest.approx(-0.2 - 0.2 * 0.095)
    assert kid.loc["UniPC-6", "better"] and not kid.loc[FULL, "better"]
    found_subject = table[table["measure"] == "r_at_5, difference"].set_index("against")
    assert set(found_subject.index) == {FULL, "DDIM-8", twin.name, plain.name}
    assert found_subject.loc["DDIM-8", "better"] and not found_subject.loc[FULL, "better"]
    diversity = table[table["measure"] == "pairwise_lpips, difference"].set_index("against")
    assert set(diversity.index) == {twin.name, plain.name} and not diversity.loc[twin.name, "better"]  # equal
    ratio = table[table["measure"] == "vendi, ratio"].iloc[0]
    assert (ratio["value"], ratio["low"], ratio["high"]) == (1, 1, 1)


def test_a_finished_run_is_compared_with_the_same_run_and_scaling() -> None:
    ours, plain = Method("UniPC", 8, finisher="finisher"), Method("UniPC", 8)
    scaled, bypass = Method("UniPC", 8, finisher="scaling"), Method("DDIM", 9, (8, 9), "bypass")
    methods = [Method("DDIM", 50), plain, bypass, scaled, ours]
    bypassed = [replace(bypass, finisher="finisher"), replace(bypass, refiner="LatentCRF", finisher="finisher")]
    found = [kept(1, 0.1, 0.6), kept(0.2, 0.1, 0.5), kept(0.2, 0.3, 0.5), kept(0.2, 0.09, 0.5), kept(0.21, 0.05, 0.5)]
    table = compare(methods, dict(zip([method.name for method in methods], found, strict=True)))
    assert set(table["method"]) == {ours.name, scaled.name, plain.name, bypass.name}
    kid = table[table["measure"] == "kid, difference"]
    of_scaled = kid[kid["method"] == scaled.name]
    assert of_scaled["against"].tolist() == [FULL, plain.name]
    assert of_scaled["value"].tolist() == pytest.approx([-0.01, -0.01])
    kid = kid[kid["method"] == ours.name].set_index("against")
    # the best of all is the scaled one, of the others the plain
    assert set(kid.index) == {FULL, plain.name, scaled.name}
    assert kid.loc[plain.name, "value"] == pytest.approx(-0.05) and kid["better"].all()
    # behind a bypass: also with the same bypass without parameters, finished alike
    found += [kept(0.3, 0.08, 0.5), kept(0.3, 0.06, 0.5)]
    methods += bypassed
    table = compare(methods, dict(zip([method.name for method in methods], found, strict=True)))
    kid = table[table["measure"] == "kid, difference"]
    kid = kid[kid["method"] == bypassed[1].name].set_index("against")
    assert kid.loc[bypassed[0].name, "value"] == pytest.approx(-0.02)


def test_table_markdown_and_figure() -> None:
    methods = [Method("DDIM", 50), Method("UniPC", 6), Method("DDIM", 9, (8, 9), "LatentCRF")]
    table = pd.DataFrame(
        [
            row_of(method, kept(r, k, 0.5), 20, 4)
            for method, r, k in zip(methods, (1, 0.2, 0.1), (0.1, 0.3, 0.2), strict=True)
        ]
    )
    text = markdown(table)
    assert "| DDIM-9 LatentCRF (8, 9) | 8 | 0.10 (0.10 to 0.10) | 200.0 (181.0 to 219.0) |" in text
    figure = frontier.figure(table, "kid")
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "DDIM", "UniPC", "LatentCRF"}
    assert traces["LatentCRF"].y[0] == pytest.approx(200) and traces["LatentCRF"].error_y.array[0] == pytest.approx(19)
    assert list(traces["Pareto front"].x) == [0.1, 1.0]  # UniPC-6 is slower and worse than LatentCRF
    assert "KID" in figure.layout.yaxis.title.text and "time" in figure.layout.xaxis.title.text.lower()
    with pytest.raises(ValueError, match="'lpips_full' is not in the table; accepted are kid, r_at_5"):
        frontier.figure(table, "lpips_full")


def test_pareto_front() -> None:
    times, values = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 6.0, 6.0, 7.0])
    assert frontier.pareto(times, values, higher_is_better=True).tolist() == [0, 2, 4]
    assert frontier.pareto(times, values, higher_is_better=False).tolist() == [0, 1]


def test_frontier_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frontier.main(["--table", str(tmp_path / "none.csv"), "--out", str(tmp_path / "figure")]) == 1
    assert "none.csv" in capsys.readouterr().err
    table = pd.DataFrame([row_of(Method("DDIM", 50), kept(1, 0.1, 0.5), 20, 4)])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert frontier.main(["--table", str(tmp_path / "table.csv"), "--out", str(tmp_path / "figure")]) == 0
    assert (tmp_path / "figure.html").stat().st_size > 1_000_000  # opens offline: Plotly is in it
    assert (tmp_path / "figure.png").exists() or "figure.png is not written" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", (["--prompts", "1"], ["--seeds", "0"], ["--rounds", "0"]))
def test_wrong_numbers_are_met_with_the_accepted_range(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), *arguments])
    assert f"{arguments[0]} {arguments[1]} is out of range" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_benchmark_goes_on_where_it_stopped(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(small_data), "--out", str(out), "--prompts", "2", "--seeds", "2"]
    arguments += ["--rounds", "1", "--threads", "1", "--only", "DDIM-4", "DDIM-5 LatentCRF (4, 5)"]
    assert main(arguments) == 0
    table = pd.read_csv(out / "benchmark.csv").set_index("method")
    assert table["unet_calls"].to_dict() == {FULL: 50, "DDIM-4": 4, "DDIM-5 LatentCRF (4, 5)": 4}
    assert table.loc[FULL, "lpips_full"] == pytest.approx(0, abs=1e-6) and table.loc["DDIM-4", "latent_mse_full"] > 0
    assert table.loc["DDIM-4", "time_ratio"] < 0.5
    assert {"comparisons.csv", "benchmark.md", "frontier.html"} <= {path.name for path in out.iterdir()}
    rows = [Image.open(path) for path in (out / "samples").iterdir()]
    assert [row.size for row in rows] == [(2 * 128, 128)] * 3

    def never(*_: Any) -> None:
        raise AssertionError("what has been measured is measured again")

    monkeypatch.setattr(benchmark, "clock", never)
    with monkeypatch.context() as other:
        other.setattr(benchmark, "measure", never)
        assert main(arguments) == 0
    assert pd.read_csv(out / "benchmark.csv").set_index("method").equals(table)
    crf = LatentCRF.from_pretrained(MODELS / "emoji-latentcrf")
    with torch.no_grad():
        next(crf.parameters()).mul_(1.1)
    crf.save_pretrained(tmp_path / "crf")
    measured = []
    monkeypatch.setattr(
        benchmark, "measure", lambda method, *rest: measured.append(method.name) or measure(method, *rest)
    )
    monkeypatch.setattr(benchmark, "clock", clock)
    assert main([*arguments, "--crf", str(tmp_path / "crf")]) == 0
    assert measured == ["DDIM-5 LatentCRF (4, 5)"]  # the others do not depend on it
    again = pd.read_csv(out / "benchmark.csv").set_index("method")
    assert (again["lpips_full"] != table["lpips_full"]).to_dict() == {FULL: False, "DDIM-4": False, measured[0]: True}
    assert main([*arguments, "--guidance", "2"]) == 1
    assert "holds a benchmark of other settings" in capsys.readouterr().err
    assert main([*arguments, "DDIM-3"]) == 1
    assert "--only 'DDIM-3' is not a method; accepted are DDIM-50, DDIM-34" in capsys.readouterr().err
