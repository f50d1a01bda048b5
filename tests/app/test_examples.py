"""The stored examples: what is shipped, and how the tabs show it, by their own handlers."""

import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from analysis.studies import FULL_RUN
from app import examples, make_examples
from app.components import example, form
from app.device import DeviceWorker
from app.loaded_models import name_weights
from app.models import CUSTOM, FAST, PAPER, ModelSet
from app.models_file import Source
from app.png import read_png
from app.results import Comparison
from app.settings import METHOD
from app.tabs import compare, convergence, diversity, method
from app.text import CONVERGENCE_NOTES, DIVERSITY_NOTES
from latentcrf.potentials import Potentials
from tests.app.driving import CATALOG, EMOJI

OTHER = replace(EMOJI, name="other", model=Source("user/other", True))


@pytest.fixture(scope="module")
def worker() -> DeviceWorker:
    return DeviceWorker(replace(CATALOG, models={"emoji": EMOJI, "other": OTHER}))


def stored() -> list[Comparison]:
    return examples.read_example(examples.COMPARE)


# ------------------------------------------------------------------------------ what is shipped


def test_the_examples_were_made_by_the_command_with_the_weights_that_ship() -> None:
    about = examples.read_about()
    assert about["command"] == examples.COMMAND and pd.Timestamp(about["date"])
    for name, source in EMOJI.sources.items():
        assert about["origin"][name] == name_weights(source, source.folder), name
    for comparison in stored():
        unused = "crf" if comparison.settings.few_steps else "finisher"
        assert comparison.origin == {key: value for key, value in about["origin"].items() if key != unused}


def test_the_examples_have_the_settings_that_the_command_gives_them() -> None:
    assert [comparison.settings for comparison in stored()] == examples.plan_comparisons(EMOJI)
    prompt, seed, count, *values, _ = convergence.list_first_values(EMOJI)
    outcome = examples.read_example(examples.CONVERGENCE)
    assert outcome.settings == replace(EMOJI.defaults, prompt=prompt, seed=seed)
    assert [getattr(outcome.settings, name) for name in METHOD] == values
    assert outcome.found.seeds == [seed + i for i in range(count)]
    prompt, seed, count, others, *_ = diversity.list_first_values(EMOJI)
    outcome = examples.read_example(examples.DIVERSITY)
    assert (outcome.prompt, outcome.seeds) == (prompt, [seed + i for i in range(count)])
    assert [row.method for row in outcome.rows] == [FULL_RUN, *others]
    assert outcome.options["bypass"] == list(EMOJI.defaults.bypass) and outcome.options["steps"] == EMOJI.defaults.steps
    prompt, seed = method.list_first_values(EMOJI)
    options = examples.read_example(examples.METHOD).walkthrough.options
    assert (options["prompt"], options["seed"], options["bypass"]) == (prompt, seed, list(EMOJI.defaults.bypass))


def test_the_examples_are_small_and_without_pickles() -> None:
    files = list(examples.FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) <= examples.MAX_BYTES
    assert {path.suffix for path in files} == {".json", ".webp", ".safetensors"}


def test_a_stored_comparison_is_whole() -> None:
    for result in stored():
        for one in (result.full, result.latentcrf):
            assert one.denoiser_calls == result.settings.denoiser_calls[one.method]
            assert one.network_evaluations == result.settings.network_evaluations[one.method]
            assert one.seconds > 0 and (one.image.height, one.image.width) == EMOJI.image_size
        assert result.before.size == result.after.size == result.full.image.size
        assert not np.array_equal(np.asarray(result.full.image), np.asarray(result.latentcrf.image))
        assert result.lpips is not None and 0 < result.lpips < 0.5


@pytest.mark.slow
def test_a_live_run_draws_what_is_stored() -> None:
    """But for the precision, which is float32 in the tests."""
    result = stored()[0]
    live = make_examples.compare(DeviceWorker(), result.settings)
    for name in ("full", "latentcrf"):
        pair = [np.asarray(getattr(each, name).image).astype(float) for each in (result, live)]
        assert np.abs(pair[0] - pair[1]).mean() < 4, name
    assert live.lpips == pytest.approx(result.lpips, abs=0.03)
    assert live.full.seconds > live.latentcrf.seconds > 0


