"""The frontier tab: the benchmark's table as a figure, quality against time, and what the methods' images look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd

from app import html
from app.figures import build_figure, listening
from app.later import Later
from app.page import AT_ONCE, Page, build_export, note

if TYPE_CHECKING:
    from analysis import frontier as analysis
    from analysis.export import Results
else:
    analysis = Later("analysis.frontier")

SHIPPED = Path(__file__).parents[2] / "assets" / "results" / "benchmark"
COMMAND = "python -m analysis.benchmark --data data/emoji --prompts 50 --seeds 4 --batch-size 25 --rounds 5 --out results/benchmark"
MEASURES = {
    "KID to real images": "kid",
    "Frechet distance to real images": "frechet",
    "Prompted subject nearest (R@1)": "r_at_1",
    "Prompted subject among 5 nearest (R@5)": "r_at_5",
    "LPIPS to the full run": "lpips_full",
    "PSNR to the full run": "psnr_full",
    "Latent MSE to the full run": "latent_mse_full",
    "Diversity: pairwise LPIPS": "pairwise_lpips",
    "Diversity: Vendi score": "vendi",
}
EXPLAINED = {
    "kid": "Kernel distance, times 1000: how far the images' features (EfficientNet-Lite0's, not Inception's) lie from those of real images; 0: no difference.",
    "frechet": "How far mean and spread of the images' features lie from those of real images; biased upwards in small samples, so only "
    "compare methods here.",
    "r_at_1": "How often the real image that looks most like the drawn one shows the prompted subject.",
    "r_at_5": "How often one of the five real images that look most like the drawn one shows the prompted subject.",
    "lpips_full": "How different the image looks from the full LDM's of the same noise; 0: the same image.",
    "psnr_full": "How near the pixels are to those of the full LDM's image of the same noise, in decibels.",
    "latent_mse_full": "Mean squared difference of the latents to the full LDM's of the same noise.",
    "pairwise_lpips": "How different the images of one prompt look from each other; the full LDM's is what to keep.",
    "vendi": "As many of a prompt's images as truly differ: 1 if all are alike, the number of seeds if none are.",
}
ABSENT = (
    f"No benchmark is shipped with this copy. Make one with {COMMAND}, and put its benchmark.csv and samples into {{}}."
)
# A click on a mark chooses its method.
CLICK_JS = listening(
    "frontier-figure",
    "plotly_click",
    """(event) => {
        const field = document.querySelector('#frontier-clicked textarea, #frontier-clicked input');
        field.value = `${Date.now()} ${event.points[0].customdata[1]}`;  // another text for each click
        field.dispatchEvent(new Event('input', { bubbles: true }));
    }""",
)
NO_SAMPLE = f"No images of this method are shipped: {COMMAND} writes them into results/benchmark/samples."
READING = (
    "Each point is a way to sample: the further left, the faster. The vertical axis says whether higher or lower is better; "
    "bars are 95 % intervals over the prompts, which all methods share: differences are surer than the bars look. No method "
    "shown beats those on the dotted line in both time and quality. Dashed: the full LDM. A finisher settles the last latents of a "
    "run: a CRF's static form, after which they go through the autoencoder once more (round trip), or a CRF that learned to do both "
    "at once; violet crosses show what these latents become without a CRF. Point at a mark for its settings, click it for its images."
)
COMPUTED = (
    "All methods drew the same prompts from the same noise; intervals by bootstrap over the prompts; times are medians of runs "
    f"interleaved with the full LDM's. The table is what <code>{COMMAND}</code> writes; assets/results/README.md says what was run."
)


# ---------------------------------------------------------------------------------------- handlers


def shipped() -> "tuple[pd.DataFrame | None, str]":
    """The benchmark's table that comes with the project, or None and why there is none."""
    path = SHIPPED / "benchmark.csv"
    if not path.is_file():
        return None, ABSENT.format("/".join(SHIPPED.parts[-3:]))
    try:
        return analysis.read_table(path), ""
    except (OSError, ValueError):
        return None, f"The benchmark's table in this copy cannot be read. Make it again with {COMMAND}."


