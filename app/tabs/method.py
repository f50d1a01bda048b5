"""The method tab: LatentCRF explained as a talk of several sections, with the pictures of one run."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from app.components import talk
from app.components.example import build_example, connect_example, find_outcome
from app.components.exports import build_export
from app.components.method_line import build_method_line
from app.device import DeviceWorker
from app.examples import METHOD, describe_example
from app.models import ModelSet
from app.runs import ProgressClock, Run, Update, build_run_controls
from app.settings import name_method
from app.tabs import TabContext
from app.text import read_method

RUN_LIVE = "<b>Run</b>, below, takes a run of your own apart."
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


class Outcome(NamedTuple):
    """What the last run found.

    Attributes:
        walkthrough: as of `app.work.run_walkthrough`.
        model_options: as of `ModelSet.export_options`.
    """

    walkthrough: Any
    model_options: dict[str, str]


# ---------------------------------------------------------------------------------------- handlers


def list_first_values(model_set: ModelSet) -> list[Any]:
    """List what the form holds at first.

    Args:
        model_set: the model.

    Returns:
        Prompt and seed.
    """
    return [model_set.defaults.prompt, model_set.defaults.seed]


def list_visuals(model_set: ModelSet) -> list[str]:
    """List what a run changes on the tab.

    Args:
        model_set: the model.

    Returns:
        Names of `talk.write_visuals`, in the order of the outputs.
    """
    return ["sheets", *read_method(model_set)]


def run_walkthrough(run: Run, prompt: str, seed: float, *method: Any) -> Iterator[Update]:
    """Run both methods once and take the run apart.

    Args:
        run: this run.
        prompt: what to draw.
        seed: of the noise.
        method: LatentCRF's setting, as of `app.settings.name_method`; none: the model's.

    Yields:
        Updates with an `Outcome`, the sentence about the example, and what `list_visuals` names.

    Raises:
        SettingsError: the values are wrong.
    """
    model_set = run.model_set
    values = {"prompt": prompt, "seed": seed, "model": run.model, **(name_method(method) if method else {})}
    settings = run.worker.catalog.parse(values)
    yield Update(run.start_text)
    clock = ProgressClock(2 * settings.steps - (settings.bypass_end - settings.bypass_start), "denoiser calls")
    for report in run.stream("run_walkthrough", settings):
        if isinstance(report, int):
            yield Update(clock.format(report))
        elif isinstance(report, str):
            yield Update("All denoiser calls are made; the pictures are decoded…")
        else:
            outcome = Outcome(report, model_set.export_options)
            text = f"The sections show “{settings.prompt}”, seed {settings.seed}."
            notes = run.worker.catalog.read_prompt(values).notes
            yield Update(" ".join([text, *notes]), [outcome, "", *show_outcome(outcome, model_set)], busy=False)


def show_outcome(outcome: Outcome, model_set: ModelSet) -> list[str]:
    """Show what a run found.

    Args:
        outcome: of the run.
        model_set: the model.

    Returns:
        HTML of `list_visuals`.
    """
    visuals = talk.write_visuals(outcome.walkthrough)
    return [visuals[name] for name in list_visuals(model_set)]


def show_stored(worker: DeviceWorker, model: str, presentation: bool) -> list[Any]:
    """Show the stored example of a run.

    Args:
        worker: reads it.
        model: name of the model that the page shows.
        presentation: whether the page is in presentation mode; the style sheet makes all of the difference.

    Returns:
        Values for the outcome, the sentence about the example, then as of `show_outcome`; empty for another model.
    """
    outcome, model_set = find_outcome(worker, model, METHOD), worker.catalog.get(model)
    if outcome is None:
        return [None, "", *[""] * len(list_visuals(model_set))]
    options = outcome.walkthrough.options
    text = describe_example(f"“{options['prompt']}”, seed {options['seed']}", RUN_LIVE)
    return [outcome, text, *show_outcome(outcome, model_set)]


def read_section(name: str, model_set: ModelSet) -> str:
    """Read the text of a section.

    Args:
        name: of the section.
        model_set: the model.

    Returns:
        Markdown.
    """
    return read_method(model_set)[name]


def list_export(outcome: Outcome) -> list[Any]:
    """List the export's name in `app.work` and its arguments."""
    return ["export_walkthrough", *outcome]


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    worker, menu, model_set = context.worker, context.menu, context.worker.catalog.default
    first_prompt, first_seed = list_first_values(model_set)
    texts = read_method(model_set)
    outcome: gr.State = gr.State(None)
    places: list[gr.HTML] = []
    with gr.Column(elem_id="method-talk"):
        gr.HTML(talk.write_navigation(talk.list_titles([*texts.values()])), padding=False, elem_id="method-nav")
        places.append(gr.HTML(padding=False, elem_id="method-sheets"))
        for name, text in texts.items():
            with gr.Row(elem_classes="talk-section", elem_id=f"method-{name}"):
                section = gr.Markdown(text, latex_delimiters=LATEX, sanitize_html=False, elem_classes="talk-text")
                menu.follow(section, partial(read_section, name))
                places.append(gr.HTML(padding=False, elem_classes="talk-visual"))
    with gr.Column(elem_classes="controls"):
        example = build_example("method")
        with gr.Row(elem_classes="controls"):
            prompt = gr.Textbox(first_prompt, label="Prompt", max_lines=1, scale=4, elem_id="method-prompt")
            seed = gr.Number(first_seed, label="Seed", min_width=100, elem_id="method-seed")
            controls = build_run_controls("method", "Run", "A run of your own: about twenty seconds on two CPU cores.")
        build_method_line(context, "method")
        controls.status.render()
        build_export(worker, "method", outcome, list_export)
    outputs = [outcome, example, *places]
    menu.follow_default(prompt, "prompt")
    controls.connect(worker, menu.dropdown, run_walkthrough, [prompt, seed, *context.form.method], outputs)
    connect_example(context, partial(show_stored, worker), outputs)