# ------------------------------------------------------------------------------ on the page


def test_the_compare_tab_opens_with_its_first_example() -> None:
    view, result = compare.show_first_example(EMOJI, None), stored()[0]
    assert result.settings == EMOJI.defaults and view.example["visible"] is True
    for key, image in {"full": result.full.image, "latentcrf": result.latentcrf.image, "after": result.after}.items():
        assert np.array_equal(np.asarray(Image.open(getattr(view, key))), np.asarray(image)), key
    assert view.full_file["interactive"] is True
    settings, origin = read_png(view.latentcrf, CATALOG)
    assert settings == result.settings and origin["ldm"] == examples.read_about()["origin"]["ldm"]
    about = examples.read_about()
    assert "red apple" in view.example_note and examples.COMMAND in view.example_note
    assert about["date"] in view.example_note and about["date"] in view.cards and about["times"] in view.cards


@pytest.mark.parametrize("prompt", EMOJI.prompts)
@pytest.mark.parametrize("mode", list(EMOJI.modes))
def test_a_chip_shows_its_stored_result_and_fills_the_form(prompt: str, mode: str) -> None:
    result = examples.find_comparison(EMOJI, prompt, mode)
    values = compare.choose_example(EMOJI, prompt, mode)
    assert result is not None and values is not None
    fields = dict(zip(form.NAMES, values, strict=False))
    assert fields["prompt"] == prompt and fields["seed"] == result.settings.seed
    assert EMOJI.find_mode(fields) == mode
    is_random, status, start, cancel, *view = values[len(form.NAMES) :]
    assert is_random is False
    assert prompt in status and start["interactive"] is True and cancel["interactive"] is False
    shown = compare.View(**dict(zip([name for name in compare.View._fields if name != "seed"], view, strict=True)))
    assert np.array_equal(np.asarray(Image.open(shown.full)), np.asarray(result.full.image))
    assert f"“{prompt}”" in shown.example_note and "<i></i>" not in shown.strip
    *live, is_random = compare.fill_from_example(shown.previous)
    assert dict(zip(form.NAMES, live, strict=True)) == fields and is_random is False


def test_a_link_to_a_stored_result_shows_it_and_another_is_to_be_drawn() -> None:
    def follow(**query: Any) -> list[Any]:
        return compare.show_linked(CATALOG, form.load_link(CATALOG, SimpleNamespace(query_params=query)))  # type: ignore[arg-type]

    result = stored()[3].settings
    chosen = compare.choose_example(EMOJI, result.prompt, EMOJI.find_mode(result.as_dict()))
    linked = follow(**{name: str(value) for name, value in result.as_dict().items()})
    assert linked[0] is False and linked[len(form.NAMES)] == EMOJI.name
    assert chosen is not None and linked[len(form.NAMES) + 1 :] == chosen[len(form.NAMES) :]
    for query in ({**result.as_dict(), "seed": 1}, {**result.as_dict(), "prompt": "a tree"}, {"prompt": result.prompt}):
        linked = follow(**query)
        assert linked[0] is True and linked[1] == query["prompt"] and linked[-1] == gr.skip()
    assert follow(steps="80")[0] is False and follow(prompt="x", steps="0")[0] is False
    assert compare.show_first_example(EMOJI, compare.prepare_example(EMOJI, "pizza", PAPER)) == compare.View()


