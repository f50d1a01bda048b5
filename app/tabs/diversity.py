"""The diversity tab: many seeds of one prompt by several methods, from the same noise (paper, Fig. 2)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from app.figures import build_figure, listening
from app.form import DEFAULTS
from app.later import Later
from app.page import AT_ONCE, COMPARE, Clock, Page, Turns, build_export, build_runner, note, said, watched
from app.services import Services
from app.settings import MAX_SEED, Limit, SettingsError, check_prompt

if TYPE_CHECKING:
    import pandas as pd

    from analysis import diversity as analysis
    from analysis.export import Results
    from app.comparison import Models
else:
    analysis = Later("analysis.diversity")

# Pointing at a cell of a heat map shows its two images, taken from the rows above.
HOVER_JS = listening(
    "diversity-pairs",
    "plotly_hover",
    """(event) => {
        const point = event.points[0], row = document.querySelector(`#diversity-row-${point.curveNumber}`);
        const images = row ? row.querySelectorAll('.thumbnail-item img') : [];
        const [a, b] = [point.pointIndex[0], point.pointIndex[1]].map((index) => images[index]);
        if (!a || !b) return;
        const panel = document.querySelector('#diversity-pair'), shown = panel.querySelectorAll('img');
        [[a, point.y], [b, point.x]].forEach(([image, name], i) => { shown[i].src = image.src; shown[i].alt = name; });
        panel.querySelector('p').textContent = `${point.y} and ${point.x}: LPIPS ${point.z.toFixed(3)}`;
        panel.querySelector('.pair').hidden = false;
    }""",
)
PAIR = '<div class="pair" hidden><img alt=""><img alt=""><p class="reading"></p></div>'
SEEDS, SEED = Limit("Seeds", 4, 16), Limit("First seed", 0, MAX_SEED - 16)
RIVALS = ("LatentCRF", "few steps", "DDIM, equal calls", "bypass without parameters")
ROWS = 1 + len(RIVALS)
FIGURES = {
    "measures": note(
        "Each mark is a method's diversity over the seeds; where it stands as far right as the full LDM's, nothing is lost. "
        "Point at it for the ratio. LPIPS: how different two images look, 0 for the same. Vendi score: as many images as truly differ, "
        "1 if all are alike. Few steps is a run of four steps, far too few.",
        "Mean LPIPS (AlexNet) of all pairs of images; Vendi score with the cosine kernel on EfficientNet-Lite0 features; "
        "95 % jackknife intervals over the seeds.",
    ),
    "pairs": note(
        "Each cell is a pair of seeds: dark, they look alike; yellow, they differ. A method that loses diversity is darker. "
        "Point at a cell to see its two images below.",
        "LPIPS of the two images, the same colours for all methods.",
    ),
}


# ---------------------------------------------------------------------------------------- handlers


def parse(prompt: Any, seed: Any, count: Any, rivals: Any) -> tuple[str, list[int], list[str]]:
    """Prompt, seeds and methods, the full LDM first.

    Raises:
        SettingsError: no prompt, numbers out of range, an unknown method.
    """
    words, first, number = check_prompt(prompt), int(SEED.check(seed)), int(SEEDS.check(count))
    unknown = [name for name in rivals or () if name not in RIVALS]
    if unknown:
        raise SettingsError(f"Methods must be among {', '.join(RIVALS)}; {unknown[0]!r} is not.")
    return words, [first + i for i in range(number)], ["full LDM", *(name for name in RIVALS if name in (rivals or ()))]


def told_cost(count: Any, rivals: Any) -> str:
    """What a run will take, before it is started."""
    try:
        _, seeds, methods = parse("x", 0, count, rivals)
    except SettingsError as error:
        return f'<p class="message error" role="alert">{error}</p>'
    return f'<p class="reading">{len(methods)} methods, {len(seeds)} seeds: {analysis.cost(methods, len(seeds)):,} U-Net calls.</p>'


def work(prompt: str, seeds: list[int], methods: list[str], models: "Models", report: Callable[[Any], None]) -> None:
    """Report the number of steps made, after each, and a `Row` a method."""
    analysis.compute(
        models.pipeline, models.crf, (models.lpips, models.features), prompt, seeds, methods,
        precision=models.precision, report=report,
    )  # fmt: skip


def run(
    services: Services, prompt: str, seed: float, count: float, rivals: list[str], presentation: bool, ticket: float,
    turns: Turns,
) -> Iterator[list[Any]]:  # fmt: skip
    """Yield status, buttons and what there is to show, a method at a time."""
    same = [gr.skip()] * (1 + 2 * ROWS + len(FIGURES))
    try:
        words, seeds, methods = parse(prompt, seed, count, rivals)
    except SettingsError as error:
        yield [*said(str(error), error=True), *same]
        return
    clock = Clock(analysis.cost(methods, len(seeds)), "U-Net calls")
    made: dict[str, Any] = {"rows": [], "seeds": seeds, "prompt": words, "guidance": analysis.GUIDANCE}
    yield [*said("Drawing…", busy=True), *same]
    for event in watched(services, partial(work, words, seeds, methods), ticket, turns):
        if isinstance(event, int):
            yield [*said(clock.told(event), busy=True), *same]
            continue
        made = {**made, "rows": [*made["rows"], event], "precision": services.models.precision_name}
        finished = len(made["rows"]) == len(methods)
        text = f"“{words}”, {len(seeds)} seeds from {seeds[0]}." if finished else f"{event.method} is done."
        yield [*said(text, busy=not finished), made, *show(made, presentation)]
    if turns.stopped >= ticket:
        yield [*said("Stopped."), *same]


def show(made: dict[str, Any] | None, presentation: bool) -> list[Any]:
    """Each method's row of images and its measures, then the figures in the order of `FIGURES`."""
    if made is None:
        return [gr.skip()] * (2 * ROWS + len(FIGURES))
    rows = []
    for row, (_, measured) in zip(made["rows"], analysis.tabulate(made["rows"]).iterrows(), strict=True):
        pictures = [
            (np.ascontiguousarray(image), f"seed {seed}") for seed, image in zip(made["seeds"], row.images, strict=True)
        ]
        rows += [gr.update(value=pictures, columns=len(pictures), visible=True), measures(measured)]
    rows += [gr.update(visible=False), ""] * (ROWS - len(made["rows"]))
    drawn = analysis.figures(made["rows"], made["seeds"], presentation=bool(presentation), on_page=True)
    return [*rows, *(drawn[name] for name in FIGURES)]


