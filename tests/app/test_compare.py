"""The compare tab's handlers, called as plain functions, with the shipped models."""

import base64
import io
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image

from analysis.metrics.pixels import to_pixels
from analysis.sampling import decode, sample
from app import api, call_memory, runs
from app.benchmark import find_time_ratio
from app.callback_stream import stream_reports
from app.components import form, html
from app.device import DeviceWorker
from app.layout import TABS, build_app
from app.models_file import ModelsError, Source
from app.png import read_png
from app.results import Comparison, Generated, Progress
from app.runs import RunCounter
from app.settings import METHOD, NAMES, Settings, SettingsError, name_method
from app.tabs import compare
from latentcrf.noise_levels import clean_estimate_between, coefficients
from latentcrf.precision import autocast
from tests.app.driving import CATALOG, EMOJI, ask_api

FEW = replace(EMOJI.defaults, seed=3, steps=8, iterations=3, bypass_start=4, bypass_end=7, finisher=False)


@pytest.fixture(scope="module")
def worker() -> DeviceWorker:
    missing = [path for path in EMOJI.list_files() if not path.is_file()]
    if missing:
        pytest.skip(f"the trained models are not there yet: {missing[0]}")
    return DeviceWorker()


@pytest.fixture(scope="module")
def result(worker: DeviceWorker) -> Comparison:
    return compared(worker, FEW)


def compared(worker: DeviceWorker, settings: Settings, previews: bool = True) -> Comparison:
    *_, result = worker.stream("compare", settings, previews, None)
    assert isinstance(result, Comparison)
    return result


class Shown:
    """What a run shows: status, start, cancel, and the outputs by the names of `compare.View`."""

    def __init__(self, values: list[Any]) -> None:
        self.status, self.start, self.cancel, *outputs = values
        self.view = compare.View(*outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.view, name)


def drive(
    worker: Any, values: list[Any], previous: Any = None, run_id: int = 1, counter: RunCounter | None = None
) -> Iterator[Shown]:
    """The compare tab's handler under the page's driver."""
    of_visitor = runs.Run(worker, run_id, counter or RunCounter(last=1), "emoji")
    for shown in runs.drive(
        compare.run_comparison, of_visitor, values, lambda: compare.show_comparison(previous), len(compare.View._fields)
    ):
        yield Shown(shown)


def run(worker: Any, settings: Settings, previous: Any = None, **changes: Any) -> list[Shown]:
    values = settings.as_dict() | changes
    return list(drive(worker, [*(values[name] for name in NAMES), False, True], previous))


def pixels(image: Image.Image | str) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else Image.open(image))


# ------------------------------------------------------------------------------ with the real models


@pytest.mark.slow
def test_an_emoji_is_drawn_as_its_name_is(worker: DeviceWorker) -> None:
    """On the page and by the API, which both say so; what the model reads nothing of is refused."""
    small = {**FEW.as_dict(), "steps": 2, "bypass_start": 1, "bypass_end": 2}
    answer = api.answer_compare(worker, {**small, "prompt": "🍎🍎"})
    assert answer["settings"]["prompt"] == "red apple"
    assert answer["notes"] == ["🍎 is read as “red apple”.", "The model draws one subject and does not count."]
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["full"]["png"])))
    named = run(worker, FEW, prompt="red apple", steps=2, bypass_start=1, bypass_end=2)[-1]
    assert np.array_equal(pixels(drawn), pixels(named.full_file["value"])) and "is read as" not in named.status
    shown = run(worker, FEW, prompt="🍎", steps=2, bypass_start=1, bypass_end=2)[-1]
    assert "🍎 is read as “red apple”." in shown.status
    assert np.array_equal(pixels(drawn), pixels(shown.full_file["value"]))
    words = "cannot read: 红苹果; try: red apple"
    (refused,) = run(worker, FEW, prompt="红苹果")
    assert words in refused.status
    with pytest.raises(SettingsError, match=words):
        api.answer_compare(worker, {**small, "prompt": "红苹果"})