def test_another_mode_shows_the_same_prompt_and_leaves_a_live_result(tmp_path: Path) -> None:
    """The time line belongs to the pictures; where the form is ahead of them, it says so."""
    shown = compare.prepare_example(EMOJI, "pizza", PAPER)
    assert shown is not None
    *fields, _, _ = compare.switch_mode(EMOJI, shown, FAST)[: len(METHOD) + 2]
    assert dict(zip(METHOD, fields, strict=False))["few_steps"] == 12
    view = dict(zip([name for name in compare.View._fields if name != "seed"],
                    compare.switch_mode(EMOJI, shown, FAST)[len(METHOD) + 1 :], strict=True))  # fmt: skip
    assert "12 of a faster solver" in view["strip"] and "pizza" in view["example_note"]
    planned = [getattr(stored()[1].settings, name) for name in form.PLANNED]
    assert form.show_plan(CATALOG, 0, view["previous"], *planned) == [view["strip"]]
    (ahead,) = form.show_plan(CATALOG, 0, shown, *planned)
    assert "Not drawn yet" in ahead and "12 of a faster solver" in ahead and "done" not in ahead
    live = compare.save_comparison(stored()[:1], EMOJI, tmp_path)
    for previous in (live, None):
        values = compare.switch_mode(EMOJI, previous, FAST)
        assert values[-len(compare.View._fields) + 1 :] == [gr.skip()] * (len(compare.View._fields) - 1)
        assert compare.fill_from_example(previous) == [gr.skip()] * (len(form.NAMES) + 1)
    assert compare.switch_mode(EMOJI, live, CUSTOM)[len(METHOD)].open is True  # its settings
    assert compare.show_comparison(live).example["visible"] is False
    assert examples.read_about()["date"] not in compare.show_comparison(live).cards


def test_a_model_of_its_own_has_no_examples(worker: DeviceWorker) -> None:
    view = compare.show_first_example(OTHER, None)
    assert (view.full, view.latentcrf, view.before, view.previous) == (None, None, None, None)
    assert view.example["visible"] is False and view.full_file["interactive"] is False
    for tab in (convergence.show_example, diversity.show_example, method.show_stored):
        values = tab(worker, "other", False)
        assert values[:2] == [None, ""] and len(values) == len(tab(worker, "emoji", False))
        assert not [value for value in values if isinstance(value, go.Figure) or (value and value != 0
                    and not isinstance(value, dict))]  # fmt: skip
    script = compare.write_run_js(worker.catalog)
    assert "['emoji']" in script and "compare-start" in script


@pytest.mark.parametrize(
    ("show", "places"),
    [
        (convergence.show_example, len(CONVERGENCE_NOTES)),
        (diversity.show_example, len(DIVERSITY_NOTES)),
    ],
)
def test_each_tab_draws_its_example(worker: DeviceWorker, show: Any, places: int) -> None:
    about = examples.read_about()
    outcome, sentence, *values = show(worker, "emoji", False)
    assert outcome is not None
    assert "red apple" in sentence and about["date"] in sentence and about["command"] in sentence
    figures = [value for value in values if isinstance(value, go.Figure)]
    assert len(figures) == places and all(figure.data or figure.layout.images for figure in figures)


@pytest.mark.slow
def test_each_example_is_exported(worker: DeviceWorker, tmp_path: Path) -> None:
    for name, key, list_arguments in (
        ("export_convergence", examples.CONVERGENCE, lambda outcome: [*outcome]),
        ("export_diversity", examples.DIVERSITY, lambda outcome: [outcome.rows, outcome.seeds, outcome.options]),
        ("export_walkthrough", examples.METHOD, lambda outcome: [*outcome]),
    ):
        arguments = list_arguments(examples.read_example(key))
        path = worker.call("write_export", tmp_path / f"{name}.zip", name, *arguments)
        assert len(zipfile.ZipFile(path).namelist()) > 2, name


def test_the_methods_example_has_its_potentials() -> None:
    walkthrough = examples.read_example(examples.METHOD).walkthrough
    assert isinstance(walkthrough.potentials, Potentials)
    assert isinstance(walkthrough.potentials.u, torch.Tensor) and walkthrough.potentials.pairwise is not None


class Choice(NamedTuple):
    """Stands for what `connect_example` is given of a page."""

    tab: gr.Tab
    menu: Any
    presentation: gr.Checkbox


