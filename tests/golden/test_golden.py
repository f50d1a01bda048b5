"""The stored values and the present ones agree; what must not agree with them does not."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.golden import cases
from tests.golden.cases import TOLERANCE, Values

CONTROL = 100  # what a negative control differs by, at least, in tolerances


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with cases.exact():
        yield


def assert_stored(found: Values, name: str, tolerance: float) -> None:
    apart = cases.deviations(found, cases.load(name))
    worst = max(apart.values())
    print(f"{name}: at most {worst:.1e}, allowed {tolerance:.0e}")
    assert worst <= tolerance, {key: value for key, value in apart.items() if value > tolerance}


def test_prompts_and_content_hashes() -> None:
    assert_stored(cases.prompts(), "prompts", 0.0)


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
