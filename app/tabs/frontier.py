"""The frontier tab: the benchmark's table as a figure, quality against time, and what the methods' images look like."""

from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from analysis.figures.frontier import draw_empty_frontier, draw_frontier
from analysis.studies.frontier import SHIPPED, list_metrics, list_rows, read_samples, read_table
from app.components import html
from app.components.exports import build_export
from app.components.figures import attach_listener_js, build_figure, show_figures
from app.models import ModelSet
from app.runs import AT_ONCE
from app.tabs import TabContext
from app.text import FRONTIER_COMPUTATION, FRONTIER_READING

COMMAND = "python -m analysis.benchmark --data data/emoji --all --batch-size 25 --rounds 5 --out results/benchmark"
DATE = "2026-11-30"  # of the shipped table


class Metric(NamedTuple):
    """A metric of the table.

    Attributes:
        column: its name in the table.
        help: what it measures.
    """

    column: str
    help: str


METRICS = {
    "KID to real images": Metric(
        "kid",
        "Kernel distance, times 1000: how far the images' features (EfficientNet-Lite0's, not Inception's) lie from "
        "those of real images; 0: no difference.",
    ),
    "Frechet distance to real images": Metric(
        "frechet",
        "How far mean and spread of the images' features lie from those of real images. It is biased upwards in small "
        "samples: compare the differences to the full run, not the values.",
    ),
    "Prompted subject nearest (R@1)": Metric(
        "r_at_1", "How often the real image that looks most like the drawn one shows the prompted subject."
    ),
    "Prompted subject among 5 nearest (R@5)": Metric(
        "r_at_5",
        "How often one of the five real images that look most like the drawn one shows the prompted subject.",
    ),
    "LPIPS to the full run": Metric(
        "lpips_full", "How different the image looks from the full run's of the same noise; 0: the same image."
    ),
    "PSNR to the full run": Metric(
        "psnr_full", "How near the pixels are to those of the full run's image of the same noise, in decibels."
    ),
    "Latent MSE to the full run": Metric(
        "latent_mse_full", "Mean squared difference of the latents to the full run's of the same noise."
    ),
    "Diversity: pairwise LPIPS": Metric(
        "pairwise_lpips", "How different the images of one prompt look from each other; the full run's is what to keep."
    ),
    "Diversity: Vendi score": Metric(
        "vendi",
        "The effective number of different images of a prompt: 1 if all are alike, the number of seeds if none are.",
    ),
}
ABSENT = (
    f"No benchmark is shipped with this copy. Make one with {COMMAND}, and put its benchmark.csv and samples into "
    f"{'/'.join(SHIPPED.parts[-3:])}."
)
UNREADABLE = f"The benchmark's table in this copy cannot be read. Make it again with {COMMAND}."
OF_EMBEDDED = (
    "This table was measured with the embedded emoji model, not with {title}. Measure that with python -m "
    "analysis.benchmark --model FOLDER."
)
NO_SAMPLE = f"No images of this method are shipped: {COMMAND} writes them into results/benchmark/samples."
# A click on a mark chooses its method.
CLICK_JS = attach_listener_js(
    "frontier-figure",
    "plotly_click",
    """(event) => {
        const field = document.querySelector('#frontier-clicked textarea, #frontier-clicked input');
        field.value = `${Date.now()} ${event.points[0].customdata[1]}`;  // another text for each click
        field.dispatchEvent(new Event('input', { bubbles: true }));
    }""",
)


class Outcome(NamedTuple):
    """What is shown."""

    metric: str
    all_methods: bool


# ---------------------------------------------------------------------------------------- handlers


def read_shipped() -> tuple[pd.DataFrame | None, str]:
    """Read the benchmark's table that comes with the project.

    Returns:
        It and ""; or None and why there is none.
    """
    path = SHIPPED / "benchmark.csv"
    if not path.is_file():
        return None, ABSENT
    try:
        return read_table(path), ""
    except (OSError, ValueError):
        return None, UNREADABLE


def list_choices() -> list[Any]:
    """List the choices that the shipped table admits.

    Returns:
        Updates for metric and method.
    """
    table, _ = read_shipped()
    if table is None:
        return [gr.skip(), gr.skip()]
    columns = list_metrics(table)
    metrics = [label for label, metric in METRICS.items() if metric.column in columns]
    methods = list(table["method"])
    first = next((name for name in methods if "LatentCRF" in name), methods[0])
    return [
        gr.update(choices=metrics, value=metrics[0]),
        gr.update(choices=methods, value=first, visible=True),
    ]


