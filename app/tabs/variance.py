"""The variance tab: where in a run little happens, and so what a bypass may skip (paper, Fig. A.1)."""

import json
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from analysis.studies import FULL_RUN
from analysis.tables import read_csv
from app.components import html
from app.components.exports import build_export
from app.components.figures import build_figure, show_figures
from app.components.form import build_number
from app.components.method_line import build_method_line
from app.device import DeviceWorker
from app.models import ModelSet
from app.prompts import list_notes
from app.runs import AT_ONCE, ProgressClock, Run, Update, build_run_controls
from app.settings import DECLARATIONS, MAX_SEED, METHOD, Number, SettingsError, name_method
from app.tabs import COMPARE, TabContext
from app.text import VARIANCE_READING

SHIPPED = Path(__file__).parents[2] / "assets" / "results" / "variance"
FOLDER = "/".join(SHIPPED.parts[-3:])  # as a visitor's copy has it
COMMAND = (
    f"python -m analysis.variance --data data/emoji --prompts 200 --precision float32 --summary-only --out {FOLDER}"
)
DATE = "2026-12-01"  # of the shipped table
RUNS = Number("Runs", 2, 64)
SEED = Number("First seed", 0, MAX_SEED - 64, help="the others follow")
THRESHOLD = Number("Threshold", 1, 100, help="of the largest change of the clean estimate, in percent")
QUANTITIES = {
    "Estimate's change": "estimate_change",
    "Latents' variance": "variance",
    "Estimate's variance": "estimate_variance",
    "Latents' change": "change",
}
AXES = {"Step": "step", "Timestep": "timestep", "log-SNR": "log_snr"}
BATCH = 8
NO_TABLE_OF_MODEL = "No table of this model is shipped: draw your own runs below."
NO_TABLE = f"No table is shipped with this copy: draw your own runs below, or make it with <code>{COMMAND}</code>."


class Outcome(NamedTuple):
    """A table to show.

    Attributes:
        summary: as of `app.work.summarize_variance`.
        options: of the command line that makes it again.
        is_shipped: whether it comes with the project.
    """

    summary: pd.DataFrame
    options: dict[str, Any]
    is_shipped: bool

    @property
    def bypass(self) -> tuple[int, int]:
        """The bypass that the table was made with."""
        first, last = self.options["bypass"]
        return int(first), int(last)

    @property
    def steps(self) -> int:
        """Steps of the full run."""
        return int(self.summary["step"].max())


# ---------------------------------------------------------------------------------------- handlers


def parse(text: str, runs: Any, seed: Any) -> tuple[list[str], list[int]]:
    """Read the runs that a visitor asks for.

    Args:
        text: prompts, one a line, used in turn.
        runs: how many.
        seed: of the first; the others count up.

    Returns:
        A prompt and a seed for each run.

    Raises:
        SettingsError: a line that is no prompt, no line at all, numbers out of range.
    """
    check_prompt = DECLARATIONS["prompt"].check
    count, first = int(RUNS.check(runs)), int(SEED.check(seed))
    lines = [line for line in (text or "").splitlines() if line.strip()]
    prompts = [str(check_prompt(line)) for line in lines[:count]] or [str(check_prompt(""))]
    return [prompts[i % len(prompts)] for i in range(count)], [first + i for i in range(count)]


def run_variance(run: Run, text: str, runs: float, seed: float, *values: Any) -> Iterator[Update]:
    """Run both methods for each prompt, a batch at a time.

    Args:
        run: this run.
        text: as of `parse`.
        runs: as of `parse`.
        seed: as of `parse`.
        values: of the settings `METHOD`, then as of `draw` after the outcome.

    Yields:
        Updates with the outcome so far and its figure.

    Raises:
        SettingsError: as of `parse`.
    """
    worker, model_set = run.worker, run.model_set
    method, choices = values[: len(METHOD)], values[len(METHOD) :]
    prompts, seeds = parse(text, runs, seed)
    read = {prompt: model_set.read_prompt(prompt) for prompt in prompts}
    prompts = [read[prompt].text for prompt in prompts]
    # a run of few steps has no bypass; what is drawn here are the steps that a bypass skips
    own = name_method(method) | {"prompt": prompts[0], "few_steps": 0, "model": run.model}
    settings = worker.catalog.parse(own)
    tables: list[pd.DataFrame] = []
    calls = sum(settings.denoiser_calls.values())  # of a run, by both methods
    run.check_work(len(prompts) * calls)
    clock = ProgressClock(len(prompts) * calls, "denoiser calls")
    yield Update(run.start_text)
    for report in run.stream("run_variance", prompts, seeds, settings, BATCH):
        if isinstance(report, int):
            yield Update(clock.format(report))
            continue
        tables.append(report)
        if len(tables) % 2:  # of the two methods' tables of a batch the first
            continue
        done = int(report["run"].max()) + 1
        options = {
            "prompts": done,
            "text": prompts[:done],
            "seed": seeds[0],
            "bypass": list(settings.bypass),
            "guidance": settings.guidance,
            "steps": settings.steps,
            "batch_size": int(tables[0]["run"].max()) + 1,
            "precision": worker.call("name_variance_precision", worker.load(run.model)),
            **model_set.export_options,
        }
        outcome = Outcome(worker.call("summarize_variance", tables), options, False)
        is_done = done == len(prompts)
        summary = " ".join([f"{len(prompts)} runs.", *list_notes(read)])
        status = summary if is_done else f"{done} runs are drawn; {clock.format(done * calls)}"
        yield Update(status, [outcome, *draw(worker, outcome, *choices)], busy=not is_done)