def first() -> list[Any]:
    """Choices of measure, families and method, as far as the shipped table goes."""
    table, _ = shipped()
    if table is None:
        return [gr.skip(), gr.skip(), gr.skip()]
    held = analysis.measures_of(table)
    measures = [label for label, name in MEASURES.items() if name in held]
    families, methods = analysis.families_of(table), list(table["method"])
    ours = next((name for name in methods if "LatentCRF" in name), methods[0])
    return [
        gr.update(choices=measures, value=measures[0]),
        gr.update(choices=families, value=families, visible=True),
        gr.update(choices=methods, value=ours, visible=True),
    ]


def draw(label: str, families: list[str], presentation: bool) -> list[Any]:
    """Status, figure, table, and what an export would hold."""
    table, problem = shipped()
    looks = {"presentation": bool(presentation), "on_page": True}
    if table is None:
        return [html.message(problem), analysis.empty(MEASURES[label], **looks), gr.update(visible=False), None]
    try:
        drawn = analysis.figure(table, MEASURES[label], families, **looks)
        rows = analysis.shown(table, MEASURES[label], families)
    except ValueError as error:
        return [html.message(str(error).capitalize(), "error"), gr.skip(), gr.skip(), gr.skip()]
    made = {"measure": MEASURES[label], "families": families}
    return [
        html.message(f"{EXPLAINED[MEASURES[label]]} {len(rows)} methods."),
        drawn,
        gr.update(value=rows, visible=True),
        made,
    ]


def sample(method: str | None) -> list[Any]:
    """A method's row of images, and a sentence about it."""
    table, _ = shipped()
    if table is None or method not in set(table["method"]):  # a file name is made of it: only those that we know
        return [gr.update(visible=False), ""]
    found = analysis.samples(SHIPPED / "samples", [str(method)])
    if not found:
        return [gr.update(visible=False), html.message(NO_SAMPLE)]
    text = f"{method}: the first images of its prompts, the same prompts and noise for every method."
    return [gr.update(value=found[str(method)], visible=True), html.message(text)]


def clicked_method(text: str) -> Any:
    """The method named after the time of the click, chosen."""
    return text.partition(" ")[2] or gr.skip()


def results(made: dict[str, Any]) -> "Results":
    """The export.

    Raises:
        ValueError: the table has gone since it was shown.
    """
    table, problem = shipped()
    if table is None:
        raise ValueError(problem)
    return analysis.results(table, made["measure"], made["families"], SHIPPED / "samples")


# ------------------------------------------------------------------------------------------ layout


def build(page: Page) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`."""
    with gr.Row(elem_classes="controls"):
        measure = gr.Dropdown(list(MEASURES), value="KID to real images", label="Quality", elem_id="frontier-measure")
        families = gr.CheckboxGroup([], label="Methods", scale=3, visible=False, elem_id="frontier-families")
    status = gr.HTML(elem_id="frontier-status", padding=False)
    figure = build_figure("frontier-figure")
    gr.HTML(note(READING, COMPUTED), padding=False)
    with gr.Row(elem_classes="controls"):
        method = gr.Dropdown([], label="Images of", visible=False, elem_id="frontier-method")
    images = gr.Image(
        show_label=False, format="png", interactive=False, visible=False, buttons=["download", "fullscreen"],
        alt_text="Sample images of the method chosen, side by side", elem_id="frontier-images",
    )  # fmt: skip
    words = gr.HTML(elem_id="frontier-words", padding=False)
    clicked = gr.Textbox(visible="hidden", elem_id="frontier-clicked")
    rows = gr.Dataframe(
        interactive=False,
        visible=False,
        label="The figure's rows, by time",
        max_height=420,
        elem_id="frontier-table",
    )
    made: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export("frontier", made, results)

    look: list[Any] = [measure, families, page.presentation]
    drawn = [status, figure, rows, made]
    # `input` and not `change`: what `first` fills in is drawn once, after it.
    ready = gr.on(None, first, None, [measure, families, method], **AT_ONCE)
    ready.then(draw, look, drawn, **AT_ONCE).then(sample, method, [images, words], **AT_ONCE)
    changed = [measure.input, families.input, page.presentation.change]
    gr.on(changed, draw, look, drawn, trigger_mode="always_last", **AT_ONCE)
    method.input(sample, method, [images, words], **AT_ONCE)
    # `change`, as gradio sees no `input` of a hidden field
    clicked.change(clicked_method, clicked, method, **AT_ONCE).then(sample, method, [images, words], **AT_ONCE)
    figure.change(None, None, None, js=CLICK_JS, queue=False, api_visibility="private")
