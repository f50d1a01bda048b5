"""The convergence tab: what each iteration of the CRF changes, and where (paper, Fig. A.2)."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from app.components.example import DRAW_LIVE, build_example, connect_example, find_outcome
from app.components.exports import build_export
from app.components.figures import build_figure, show_figures
from app.components.form import build_number
from app.components.method_line import build_method_line
from app.device import DeviceWorker
from app.examples import CONVERGENCE, describe_example
from app.models import ModelSet
from app.runs import AT_ONCE, ProgressClock, Run, Update, build_run_controls
from app.settings import METHOD, Number, Settings, name_method
from app.tabs import TabContext
from app.text import CONVERGENCE_NOTES

COUNT = Number("Seeds", 1, 6)
STARTS = {"Clean estimate": "denoised", "Noisy latents": "latents"}  # where the sampler stopped
NO_CRF = "no LatentCRF is trained for this model yet, so nothing converges. The command at the page's foot trains one."


class Outcome(NamedTuple):
    """What the last run found.

    Attributes:
        found: as of `app.work.run_convergence`.
        settings: of the run.
        model_options: as of `ModelSet.export_options`.
    """

    found: Any
    settings: Settings
    model_options: dict[str, str]


# ---------------------------------------------------------------------------------------- handlers


def list_first_values(model_set: ModelSet) -> list[Any]:
    """List what the form holds at first.

    Args:
        model_set: the model.

    Returns:
        Prompt, first seed, number of seeds, the settings `METHOD`, and the start.
    """
    defaults = model_set.defaults
    return [defaults.prompt, defaults.seed, 4, *(getattr(defaults, name) for name in METHOD), next(iter(STARTS))]


def run_convergence(run: Run, prompt: str, seed: float, count: float, *values: Any) -> Iterator[Update]:
    """Run the LDM once for all seeds up to the CRF, then the CRF's iterations.

    Args:
        run: this run.
        prompt: what to draw.
        seed: the first.
        count: how many seeds follow each other.
        values: of the settings `METHOD`, then the start, and whether the page is in presentation mode.

    Yields:
        Updates with an `Outcome` and its figures.

    Raises:
        SettingsError: the values are wrong.
    """
    *method, start, presentation = values
    # a run of few steps has no bypass; what converges here is the bypass CRF
    own = name_method(method) | {"few_steps": 0, "prompt": prompt, "seed": seed, "model": run.model}
    settings = run.worker.catalog.parse(own)
    number = int(COUNT.check(count))
    if run.model_set.crf is None:
        yield Update(NO_CRF, busy=False)
        return
    run.check_work(number * settings.bypass_start)
    yield Update(run.start_text)
    seeds = [settings.seed + i for i in range(number)]
    work = run.worker.call("count_convergence_work", settings.bypass, number)
    clock = ProgressClock(work, "denoiser calls and decodings")
    for report in run.stream("run_convergence", settings, seeds):
        if isinstance(report, int):
            yield Update(clock.format(report))
        else:
            yield Update("Drawing the figures…")
            outcome = Outcome(report, settings, run.model_set.export_options)
            figures = draw(run.worker, outcome, start, presentation)
            notes = run.worker.catalog.read_prompt(own).notes
            yield Update(" ".join([describe(outcome), *notes]), [outcome, "", *figures], busy=False)


def describe(outcome: Outcome) -> str:
    """Describe what a run found.

    Args:
        outcome: of the run.

    Returns:
        Prompt and seeds, and how far apart the descents from all starts end.
    """
    settings, count = outcome.settings, len(outcome.found.seeds)
    seeds = f"seed {settings.seed}" if count == 1 else f"{count} seeds from {settings.seed}"
    spread = f"The descents from all starts end within {outcome.found.spread:.1g} of each other (RMS of the latents)."
    return f"“{settings.prompt}”, {seeds}. {spread}"


def show_example(worker: DeviceWorker, model: str, presentation: bool) -> list[Any]:
    """Show the stored example, from the first start.

    Args:
        worker: reads and draws it.
        model: name of the model that the page shows.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the outcome, the sentence about the example, the figures' places, and the start; empty ones for
        another model.
    """
    start = next(iter(STARTS))
    outcome = find_outcome(worker, model, CONVERGENCE)
    if outcome is None:
        return [None, "", *[None] * (2 * len(CONVERGENCE_NOTES)), gr.update(value=start)]
    text = f"“{outcome.settings.prompt}”, {len(outcome.found.seeds)} seeds from {outcome.settings.seed}"
    return [outcome, describe_example(text, DRAW_LIVE), *draw(worker, outcome, start, presentation),
            gr.update(value=start)]  # fmt: skip


def draw(worker: DeviceWorker, outcome: Outcome | None, start: str, presentation: bool) -> list[Any]:
    """Draw the figures.

    Args:
        worker: calls the drawing.
        outcome: of the last run; None leaves the figures as they are.
        start: of `STARTS`.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the figures' places, in the order of `CONVERGENCE_NOTES`.
    """
    if outcome is None:
        return [gr.skip()] * (2 * len(CONVERGENCE_NOTES))
    figures = worker.call("draw_convergence", outcome.found, STARTS[start], presentation)
    return show_figures("convergence", list(CONVERGENCE_NOTES), figures)


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    menu, model_set = context.menu, context.worker.catalog.default
    first_prompt, first_seed, first_count, *_ = list_first_values(model_set)
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(first_prompt, label="Prompt", max_lines=1, scale=4, elem_id="convergence-prompt")
        seed = gr.Number(first_seed, label="First seed", min_width=100, elem_id="convergence-seed")
        count = build_number(COUNT, first_count, "convergence-seeds", min_width=90)
        controls = build_run_controls(
            "convergence",
            "Draw",
            "One run of the LDM for all seeds, up to the CRF; then the CRF's iterations from there.",
        )
    with gr.Row(elem_classes="filters"):
        build_method_line(context, "convergence")
        start = gr.Radio(list(STARTS), value=next(iter(STARTS)), label="Start from", elem_id="convergence-start-from")
    controls.status.render()
    example = build_example("convergence")
    places: list[Any] = []
    for name, text in CONVERGENCE_NOTES.items():
        places += build_figure(f"convergence-{name}", text).outputs
    outcome: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export(
            context.worker,
            "convergence",
            outcome,
            lambda last: ["export_convergence", last.found, last.settings, last.model_options],
        )
    inputs = [prompt, seed, count, *context.form.method, start, context.presentation]
    menu.follow_default(prompt, "prompt")
    outputs = [outcome, example, *places]
    controls.connect(context.worker, menu.dropdown, run_convergence, inputs, outputs)
    connect_example(context, partial(show_example, context.worker), [*outputs, start])
    redraws = [start.input, context.presentation.change]
    redraw_inputs = [outcome, start, context.presentation]
    gr.on(redraws, partial(draw, context.worker), redraw_inputs, places, trigger_mode="always_last", **AT_ONCE)
