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
from app import api, runs
from app.callback_stream import stream_reports
from app.components import form, html
from app.device import DeviceWorker
from app.layout import TABS, build_app
from app.models_file import ModelsError, Source
from app.png import read_png
from app.results import Comparison, Generated, Progress
from app.runs import RunCounter
from app.settings import NAMES, Settings, SettingsError, name_method
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
    *_, result = worker.stream("compare", settings, previews)
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
    events = list(worker.stream("compare", FEW, True))
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
    assert compare.summarize_comparison(finished, EMOJI).endswith("3 CRF iterations, with the finisher.")
    assert compare.summarize_comparison(result, EMOJI).endswith("3 CRF iterations.")


def test_a_run_of_few_steps_is_the_faster_solvers_finished(worker: DeviceWorker, result: Comparison) -> None:
    events = list(worker.stream("compare", replace(FEW, finisher=True, few_steps=4), True))
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
    assert "8 steps and 4 of UniPC" in compare.summarize_comparison(few, EMOJI)
    assert "crf" in result.origin and "crf" not in few.origin and "finisher" in few.origin


def test_the_guidance_cutoff_saves_network_evaluations_of_latentcrf_alone(
    worker: DeviceWorker, result: Comparison
) -> None:
    settings = replace(FEW, finisher=True, few_steps=4, guidance_cutoff=0.5)
    *_, cut_off = worker.stream("compare", settings, False)
    assert (cut_off.full.network_evaluations, cut_off.latentcrf.network_evaluations) == (16, 6)
    assert settings.network_evaluations == {"full": 16, "latentcrf": 6}
    assert np.array_equal(pixels(cut_off.full.image), pixels(result.full.image))
    whole = list(worker.stream("compare", replace(settings, guidance_cutoff=0), False))[-1]
    assert not np.array_equal(pixels(cut_off.latentcrf.image), pixels(whole.latentcrf.image))
    planned = html.format_plan(EMOJI, settings, {"full": 8, "latentcrf": 4})
    assert (
        planned.count('class="done half"') == 2
        and "4 of a faster solver (UniPC), the last 2 without guidance, then" in planned
    )
    assert "6 NFE" in planned and "16 NFE" in planned
    assert "not in the last 50% of its calls" in compare.summarize_comparison(cut_off, EMOJI)
    # the paper's bypass has no cut-off
    assert compare.fill_mode(EMOJI, compare.MODES[0]) == (0, 0.0)
    assert compare.fill_mode(EMOJI, compare.MODES[1]) == (12, 0.33)


def test_previews_come_before_the_image_and_cost_no_measured_time(worker: DeviceWorker, monkeypatch: Any) -> None:
    """Whatever the reader does with a step, even sleeping, is not in the seconds."""
    monkeypatch.setattr("app.comparison.PREVIEW_SECONDS", 0.0)
    began = time.perf_counter()
    slept, previews, seconds = 0.0, 0, 0.0
    for event in worker.stream("compare", FEW, True):
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
        running = worker.stream("compare", FEW, True)
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
    assert last.slider == (last.full, last.latentcrf)
    assert last.full_file["value"] == last.full and Path(last.full).name == "red-apple-3-full.png"
    for method in ("full", "latentcrf"):
        assert np.array_equal(pixels(getattr(last, method)), pixels(getattr(result, method).image))
    assert ">16<" in last.cards and ">10<" in last.cards and "×" in last.cards and "0." in last.cards


def test_a_downloaded_png_brings_the_same_image_back(worker: DeviceWorker) -> None:
    """Run, download, load the settings back into the form, run again: the same pixels, bit for bit."""
    first = run(worker, FEW)[-1]
    values = form.load_png(worker, first.latentcrf)
    *fields, random_seed, _, status, _ = values
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
    assert "did not see “fifteen sixteen”" in compare.summarize_comparison(result, EMOJI)


def test_the_endpoint_answers_and_refuses_like_the_page(worker: DeviceWorker, result: Comparison) -> None:
    answer = ask_api(worker, "compare", FEW.as_dict())
    assert (answer["full"]["denoiser_calls"], answer["latentcrf"]["denoiser_calls"]) == (8, 5)
    assert answer["lpips"] == pytest.approx(result.lpips)
    image = Image.open(io.BytesIO(base64.b64decode(answer["full"]["png"])))
    assert np.array_equal(np.asarray(image), pixels(result.full.image))
    with pytest.raises(gr.Error, match="Steps must be"):
        ask_api(worker, "compare", FEW.as_dict() | {"steps": 10_000})


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


