"""The convergence tab: what each iteration of the CRF changes, and where (paper, Fig. A.2)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.figures import build_figure
from app.form import DEFAULTS
from app.later import Later
from app.page import AT_ONCE, Clock, Page, Turns, build_export, build_runner, note, said, watched
from app.services import Services
from app.settings import Limit, Settings, SettingsError

if TYPE_CHECKING:
    from analysis import convergence as analysis
    from analysis.export import Results
    from app.comparison import Models
else:
    analysis = Later("analysis.convergence")

COUNT = Limit("Seeds", 1, 6)
FIGURES = {
    "images": note(
        "A row an iteration, a column a seed. From the first row, the LDM's own estimate before the CRF, to the second, the CRF's "
        "network has proposed its target u; from there on the iterations are at work.",
        "The LDM runs once a seed up to the hand-over; the CRF's solver then yields its iterates, each decoded by itself.",
    ),
    "curves": note(
        "The energy never rises; the residual is the length of an iteration's step over the latents' own. Thick: mean over "
        "the seeds; thin: single seeds. Dotted: the plain damped mean-field update, for comparison.",
        "Energy of equations (1) to (4) of <code>latentcrf/potentials.py</code>, summed over the sites. Iteration 0 is the solver's "
        "start, the minimizer of the unary term.",
    ),
    "difference": note(
        "A row shows what its iterate has yet to change, made visible: the more it had to be amplified, the nearer it is. White is no difference.",
        "Absolute difference of the decoded images to the last iterate's, times as much as keeps it in range.",
    ),
    "energy-maps": note(
        "The map lies over the image. Yellow sites are those that the energy disagrees with most, blue ones least; both rows "
        "share one scale. Pointing at a site shows its terms.",
        "Each site's share: its unary term, half of its pairs, and the experts centred on it; first row: the energy of the LDM's own "
        "estimate.",
    ),
}


# ---------------------------------------------------------------------------------------- handlers


def work(settings: Settings, seeds: list[int], models: "Models", report: Callable[[Any], None]) -> None:
    """Report the number of U-Net calls made, after each, and at last a `Convergence`."""
    found = analysis.compute(
        models.pipeline, models.crf, settings.prompt, seeds, bypass=(settings.bypass_start, settings.bypass_end),
        steps=settings.steps, guidance=settings.guidance, precision=models.precision, report=report,
    )  # fmt: skip
    report(found)


def run(
    services: Services, prompt: str, seed: float, count: float, steps: float, guidance: float, start: float, end: float,
    presentation: bool, ticket: float, turns: Turns,
) -> Iterator[list[Any]]:  # fmt: skip
    """Yield status, buttons, what was found and its figures."""
    same = [gr.skip()] * (1 + len(FIGURES))
    try:
        settings = Settings.parse(
            {
                "prompt": prompt,
                "seed": seed,
                "steps": steps,
                "guidance": guidance,
                "bypass_start": start,
                "bypass_end": end,
            }
        )
        number = int(COUNT.check(count))
    except SettingsError as error:
        yield [*said(str(error), error=True), *same]
        return
    seeds = [settings.seed + i for i in range(number)]
    yield [*said("Drawing…", busy=True), *same]
    clock = Clock(settings.bypass_start, "U-Net calls")
    for event in watched(services, partial(work, settings, seeds), ticket, turns):
        if isinstance(event, int):
            yield [*said(clock.told(event), busy=True), *same]
        else:
            made = {"found": event, "settings": settings}
            which = f"seed {settings.seed}" if number == 1 else f"{number} seeds from {settings.seed}"
            yield [*said(f"“{settings.prompt}”, {which}."), made, *draw(made, presentation)]
            return
    if turns.stopped >= ticket:
        yield [*said("Stopped."), *same]


def draw(made: dict[str, Any] | None, presentation: bool) -> list[Any]:
    """The figures, in the order of `FIGURES`."""
    if made is None:
        return [gr.skip()] * len(FIGURES)
    drawn = analysis.figures(made["found"], presentation=bool(presentation), on_page=True)
    return [drawn[name] for name in FIGURES]


def results(made: dict[str, Any]) -> "Results":
    """The export."""
    found: analysis.Convergence = made["found"]
    s: Settings = made["settings"]
    options = {"prompt": s.prompt, "seeds": len(found.seeds), "seed": s.seed, "steps": s.steps}
    options |= {"guidance": s.guidance, "precision": found.precision, "bypass": [s.bypass_start, s.bypass_end]}
    return analysis.results(found, options)


# ------------------------------------------------------------------------------------------ layout


def build(page: Page) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`."""
    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(DEFAULTS.prompt, label="Prompt", max_lines=1, scale=4, elem_id="convergence-prompt")
        seed = gr.Number(0, label="First seed", min_width=100, elem_id="convergence-seed")
        count = gr.Number(4, label="Seeds", info="1 to 6", min_width=90, elem_id="convergence-seeds")
        steps = gr.Number(DEFAULTS.steps, label="Steps", info="2 to 200", min_width=90, elem_id="convergence-steps")
        guidance = gr.Number(
            DEFAULTS.guidance, label="Guidance", info="1 to 15", step=0.1, min_width=90, elem_id="convergence-guidance"
        )
        start = gr.Number(
            DEFAULTS.bypass_start, label="Bypass start", info="below the steps", min_width=110,
            elem_id="convergence-bypass-start",
        )  # fmt: skip
        end = gr.Number(
            DEFAULTS.bypass_end, label="Bypass end", info="above the start", min_width=110,
            elem_id="convergence-bypass-end",
        )  # fmt: skip
        runner = build_runner(
            "convergence",
            "Draw",
            "One run of the LDM for all seeds, up to the CRF; then the CRF's iterations from there.",
        )
    runner.status.render()
    plots = []
    for name, text in FIGURES.items():
        plots.append(build_figure(f"convergence-{name}", table=name == "curves"))
        gr.HTML(text, padding=False)
    made: gr.State = gr.State(None)
    with gr.Row(elem_classes="controls"):
        build_export("convergence", made, results)
    inputs = [prompt, seed, count, steps, guidance, start, end, page.presentation]
    runner.connect(partial(run, page.services), inputs, [made, *plots])
    page.presentation.change(draw, [made, page.presentation], plots, **AT_ONCE)
