"""The variance tab: where in a run little happens, and so what a bypass may leave out (paper, Fig. A.1)."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas as pd

from app import html
from app.figures import build_figure
from app.later import Later
from app.page import AT_ONCE, COMPARE, Clock, Page, Turns, build_export, build_runner, note, said, watched
from app.services import Services
from app.settings import MAX_SEED, Limit, SettingsError, check_prompt

if TYPE_CHECKING:
    from analysis import variance as analysis
    from analysis.export import Results
    from app.comparison import Models
else:
    analysis = Later("analysis.variance")

SHIPPED = Path(__file__).parents[2] / "assets" / "results" / "variance"
FOLDER = "/".join(SHIPPED.parts[-3:])  # as a visitor's copy has it
COMMAND = f"python -m analysis.variance --data data/emoji --summary-only --out {FOLDER}"
PROMPTS = ("red apple", "pizza", "grinning face", "dog face", "red heart", "blue heart", "rocket", "house")
STEPS, GUIDANCE, BYPASS = 50, 3.0, (33, 49)
RUNS = Limit("Runs", 2, 64)
SEED = Limit("First seed", 0, MAX_SEED - 64)  # the others follow it
THRESHOLD = Limit("Threshold", 0.2, 10, 0.1)
QUANTITIES = {
    "Latents' variance": "variance",
    "Estimate's variance": "estimate_variance",
    "Latents' change": "change",
}
AXES = {"Step": "step", "Timestep": "timestep", "log-SNR": "log_snr"}
BATCH = 8
READING = (
    "Each line is the mean over the runs, the band reaches from the 5th to the 95th percentile. Grey: the steps that "
    "LatentCRF leaves out; the dashed segment is the CRF's jump across them. Green: the block of steps in each of which the "
    "mean variance changes by no more than the threshold, once it is half-way to where it gets (before, the latents are noise). "
    "The latents themselves change most in the last steps, as the rest of the noise goes: what is redundant there is the U-Net's word, "
    "its clean estimate."
)


# ---------------------------------------------------------------------------------------- handlers


def parse(text: str, runs: Any, seed: Any) -> tuple[list[str], list[int]]:
    """Prompts and seeds, one a run: the lines of `text` in turn, seeds counted up from `seed`.

    Raises:
        SettingsError: a line that is no prompt, no line at all, numbers out of range.
    """
    count, first = int(RUNS.check(runs)), int(SEED.check(seed))
    lines = [line for line in (text or "").splitlines() if line.strip()]
    prompts = [check_prompt(line) for line in lines[:count]] or [check_prompt("")]
    return [prompts[i % len(prompts)] for i in range(count)], [first + i for i in range(count)]


def work(prompts: list[str], seeds: list[int], models: "Models", report: Callable[[Any], None]) -> None:
    """Report a table (see `analysis.variance.run_table`) for each batch and method."""
    for table in analysis.compute(
        models.pipeline, prompts, seeds, models.crf, BYPASS,
        steps=STEPS, guidance=GUIDANCE, batch_size=BATCH, precision=models.precision,
    ):  # fmt: skip
        report(table)


def run(
    services: Services, text: str, runs: float, seed: float, look: list[Any], ticket: float, turns: Turns
) -> Iterator[list[Any]]:
    """Yield status, buttons, the summary so far and its figure, a batch at a time."""
    same = [gr.skip()] * 4
    try:
        prompts, seeds = parse(text, runs, seed)
    except SettingsError as error:
        yield [*said(str(error), error=True), *same]
        return
    tables: list[pd.DataFrame] = []
    clock, made = Clock(len(prompts), "runs"), None
    yield [*said("Drawing…", busy=True), *same]
    for event in watched(services, partial(work, prompts, seeds), ticket, turns):
        tables.append(event)
        done = min(len(prompts), BATCH * (len(tables) // 2))
        if len(tables) % 2 == 0:
            options = {"prompts": done, "text": prompts[:done], "seed": seeds[0], "bypass": list(BYPASS),
                       "guidance": GUIDANCE, "batch_size": BATCH, "precision": services.models.precision_name}  # fmt: skip
            made = {"summary": analysis.summarize(pd.concat(tables)), "options": options, "shipped": False}
            finished = done == len(prompts)
            words = f"{len(prompts)} runs." if finished else clock.told(done)
            yield [*said(words, busy=not finished), made, *draw(made, *look)]
    if made is None or turns.stopped >= ticket:
        yield [*said("Stopped."), *same]


def bypass_of(made: dict[str, Any]) -> tuple[int, int]:
    """The bypass that a table was made with."""
    first, last = made["options"].get("bypass", BYPASS)
    return int(first), int(last)


def computed(made: dict[str, Any] | None) -> str:
    """How the figure was computed: its runs, and the command that makes its table."""
    both = f"Both methods from the same noise, DDIM with {STEPS} steps."
    if made is None:
        return both
    runs = int(made["summary"]["n"].max())
    if made["shipped"]:
        again = f"python -m analysis.variance --from {FOLDER}/settings.json --data data/emoji --out results/variance"
        return f"{both} {runs:,} runs, the table that comes with the project; <code>{again}</code> makes it again."
    seeds = f"{made['options']['seed']} to {made['options']['seed'] + runs - 1}"
    prompts = list(dict.fromkeys(made["options"]["text"]))
    told = ", ".join(prompts[:8]) + (", and others" if len(prompts) > 8 else "")
    return f"{both} {runs} runs on this page, guidance {GUIDANCE:g}, seeds {seeds}; prompts in turn: {escape(told)}."


def draw(
    made: dict[str, Any] | None, quantity: str, axis: str, log_y: bool, threshold: float, presentation: bool
) -> list[Any]:
    """The figure, the proposed bypass in words, and the sentences under the figure."""
    told = note(READING, computed(made))
    if made is None:
        absent = (
            f"No table is shipped with this copy: draw your own runs below, or make it with <code>{COMMAND}</code>."
        )
        return [gr.skip(), f'<p class="reading">{absent}</p>', told]
    try:
        threshold = THRESHOLD.check(threshold)
    except SettingsError as error:
        return [gr.skip(), html.message(str(error), "error"), told]
    found = analysis.propose_bypass(made["summary"], threshold / 100)
    drawn = analysis.figure(
        made["summary"], QUANTITIES[quantity], bypass_of(made), AXES[axis], bool(log_y), proposal=found,
        presentation=bool(presentation), on_page=True,
    )  # fmt: skip
    words = (
        f"No step can be left out: in each the mean variance changes by more than {threshold:g} % of its range."
        if found is None
        else f"Proposed bypass: <b>{found[0]} to {found[1]}</b> of {STEPS} steps, {STEPS - found[1] + found[0]} U-Net calls "
        f"left. In each of these steps the mean variance changes by at most {threshold:g} % of its range."
    )
    return [drawn, f'<p class="reading">{words}</p>', told]


def shipped() -> dict[str, Any] | None:
    """The table that comes with the project and the options that it was made with, or None."""
    try:
        options = json.loads((SHIPPED / "settings.json").read_text())["options"]
        return {"summary": pd.read_csv(SHIPPED / "variance.csv"), "options": options, "shipped": True}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def take_over(made: dict[str, Any] | None, threshold: float) -> list[Any]:
    """Steps, bypass, no few steps and the bypass' shares for the compare tab's form, and the switch to that tab."""
    try:
        found = None if made is None else analysis.propose_bypass(made["summary"], THRESHOLD.check(threshold) / 100)
    except SettingsError:  # the tab says so where it draws
        found = None
    if found is None:
        return [gr.skip()] * 6
    return [STEPS, *found, 0, (found[0] / STEPS, found[1] / STEPS), gr.Tabs(selected=COMPARE)]


def results(made: dict[str, Any]) -> "Results":
    """The export."""
    return analysis.results(made["summary"], made["options"], bypass_of(made))


# ------------------------------------------------------------------------------------------ layout


def build(page: Page) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`."""
    with gr.Row(elem_classes="controls"):
        quantity = gr.Radio(list(QUANTITIES), value="Latents' variance", label="Show", elem_id="variance-quantity")
        axis = gr.Radio(list(AXES), value="Step", label="Horizontal axis", elem_id="variance-axis")
        log_y = gr.Checkbox(False, label="Logarithmic", min_width=120, elem_id="variance-log")
        threshold = gr.Slider(
            THRESHOLD.low,
            THRESHOLD.high,
            2,
            step=THRESHOLD.step,
            label="Threshold, % of the range",
            elem_id="variance-threshold",
        )
    figure = build_figure("variance-figure")
    with gr.Row():
        proposal = gr.HTML(elem_id="variance-proposal", padding=False)
        take = gr.Button("Use in Compare", size="sm", scale=0, min_width=150, elem_id="variance-use")
    told = gr.HTML(elem_id="variance-note", padding=False)
    with gr.Row(elem_classes="controls"):
        prompts = gr.Textbox(
            "\n".join(PROMPTS),
            lines=3,
            max_lines=6,
            label="Prompts, one a line, in turn",
            scale=4,
            elem_id="variance-prompts",
        )
        runs = gr.Number(16, label="Runs", info="2 to 64", min_width=100, elem_id="variance-runs")
        seed = gr.Number(0, label="First seed", info="the others follow", min_width=100, elem_id="variance-seed")
        runner = build_runner(
            "variance", "Draw", "Runs of your own prompts; 16 take about half a minute on two CPU cores."
        )
    runner.status.render()
    made: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export("variance", made, results)

    look: list[Any] = [quantity, axis, log_y, threshold, page.presentation]
    drawn = [figure, proposal, told]

    def handler(text: str, count: float, start: float, *rest: Any) -> Iterator[list[Any]]:
        *chosen, ticket, turns = rest
        yield from run(page.services, text, count, start, chosen, ticket, turns)

    done = runner.connect(handler, [prompts, runs, seed, *look], [made, *drawn])
    # Without inputs, once the page is there; with them it would come back at every change.
    ready = gr.on(None, shipped, None, made, **AT_ONCE)
    for event in (done, ready):  # as the choices are by then
        event.then(draw, [made, *look], drawn, **AT_ONCE)
    gr.on([choice.change for choice in look], draw, [made, *look], drawn, trigger_mode="always_last", **AT_ONCE)
    fields = [page.form[name] for name in ("steps", "bypass_start", "bypass_end", "few_steps")]
    take.click(take_over, [made, threshold], [*fields, page.form.shares, page.tabs], **AT_ONCE)
