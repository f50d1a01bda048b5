"""The lesson: its energies against the CRF's own, its figures, its tab's answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from analysis import lesson, method
from app.page import Turns
from app.services import Services
from app.tabs import method as tab
from latentcrf import LatentCRF
from latentcrf.potentials import energy

STEPS, GAP = 10, (5, 9)


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
def found(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, events: list[Any]) -> lesson.Lesson:
    return lesson.compute(
        tiny_pipeline, crf, "red apple", 3, bypass=GAP, steps=STEPS, report=events.append
    )  # fmt: skip


def test_the_run_is_told_step_by_step(found: lesson.Lesson, events: list[Any]) -> None:
    calls = [event for event in events if isinstance(event, int)]
    assert calls == list(range(1, 2 * STEPS - (GAP[1] - GAP[0]) + 1))
    strips = [event for event in events if isinstance(event, np.ndarray)]
    assert [strip.shape[:2] for strip in strips] == [(2, n + 1) for n in range(len(found.shown))]
    assert (strips[-1] == found.strip).all() and found.shown[0] == 0 and found.shown[-1] == STEPS - 1
    assert found.hand_over["unet_calls"].tolist() == [5, 5, 6, 10]
    assert found.hand_over["distance"].iloc[-1] == 0 < found.hand_over["distance"].iloc[0]
    assert found.steps["estimate_change"].notna().sum() == STEPS - 1


@pytest.mark.parametrize("term", lesson.TERMS)
@torch.inference_mode()
def test_a_weight_multiplies_its_own_term_only(found: lesson.Lesson, term: str) -> None:
    p, y = found.potentials, torch.randn(1, 4, 8, 8)
    before, after = energy(y, p), energy(y, lesson.weighted(p, term, 7.0))
    for name in lesson.TERMS:
        torch.testing.assert_close(after[name], before[name] * (7.0 if name == term else 1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("term", "factor", "words"), [("colour", 1.0, "no term 'colour'; accepted are unary"),
                                                       ("unary", 0.0, "factor is 0.0; accepted are")])  # fmt: skip
def test_other_weights_are_refused(found: lesson.Lesson, term: str, factor: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lesson.weighted(found.potentials, term, factor)


def test_the_learned_weights_cost_least(
    found: lesson.Lesson, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF
) -> None:
    for term, rows in found.weights.groupby("term"):
        totals = rows.set_index("factor")["total"]
        assert totals.idxmin() == 1.0, term
        image, energies = lesson.learned(found, str(term))
        again, expected = lesson.minimum(tiny_pipeline, crf, found.potentials, str(term), 1.0)
        assert energies == pytest.approx(expected, rel=1e-4)
        assert np.abs(image.astype(int) - again.astype(int)).max() <= 1


def test_the_descent_never_rises(found: lesson.Lesson) -> None:
    runs = found.descent.groupby(["start", "solver"])
    assert len(runs) == 4
    for _, run in runs:
        assert run["iteration"].tolist() == list(range(lesson.ITERATIONS + 1))
        assert (np.diff(run["total"]) <= 1e-4 * run["total"].abs().max()).all()


def test_figures_say_what_they_show(found: lesson.Lesson) -> None:
    drawn = method.figures(found)
    assert list(drawn) == ["steps", "redundancy", "weights", "descent", "iterates", "hand-over"]
    assert list(drawn["steps"].layout.xaxis.ticktext)[:2] == ["step 0", str(found.shown[1])]
    changes = found.steps["estimate_change"].to_numpy()
    share = np.nansum(changes[GAP[0] : GAP[1]]) / np.nansum(changes)
    assert drawn["redundancy"].layout.title.text == f"Steps 5 to 8 make {share:.0%} of the clean estimate's change"
    assert len(drawn["descent"].data) == 4 and drawn["descent"].layout.yaxis.title.text == "Energy"
    assert "off by 0.000" in drawn["hand-over"].layout.xaxis.ticktext[-1]
    some = method.strip_figure(found.strip[:, :3], found.shown)
    assert len(some.layout.xaxis.ticktext) == len(found.shown)


def test_the_command_line_writes_what_its_settings_make_again(
    found: lesson.Lesson, tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(method, "load_pipeline", lambda folder: tiny_pipeline)
    monkeypatch.setattr(method.LatentCRF, "from_pretrained", lambda folder: crf)
    monkeypatch.setattr("analysis.export.figure_png", lambda drawn, name: None)  # Chrome is tested elsewhere
    record = {"analysis": "method", "options": method.results(found).options}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    out = tmp_path / "out"
    assert method.main(["--out", str(out), "--from", str(tmp_path / "settings.json")]) == 0
    assert json.loads((out / "settings.json").read_text()) == record
    assert {path.name for path in out.iterdir()} >= {"steps.csv", "weights.csv", "descent.csv", "hand-over.csv"}


def test_wrong_options_are_met_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in ((["--steps", "3"], "--steps 3 is out of range: 8 to 200"), (["--prompt", " "], "left empty")):
        with pytest.raises(SystemExit):
            method.main(["--out", "x", *line])
        assert words in capsys.readouterr().err


class Stand:
    """The page's services with the tiny pipeline."""

    def __init__(self, pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
        self.models = type("Models", (), {"pipeline": pipeline, "crf": crf, "precision": torch.float32})()

    def stream(self, work: Any) -> Any:
        reports: list[Any] = []
        work(self.models, reports.append)
        return (report for report in reports)


def test_the_tab_draws_and_its_sliders_answer(tiny_pipeline: StableDiffusionPipeline, crf: LatentCRF) -> None:
    services: Any = Stand(tiny_pipeline, crf)
    answers = list(tab.run(services, "red apple", 3, False, 1, Turns(asked=1)))
    width = 4 + len(tab.NOTES) + 2 * len(tab.TERMS)
    assert all(len(answer) == width for answer in answers)
    made, examples = answers[-1][3], answers[-1][-len(tab.TERMS) :]
    assert all("data:image/png;base64," in example and "Counts × 1." in example for example in examples)
    turned = tab.turn(services, "unary", made, -2)
    assert "Counts × 0.01." in turned and turned != examples[0]
    assert "Weight must be a number from -2 to 2" in tab.turn(services, "unary", made, float("nan"))
    assert "Press Run first" in tab.turn(services, "unary", None, 0)
    assert tab.draw(None, True)[0] == tab.draw(None, False)[0]


def test_the_tab_answers_bad_input_with_a_sentence() -> None:
    (answer,) = tab.run(Services(), " ", -1, False, 1, Turns(asked=1))
    assert "Prompt must be" in answer[0] and "Seed must be" in answer[0]