def test_both_methods_run_as_planned(worker: DeviceWorker) -> None:
    """Each step is reported, the calls are the plan's, the results come in order and the figures are theirs."""
    events = list(worker.stream("compare", FEW, True, None))
    steps = [(event.method, event.done, event.total) for event in events if isinstance(event, Progress)]
    assert steps == [("full", i + 1, 8) for i in range(8)] + [("latentcrf", i + 1, 5) for i in range(5)]
    assert [event.method for event in events if isinstance(event, Generated)] == ["full", "latentcrf"]
    result = events[-1]
    assert isinstance(result, Comparison)
    assert (result.full.denoiser_calls, result.latentcrf.denoiser_calls) == (8, 5)
    assert result.speed_up == result.full.seconds / result.latentcrf.seconds > 0
    assert result.full.image.size == result.latentcrf.image.size == result.before.size == result.after.size
    assert not np.array_equal(pixels(result.full.image), pixels(result.latentcrf.image))
    assert 0 < result.lpips < 1


def test_the_full_image_is_the_plain_pipelines(worker: DeviceWorker, result: Comparison) -> None:
    """Watching, timing and previewing change nothing: the image is the one that diffusers makes by itself."""
    models = worker.load()
    with autocast(models.pipeline.device, models.precision):
        latents = models.pipeline(
            FEW.prompt,
            num_inference_steps=FEW.steps,
            guidance_scale=FEW.guidance,
            generator=torch.Generator().manual_seed(FEW.seed),
            output_type="latent",
        ).images
    with torch.inference_mode():
        image = models.pipeline.vae.decode(latents.float() / models.pipeline.vae.config.scaling_factor).sample
    expected = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    difference = np.abs(expected.astype(int) - pixels(result.full.image).astype(int))
    # The prompt is encoded outside autocast by us and inside by the pipeline: equal but for that rounding.
    assert np.median(difference) <= 1 and difference.mean() < 2


def test_the_same_settings_give_the_same_images_with_and_without_previews(
    worker: DeviceWorker, result: Comparison
) -> None:
    again = compared(worker, FEW, previews=False)
    for method in ("full", "latentcrf"):
        assert np.array_equal(pixels(getattr(again, method).image), pixels(getattr(result, method).image))
    other = compared(worker, replace(FEW, seed=4))
    assert not np.array_equal(pixels(other.full.image), pixels(result.full.image))


def test_a_bypass_to_the_end_makes_the_crfs_result_the_image(worker: DeviceWorker) -> None:
    result = compared(worker, replace(FEW, bypass_end=8))
    assert result.latentcrf.denoiser_calls == 4
    assert np.array_equal(pixels(result.latentcrf.image), pixels(result.after))


def test_the_finisher_changes_latentcrfs_image_alone_and_is_named(worker: DeviceWorker, result: Comparison) -> None:
    finished = compared(worker, replace(FEW, finisher=True))
    assert np.array_equal(pixels(finished.full.image), pixels(result.full.image))
    assert np.array_equal(pixels(finished.after), pixels(result.after))
    changed = np.abs(pixels(finished.latentcrf.image).astype(int) - pixels(result.latentcrf.image)).mean()
    assert 0.5 < changed < 20
    assert finished.latentcrf.denoiser_calls == result.latentcrf.denoiser_calls
    assert "a second CRF corrects" in html.format_plan(EMOJI, finished.settings)
    assert "second" not in html.format_plan(EMOJI, result.settings)
    assert "finisher" not in result.origin and finished.origin["finisher"].startswith("emoji-latentcrf-finisher ")
    assert "3 iterations, finisher, guidance 3." in compare.summarize_comparison([finished], EMOJI)
    assert "3 iterations, no finisher, guidance 3." in compare.summarize_comparison([result], EMOJI)


