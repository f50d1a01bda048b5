"""The method tab: LatentCRF explained from the start, with live pictures of one run (for a lecture)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from app import html
from app.figures import build_figure
from app.form import DEFAULTS
from app.later import Later
from app.page import AT_ONCE, COMPUTING, Clock, Page, Turns, build_export, build_runner, note, said, watched
from app.services import ModelsError, Services
from app.settings import Limit, Settings, SettingsError

if TYPE_CHECKING:
    from analysis import grid, lesson
    from analysis import method as analysis
    from analysis.export import Results
    from analysis.lesson import Lesson
    from app.comparison import Models
else:
    grid, lesson, analysis = Later("analysis.grid"), Later("analysis.lesson"), Later("analysis.method")

WEIGHT = Limit("Weight", -2, 2, 0.1)
CALLS = 2 * DEFAULTS.steps - (DEFAULTS.bypass_end - DEFAULTS.bypass_start)
# What a visitor sees at once is drawn for them when they first open the tab.
FIRST_JS = "() => { if (!window.methodOpened) { window.methodOpened = true; document.querySelector('#method-start').click(); } }"
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
DIFFUSION = r"""
## 1 · What a latent diffusion model does

An autoencoder turns an image of 128 × 128 pixels into **latents**, a grid of 16 × 16 sites with a vector of 4 numbers
each, and latents back into an image. A latent diffusion model (LDM) makes new latents out of noise. At step \(t\) it holds a mixture
of the image to be and of noise,

$$x_t = \sqrt{\bar\alpha_t}\; y + \sqrt{1 - \bar\alpha_t}\; \epsilon, \qquad \bar\alpha_t : 0 \to 1,$$

and a large network, the U-Net, looks at \(x_t\) and at the prompt and **estimates the clean latents**, \(\hat x_0 \approx y\). The
step then moves a little towards the estimate, the noise shrinks, and the next step looks again.
"""
REDUNDANCY = r"""
## 2 · Why late steps are nearly redundant

Every step costs one call of the U-Net, and these calls are nearly all of the time. But they do not all bring as much. Early steps
decide what the picture shows; late ones confirm an estimate that hardly changes any more. LatentCRF leaves a block of late steps out
and lets something much smaller do what they would have done.
"""
ENERGIES = r"""
## 3 · Three energies: what good latents are

A **conditional random field** (CRF) gives each candidate \(y\) an energy, the lower the better, and so a probability
\(p(y \mid x) \propto e^{-E(y \mid x)}\). A light network, a tenth of the U-Net's size, reads \(x_t\) and \(\hat x_0\) where the bypass begins and
writes down the numbers in it (\(u, \lambda, s, \alpha, b\)). Three terms, one question each:

$$E(y \mid x) = E_\text{unary}(y) + E_\text{pairwise}(y) + E_\text{higher-order}(y)$$

**Drag a slider.** It makes a term count up to 100 times less or more than the CRF learned; the image is the one of lowest energy then. The bars
are its energy with the learned weights: their total is lowest where the slider is at 0, the learned weight.
"""
TERMS = {
    "unary": r"""
**Unary: is each site near its target?** The network proposes \(u_i\) for the site \(i\) and says how sure it is, \(\lambda_i\).

$$E_\text{unary} = \tfrac12 \sum_i \lambda_i \lVert y_i - u_i \rVert^2$$

Far less of it: nothing holds the picture, the other two terms have their way.
""",
    "pairwise": r"""
**Pairwise: are similar sites alike?** Every site is joined to every other; \(s_{ij} \ge 0\) is large where two belong together.

$$E_\text{pairwise} = \tfrac12 \sum_{i<j} s_{ij} \lVert W (y_i - y_j) \rVert^2$$

Far more of it: all sites move towards each other, and the picture loses contrast.
""",
    "higher_order": r"""
**Higher-order: does each patch look right?** Small filters \(f_k\), the experts, answer to every patch of 3 × 3 sites; \(b_{ki}\) is the answer that
they expect there. A few large errors are forgiven, as edges must be: \(\rho(r) = \log(1 + r^2/2)\).

$$E_\text{higher-order} = \sum_k \sum_i \alpha_{ki}\; \rho\big((f_k * y)_i - b_{ki}\big)$$

Far more of it: texture appears that the experts ask for.
""",
}
DESCENT = r"""
## 4 · Mean field: down the energy, all sites at once

The best \(y\) is found by **mean-field inference**: each site's mean moves to where the energy, given the others' means, is lowest, and all
sites do so at once. Written for the whole grid, one iteration is a step against the gradient, scaled by the curvature of each site alone:

$$\mu \leftarrow \mu - \omega\, D(\mu)^{-1} \nabla E(\mu)$$

The plain update takes a careful fixed step \(\omega\). LatentCRF combines the same direction with the last displacement, and finds the best mixture
of the two under a parabola that lies above \(E\) and touches it: so the energy can never rise, and no step size is left to choose (3MG, Chouzenoux et al. 2011).
"""
HAND_OVER = r"""
## 5 · Hand-over: back to the LDM

The CRF's \(y\) is a clean image. The U-Net expects a noisy one, of the level where it takes over again. So the noise that was in
\(x_\text{in}\) is kept, scaled down, and put around the new image:

$$\hat\epsilon = \frac{x_\text{in} - \sqrt{\bar\alpha_\text{in}}\, y}{\sqrt{1 - \bar\alpha_\text{in}}}$$

$$x_\text{out} = \sqrt{\bar\alpha_\text{out}}\, y + \sqrt{1 - \bar\alpha_\text{out}}\; \hat\epsilon$$

One more call of the U-Net then finishes the picture. To see both methods with their times, go to **Compare**.
"""
NOTES = {
    "steps": note(
        "Upper row: what the U-Net is given, decoded as it is. Lower row: what it believes the finished image to be. The subject is there "
        "after a few steps.",
        "The full LDM's run (DDIM, 50 steps, guidance 3) of the prompt and seed above.",
    ),
    "redundancy": note(
        "Where the lower curve is low, the step hardly changed what the U-Net believes. Grey: the steps that LatentCRF leaves out.",
        "This one run; the tab Latent variance draws the mean over many. Change: root mean square over all latents, a step.",
    ),
    "descent": note(
        "Solid: LatentCRF's solver; dotted: the plain update. From its own start, the target u, little is left to do: most of what the CRF changes "
        "is in the target that its network proposes.",
        "The CRF starts from u; the start from the noisy latents shows the same descent from far away.",
    ),
    "iterates": note("From left to right: noise goes, as the energy falls.", "Each iterate decoded by itself."),
    "hand-over": note(
        "“Off by” is the distance to what the full LDM drew in the end: it should fall from the first picture to the third. The fourth is the full LDM itself: 50 calls, off by 0.",
        "Root mean square difference of the latents; calls up to that picture.",
    ),
}
COLOURS = {"unary": "#0072b2", "pairwise": "#009e73", "higher_order": "#cc79a7", "total": "#64748b"}


# ---------------------------------------------------------------------------------------- handlers


def work(settings: Settings, models: "Models", report: Callable[[Any], None]) -> None:
    """Report the U-Net calls made, the strip as it grows, and at last a `Lesson`."""
    report(
        lesson.compute(
            models.pipeline, models.crf, settings.prompt, settings.seed,
            precision=models.precision, report=report,
        )
    )  # fmt: skip


def run(
    services: Services, prompt: str, seed: float, presentation: bool, ticket: float, turns: Turns
) -> Iterator[list[Any]]:
    """Yield status, buttons, what was found, its figures, and each term's slider and example."""
    same = [gr.skip()] * (1 + len(NOTES) + 2 * len(TERMS))
    try:
        settings = Settings.parse({"prompt": prompt, "seed": seed})
    except SettingsError as error:
        yield [*said(str(error), error=True), *same]
        return
    yield [*said("Drawing…", busy=True), *same]
    clock = Clock(CALLS, "U-Net calls")
    for event in watched(services, partial(work, settings), ticket, turns):
        if isinstance(event, int):
            yield [*said(clock.told(event), busy=True), *same]
        elif isinstance(event, np.ndarray):
            yield [gr.skip(), gr.skip(), gr.skip(), gr.skip(), strip(event, presentation), *same[2:]]
        else:
            words = f"“{settings.prompt}”, seed {settings.seed}, taken apart below."
            examples = [example(event, term) for term in TERMS]
            yield [*said(words), event, *draw(event, presentation), *[0] * len(TERMS), *examples]
            return
    if turns.stopped >= ticket:
        yield [*said("Stopped."), *same]


def strip(pictures: np.ndarray, presentation: bool) -> Any:
    """The first figure, as far as it is drawn."""
    return analysis.strip_figure(
        pictures, lesson.shown_steps(DEFAULTS.steps), presentation=bool(presentation), on_page=True
    )


def draw(made: "Lesson | None", presentation: bool) -> list[Any]:
    """The figures, in the order of `NOTES`."""
    if made is None:
        return [gr.skip()] * len(NOTES)
    drawn = analysis.figures(made, presentation=bool(presentation), on_page=True)
    return [drawn[name] for name in NOTES]