def describe_computation(model_set: ModelSet, outcome: Outcome | None) -> str:
    """Describe how the figure was computed.

    Args:
        model_set: what drew the runs.
        outcome: what the figure shows; None: nothing.

    Returns:
        HTML: the runs, and the command that makes the table again.
    """
    both = f"Both methods from the same noise, {model_set.sampler}"
    if outcome is None:
        return f"{both} with {model_set.defaults.steps} steps."
    both += f" with {outcome.steps} steps."
    runs = int(outcome.summary["n"].max())
    if outcome.is_shipped:
        again = f"python -m analysis.variance --from {FOLDER}/settings.json --data data/emoji --out results/variance"
        shipped = f"the table that comes with the project, made on {DATE}"
        return f"{both} {runs:,} runs, {shipped}; <code>{again}</code> makes it again."
    options = outcome.options
    seeds = f"{options['seed']} to {options['seed'] + runs - 1}"
    prompts = list(dict.fromkeys(options["text"]))
    listed = ", ".join(prompts[:8]) + (", and others" if len(prompts) > 8 else "")
    return (
        f"{both} {runs} runs on this page, guidance {options['guidance']:g}, seeds {seeds}; prompts in turn: "
        f"{escape(listed)}."
    )


def draw(
    worker: DeviceWorker,
    outcome: Outcome | None,
    quantity: str,
    axis: str,
    is_log: bool,
    threshold: float,
    presentation: bool,
    model: str,
) -> list[Any]:
    """Draw the figure.

    Args:
        worker: calls the drawing.
        outcome: what to show; None: nothing.
        quantity: one of `QUANTITIES`.
        axis: one of `AXES`.
        is_log: whether the vertical axis is logarithmic.
        threshold: of the proposed bypass, in percent of the clean estimate's largest change.
        presentation: whether the page is in presentation mode.
        model: name of the model.

    Returns:
        Values for the figure's place, the proposed bypass in words, and the note under the figure.
    """
    model_set = worker.catalog.get(model)
    text = html.format_note(VARIANCE_READING, describe_computation(model_set, outcome))
    if outcome is None:
        sentence = NO_TABLE if model_set.is_embedded else NO_TABLE_OF_MODEL
        return [None, "", f'<p class="reading">{sentence}</p>', text]
    try:
        threshold = THRESHOLD.check(threshold)
    except SettingsError as error:
        return [gr.skip(), gr.skip(), html.format_message(str(error), "error"), text]
    proposal = worker.call("propose_bypass", outcome.summary, threshold / 100)
    figures = worker.call(
        "draw_variance",
        outcome.summary,
        QUANTITIES[quantity],
        outcome.bypass,
        AXES[axis],
        bool(is_log),
        proposal,
        presentation,
    )
    sentence = describe_proposal(proposal, outcome, threshold)
    return [*show_figures("variance", ["figure"], figures), f'<p class="reading">{sentence}</p>', text]


def describe_proposal(proposal: tuple[int, int] | None, outcome: Outcome, threshold: float) -> str:
    """Describe the proposed bypass, and how it differs from the one in use.

    Args:
        proposal: as of `app.work.propose_bypass`.
        outcome: what is shown.
        threshold: in percent.

    Returns:
        HTML.
    """
    limit, (begin, end), steps = f"{threshold:g} % of its largest change", outcome.bypass, outcome.steps
    if proposal is None:
        change = outcome.summary[outcome.summary["method"] == FULL_RUN].set_index("step")["estimate_change"]
        most = 100 * change.loc[begin : end - 1].max() / change.max()
        return (
            f"No bypass is proposed: each step changes the clean estimate by more than {limit}. In the bypass in use, "
            f"({begin}, {end}), it is up to {most:.0f} %."
        )
    first, last = proposal
    text = (
        f"Proposed bypass: <b>({first}, {last})</b> of {steps}, {steps - last + first} denoiser calls left. None of "
        f"its steps changes the clean estimate by more than {limit}."
    )
    if proposal == outcome.bypass:
        return f"{text} It is the bypass in use."
    if first <= begin and end <= last:
        return f"{text} The bypass in use, ({begin}, {end}), lies within it."
    beyond = len(set(range(begin, end)) - set(range(first, last)))
    return f"{text} The bypass in use, ({begin}, {end}), skips {beyond} step{'s' * (beyond != 1)} beyond it."