def test_a_run_of_few_steps_is_the_faster_solvers_finished(worker: DeviceWorker, result: Comparison) -> None:
    events = list(worker.stream("compare", replace(FEW, finisher=True, few_steps=4), True, None))
    steps = [(event.method, event.done, event.total) for event in events if isinstance(event, Progress)]
    assert steps == [("full", i + 1, 8) for i in range(8)] + [("latentcrf", i + 1, 4) for i in range(4)]
    few = events[-1]
    assert (few.full.denoiser_calls, few.latentcrf.denoiser_calls) == (8, 4)
    assert np.array_equal(pixels(few.full.image), pixels(result.full.image))
    assert np.array_equal(pixels(few.latentcrf.image), pixels(few.after))
    models = worker.load()
    scheduler = UniPCMultistepScheduler.from_config(models.pipeline.scheduler.config)
    how = {"steps": 4, "guidance": FEW.guidance, "scheduler": scheduler, "precision": models.precision}
    latents = sample(models.pipeline, [FEW.prompt], [FEW.seed], **how)
    before = to_pixels(decode(models.pipeline, latents))[0].astype(int)
    assert np.abs(before - pixels(few.before)).mean() < 0.5
    assert np.abs(before - pixels(few.after)).mean() > 0.5
    planned = html.format_plan(EMOJI, few.settings, {"full": 8, "latentcrf": 3})
    assert "4 of a faster solver (UniPC)" in planned and planned.count('<i class="done"></i>') == 8 + 3
    assert 'class="crf"' in planned and 'class="crf done"' in html.format_plan(EMOJI, few.settings, {"latentcrf": 4})
    assert "8 steps. LatentCRF: 4 steps of UniPC" in compare.summarize_comparison([few], EMOJI)
    assert "crf" in result.origin and "crf" not in few.origin and "finisher" in few.origin


def test_the_guidance_cutoff_saves_network_evaluations_of_latentcrf_alone(
    worker: DeviceWorker, result: Comparison
) -> None:
    settings = replace(FEW, finisher=True, few_steps=4, guidance_cutoff=0.5)
    *_, cut_off = worker.stream("compare", settings, False, None)
    assert (cut_off.full.network_evaluations, cut_off.latentcrf.network_evaluations) == (16, 6)
    assert settings.network_evaluations == {"full": 16, "latentcrf": 6}
    assert np.array_equal(pixels(cut_off.full.image), pixels(result.full.image))
    whole = list(worker.stream("compare", replace(settings, guidance_cutoff=0), False, None))[-1]
    assert not np.array_equal(pixels(cut_off.latentcrf.image), pixels(whole.latentcrf.image))
    planned = html.format_plan(EMOJI, settings, {"full": 8, "latentcrf": 4})
    assert (
        planned.count('class="done half"') == 2
        and "4 of a faster solver (UniPC), the last 2 without guidance, then" in planned
    )
    assert "6 NFE" in planned and "16 NFE" in planned
    assert "but in the last 50% of its calls" in compare.summarize_comparison([cut_off], EMOJI)


def test_previews_come_before_the_image_and_cost_no_measured_time(worker: DeviceWorker, monkeypatch: Any) -> None:
    """Whatever the reader does with a step, even sleeping, is not in the seconds."""
    monkeypatch.setattr("app.comparison.PREVIEW_SECONDS", -1.0)
    began = time.perf_counter()
    slept, previews, seconds = 0.0, 0, 0.0
    for event in worker.stream("compare", FEW, True, None):
        if isinstance(event, Progress):
            previews += event.preview is not None
            time.sleep(0.2)
            slept += 0.2
        elif isinstance(event, Generated):
            seconds += event.seconds
    assert previews == 7 + 4
    assert seconds < time.perf_counter() - began - slept


def test_the_clean_estimate_is_the_schedulers_own(worker: DeviceWorker) -> None:
    """From two neighbouring latents of a DDIM step alone: against DDIMScheduler's pred_original_sample."""
    scheduler = worker.load().pipeline.scheduler
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    for index in (0, 4, 9):
        latents, output = torch.randn(2, 1, 4, 16, 16, generator=generator)
        step = scheduler.step(output, scheduler.timesteps[index], latents)
        here, after = coefficients(scheduler, index), coefficients(scheduler, index + 1)
        estimate = clean_estimate_between(latents, step.prev_sample, here, after)
        assert torch.allclose(estimate, step.pred_original_sample, atol=1e-4)


def test_closing_stops_within_a_step_and_frees_the_device(worker: DeviceWorker) -> None:
    calls: list[int] = []
    handle = worker.load().pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        running = worker.stream("compare", FEW, True, None)
        while not isinstance(event := next(running), Progress) or event.done < 2:
            pass
        running.close()
        assert worker._device.acquire(timeout=30)
        worker._device.release()
        assert len(calls) <= 3
    finally:
        handle.remove()
    result = compared(worker, FEW)
    assert result.full.denoiser_calls == 8


