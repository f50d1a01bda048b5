"""The walkthrough: its energies against the CRF's own, its figures, its command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import method
from analysis.figures.walkthrough import COLUMNS, draw_figures, select_term
from analysis.studies import TERMS, walkthrough
from latentcrf import Finisher, LatentCRF
from latentcrf.potentials import energy

STEPS, BYPASS = 10, (5, 9)


@pytest.fixture(scope="module")
def crf() -> LatentCRF:
    torch.manual_seed(1)
    crf = LatentCRF(channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2).eval()
    for parameter in crf.parameters():  # a fresh one is nearly the identity
        torch.nn.init.normal_(parameter, std=0.3)
    return crf


@pytest.fixture(scope="module")
def finisher(crf: LatentCRF) -> Finisher:
    torch.manual_seed(2)
    network = LatentCRF(
        channels=8, coarse_channels=8, num_coarse_blocks=1, num_experts=2, pairwise_rank=2, corrects_clean=True
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Finisher(network.eval())


@pytest.fixture(scope="module")
def events() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def result(
    tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, finisher: Finisher, events: list[Any]
) -> walkthrough.Walkthrough:
    return walkthrough.compute(
        tiny_pipeline, crf, "red apple", 3, bypass=BYPASS, steps=STEPS, finisher=finisher, report=events.append
    )  # fmt: skip


def test_each_step_is_reported(result: walkthrough.Walkthrough, events: list[Any]) -> None:
    assert events == [*range(1, 2 * STEPS - (BYPASS[1] - BYPASS[0]) + 1), walkthrough.DECODING]
    assert result.hand_over["denoiser_calls"].tolist() == [5, 5, 6, 6, 10]
    assert result.hand_over["distance"].iloc[-1] == 0 < result.hand_over["distance"].iloc[0]
    assert result.steps["estimate_change"].notna().sum() == STEPS - 1


def test_the_frames_are_those_of_both_runs(result: walkthrough.Walkthrough) -> None:
    assert result.shown_steps == list(range(STEPS)) and result.frames.shape[:2] == (2, STEPS)
    assert result.bypassed_steps == [BYPASS[0], BYPASS[1]] and result.bypassed_frames.shape[:2] == (2, 2)
    ends = dict(zip(result.hand_over["picture"], result.ends, strict=True))
    # The last clean estimate of a DDIM run is its result, and the one before the bypass is what the CRF is given.
    for frame, picture in (
        (result.frames[1, -1], walkthrough.FULL),
        (result.frames[1, BYPASS[0] - 1], walkthrough.BEFORE),
        (result.bypassed_frames[1, 0], walkthrough.AFTER),
        (result.bypassed_frames[1, -1], walkthrough.BYPASSED),
    ):
        assert np.abs(frame.astype(int) - ends[picture].astype(int)).max() <= 1, picture
    assert not np.array_equal(ends["finished"], ends[walkthrough.BYPASSED])
    assert 0 < result.levels[0] < result.levels[1] < 1
    assert walkthrough.choose_shown_steps(200)[::49] == [0, 199] and walkthrough.choose_shown_steps(2) == [0, 1]


@pytest.mark.parametrize("term", TERMS)
@torch.inference_mode()
def test_a_weight_multiplies_its_own_term_only(result: walkthrough.Walkthrough, term: str) -> None:
    p, y = result.potentials, torch.randn(1, 4, 8, 8)
    factors = torch.tensor([7.0, 0.5])
    before, after = energy(y, p), energy(y.expand(2, -1, -1, -1), walkthrough.scale_terms(p, {term: factors}))
    for name in TERMS:
        expected = before[name] * (factors if name == term else torch.ones(2))
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("term", "factor", "words"), [("colour", 1.0, "no term 'colour'; accepted are unary"),
                                                       ("unary", 0.0, "factor is 0.0; accepted are")])  # fmt: skip
def test_other_weights_are_refused(result: walkthrough.Walkthrough, term: str, factor: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        walkthrough.scale_terms(result.potentials, {term: factor})


def test_equal_ratios_of_the_weights_have_one_minimum(
    result: walkthrough.Walkthrough, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF
) -> None:
    triples = walkthrough.list_weights()
    assert len(triples) == 61 == len({(p - u, h - u) for u, p, h in triples}) and triples[0] == (0, 0, 0)
    images, table = walkthrough.find_minima(tiny_pipeline, crf, result.potentials, [(0, 1, 2), (-1, 0, 1), (0, 0, 0)])
    assert np.abs(images[0].astype(int) - images[1].astype(int)).max() <= 1
    assert table["total"].iloc[0] == pytest.approx(table["total"].iloc[1], rel=1e-3)
    assert table["total"].iloc[2] == pytest.approx(result.weights["total"].iloc[0], rel=1e-4)
    assert np.abs(images[2].astype(int) - result.minima[0].astype(int)).max() <= 1


def test_the_learned_weights_cost_least(result: walkthrough.Walkthrough) -> None:
    assert result.weights["total"].idxmin() == 0
    assert (result.weights.filter(like="_factor").iloc[0] == 1).all()
    for term in TERMS:
        rows = select_term(result.weights, term)
        assert result.weights[f"{term}_factor"][rows].tolist() == [0.01, 0.1, 1, 10, 100]
    energies = result.candidates.set_index("picture")["total"]
    assert energies.idxmin() == "the CRF's y"


def test_images_are_measured() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[1, :, :4] = 255  # half white, half black
    images[2] = [255, 0, 0]
    table = walkthrough.measure_images(images)
    assert table["contrast"].tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    assert table["saturation"].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    assert table["edges"].tolist() == pytest.approx([0, 1 / 14, 0], abs=1e-6)


def test_the_descent_never_rises(result: walkthrough.Walkthrough) -> None:
    runs = result.descent.groupby(["start", "solver"])
    assert len(runs) == 4
    for _, run in runs:
        assert run["iteration"].tolist() == list(range(walkthrough.ITERATIONS + 1))
        assert (np.diff(run["total"]) <= 1e-4 * run["total"].abs().max()).all()


def test_figures_say_what_they_show(result: walkthrough.Walkthrough) -> None:
    figures = draw_figures(result)
    assert list(figures) == ["steps", "redundancy", "weights", "descent", "iterates", "hand-over"]
    assert list(figures["steps"].layout.xaxis.ticktext)[:2] == ["step 0", str(result.shown_steps[1])]
    changes = result.steps["estimate_change"].to_numpy()
    share = np.nansum(changes[BYPASS[0] : BYPASS[1]]) / np.nansum(changes)
    assert figures["redundancy"].layout.title.text == f"Steps 5 to 8 make {share:.0%} of the clean estimate's change"
    assert len(figures["descent"].data) == 4 and figures["descent"].layout.yaxis.title.text == "Energy"
    assert "off by 0.000" in figures["hand-over"].layout.xaxis.ticktext[-1]
    assert len(figures["steps"].layout.xaxis.ticktext) == COLUMNS


def test_the_command_line_writes_what_its_settings_make_again(
    result: walkthrough.Walkthrough, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, finisher: Finisher,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(method, "load_pipeline", lambda folder: tiny_pipeline)
    monkeypatch.setattr(method, "load_crf_argument", lambda options: crf)
    monkeypatch.setattr(method, "load_finisher", lambda folder, iterations: finisher)
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome is tested elsewhere
    record = {"analysis": "method", "options": method.build_results(result).options}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    out = tmp_path / "out"
    assert method.main(["--out", str(out), "--from", str(tmp_path / "settings.json")]) == 0
    assert json.loads((out / "settings.json").read_text()) == record
    assert {path.name for path in out.iterdir()} >= {
        "steps.csv",
        "candidates.csv",
        "weights.csv",
        "descent.csv",
        "hand-over.csv",
    }


def test_wrong_options_are_met_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        (["--steps", "3"], "argument --steps: 3 is out of range: 8 to 200"),
        (["--prompt", " "], "argument --prompt: it was left empty"),
    ):
        with pytest.raises(SystemExit):
            method.main(["--out", "x", *line])
        assert words in capsys.readouterr().err