def measures(measured: "pd.Series") -> str:
    """What stands under a method's row: its measures with their intervals, and their ratios to the full LDM's."""
    text = f"<b>{measured['method']}</b>, {measured['unet_calls']} U-Net calls"
    for name, (label, form) in {
        "pairwise_lpips": ("mean pairwise LPIPS", "{:.3f}"),
        "vendi": ("Vendi score", "{:.2f}"),
    }.items():
        value, low, high = (form.format(measured[name + end]) for end in ("", "_low", "_high"))
        text += f" · {label} {value} ({low} to {high})"
        if measured["method"] != analysis.FULL:
            text += f", {measured[name + '_ratio']:.2f} of the full LDM's"
    return f'<p class="reading">{text}</p>'


def send(made: dict[str, Any] | None, event: gr.SelectData) -> list[Any]:
    """Prompt and seed of the image that was clicked, for the compare tab, with the random switch off."""
    if made is None:
        return [gr.skip()] * 4
    return [made["prompt"], made["seeds"][event.index], False, gr.Tabs(selected=COMPARE)]


def results(made: dict[str, Any]) -> "Results":
    """The export."""
    options = {"prompt": made["prompt"], "seeds": len(made["seeds"]), "seed": made["seeds"][0]}
    options |= {name: made[name] for name in ("guidance", "precision")}
    return analysis.results(made["rows"], made["seeds"], options | {"methods": [row.method for row in made["rows"]]})


# ------------------------------------------------------------------------------------------ layout


def build(page: Page) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`."""
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(DEFAULTS.prompt, label="Prompt", max_lines=1, scale=3, elem_id="diversity-prompt")
        seed = gr.Number(0, label="First seed", min_width=100, elem_id="diversity-seed")
        count = gr.Number(8, label="Seeds", info="4 to 16", min_width=90, elem_id="diversity-seeds")
        rivals = gr.CheckboxGroup(
            list(RIVALS), value=list(RIVALS[:2]), label="Beside the full LDM", scale=3, elem_id="diversity-methods"
        )
        runner = build_runner(
            "diversity", "Draw", "The same noise for all methods; 8 seeds take about 20 seconds on a CPU."
        )
    cost = gr.HTML(elem_id="diversity-cost", padding=False)
    runner.status.render()
    shown: list[Any] = []
    for index in range(ROWS):
        gallery = gr.Gallery(
            show_label=False, columns=8, format="png", buttons=[], allow_preview=False, object_fit="contain",
            height="auto", interactive=False, visible=index == 0, elem_id=f"diversity-row-{index}",
            elem_classes="diversity-row",
        )  # fmt: skip
        shown += [gallery, gr.HTML(padding=False)]
    gr.HTML(
        note(
            "A row a method, a column a seed: from the same noise. Click an image to look at its seed in the compare tab.",
            "DDIM with 50 steps and guidance 3; LatentCRF's bypass is (33, 49).",
        ),
        padding=False,
    )
    plots = []
    for name, text in FIGURES.items():
        plots.append(build_figure(f"diversity-{name}"))
        gr.HTML(text, padding=False)
    gr.HTML(PAIR, elem_id="diversity-pair", padding=False)
    made: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export("diversity", made, results)
    galleries, shown = shown[::2], [*shown, *plots]
    runner.connect(partial(run, page.services), [prompt, seed, count, rivals, page.presentation], [made, *shown])
    page.presentation.change(show, [made, page.presentation], shown, **AT_ONCE)
    gr.on([count.change, rivals.change], told_cost, [count, rivals], cost, **AT_ONCE)
    for gallery in galleries:
        gallery.select(
            send, made, [page.form.values[0], page.form.values[1], page.form.random_seed, page.tabs], **AT_ONCE
        )
    plots[list(FIGURES).index("pairs")].change(None, None, None, js=HOVER_JS, queue=False, api_visibility="private")