def test_the_handler_shows_images_figures_and_files(worker: DeviceWorker, result: Comparison) -> None:
    views = run(worker, FEW)
    assert views[0].start["interactive"] is False and views[0].cancel["interactive"] is True
    last = views[-1]
    assert last.start["interactive"] is True and last.cancel["interactive"] is False
    assert last.full_file["value"] == last.full and Path(last.full).name == "red-apple-3-full.png"
    for method in ("full", "latentcrf"):
        assert np.array_equal(pixels(getattr(last, method)), pixels(getattr(result, method).image))
    assert ">16<" in last.cards and ">10<" in last.cards and "×" in last.cards and "0." in last.cards


def test_a_downloaded_png_brings_the_same_image_back(worker: DeviceWorker) -> None:
    """Run, download, load the settings back into the form, run again: the same pixels, bit for bit."""
    first = run(worker, FEW)[-1]
    values = form.load_png(worker, first.latentcrf)
    *fields, random_seed, status, _ = values
    assert fields == list(FEW.as_dict().values()) and random_seed is False and "same image" in status
    again = list(drive(worker, [*fields, random_seed, True]))[-1]
    for method in ("full", "latentcrf"):
        assert np.array_equal(pixels(getattr(again, method)), pixels(getattr(first, method)))


def test_a_png_from_other_weights_says_so(worker: DeviceWorker, tmp_path: Path, result: Comparison) -> None:
    from app.png import write_png

    path = tmp_path / "other.png"
    path.write_bytes(write_png(result.full.image, FEW, {**result.origin, "ldm": "emoji-ldm 000000000000"}))
    assert "emoji-ldm 000000000000 there" in form.load_png(worker, str(path))[-2]


def test_a_long_prompt_says_what_was_not_read(worker: DeviceWorker) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    result = compared(worker, replace(FEW, prompt=words))
    assert result.unread == "fifteen sixteen"
    assert "did not see “fifteen sixteen”" in compare.summarize_comparison([result], EMOJI)


def test_the_endpoint_answers_and_refuses_like_the_page(worker: DeviceWorker, result: Comparison) -> None:
    answer = ask_api(worker, "compare", FEW.as_dict())
    assert (answer["full"]["denoiser_calls"], answer["latentcrf"]["denoiser_calls"]) == (8, 5)
    assert answer["lpips"] == pytest.approx(result.lpips)
    image = Image.open(io.BytesIO(base64.b64decode(answer["full"]["png"])))
    assert np.array_equal(np.asarray(image), pixels(result.full.image))
    with pytest.raises(SettingsError, match="Steps must be"):
        ask_api(worker, "compare", FEW.as_dict() | {"steps": 10_000})


CHANGES = [
    {"bypass_start": 3},
    {"iterations": 2},
    {"finisher": True},
    {"full_finisher": True},
    {"bypass_start": 2, "bypass_end": 8},
    {"few_steps": 4, "finisher": True, "guidance_cutoff": 0.33},
]


@pytest.mark.slow
def test_what_is_remembered_changes_no_bit_and_is_not_computed_again(worker: DeviceWorker) -> None:
    """A visitor changes one setting after the other; each result is that of a run that computes all by itself."""
    computed: list[int] = []
    seconds: set[float] = set()
    unet = worker.load().pipeline.unet
    handle = unet.conv_in.register_forward_pre_hook(lambda *_: computed.append(1))
    try:
        for index, changes in enumerate([{}, *CHANGES]):
            settings = replace(FEW, **changes)
            computed.clear()
            *_, remembered = worker.stream("compare", settings, True, "visitor")
            calls = len(computed)
            alone = compared(worker, settings, previews=False)
            for method in ("full", "latentcrf"):
                one, other = getattr(remembered, method), getattr(alone, method)
                assert np.array_equal(pixels(one.image), pixels(other.image)), (changes, method)
                assert one.network_evaluations == other.network_evaluations
            assert np.array_equal(pixels(remembered.before), pixels(alone.before)), changes
            assert np.array_equal(pixels(remembered.after), pixels(alone.after)) and remembered.lpips == alone.lpips
            # the first steps are the full run's; what comes after the bypass is computed
            after_bypass = 0 if changes in ({"finisher": True}, {"full_finisher": True}) else settings.denoiser_calls[
                "latentcrf"] - (0 if settings.few_steps else settings.bypass_start)  # fmt: skip
            after_bypass -= 1 if settings.few_steps else 0  # its first call is the full run's too
            assert calls == (8 if index == 0 else 0) + after_bypass, changes
            seconds.add(remembered.full.seconds)
            assert remembered.latentcrf.seconds > 0.1 * remembered.full.seconds > 0  # as its calls once took
        assert len(seconds) == 2  # the full run, and the finished one
        computed.clear()
        list(worker.stream("compare", FEW, False, "another visitor"))
        assert len(computed) == 8 + 1 and "forward" not in vars(unet)
    finally:
        handle.remove()