def test_the_example_comes_when_the_tab_is_opened_first_and_leaves_a_result() -> None:
    calls: list[tuple[str, bool]] = []

    def show(model: str, presentation: bool) -> list[Any]:
        calls.append((model, presentation))
        return ["outcome", gr.update(value=1)]

    class Menu(NamedTuple):
        dropdown: gr.Dropdown

    with gr.Blocks() as page:
        state, place = gr.State(None), gr.Number()
        with gr.Tab("tab") as tab:
            pass
        context = Choice(tab, Menu(gr.Dropdown(["emoji"])), gr.Checkbox())
        example.connect_example(context, show, [state, place])  # type: ignore[arg-type]
    select, change = (page.fns[index].fn for index in sorted(page.fns))
    first = select(None, "emoji", False)
    first[1].pop("value")  # as gradio does
    assert select(None, "emoji", False) == ["outcome", gr.update(value=1)] and calls == [("emoji", False)]
    assert select("found", "emoji", False) == [gr.skip()] * 2
    assert change("emoji", True)[0] == "outcome" and calls == [("emoji", False), ("emoji", True)]


# ------------------------------------------------------------------------------ how they are stored


def test_values_come_back_as_they_were_written(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 6, 3), np.uint8)
    floats = np.random.default_rng(1).random((2, 3, 8, 6, 3), np.float32) * np.array([1, 100]).reshape(2, 1, 1, 1, 1)
    table = pd.DataFrame({"name": ["a", "b"], "value": [0.1, float("nan")], "count": [1, 2]})
    value = {
        "picture": Image.fromarray(pictures[0, 0]),
        "pictures": pictures,
        "floats": floats.astype(np.float32),
        "array": np.arange(6.0).reshape(2, 3),
        "tensor": torch.randn(2, 3),
        "table": table,
        "plain": [1, 2.5, None, True, "“x”", (3, np.float32(0.5))],
        "settings": EMOJI.defaults,
    }
    examples.write_example(tmp_path, "x", value)
    back = examples.read_example("x", tmp_path)
    assert np.array_equal(np.asarray(back["picture"]), pictures[0, 0])
    assert np.array_equal(back["pictures"], pictures) and np.array_equal(back["array"], value["array"])
    assert torch.equal(back["tensor"], value["tensor"])
    pd.testing.assert_frame_equal(back["table"], table)
    assert back["plain"] == [1, 2.5, None, True, "“x”", (3, 0.5)] and back["settings"] == EMOJI.defaults
    for stored_floats, own in zip(back["floats"], value["floats"], strict=True):
        assert np.abs(stored_floats - own).max() < own.max() / 100
    assert examples.read_example("absent", tmp_path) is None


def test_what_is_not_known_is_neither_written_nor_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for value in (object(), Source("a", True), {"x": {1, 2}}):
        with pytest.raises(TypeError, match="cannot be stored"):
            examples.write_example(tmp_path, "x", value)
    assert not list(tmp_path.iterdir())
    sizes = [Image.new("RGB", (8, side)) for side in (8, 9)]
    with pytest.raises(ValueError, match="several sizes"):
        examples.write_example(tmp_path, "x", sizes)
    for content in ('{"class": "os.system", "fields": {}}', '{"pickle": "x"}'):
        name = f"y{len(content)}"
        (tmp_path / f"{name}.json").write_text(f'{{"picture_size": null, "value": {content}}}')
        caplog.clear()
        assert examples.read_example(name, tmp_path) is None
        assert f"{name}.json is damaged" in caplog.text and "an example cannot hold" in caplog.text
    for content in ("{", '{"picture_size": [8, 8], "value": {"picture": 0}}'):  # cut off; its pictures are missing
        name = f"z{len(content)}"
        (tmp_path / f"{name}.json").write_text(content)
        assert examples.read_example(name, tmp_path) is None and f"{name}.json is damaged" in caplog.text


def test_the_command_refuses_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_examples.main([])
    assert "--out" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert make_examples.main(["--out", str(tmp_path / "file" / "examples")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def find(model_set: ModelSet) -> Comparison | None:
    return examples.find_comparison(model_set, "red apple", PAPER)


def test_a_prompt_of_the_visitors_own_has_no_example() -> None:
    assert find(EMOJI) is not None and find(OTHER) is None
    assert examples.find_comparison(EMOJI, "a red apple", PAPER) is None
