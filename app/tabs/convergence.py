"""The convergence tab: what each iteration of the CRF changes, and where (paper, Fig. A.2)."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from app.components.example import DRAW_LIVE, build_example, connect_example, find_outcome
from app.components.exports import build_export
from app.components.figures import build_figure, show_figures
from app.components.form import build_control, build_number
from app.device import DeviceWorker
from app.examples import CONVERGENCE, describe_example
from app.models import ModelSet
from app.runs import AT_ONCE, ProgressClock, Run, Update, build_run_controls
from app.settings import Number, Settings
from app.tabs import TabContext
from app.text import CONVERGENCE_NOTES

COUNT = Number("Seeds", 1, 6)
SETTINGS = ("steps", "guidance", "bypass_start", "bypass_end")
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
        Prompt, first seed, number of seeds, and the settings `SETTINGS`.
    """
    defaults = model_set.defaults
    return [defaults.prompt, defaults.seed, 4, *(getattr(defaults, name) for name in SETTINGS)]


def run_convergence(run: Run, prompt: str, seed: float, count: float, *values: Any) -> Iterator[Update]:
    """Run the LDM once for all seeds up to the CRF, then the CRF's iterations.

    Args:
        run: this run.
        prompt: what to draw.
        seed: the first.
        count: how many seeds follow each other.
        values: of the settings `SETTINGS`, then whether the page is in presentation mode.

    Yields:
        Updates with an `Outcome` and its figures.

    Raises:
        SettingsError: the values are wrong.
    """
    *chosen, presentation = values
    own = dict(zip(SETTINGS, chosen, strict=True))
    settings = run.worker.catalog.parse({"prompt": prompt, "seed": seed, **own, "model": run.model})
    number = int(COUNT.check(count))
    if run.model_set.crf is None:
        yield Update(NO_CRF, busy=False)
        return
    run.check_work(number * settings.bypass_start)
    yield Update(run.start_text)
    clock = ProgressClock(settings.bypass_start, "denoiser calls")
    seeds = [settings.seed + i for i in range(number)]
    for report in run.stream("run_convergence", settings, seeds):
        if isinstance(report, int):
            yield Update(clock.format(report))
        else:
            outcome = Outcome(report, settings, run.model_set.export_options)
            seeds_text = f"seed {settings.seed}" if number == 1 else f"{number} seeds from {settings.seed}"
            figures = draw(run.worker, outcome, presentation)
            yield Update(f"“{settings.prompt}”, {seeds_text}.", [outcome, "", *figures], busy=False)


def show_example(worker: DeviceWorker, model: str, presentation: bool) -> list[Any]:
    """Show the stored example.

    Args:
        worker: reads and draws it.
        model: name of the model that the page shows.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the outcome, the sentence about the example, and the figures' places; empty ones for another model.
    """
    outcome = find_outcome(worker, model, CONVERGENCE)
    if outcome is None:
        return [None, "", *[None] * (2 * len(CONVERGENCE_NOTES))]
    text = f"“{outcome.settings.prompt}”, {len(outcome.found.seeds)} seeds from {outcome.settings.seed}"
    return [outcome, describe_example(text, DRAW_LIVE), *draw(worker, outcome, presentation)]


def draw(worker: DeviceWorker, outcome: Outcome | None, presentation: bool) -> list[Any]:
    """Draw the figures.

    Args:
        worker: calls the drawing.
        outcome: of the last run; None leaves the figures as they are.
        presentation: whether the page is in presentation mode.

    Returns:
        Values for the figures' places, in the order of `CONVERGENCE_NOTES`.
    """
    if outcome is None:
        return [gr.skip()] * (2 * len(CONVERGENCE_NOTES))
    figures = worker.call("draw_convergence", outcome.found, presentation)
    return show_figures("convergence", list(CONVERGENCE_NOTES), figures)


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    menu, model_set = context.menu, context.worker.catalog.default
    defaults = model_set.defaults
    first_prompt, first_seed, first_count, *_ = list_first_values(model_set)
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(first_prompt, label="Prompt", max_lines=1, scale=4, elem_id="convergence-prompt")
        seed = gr.Number(first_seed, label="First seed", min_width=100, elem_id="convergence-seed")
        count = build_number(COUNT, first_count, "convergence-seeds", min_width=90)
        values = [build_control(name, defaults, prefix="convergence-", min_width=110) for name in SETTINGS]
        controls = build_run_controls(
            "convergence",
            "Draw",
            "One run of the LDM for all seeds, up to the CRF; then the CRF's iterations from there.",
        )
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
    inputs = [prompt, seed, count, *values, context.presentation]
    for name, control in zip(("prompt", *SETTINGS), (prompt, *values), strict=True):
        menu.follow_default(control, name)
    outputs = [outcome, example, *places]
    controls.connect(context.worker, menu.dropdown, run_convergence, inputs, outputs)
    connect_example(context, partial(show_example, context.worker), outputs)
    context.presentation.change(partial(draw, context.worker), [outcome, context.presentation], places, **AT_ONCE)