@pytest.mark.slow
def test_a_seed_gives_the_same_image_whatever_the_number_of_seeds(worker: DeviceWorker, result: Comparison) -> None:
    shown = run(worker, replace(FEW, images=3, seed=2))[-1]
    previous = shown.previous
    assert len(previous["pairs"]) == 3 and np.array_equal(
        pixels(previous["pairs"][1]["latentcrf"]), pixels(result.latentcrf.image)
    )
    assert "seeds 2 to 4" in shown.status and "mean of 3 seeds" in shown.cards and shown.pairs["visible"] is True
    settings, _ = read_png(previous["pairs"][1]["full"], CATALOG)
    assert (settings.seed, settings.images) == (3, 3)
    second = compare.show_comparison(previous, 1)
    pair = previous["pairs"][1]
    assert (second.full, second.latentcrf) == (pair["full"], pair["latentcrf"])


# ------------------------------------------------------------------------------ without the models


class Failing:
    """Stands where the models would be, to see what a visitor is shown when they fail."""

    catalog = CATALOG

    def __init__(self, error: Exception) -> None:
        self.error = error

    def is_loaded(self, _: str) -> bool:
        return True

    def stream(self, *_: Any, **__: Any) -> Iterator[Any]:
        yield Progress("full", 1, 8)
        raise self.error


def previous(folder: Path) -> dict[str, Any]:
    """What the page remembers of a run before."""
    pair = {name: str(folder / f"{name}.png") for name in ("full", "latentcrf", "before", "after")}
    for path in pair.values():
        Path(path).touch()
    return {"pairs": [pair], "settings": FEW.as_dict(), "text": "t", "cards": "c", "strip": "s"}


def test_wrong_values_start_nothing() -> None:
    worker = Failing(AssertionError("was started"))
    (view,) = run(worker, FEW, prompt="", steps=0)
    assert "Prompt must be" in view.status and "Steps must be" in view.status and 'role="alert"' in view.status
    assert view.full == gr.skip() and view.start["interactive"] is True


def test_a_failure_is_a_sentence_and_the_images_come_back(tmp_path: Path) -> None:
    shown = previous(tmp_path)
    view = run(Failing(ZeroDivisionError("secret path /home/x")), FEW, shown)[-1]
    assert runs.SORRY in view.status and "secret" not in str(vars(view))
    pair = shown["pairs"][0]
    assert (view.full, view.latentcrf) == (pair["full"], pair["latentcrf"])


def test_after_cancelling_the_previous_images_are_back(tmp_path: Path) -> None:
    shown, counter = previous(tmp_path), RunCounter()
    runs.begin_run(counter, gr.Request())
    _, start, cancel = runs.cancel_runs(counter)
    assert start["interactive"] is True and cancel["interactive"] is False
    view = compare.show_comparison(shown)
    pair = shown["pairs"][0]
    assert (view.full, view.latentcrf, view.cards) == (pair["full"], pair["latentcrf"], "c")
    assert compare.show_comparison(None).full is None
    Path(pair["full"]).unlink()  # as the sweep of old files does
    assert compare.show_comparison(shown).full is None


class Endless:
    """Reports steps for ever, and whether it was closed."""

    catalog, closed, steps = CATALOG, False, 0

    def is_loaded(self, _: str) -> bool:
        return True

    def stream(self, *_: Any, **__: Any) -> Iterator[Any]:
        try:
            while True:
                self.steps += 1
                yield Progress("full", self.steps, 10**9)
        finally:
            self.closed = True


