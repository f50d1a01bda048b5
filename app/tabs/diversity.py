"""The diversity tab: many seeds of one prompt by several methods, from the same noise (paper, Fig. 2)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pandas as pd

from analysis.figures.style import METHODS
from analysis.markdown import format_interval, format_number
from analysis.studies import FEW_STEPS, FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS
from app.components import html
from app.components.example import DRAW_LIVE, build_example, connect_example, find_outcome
from app.components.exports import build_export
from app.components.figures import attach_listener_js, build_figure, show_figures
from app.components.form import build_number
from app.components.method_line import build_method_line
from app.device import DeviceWorker
from app.examples import DIVERSITY, describe_example
from app.models import ModelSet
from app.runs import AT_ONCE, ProgressClock, Run, Update, build_run_controls
from app.settings import DECLARATIONS, MAX_SEED, METHOD, Number, Settings, SettingsError, name_method
from app.tabs import COMPARE, TabContext
from app.text import DIVERSITY_NOTES

# Pointing at a cell of a heat map shows its two images, taken from the rows above.
HOVER_JS = attach_listener_js(
    "diversity-pairs",
    "plotly_hover",
    """(event) => {
        const point = event.points[0], row = document.querySelector(`#diversity-row-${point.curveNumber}`);
        const images = row ? row.querySelectorAll('img') : [];
        const [a, b] = [point.pointIndex[0], point.pointIndex[1]].map((index) => images[index]);
        if (!a || !b) return;
        const panel = document.querySelector('#diversity-pair'), shown = panel.querySelectorAll('img');
        [[a, point.y], [b, point.x]].forEach(([image, name], i) => { shown[i].src = image.src; shown[i].alt = name; });
        panel.querySelector('p').textContent = `${point.y} and ${point.x}: LPIPS ${point.z.toFixed(3)}`;
        panel.querySelector('.pair').hidden = false;
    }""",
)
PAIR = '<div class="pair" hidden><img alt=""><img alt=""><p class="reading"></p></div>'
COUNT, SEED = Number("Seeds", 4, 16), Number("First seed", 0, MAX_SEED - 16)
SELECTED = (LATENTCRF, FEW_STEPS)
SELECTED_WITHOUT_CRF = (ZERO_PARAMETER_BYPASS, FEW_STEPS)
ROWS = len(METHODS)


class Outcome(NamedTuple):
    """What the last run found so far.

    Attributes:
        rows: as of `app.work.run_diversity`, one a method.
        prompt: of all images.
        seeds: of the images.
        options: of the command line that makes it again, but for the methods.
    """

    rows: list[Any]
    prompt: str
    seeds: list[int]
    options: dict[str, Any]


# ---------------------------------------------------------------------------------------- handlers


def list_first_values(model_set: ModelSet) -> list[Any]:
    """List what the form holds at first.

    Args:
        model_set: the model.

    Returns:
        Prompt, first seed, number of seeds, the methods beside the full run, and the settings `METHOD`.
    """
    selected, defaults = SELECTED_WITHOUT_CRF if model_set.crf is None else SELECTED, model_set.defaults
    return [defaults.prompt, defaults.seed, 8, list(selected), *(getattr(defaults, name) for name in METHOD)]


def list_others(model_set: ModelSet) -> list[str]:
    """List the methods that can be compared with the full run.

    Args:
        model_set: the model; one without a CRF has no LatentCRF.
    """
    return [name for name in METHODS if name != FULL_RUN and (model_set.crf is not None or name != LATENTCRF)]


def update_others(model_set: ModelSet) -> Any:
    """Update the choice of methods for another model.

    Args:
        model_set: the model.
    """
    return gr.update(choices=list_others(model_set), value=list_first_values(model_set)[3])


def describe_images(model_set: ModelSet) -> str:
    """Describe the rows of images and how they are computed.

    Args:
        model_set: the model.

    Returns:
        HTML.
    """
    defaults = model_set.defaults
    return html.format_note(
        "A row a method, a column a seed: from the same noise. Click an image to look at its seed in the compare tab.",
        f"The full run is {model_set.sampler}, {defaults.steps} steps unless the form says otherwise. Diversity is the "
        "mean LPIPS (AlexNet) of all pairs of a row's images; its 95 % jackknife interval is over the seeds.",
    )


def parse(
    model_set: ModelSet, prompt: Any, seed: Any, count: Any, others: Sequence[str] | None
) -> tuple[str, list[int], list[str]]:
    """Read what a visitor asks for.

    Args:
        model_set: the model.
        prompt: what to draw.
        seed: the first; the others count up.
        count: how many seeds.
        others: methods beside the full run, of `list_others`.

    Returns:
        Prompt, seeds and methods, the full run first.

    Raises:
        SettingsError: no prompt, numbers out of range, an unknown method.
    """
    words = model_set.read_prompt(str(DECLARATIONS["prompt"].check(prompt))).text
    first, number = int(SEED.check(seed)), int(COUNT.check(count))
    others, accepted = others or (), list_others(model_set)
    unknown = [name for name in others if name not in accepted]
    if unknown:
        raise SettingsError(f"Methods must be among {', '.join(accepted)}; {unknown[0]!r} is not.")
    return words, [first + i for i in range(number)], [FULL_RUN, *(name for name in accepted if name in others)]


def parse_method(worker: DeviceWorker, model: str, prompt: str, values: Sequence[Any]) -> Settings:
    """Read LatentCRF's setting from the compare tab's form.

    Args:
        worker: with the models.
        model: name of the model.
        prompt: of the run.
        values: of the settings `METHOD`.

    Raises:
        SettingsError: as of `Catalog.parse`.
    """
    return worker.catalog.parse(name_method(values) | {"prompt": prompt, "model": model})


def show_cost(worker: DeviceWorker, count: Any, others: Sequence[str], model: str, *method: Any) -> str:
    """Show what a run will take, before it is started.

    Args:
        worker: calls the count.
        count: as of `parse`.
        others: as of `parse`.
        model: name of the model.
        method: of the settings `METHOD`.

    Returns:
        HTML.
    """
    try:
        _, seeds, methods = parse(worker.catalog.get(model), "x", 0, count, others)
        settings = parse_method(worker, model, "x", method)
    except SettingsError as error:
        return html.format_message(str(error), "error")
    calls = worker.call("count_diversity_calls", methods, len(seeds), settings)
    return f'<p class="reading">{len(methods)} methods, {len(seeds)} seeds: {calls:,} denoiser calls.</p>'


def run_diversity(
    run: Run, prompt: str, seed: float, count: float, others: list[str], *values: Any
) -> Iterator[Update]:
    """Run the methods, one after the other.

    Args:
        run: this run.
        prompt: as of `parse`.
        seed: as of `parse`.
        count: as of `parse`.
        others: as of `parse`.
        values: of the settings `METHOD`, then whether the page is in presentation mode.

    Yields:
        Updates with the outcome so far, its rows of images and its figures.

    Raises:
        SettingsError: as of `parse`.
    """
    worker, (*method, presentation) = run.worker, values
    words, seeds, methods = parse(run.model_set, prompt, seed, count, others)
    settings = parse_method(worker, run.model, words, method)
    notes = worker.catalog.read_prompt({"prompt": prompt, "model": run.model}).notes
    run.check_work(worker.call("count_diversity_calls", methods, len(seeds), settings))
    yield Update(run.start_text)
    clock = ProgressClock(worker.call("count_diversity_work", methods, len(seeds), settings), "parts of the work")
    options = {"prompt": words, "seeds": len(seeds), "seed": seeds[0], **list_options(run.model_set, settings)}
    rows: list[Any] = []
    for report in run.stream("run_diversity", words, seeds, methods, settings):
        if isinstance(report, int):
            yield Update(clock.format(report))
            continue
        rows = [*rows, report]
        outcome = Outcome(rows, words, seeds, {**options, "precision": worker.load(run.model).precision_name})
        is_done = len(rows) == len(methods)
        summary = " ".join([f"“{words}”, {len(seeds)} seeds from {seeds[0]}.", *notes])
        text = summary if is_done else f"{report.method} is done."
        yield Update(text, [outcome, "", *draw(worker, outcome, presentation)], busy=not is_done)


def list_options(model_set: ModelSet, settings: Settings) -> dict[str, Any]:
    """List the options of the command line that repeat LatentCRF's setting.

    Args:
        model_set: the model.
        settings: of the run.
    """
    finisher = "none"
    if settings.finisher:
        own = None if model_set.finisher is None else model_set.finisher.place
        finisher = "shipped" if model_set.is_embedded else own or "vae"
    names = ("guidance", "steps", "iterations", "few_steps", "guidance_cutoff")
    options = {name: getattr(settings, name) for name in names}
    return options | {"bypass": list(settings.bypass), "finisher": finisher, **model_set.export_options}


def show_example(worker: DeviceWorker, model: str, presentation: bool) -> list[Any]:
    """Show the stored example.

    Args:
        worker: reads and draws it.
        model: name of the model that the page shows.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the outcome, the sentence about the example, then as of `draw`; empty ones for another model.
    """
    outcome = find_outcome(worker, model, DIVERSITY)
    if outcome is None:
        return [None, "", *[gr.update(value=None, visible=False), ""] * ROWS, *[None] * (2 * len(DIVERSITY_NOTES))]
    text = f"“{outcome.prompt}”, {len(outcome.seeds)} seeds from {outcome.seeds[0]}"
    return [outcome, describe_example(text, DRAW_LIVE), *draw(worker, outcome, presentation)]


def draw(worker: DeviceWorker, outcome: Outcome | None, presentation: bool) -> list[Any]:
    """Draw the rows of images and the figures.

    Args:
        worker: calls the drawing.
        outcome: of the last run; None leaves all as it is.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for each row's gallery and its metrics, then for the figures' places in the order of `DIVERSITY_NOTES`.
    """
    if outcome is None:
        return [gr.skip()] * (2 * ROWS + 2 * len(DIVERSITY_NOTES))
    values: list[Any] = []
    table = worker.call("tabulate_diversity", outcome.rows)
    for row, (_, metrics) in zip(outcome.rows, table.iterrows(), strict=True):
        pictures = [
            (np.ascontiguousarray(image), f"seed {seed}") for seed, image in zip(outcome.seeds, row.images, strict=True)
        ]
        gallery = gr.update(value=pictures, columns=len(pictures), visible=True)
        values += [gallery, format_metrics(metrics)]
    values += [gr.update(visible=False), ""] * (ROWS - len(outcome.rows))
    figures = worker.call("draw_diversity", outcome.rows, outcome.seeds, presentation)
    return [*values, *show_figures("diversity", list(DIVERSITY_NOTES), figures)]


def format_metrics(metrics: pd.Series) -> str:
    """Format what stands under a method's row: one number, its diversity against the full run's.

    Args:
        metrics: a row of the table as of `app.work.tabulate_diversity`.

    Returns:
        HTML.
    """
    value, ratio = metrics["pairwise_lpips"], "pairwise_lpips_ratio"
    evaluations = f"{metrics['network_evaluations']} network evaluations a seed"
    if metrics["method"] == FULL_RUN:
        number = f"diversity {value:.3f} (mean pairwise LPIPS)"
    else:
        low, high = max(metrics[f"{ratio}_low"], 0.0), metrics[f"{ratio}_high"]  # of few seeds it may reach below 0
        share = f"{format_number(metrics[ratio], '.2f')} of the full run's ({format_interval(low, high, '.2f')})"
        number = (
            f"diversity {share}" if np.isfinite(metrics[ratio]) else "no ratio, as the full run's images are all alike"
        )
    return f'<p class="reading row-number"><b>{metrics["method"]}</b>: {number} · {evaluations}</p>'


def open_in_compare(outcome: Outcome | None, event: gr.SelectData) -> list[Any]:
    """Fill the compare tab's form with the image that was clicked.

    Args:
        outcome: what is shown.
        event: the click.

    Returns:
        Values for prompt, seed, the random switch and the row of tabs.
    """
    if outcome is None:
        return [gr.skip()] * 4
    return [outcome.prompt, outcome.seeds[event.index], False, gr.Tabs(selected=COMPARE)]


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    worker, menu, model_set = context.worker, context.menu, context.worker.catalog.default
    first_prompt, first_seed, first_count, selected, *_ = list_first_values(model_set)
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(first_prompt, label="Prompt", max_lines=1, scale=3, elem_id="diversity-prompt")
        seed = gr.Number(first_seed, label=SEED.label, min_width=100, elem_id="diversity-seed")
        count = build_number(COUNT, first_count, "diversity-seeds", min_width=90)
        others = gr.CheckboxGroup(
            list_others(model_set),
            value=selected,
            label=f"Beside the {FULL_RUN}",
            scale=3,
            elem_id="diversity-methods",
        )
        controls = build_run_controls(
            "diversity", "Draw", "The same noise for all methods; 8 seeds take about 20 seconds on two CPU cores."
        )
    build_method_line(context, "diversity")
    cost = gr.HTML(elem_id="diversity-cost", padding=False)
    controls.status.render()
    example = build_example("diversity")
    galleries: list[gr.Gallery] = []
    outputs: list[Any] = []
    for index in range(ROWS):
        galleries.append(
            gr.Gallery(
                show_label=False,
                columns=8,
                format="png",
                buttons=[],
                allow_preview=False,
                object_fit="contain",
                height="auto",
                interactive=False,
                visible=False,
                elem_id=f"diversity-row-{index}",
                elem_classes="diversity-row",
            )
        )
        outputs += [galleries[-1], gr.HTML(padding=False)]
    note = gr.HTML(describe_images(model_set), padding=False, elem_id="diversity-note")
    plots = {}
    for name, text in DIVERSITY_NOTES.items():
        place = build_figure(f"diversity-{name}", text)
        plots[name] = place.plot
        outputs += place.outputs
    gr.HTML(PAIR, elem_id="diversity-pair", padding=False)
    outcome: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export(
            worker, "diversity", outcome, lambda last: ["export_diversity", last.rows, last.seeds, last.options]
        )
    inputs = [prompt, seed, count, others, *context.form.method, context.presentation]
    menu.follow_default(prompt, "prompt")
    menu.follow(others, update_others)
    menu.follow(note, describe_images)
    all_outputs = [outcome, example, *outputs]
    controls.connect(worker, menu.dropdown, run_diversity, inputs, all_outputs)
    connect_example(context, partial(show_example, worker), all_outputs)
    context.presentation.change(partial(draw, worker), [outcome, context.presentation], outputs, **AT_ONCE)
    cost_inputs = [count, others, menu.dropdown, *context.form.method]
    gr.on([count.change, others.change], partial(show_cost, worker), cost_inputs, cost, **AT_ONCE)
    form = context.form
    for gallery in galleries:
        gallery.select(
            open_in_compare, outcome, [form["prompt"], form["seed"], form.random_seed, context.tabs], **AT_ONCE
        )
    plots["pairs"].change(None, None, None, js=HOVER_JS, queue=False, api_visibility="private")