def draw(label: str | None, all_methods: bool, presentation: bool) -> list[Any]:
    """Draw the figure.

    Args:
        label: of a metric, of `METRICS`; None: the first.
        all_methods: as of `select_rows`.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for status, the figure's place, the table, and what is shown.
    """
    table, problem = read_shipped()
    metric = METRICS[label or next(iter(METRICS))]
    style = {"presentation": bool(presentation), "on_page": True}
    if table is None:
        empty = show_figures("frontier", ["figure"], {"figure": (draw_empty_frontier(metric.column, **style), None)})
        return [html.format_message(problem), *empty, gr.update(visible=False), None]
    try:
        rows = list_rows(table, metric.column, all_methods)
        figures = {"figure": (draw_frontier(table, metric.column, all_methods, **style), rows)}
    except ValueError as error:
        return [html.format_message(str(error).capitalize(), "error"), *[gr.skip()] * 4]
    return [
        html.format_message(f"{metric.help} {len(rows)} methods."),
        *show_figures("frontier", ["figure"], figures),
        gr.update(value=rows, visible=True),
        Outcome(metric.column, all_methods),
    ]


def describe_table_model(model_set: ModelSet) -> str:
    """Say which model the table is of, where another one is chosen.

    Args:
        model_set: the model that the page shows.

    Returns:
        HTML; empty for the embedded model.
    """
    return "" if model_set.is_embedded else html.format_message(OF_EMBEDDED.format(title=model_set.title))


def show_samples(method: str | None) -> list[Any]:
    """Show a method's row of images.

    Args:
        method: its name in the table.

    Returns:
        Values for the image and the sentence about it.
    """
    table, _ = read_shipped()
    # a file name is made of the method: only known ones are looked for
    if table is None or method is None or method not in set(table["method"]):
        return [gr.update(visible=False), ""]
    samples = read_samples(SHIPPED / "samples", [method])
    if method not in samples:
        return [gr.update(visible=False), html.format_message(NO_SAMPLE)]
    text = f"{method}: the first images of its prompts, the same prompts and noise for every method."
    return [gr.update(value=samples[method], visible=True), html.format_message(text)]


def choose_clicked(text: str | None) -> Any:
    """Choose the method whose mark was clicked.

    Args:
        text: the time of the click, a space, the method's name; None: there was no click.

    Returns:
        The name.
    """
    return (text or "").partition(" ")[2] or gr.skip()


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    with gr.Row(elem_classes="controls filters"):
        metric = gr.Dropdown(list(METRICS), value=next(iter(METRICS)), label="Quality", elem_id="frontier-metric")
        all_methods = gr.Checkbox(
            False,
            label="All methods",
            info="also those that nobody would choose, and baselines that only explain others",
            elem_id="frontier-all",
        )
    measured = gr.HTML(describe_table_model(context.menu.catalog.default), elem_id="frontier-model", padding=False)
    context.menu.follow(measured, describe_table_model)
    status = gr.HTML(elem_id="frontier-status", padding=False)
    computation = f"{FRONTIER_COMPUTATION.format(command=COMMAND)} The table here was made on {DATE}."
    note = html.format_note(FRONTIER_READING, computation)
    place = build_figure("frontier-figure", note)
    with gr.Row(elem_classes="controls"):
        method = gr.Dropdown([], label="Images of", visible=False, elem_id="frontier-method")
    images = gr.Image(
        show_label=False,
        format="png",
        interactive=False,
        visible=False,
        buttons=["download", "fullscreen"],
        alt_text="Sample images of the method chosen, side by side",
        elem_id="frontier-images",
    )
    sentence = gr.HTML(elem_id="frontier-words", padding=False)
    clicked = gr.Textbox(visible="hidden", elem_id="frontier-clicked")
    rows = gr.Dataframe(
        interactive=False,
        visible=False,
        label="The figure's rows, by time",
        max_height=420,
        elem_id="frontier-table",
    )
    outcome: gr.State = gr.State(None)

    def list_export(last: Outcome) -> list[Any]:
        return ["export_frontier", read_shipped()[0], last.metric, last.all_methods, SHIPPED / "samples"]

    with gr.Row(elem_classes="controls"):
        build_export(context.worker, "frontier", outcome, list_export)

    choices: list[Any] = [metric, all_methods, context.presentation]
    outputs = [status, *place.outputs, rows, outcome]
    # `input` and not `change`: what `list_choices` fills in is drawn once, after it.
    ready = context.opened.then(list_choices, None, [metric, method], **AT_ONCE)
    ready.then(draw, choices, outputs, **AT_ONCE).then(show_samples, method, [images, sentence], **AT_ONCE)
    changes = [metric.input, all_methods.input, context.presentation.change]
    gr.on(changes, draw, choices, outputs, trigger_mode="always_last", **AT_ONCE)
    method.input(show_samples, method, [images, sentence], **AT_ONCE)
    # `change`, as gradio sees no `input` of a hidden field
    clicked.change(choose_clicked, clicked, method, **AT_ONCE).then(show_samples, method, [images, sentence], **AT_ONCE)
    place.plot.change(None, None, None, js=CLICK_JS, queue=False, api_visibility="private")
