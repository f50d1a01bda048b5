"""The stored values and the present ones agree; what must not agree with them does not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden import cases
from tests.golden.cases import TOLERANCE, Values, rename

CONTROL = 100  # what a negative control differs by, at least, in tolerances


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with cases.exact():
        yield


def assert_stored(found: Values, name: str, tolerance: float) -> None:
    assert_close(found, cases.load(name), name, tolerance)


def assert_close(found: Values, stored: Values, name: str, tolerance: float) -> None:
    apart = cases.deviations(found, stored)
    worst = max(apart, key=lambda key: apart[key])
    print(f"{name}: at most {apart[worst]:.1e} ({worst}), allowed {tolerance:.0e}")
    assert apart[worst] <= tolerance, {key: value for key, value in apart.items() if value > tolerance}


def test_prompts_and_content_hashes() -> None:
    assert_stored(cases.prompts(), "prompts", 0.0)


# --- recordings and training ------------------------------------------------------------------------------------------


def test_recorded_runs() -> None:
    assert_stored(cases.recording(), "recording", TOLERANCE["run"])
    stored = cases.load("recording")
    assert cases.deviation(stored["x"][1], stored["x"][0]) > CONTROL * TOLERANCE["run"]


def test_recorded_final_latents() -> None:
    assert_stored(cases.final_recording(), "final-recording", TOLERANCE["round trips"])
    stored = cases.load("final-recording")
    assert cases.deviation(stored["x"], stored["y"]) > CONTROL * TOLERANCE["round trips"]


@pytest.mark.parametrize("name", cases.TRAINERS)
def test_first_steps_of_a_trainer(name: str, tmp_path: Path) -> None:
    """The losses of three steps, how far the networks moved, and the held-out measures."""
    assert_stored(cases.TRAINERS[name](tmp_path / "out"), f"trainer-{name}", TOLERANCE["training"])


def test_another_seed_trains_otherwise(tmp_path: Path) -> None:
    words = [*cases.common_arguments(), *cases.CRF_ARGUMENTS, "--stage1-until", 0]
    other = cases.run_trainer(cases.train.main, 3, *words, out=tmp_path / "out", seed=2)
    apart = cases.deviations(other, cases.load("trainer-stage-2"))
    losses = [value for key, value in apart.items() if key.startswith("losses")]
    assert len(losses) == 3 and min(losses) > CONTROL * TOLERANCE["training"]


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    """Stopped in the seventh step, with all three stages and both discriminators at work."""
    whole = cases.all_stages(tmp_path / "whole")
    assert_stored(whole, "resumed", TOLERANCE["training"])
    assert cases.all_stages(tmp_path / "broken", stop_in=6) == {}
    assert cases.checkpoint(tmp_path / "broken")["step"] == 6
    torch.manual_seed(12345)  # another process has another random state
    resumed = cases.all_stages(tmp_path / "broken", resume=True)
    assert list(resumed["losses"].values()) == [whole["losses"]["step 6"]]
    folders = tmp_path / "whole", tmp_path / "broken"
    assert cases.unequal(*map(cases.checkpoint, folders)) == []
    ours, theirs = (cases.LatentCRF.from_pretrained(folder / rename("latentcrf")).state_dict() for folder in folders)
    assert cases.unequal(dict(ours), dict(theirs)) == []


@pytest.mark.slow
def test_the_tables_of_a_small_benchmark(tmp_path: Path) -> None:
    found, stored = cases.benchmark_tables(tmp_path), cases.stored_tables()
    assert_close(found, stored, "benchmark", TOLERANCE["table"])
    of = {name: index for index, name in enumerate(stored["methods"]["method"])}
    for column in ("kid", "latent_mse_full"):  # what the CRF does is seen in them
        values = stored["methods"][rename(column)]
        bypass, crf, plain = (
            values[of[rename(f"DDIM-50 {name} (33, 49)")]] for name in ("bypass", "LatentCRF", "plain")
        )
        assert min(abs(crf / bypass - 1), abs(crf / plain - 1)) > 10 * TOLERANCE["table"]


# --- shipped models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.SHIPPED)
def test_potentials_and_result_of_a_shipped_model(name: str) -> None:
    assert_stored(cases.solution(cases.shipped(name)), f"model-{name}", TOLERANCE["model"])


@pytest.mark.parametrize("name", cases.SHIPPED)
def test_another_model_or_input_is_not_taken_for_the_stored_one(name: str) -> None:
    crf, stored, least = cases.shipped(name), cases.load(f"model-{name}"), CONTROL * TOLERANCE["model"]
    seen, has_fields, is_static = cases.observation(), "phi" in stored, name.endswith("static")

    other = cases.deviations(cases.solution(crf, seed=1), stored)
    changed = {"u", "y_1", "y_2", "y", "x_out"} | ({"E"} if has_fields else set())
    if has_fields and not is_static:
        changed |= {"lambda", "phi", "alpha", "b"}
    assert all(other[key] > least for key in changed), other
    # without the CRF: the network's u, or the clean estimate as it came
    assert cases.deviation(seen.denoised, stored["y"]) > least
    if has_fields:
        assert cases.deviation(stored["u"], stored["y"]) > least
        assert cases.deviation(cases.solution(crf, iterations=1)["y"], stored["y"]) > least
        assert cases.deviation(stored["y_1"], stored["y_2"]) > least
    shuffled = cases.deviations(cases.solution(cases.shuffle(crf, 0)), stored)
    learned = set(stored) - {"u", "lambda", "b", "alpha"} if is_static else changed  # one number, or none, to permute
    assert all(shuffled[key] > least for key in learned), shuffled


# --- saved pipelines --------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_draws_the_same_in_a_new_process() -> None:
    values, before, after = cases.saved_pipeline()
    assert values["scheduler in model_index.json"] == ["latentcrf.scheduler", "LatentCRFScheduler"]  # never renamed
    assert np.array_equal(before, after)
    assert_stored(values, "pipeline", TOLERANCE["run"])


def test_a_scheduler_saved_earlier_still_loads() -> None:
    found, stored = cases.old_scheduler(), cases.load("old-scheduler")
    assert_stored(found, "old-scheduler", TOLERANCE["run"])
    assert cases.deviation(found["latents"], cases.load("pipeline")["latents"]) <= TOLERANCE["run"]
    for without in ({"crf": False}, {"finisher": False}, {"bypass": False}):
        other = cases.deviation(cases.old_scheduler(**without)["latents"], stored["latents"])
        assert other > CONTROL * TOLERANCE["run"], without


# --- page -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", cases.MODES)
def test_the_images_of_the_page(mode: str) -> None:
    """LatentCRF's image, and the three that are shown with it."""
    result = cases.page_result(mode)
    found, stored = cases.page(result), cases.load(f"page-{mode}")
    images, expected = (values.pop("images") for values in (found, stored))
    apart = cases.pixel_difference(images, expected)
    print(f"page-{mode}: {apart:.4f} levels, allowed {TOLERANCE['pixels']}")
    assert images.shape == expected.shape and apart <= TOLERANCE["pixels"]
    assert found["calls"] == stored["calls"]
    assert found["distance"] == pytest.approx(stored["distance"], rel=TOLERANCE["distance"])

    full, ours, before, after = np.split(expected, 4, axis=1)
    least = 50 * TOLERANCE["pixels"]
    without = result.before if mode == "few-steps" else cases.page_result(mode, crf=False).latentcrf.image
    for other in (without, full, before, cases.page_result(mode, seed=4).latentcrf.image):
        assert cases.pixel_difference(other, ours) > least
    assert cases.pixel_difference(before, after) > least
