"""The walkthrough: its energies against the CRF's own, its figures, its command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import method
from analysis.figures.walkthrough import draw_figures, draw_strip
from analysis.studies import TERMS, walkthrough
from latentcrf import LatentCRF
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
def events() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def result(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, events: list[Any]) -> walkthrough.Walkthrough:
    return walkthrough.compute(
        tiny_pipeline, crf, "red apple", 3, bypass=BYPASS, steps=STEPS, report=events.append
    )  # fmt: skip


def test_each_step_is_reported(result: walkthrough.Walkthrough, events: list[Any]) -> None:
    calls = [event for event in events if isinstance(event, int)]
    assert calls == list(range(1, 2 * STEPS - (BYPASS[1] - BYPASS[0]) + 1))
    strips = [event for event in events if isinstance(event, np.ndarray)]
    assert [strip.shape[:2] for strip in strips] == [(2, n + 1) for n in range(len(result.shown_steps))]
    assert (strips[-1] == result.strip).all() and result.shown_steps[0] == 0 and result.shown_steps[-1] == STEPS - 1
    assert result.hand_over["denoiser_calls"].tolist() == [5, 5, 6, 10]
    assert result.hand_over["distance"].iloc[-1] == 0 < result.hand_over["distance"].iloc[0]
    assert result.steps["estimate_change"].notna().sum() == STEPS - 1


@pytest.mark.parametrize("term", TERMS)
@torch.inference_mode()
def test_a_weight_multiplies_its_own_term_only(result: walkthrough.Walkthrough, term: str) -> None:
    p, y = result.potentials, torch.randn(1, 4, 8, 8)
    before, after = energy(y, p), energy(y, walkthrough.scale_term(p, term, 7.0))
    for name in TERMS:
        torch.testing.assert_close(after[name], before[name] * (7.0 if name == term else 1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("term", "factor", "words"), [("colour", 1.0, "no term 'colour'; accepted are unary"),
                                                       ("unary", 0.0, "factor is 0.0; accepted are")])  # fmt: skip
def test_other_weights_are_refused(result: walkthrough.Walkthrough, term: str, factor: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        walkthrough.scale_term(result.potentials, term, factor)


def test_the_learned_weights_cost_least(
    result: walkthrough.Walkthrough, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF
) -> None:
    for term, rows in result.weights.groupby("term"):
        totals = rows.set_index("factor")["total"]
        assert totals.idxmin() == 1.0, term
        image, energies = result.get_minimum(str(term))
        again, expected = walkthrough.find_minimum(tiny_pipeline, crf, result.potentials, str(term), 1.0)
        assert energies == pytest.approx(expected, rel=1e-4)
        assert np.abs(image.astype(int) - again.astype(int)).max() <= 1


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
    some = draw_strip(result.strip[:, :3], result.shown_steps)
    assert len(some.layout.xaxis.ticktext) == len(result.shown_steps)


def test_the_command_line_writes_what_its_settings_make_again(
    result: walkthrough.Walkthrough, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(method, "load_pipeline", lambda folder: tiny_pipeline)
    monkeypatch.setattr(method, "load_crf_argument", lambda options: crf)
    monkeypatch.setattr("analysis.export.draw_png", lambda figure, name: None)  # Chrome is tested elsewhere
    record = {"analysis": "method", "options": method.build_results(result).options}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    out = tmp_path / "out"
    assert method.main(["--out", str(out), "--from", str(tmp_path / "settings.json")]) == 0
    assert json.loads((out / "settings.json").read_text()) == record
    assert {path.name for path in out.iterdir()} >= {"steps.csv", "weights.csv", "descent.csv", "hand-over.csv"}


def test_wrong_options_are_met_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        (["--steps", "3"], "argument --steps: 3 is out of range: 8 to 200"),
        (["--prompt", " "], "argument --prompt: it was left empty"),
    ):
        with pytest.raises(SystemExit):
            method.main(["--out", "x", *line])
        assert words in capsys.readouterr().err
