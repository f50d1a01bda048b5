"""The method tab: LatentCRF explained from the start, with live pictures of one run (for a lecture)."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from analysis.figures.grid import encode_data_uri
from analysis.studies import TERMS
from app.components import html
from app.components.example import build_example, connect_example, find_outcome
from app.components.exports import build_export
from app.components.figures import build_figure, link_downloads, show_figures
from app.device import DeviceWorker
from app.examples import METHOD, describe_example
from app.models import ModelSet
from app.models_file import ModelsError
from app.runs import AT_ONCE, COMPUTING, ProgressClock, Run, Update, build_run_controls
from app.settings import Number, SettingsError
from app.tabs import TabContext
from app.text import read_method, write_method_note, write_method_notes

RUN_LIVE = "<b>Run</b> computes it live."
WEIGHT = Number("Weight", -2, 2, 0.1)
COLOURS = {"unary": "#0072b2", "pairwise": "#009e73", "higher_order": "#cc79a7", "total": "#64748b"}
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


NO_CRF = "No LatentCRF is trained for this model yet: there is no energy to show."


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


def run_walkthrough(run: Run, prompt: str, seed: float, presentation: bool) -> Iterator[Update]:
    """Run both methods once and take the run apart.

    Args:
        run: this run.
        prompt: what to draw.
        seed: of the noise.
        presentation: whether the page is in presentation mode.

    Yields:
        Updates with an `Outcome`, its figures, and each term's slider and example.

    Raises:
        SettingsError: the values are wrong.
    """
    worker, model_set = run.worker, run.model_set
    settings = worker.catalog.parse({"prompt": prompt, "seed": seed, "model": run.model})
    names = list(write_method_notes(model_set))
    after_strip = [gr.skip()] * (2 * (len(names) - 1) + 2 * len(TERMS))
    yield Update(run.start_text)
    bypassed = settings.bypass_end - settings.bypass_start
    clock = ProgressClock(2 * settings.steps - bypassed, "denoiser calls")
    text = run.start_text
    for report in run.stream("run_walkthrough", settings):
        if isinstance(report, int):
            text = clock.format(report)
            yield Update(text)
        elif isinstance(report, np.ndarray):
            strip = worker.call("draw_strip", report, settings.steps, presentation)
            yield Update(text, [gr.skip(), gr.skip(), strip, link_downloads("method-steps"), *after_strip])
        else:
            outcome = Outcome(report, run.model_set.export_options)
            outputs = [outcome, "", *show_outcome(worker, outcome, presentation)]
            yield Update(f"“{settings.prompt}”, seed {settings.seed}, taken apart below.", outputs, busy=False)


def draw(worker: DeviceWorker, outcome: Outcome | None, presentation: bool) -> list[Any]:
    """Draw the figures.

    Args:
        worker: calls the drawing.
        outcome: of the last run; None leaves the figures as they are.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the figures' places, in the order of the notes; without a CRF some are empty and say why.
    """
    names = list(write_method_notes(worker.catalog.default))
    if outcome is None:
        return [gr.skip()] * (2 * len(names))
    figures = worker.call("draw_walkthrough", outcome.walkthrough, presentation)
    values: list[Any] = []
    for name in names:
        is_there = name in figures
        values += show_figures("method", [name], figures) if is_there else [None, html.format_message(NO_CRF)]
    return values


def show_outcome(worker: DeviceWorker, outcome: Outcome, presentation: bool) -> list[Any]:
    """Show all that a run found.

    Args:
        worker: calls the drawing.
        outcome: of the run.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the figures' places, the sliders and their examples.
    """
    examples = [show_example(outcome.walkthrough, term) for term in TERMS]
    return [*draw(worker, outcome, presentation), *[0] * len(TERMS), *examples]


def show_stored(worker: DeviceWorker, model: str, presentation: bool) -> list[Any]:
    """Show the stored example of a run.

    Args:
        worker: reads and draws it.
        model: name of the model that the page shows.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the outcome, the sentence about the example, then as of `show_outcome`; empty for another model.
    """
    outcome = find_outcome(worker, model, METHOD)
    if outcome is None:
        names = write_method_notes(worker.catalog.get(model))
        return [None, "", *[None] * (2 * len(names)), *[0] * len(TERMS), *[""] * len(TERMS)]
    options = outcome.walkthrough.options
    text = describe_example(f"“{options['prompt']}”, seed {options['seed']}", RUN_LIVE)
    return [outcome, text, *show_outcome(worker, outcome, presentation)]


def show_example(walkthrough: Any, term: str) -> str:
    """Show the image of lowest energy with the learned weights, and its energy.

    Args:
        walkthrough: as of `app.work.run_walkthrough`.
        term: of `TERMS`.

    Returns:
        HTML.
    """
    if walkthrough.potentials is None:
        return html.format_message(NO_CRF)
    image, energies = walkthrough.get_minimum(term)
    return write_energy_card(term, image, energies, energies["total"], 1.0)


def change_weight(worker: DeviceWorker, term: str, outcome: Outcome | None, exponent: float, model: str) -> str:
    """Show the image of lowest energy where a term counts more or less, and its energy with the learned weights.

    Args:
        worker: what computes.
        term: of `TERMS`.
        outcome: of the last run, or None.
        exponent: the term counts 10 ** exponent times.
        model: name of the model.

    Returns:
        HTML.
    """
    if outcome is None:
        return html.format_message("Press Run first.")
    walkthrough = outcome.walkthrough
    if walkthrough.potentials is None:
        return html.format_message(NO_CRF)
    try:
        factor = 10.0 ** WEIGHT.check(exponent)
        _, learned = walkthrough.get_minimum(term)
        *_, (image, energies) = worker.stream("solve_weighted", walkthrough.potentials, term, factor, model=model)
    except (SettingsError, ModelsError) as error:
        return html.format_message(str(error), "error")
    return write_energy_card(term, image, energies, learned["total"], factor)


def write_energy_card(term: str, image: np.ndarray, energies: dict[str, float], least: float, factor: float) -> str:
    """Write an image with its energy as bars; the longest bar is twice the least total, longer ones are cut there.

    Args:
        term: of `TERMS`.
        image: uint8 (H, W, 3).
        energies: by the names of `COLOURS`.
        least: the least total energy.
        factor: how many times the term counts.

    Returns:
        HTML.
    """
    rows = []
    for name, colour in COLOURS.items():
        width = min(100.0, 50 * energies[name] / max(least, 1e-9))
        rows.append(
            f'<div class="bar" style="--method: {colour}"><span>{TERMS.get(name, name)}</span>'
            f'<i><i style="width: {width:.1f}%"></i></i><output>{energies[name]:.1f}</output></div>'
        )
    title = f"The image of lowest energy, {TERMS[term]} term times {factor:.3g}"
    return (
        f'<div class="minimum"><img src="{encode_data_uri(image)}" alt="{title}">'
        f'<div><p class="reading">Counts × {factor:.3g}. Energy with the learned weights:</p>'
        f"{''.join(rows)}</div></div>"
    )


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    worker, menu, model_set = context.worker, context.menu, context.worker.catalog.default
    first_prompt, first_seed = list_first_values(model_set)
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(first_prompt, label="Prompt", max_lines=1, scale=4, elem_id="method-prompt")
        seed = gr.Number(first_seed, label="Seed", min_width=100, elem_id="method-seed")
        controls = build_run_controls("method", "Run", "One run, taken apart: about ten seconds on two CPU cores.")
    controls.status.render()
    example = build_example("method")
    outcome: gr.State = gr.State(None)
    notes = write_method_notes(model_set)
    sliders, examples = {}, {}
    places: list[Any] = []

    def build_section(index: int, text: str) -> None:
        if text.strip():
            section = gr.Markdown(text, latex_delimiters=LATEX, elem_classes="prose-section")
            menu.follow(section, lambda model_set: read_method(model_set)[index][0])

    for index, (text, name) in enumerate(read_method(model_set)):
        if name not in TERMS:
            build_section(index, text)
            if name in notes:
                place = build_figure(f"method-{name}", notes[name])
                places += place.outputs
                menu.follow(place.note, partial(write_method_note, name))
            continue
        with gr.Row(elem_classes="term"):
            with gr.Column(scale=3, min_width=300):
                build_section(index, text)
            with gr.Column(scale=2, min_width=300):
                sliders[name] = gr.Slider(
                    WEIGHT.low,
                    WEIGHT.high,
                    0,
                    step=WEIGHT.step,
                    label=f"Weight of the {TERMS[name]} term, powers of ten (0: as learned)",
                    elem_id=f"method-{name}-weight",
                )
                examples[name] = gr.HTML(elem_id=f"method-{name}", padding=False)
    with gr.Row(elem_classes="controls"):
        build_export(worker, "method", outcome, lambda last: ["export_walkthrough", *last])
    outputs = [outcome, example, *places, *sliders.values(), *examples.values()]
    menu.follow_default(prompt, "prompt")
    controls.connect(worker, menu.dropdown, run_walkthrough, [prompt, seed, context.presentation], outputs)
    context.presentation.change(partial(draw, worker), [outcome, context.presentation], places, **AT_ONCE)
    for name, slider in sliders.items():
        # `input`, not `change`: a run puts the sliders back, and draws the examples itself.
        slider.input(
            partial(change_weight, worker, name),
            [outcome, slider, menu.dropdown],
            examples[name],
            trigger_mode="always_last",
            **COMPUTING,
        )
    connect_example(context, partial(show_stored, worker), outputs)