VALUES = [*FEW.as_dict().values(), False, True]


def test_cancelling_ends_the_run_at_its_next_step(tmp_path: Path) -> None:
    worker, counter, shown = Endless(), RunCounter(), previous(tmp_path)
    *_, run_id, _ = runs.begin_run(counter, gr.Request())
    views = drive(worker, VALUES, shown, run_id, counter)
    next(views), next(views)
    steps = worker.steps
    runs.cancel_runs(counter)
    (last,) = list(views)
    assert "Stopped" in last.status and last.full == shown["pairs"][0]["full"]
    assert worker.closed and worker.steps <= steps + 1


def test_a_run_cancelled_while_it_waited_never_starts_and_the_next_one_does() -> None:
    worker, counter = Endless(), RunCounter()
    *_, first, _ = runs.begin_run(counter, gr.Request())
    runs.cancel_runs(counter)
    *_, second, _ = runs.begin_run(counter, gr.Request())
    assert list(drive(worker, VALUES, None, first, counter)) == []
    assert worker.steps == 0
    assert next(drive(worker, VALUES, None, second, counter)).cancel["interactive"]


def test_a_run_that_never_started_leaves_the_tab_as_it_is() -> None:
    """gradio empties the outputs of a handler that yields nothing."""
    worker = Endless()
    with gr.Blocks() as page:
        controls = runs.build_run_controls("x", "Run", "Ready.")
        controls.status.render()
        model, output = gr.Dropdown(["emoji"]), gr.HTML()
        controls.connect(worker, model, compare.run_comparison, [], [output])  # type: ignore[arg-type]
    (event,) = (each for each in page.fns.values() if output in each.outputs and controls.run_id in each.inputs)
    assert event.fn is not None
    updates = list(event.fn(1, RunCounter(last=1, cancelled=1), "emoji"))
    assert updates == [[gr.skip()] * 4] and worker.steps == 0


def test_a_cancelled_run_leaves_the_buttons_to_a_later_one() -> None:
    worker, counter = Endless(), RunCounter()
    *_, first, _ = runs.begin_run(counter, gr.Request())
    views = drive(worker, VALUES, None, first, counter)
    next(views), next(views)
    runs.cancel_runs(counter)
    runs.begin_run(counter, gr.Request())
    assert list(views) == [] and worker.closed


def test_random_seeds_differ_and_are_shown() -> None:
    values = [*FEW.as_dict().values(), True, True]
    seeds = {next(drive(Failing(ZeroDivisionError()), values)).seed for _ in range(5)}
    assert len(seeds) > 1 and all(0 <= seed < 1_000_000 for seed in seeds)


def test_what_a_visitor_typed_is_escaped() -> None:
    evil = '<img src=x onerror="alert(1)">'
    assert "<img" not in html.format_message(evil, "error")
    (view,) = run(Failing(AssertionError()), FEW, steps=evil)
    assert "<img" not in view.status and "&lt;img" in view.status


def test_links_fill_the_form_or_say_why_not() -> None:
    query = {"prompt": "blue heart", "seed": "7", "steps": "20", "bypass_start": "5", "bypass_end": "20", "x": "y"}
    filled = form.load_link(CATALOG, SimpleNamespace(query_params=query))  # type: ignore[arg-type]
    assert filled[0] == "blue heart" and filled[1] == 7 and filled[6] == 20
    assert filled[len(NAMES)] is False  # the seed is the link's
    refused = form.load_link(CATALOG, SimpleNamespace(query_params={"prompt": "a", "steps": "0"}))
    assert refused[0] == gr.skip() and "Steps must be" in refused[-2]
    assert form.load_link(CATALOG, SimpleNamespace(query_params={}))[-2] == gr.skip()
    no_prompt = form.load_link(CATALOG, SimpleNamespace(query_params={"steps": "80"}))  # type: ignore[arg-type]
    assert no_prompt[2] == 80 and no_prompt[0] == no_prompt[1] == no_prompt[len(NAMES)] == gr.skip()