def example(made: "Lesson", term: str) -> str:
    """The image of lowest energy with the learned weights, and its energy."""
    image, energies = lesson.learned(made, term)
    return told(term, image, energies, energies["total"], 1.0)


def turn(services: Services, term: str, made: "Lesson | None", exponent: float) -> str:
    """The image of lowest energy where `term` counts 10 ** exponent times, and its energy with the learned weights."""
    if made is None:
        return html.message("Press Run first.")
    try:
        factor = 10.0 ** WEIGHT.check(exponent)
        p, least = made.potentials, lesson.learned(made, term)[1]["total"]
        *_, (image, energies) = services.stream(
            lambda models, report: report(lesson.minimum(models.pipeline, models.crf, p, term, factor))
        )
    except (SettingsError, ModelsError) as error:
        return html.message(str(error), "error")
    return told(term, image, energies, least, factor)


def told(term: str, image: np.ndarray, energies: dict[str, float], least: float, factor: float) -> str:
    """The image where `term` counts `factor` times, and its energy as bars; the longest is twice the least total, and what is longer is cut there."""
    rows = []
    for name, colour in COLOURS.items():
        width = min(100.0, 50 * energies[name] / max(least, 1e-9))
        rows.append(
            f'<div class="bar" style="--method: {colour}"><span>{name.replace("_", "-")}</span>'
            f'<i><i style="width: {width:.1f}%"></i></i><output>{energies[name]:.1f}</output></div>'
        )
    words = f"The image of lowest energy, {term.replace('_', '-')} term times {factor:.3g}"
    return (
        f'<div class="minimum"><img src="{grid.data_uri(image)}" alt="{words}">'
        f'<div><p class="reading">Counts × {factor:.3g}. Energy with the learned weights:</p>{"".join(rows)}</div></div>'
    )


def results(made: "Lesson") -> "Results":
    """The export."""
    return analysis.results(made)


# ------------------------------------------------------------------------------------------ layout


def build(page: Page) -> None:
    """Lay the tab out and connect it; call it within a `gr.Tab`."""

    def tell(text: str) -> None:
        gr.Markdown(text, latex_delimiters=LATEX, elem_classes="lesson")

    def plot(name: str) -> gr.Plot:
        drawn = build_figure(f"method-{name}", table=name in ("redundancy", "descent"))
        gr.HTML(NOTES[name], padding=False)
        return drawn

    with gr.Row(elem_classes="controls"):
        prompt = gr.Textbox(DEFAULTS.prompt, label="Prompt", max_lines=1, scale=4, elem_id="method-prompt")
        seed = gr.Number(0, label="Seed", min_width=100, elem_id="method-seed")
        runner = build_runner("method", "Run", "One run, taken apart: about ten seconds on a CPU.")
    runner.status.render()
    made: gr.State = gr.State(None)
    sliders, examples = {}, {}
    tell(DIFFUSION)
    plots = [plot("steps")]
    tell(REDUNDANCY)
    plots.append(plot("redundancy"))
    tell(ENERGIES)
    for term, text in TERMS.items():
        with gr.Row(elem_classes="term"):
            with gr.Column(scale=3, min_width=300):
                tell(text)
            with gr.Column(scale=2, min_width=300):
                sliders[term] = gr.Slider(
                    WEIGHT.low, WEIGHT.high, 0, step=WEIGHT.step, label=f"Weight of the {term.replace('_', '-')} term, powers of ten (0: as learned)",
                    elem_id=f"method-{term}-weight",
                )  # fmt: skip
                examples[term] = gr.HTML(elem_id=f"method-{term}", padding=False)
    tell(DESCENT)
    plots += [plot("descent"), plot("iterates")]
    tell(HAND_OVER)
    plots.append(plot("hand-over"))
    with gr.Row(elem_classes="controls"):
        build_export("method", made, results)
    outputs = [made, *plots, *sliders.values(), *examples.values()]
    runner.connect(partial(run, page.services), [prompt, seed, page.presentation], outputs)
    page.presentation.change(draw, [made, page.presentation], plots, **AT_ONCE)
    for term, slider in sliders.items():
        # `input`, not `change`: a run puts the sliders back, and draws the examples itself.
        slider.input(
            partial(turn, page.services, term), [made, slider], examples[term], trigger_mode="always_last", **COMPUTING
        )
    page.tab.select(None, None, None, js=FIRST_JS, queue=False, api_visibility="private")