def read_shipped(model_set: ModelSet) -> Outcome | None:
    """Read the table that comes with the project.

    Args:
        model_set: the model that the page shows.

    Returns:
        It, with the options that it was made with; None where there is none, or another model's.
    """
    if not model_set.is_embedded:
        return None
    try:
        options = json.loads((SHIPPED / "settings.json").read_text(encoding="utf-8"))["options"]
        outcome = Outcome(read_csv(SHIPPED / "variance.csv"), options, True)
        return outcome if outcome.bypass and outcome.steps else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def use_in_compare(worker: DeviceWorker, outcome: Outcome | None, threshold: float, model: str) -> list[Any]:
    """Fill the compare tab's form with the proposed bypass.

    Args:
        worker: calls the proposal.
        outcome: what is shown.
        threshold: as of `draw`.
        model: name of the model.

    Returns:
        Values for steps, bypass start and end, few steps, guidance cut-off, and the row of tabs.
    """
    proposal = None
    try:
        if outcome is not None:
            proposal = worker.call("propose_bypass", outcome.summary, THRESHOLD.check(threshold) / 100)
    except SettingsError:  # the tab says so where it draws
        pass
    if outcome is None or proposal is None:
        return [gr.skip()] * 6
    return [outcome.steps, *proposal, 0, 0.0, gr.Tabs(selected=COMPARE)]


# ------------------------------------------------------------------------------------------ layout


def build(context: TabContext) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`.

    Args:
        context: what the tab is built into.
    """
    worker, menu = context.worker, context.menu
    first = worker.catalog.default
    with gr.Row(elem_classes="controls"):
        quantity = gr.Dropdown(
            list(QUANTITIES), value=next(iter(QUANTITIES)), label="Show", elem_id="variance-quantity"
        )
        axis = gr.Dropdown(list(AXES), value="Step", label="Horizontal axis", elem_id="variance-axis")
        is_log = gr.Checkbox(False, label="Logarithmic", min_width=120, elem_id="variance-log")
        threshold = gr.Slider(
            THRESHOLD.low,
            THRESHOLD.high,
            8,
            step=THRESHOLD.step,
            label=f"{THRESHOLD.label}, % of the largest change",
            elem_id="variance-threshold",
        )
    build_method_line(context, "variance")
    place = build_figure("variance-figure")
    with gr.Row():
        proposal = gr.HTML(elem_id="variance-proposal", padding=False)
        use = gr.Button("Use in Compare", size="sm", scale=0, min_width=150, elem_id="variance-use")
    note = gr.HTML(elem_id="variance-note", padding=False)
    with gr.Row(elem_classes="controls"):
        prompts = gr.Textbox(
            "\n".join(first.variance_prompts),
            lines=3,
            max_lines=6,
            label="Prompts, one a line, in turn",
            scale=4,
            elem_id="variance-prompts",
        )
        runs = build_number(RUNS, 16, "variance-runs", min_width=100)
        seed = build_number(SEED, 0, "variance-seed", min_width=100)
        controls = build_run_controls(
            "variance", "Draw", "Runs of your own prompts; 16 of emoji take about half a minute on two CPU cores."
        )
    controls.status.render()
    outcome: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export(
            worker, "variance", outcome, lambda last: ["export_variance", last.summary, last.options, last.bypass]
        )

    choices: list[Any] = [quantity, axis, is_log, threshold, context.presentation]
    drawn = [outcome, *choices, menu.dropdown]
    drawing = partial(draw, worker)
    drawing_outputs = [*place.outputs, proposal, note]
    menu.follow(prompts, lambda model_set: "\n".join(model_set.variance_prompts))
    end = controls.connect(
        worker,
        menu.dropdown,
        run_variance,
        [prompts, runs, seed, *context.form.method, *choices, menu.dropdown],
        [outcome, *drawing_outputs],
    )
    ready = context.opened.then(partial(read_shipped, first), None, outcome, **AT_ONCE)
    other = menu.dropdown.change(
        lambda model: read_shipped(worker.catalog.get(model)), menu.dropdown, outcome, **AT_ONCE
    )
    for event in (end, ready, other):  # as the choices are by then
        event.then(drawing, drawn, drawing_outputs, **AT_ONCE)
    gr.on(
        [choice.change for choice in choices],
        drawing,
        drawn,
        drawing_outputs,
        trigger_mode="always_last",
        **AT_ONCE,
    )
    fields = [context.form[name] for name in ("steps", "bypass_start", "bypass_end", "few_steps", "guidance_cutoff")]
    used = use.click(
        partial(use_in_compare, worker), [outcome, threshold, menu.dropdown], [*fields, context.tabs], **AT_ONCE
    )
    context.form.follow_fill(used)