def test_the_plan_draws_a_cell_for_each_call() -> None:
    plan = html.format_plan(EMOJI, FEW, {"full": 3, "latentcrf": 5})
    assert plan.count("<i") == 8 + 5 and plan.count('<i class="done"') == 3 + 5
    assert "16 NFE, " in plan.replace("<span>", "") and "5 calls" in plan and 'class="crf done"' in plan
    plan, line = form.show_plan(CATALOG, 1, None, 50, 3, 5, 33, 20, True, 0, 0, False, "emoji")
    assert "Bypass end" in plan and "Bypass end" in line


def test_the_analysis_tabs_name_the_forms_setting_of_latentcrf() -> None:
    """In the words of the compare tab: solver, iterations, finisher and guidance, whatever the form holds."""
    _, *lines = form.show_plan(CATALOG, 2, None, 40, 3, 1, 20, 39, False, 0, 0, False, "emoji")
    assert (
        lines
        == ['<p class="reading"><b>LatentCRF</b>: bypass 20–39 of 40, 1 iteration, no finisher, guidance 3</p>'] * 2
    )
    assert name_method([40, 3, 1, 20, 39, False, 0, 0])["bypass_end"] == 39
    fast = replace(FEW, few_steps=4, finisher=True, guidance_cutoff=0.33)
    words = "4 steps of UniPC, 3 iterations, finisher, guidance 3 but in the last 33% of its calls"
    assert html.describe_method(EMOJI, fast) == words
    plain = html.describe_method(replace(EMOJI, crf=None, finisher=None), FEW)
    assert plain == "zero-parameter bypass 4–7 of 8, no VAE round trip, guidance 3"


def test_the_modes_are_named_by_their_settings() -> None:
    paper, fast = EMOJI.modes["paper"], EMOJI.modes["fast"]
    values = EMOJI.defaults.as_dict()
    assert EMOJI.find_mode(values) == "paper" and EMOJI.find_mode(values | fast) == "fast"
    assert EMOJI.find_mode(values | fast | {"bypass_start": 7}) == "fast"  # which it does not use
    for change in ({"finisher": True}, {"bypass_start": 30}, {"iterations": 1}, {"guidance_cutoff": 0.5}):
        assert EMOJI.find_mode(values | change) == "custom", change
    assert [label for label, _ in compare.label_modes(EMOJI)] == [
        "Paper: bypass 33–49 of 50", "Fast: UniPC 12 + finisher", "Custom",
    ]  # fmt: skip
    fields = dict(zip(METHOD, compare.switch_mode(EMOJI, None, "paper"), strict=False))
    assert fields.items() >= paper.items() and fields["guidance"] == gr.skip()


def test_the_cards_show_the_benchmarks_time_for_what_it_measured() -> None:
    paper = EMOJI.defaults
    ratio = find_time_ratio(EMOJI, paper)
    assert ratio is not None and ratio.low < ratio.estimate < ratio.high and 1.2 < ratio.estimate < 1.5
    fast = find_time_ratio(EMOJI, replace(paper, **EMOJI.modes["fast"]))
    assert fast is not None and fast.estimate > 3
    for change in ({"iterations": 4}, {"guidance": 4.0}, {"bypass_start": 32}, {"full_finisher": True}):
        assert find_time_ratio(EMOJI, replace(paper, **change)) is None, change
    assert find_time_ratio(replace(EMOJI, crf=None), paper) is None


def test_a_visit_remembers_its_last_comparisons(tmp_path: Path) -> None:
    past: list[dict[str, Any]] = []
    for index in range(compare.HISTORY + 2):
        folder = tmp_path / str(index)
        folder.mkdir()
        past, strip = compare.add_to_history(past, previous(folder))
    assert len(past) == compare.HISTORY == len(strip["value"])
    assert str(tmp_path / str(compare.HISTORY + 1)) in strip["value"][0][0]  # the newest first
    assert compare.add_to_history(past, past[0]) == (past, gr.skip())
    values = compare.restore_comparison(past[3])
    fields = dict(zip(NAMES, values, strict=False))
    assert fields["seed"] == FEW.seed and fields["bypass_start"] == 4 and values[len(NAMES)] is False
    assert past[3]["pairs"][0]["full"] in values
    Path(past[3]["pairs"][0]["full"]).unlink()
    assert "no longer kept" in str(compare.restore_comparison(past[3]))