def previous(folder: Path) -> dict[str, str]:
    """What the page remembers of a run before."""
    shown = {name: str(folder / f"{name}.png") for name in ("full", "latentcrf", "before", "after")}
    for path in shown.values():
        Path(path).touch()
    return shown | {"cards": "c", "strip": "s"}


def test_wrong_values_start_nothing() -> None:
    worker = Failing(AssertionError("was started"))
    (view,) = run(worker, FEW, prompt="", steps=0)
    assert "Prompt must be" in view.status and "Steps must be" in view.status and 'role="alert"' in view.status
    assert view.full == gr.skip() and view.start["interactive"] is True


def test_a_failure_is_a_sentence_and_the_images_come_back(tmp_path: Path) -> None:
    shown = previous(tmp_path)
    view = run(Failing(ZeroDivisionError("secret path /home/x")), FEW, shown)[-1]
    assert runs.SORRY in view.status and "secret" not in str(vars(view))
    assert view.full == shown["full"] and view.slider == (shown["full"], shown["latentcrf"])
    with pytest.raises(gr.Error) as caught:
        ask_api(Failing(ZeroDivisionError("secret")), "compare", FEW.as_dict())  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_after_cancelling_the_previous_images_are_back(tmp_path: Path) -> None:
    shown, counter = previous(tmp_path), RunCounter()
    runs.begin_run(counter, gr.Request())
    _, start, cancel = runs.cancel_runs(counter)
    assert start["interactive"] is True and cancel["interactive"] is False
    view = compare.show_comparison(shown)
    assert (view.full, view.latentcrf, view.cards) == (shown["full"], shown["latentcrf"], "c")
    assert compare.show_comparison(None).full is None
    Path(shown["full"]).unlink()  # as the sweep of old files does
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
    assert "Stopped" in last.status and last.full == shown["full"]
    assert worker.closed and worker.steps <= steps + 1


def test_a_run_cancelled_while_it_waited_never_starts_and_the_next_one_does() -> None:
    worker, counter = Endless(), RunCounter()
    *_, first, _ = runs.begin_run(counter, gr.Request())
    runs.cancel_runs(counter)
    *_, second, _ = runs.begin_run(counter, gr.Request())
    assert list(drive(worker, VALUES, None, first, counter)) == []
    assert worker.steps == 0
    assert next(drive(worker, VALUES, None, second, counter)).cancel["interactive"]


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
    assert filled[0] == "blue heart" and filled[1] == 7 and filled[6] == 20 and filled[12] == (0.25, 1.0)
    refused = form.load_link(CATALOG, SimpleNamespace(query_params={"prompt": "a", "steps": "0"}))
    assert refused[0] == gr.skip() and "Steps must be" in refused[-2]
    assert form.load_link(CATALOG, SimpleNamespace(query_params={}))[-2] == gr.skip()


@pytest.mark.parametrize("n", [2, 3, 4, 10, 25, 49, 51, 100, 200])
@pytest.mark.parametrize(("start", "end"), [(33, 49), (33, 50), (1, 2), (1, 50), (49, 50), (48, 49)])
def test_the_bypass_moves_with_the_steps(n: int, start: int, end: int) -> None:
    first, last = form.move_bypass(n, form.read_shares(EMOJI.defaults, 50, start, end))
    values = {"prompt": "a", "steps": n, "bypass_start": first, "bypass_end": last}
    settings = Settings.parse(values, EMOJI.defaults)
    assert abs(settings.bypass_start / n - start / 50) <= 1 / n
    if end == 50:
        assert settings.bypass_end == n


def test_half_typed_numbers_move_nothing() -> None:
    assert form.move_bypass(1, (0.66, 0.98)) == (gr.skip(), gr.skip())
    assert form.read_shares(EMOJI.defaults, 50, None, 49) == gr.skip()  # type: ignore[arg-type]


def test_the_plan_draws_a_cell_for_each_call() -> None:
    plan = html.format_plan(EMOJI, FEW, {"full": 3, "latentcrf": 5})
    assert plan.count("<i") == 8 + 5 and plan.count('<i class="done"') == 3 + 5
    assert "16 NFE, " in plan.replace("<span>", "") and "5 calls" in plan and 'class="crf done"' in plan
    plan, line = form.show_plan(CATALOG, 1, None, 50, 3, 5, 33, 20, True, 0, 0, "emoji")
    assert "Bypass end" in plan and "Bypass end" in line


def test_the_analysis_tabs_name_the_forms_setting_of_latentcrf() -> None:
    """In the words of the compare tab: solver, iterations, finisher and guidance, whatever the form holds."""
    _, *lines = form.show_plan(CATALOG, 2, None, 40, 3, 1, 20, 39, False, 0, 0, "emoji")
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