def test_the_memory_of_a_visitor_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_memory, "VISITOR_BYTES", 100)
    monkeypatch.setattr(call_memory, "ALL_BYTES", 250)
    memories = call_memory.Memories()
    memory = memories.find("a")
    for key in range(5):
        memory.put(key, f"value {key}", 30)
        assert memory.get(2) is None or key < 6
    assert memory.num_bytes <= 100 and memory.get(0) is None and memory.get(4) == "value 4"
    memory.put("large", "value", 101)
    assert memory.get("large") is None
    for visitor in "bcd":
        memories.find(visitor).put("key", visitor, 100)
    assert memories.num_bytes <= 250 and len(memories.find("a")) == 0 and memories.find("d").get("key") == "d"
    monkeypatch.setattr(call_memory, "SECONDS", -1.0)
    memories.sweep()
    assert memories.num_bytes == 0


def test_a_call_is_known_by_every_bit_of_its_inputs() -> None:
    first = torch.randn(2, 3).bfloat16()
    other = first.clone()
    other[1, 2] = torch.nextafter(other[1, 2], torch.tensor(100.0).bfloat16())
    calls: list[tuple[Any, int, Any]] = [(first, 5, None), (other, 5, None), (first.float(), 5, None), (first, 6, None)]
    calls += [(first.view(3, 2), 5, None), (first, 5, other)]
    keys = [call_memory.hash_call((sample, step), {"x": x}) for sample, step, x in calls]
    assert len(set(keys)) == len(keys) and keys[0] == call_memory.hash_call((first.clone(), 5), {"x": None})


def test_missing_and_damaged_models_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "emoji-ldm"
    elsewhere = replace(EMOJI, model=Source(str(folder)))
    with pytest.raises(ModelsError, match="emoji-ldm/model_index.json is missing"):
        elsewhere.check()
    folder.mkdir()
    shutil.copy(EMOJI.model.folder / "model_index.json", folder)
    with pytest.raises(ModelsError, match="emoji-ldm/scheduler/scheduler_config.json is missing"):
        elsewhere.check()
    for path in elsewhere.list_files():
        if tmp_path in path.parents and path.name != "model_index.json":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    with pytest.raises(ModelsError, match="text_encoder/model.safetensors is damaged"):
        elsewhere.check()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ModelsError, match="pickled weights are never loaded"):
        elsewhere.check()


def test_what_computes_waits_for_the_device_in_a_bounded_queue() -> None:
    app = build_app(DeviceWorker())
    using_device = [fn for fn in app.fns.values() if fn.concurrency_id == "device"]
    # a run a tab (the frontier's table is there already), the endpoints
    assert len(using_device) == len(TABS) + 5
    assert all(fn.concurrency_limit == 1 for fn in using_device)
    assert app._queue.max_size == 200 and app.api_open is False and app.analytics_enabled is False


# --------------------------------------------------------------------------------- the callback stream


def test_reports_arrive_one_by_one_and_the_worker_waits() -> None:
    trace: list[str] = []

    def work(report: Any) -> None:
        for i in range(3):
            trace.append(f"made {i}")
            report(i)

    for i in stream_reports(work, threading.Lock()):
        trace.append(f"read {i}")
        time.sleep(0.05)
    assert trace == ["made 0", "read 0", "made 1", "read 1", "made 2", "read 2"]


def test_closing_ends_the_work_at_its_next_report_and_frees_the_lock() -> None:
    lock, made = threading.Lock(), []

    def work(report: Any) -> None:
        for i in range(1000):
            made.append(i)
            report(i)

    reports = stream_reports(work, lock)
    next(reports)
    assert lock.locked()
    reports.close()
    assert lock.acquire(timeout=5) and made == [0]


def test_errors_of_the_work_reach_the_reader_and_free_the_lock() -> None:
    def work(report: Any) -> None:
        report(1)
        raise ValueError("reason")

    lock = threading.Lock()
    with pytest.raises(ValueError, match="reason"):
        list(stream_reports(work, lock))
    assert lock.acquire(timeout=5)


def test_settings_read_from_a_saved_file_are_the_run(worker: DeviceWorker) -> None:
    last = run(worker, FEW)[-1]
    settings, origin = read_png(last.before, CATALOG)
    assert settings == FEW and origin["image"] == "before" and origin["device"] in ("cpu", "cuda")
