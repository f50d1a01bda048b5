"""One run taken apart, for the page that teaches the method: its steps, its energies, its descent, its hand-over.

    python -m analysis.method --out results/method

The full LDM and LatentCRF from the same noise. Written to --out: settings.json, steps.csv (variance and change at each
step of the full run), weights.csv (the energy's terms at the minimum, for other weights of each), descent.csv (energy
against iteration), hand-over.csv, the two figures of them as HTML and PNG, and the pictures.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.export import Results, parse, write_results
from analysis.generate import BYPASS, GUIDANCE, STEPS, load_pipeline
from analysis.grid import image_grid
from analysis.lesson import COLUMNS, EXPONENTS, PROMPT, SEED, SHOWN, STARTS, TERMS, Lesson, compute, redundant
from analysis.style import BELOW, SERIES, styled
from latentcrf import LatentCRF
from latentcrf.perceptual import MODELS
from latentcrf.precision import add_precision_argument, choose_precision
from latentcrf.solver import SOLVERS


def _counted(word: str, numbers: Sequence[int]) -> list[str]:
    """ "step 0", "7", "14", ...: short enough to stand side by side on a phone."""
    return [f"{word} {numbers[0]}", *map(str, numbers[1:])]


def strip_figure(strip: np.ndarray, shown: list[int], **looks: bool) -> go.Figure:
    """`Lesson.strip`, or its first columns while the rest is white."""
    rest = np.full((2, len(shown) - strip.shape[1], *strip.shape[2:]), 255, np.uint8)
    return image_grid(
        np.concatenate([strip, rest], axis=1), ["noisy<br>latents", "clean<br>estimate"], _counted("step", shown),
        "From noise to an image: what the U-Net sees, and what it believes the image will be", "", **looks,
    )  # fmt: skip


def redundancy(found: Lesson, **looks: bool) -> go.Figure:
    """Variance of the latents and change of the clean estimate, a step; the bypassed steps shaded."""
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    curves = {"variance": "Variance of the latents", "estimate_change": "Change of the clean estimate"}
    for row, ((name, title), colour) in enumerate(zip(curves.items(), SERIES, strict=False), 1):
        own = found.steps.dropna(subset=[name])
        drawn.add_scatter(
            x=own["step"], y=own[name], mode="lines+markers", row=row, col=1, name=title, showlegend=False,
            line={"color": colour, "width": 3}, marker={"size": 7, "symbol": ("circle", "diamond")[row - 1]},
            hovertemplate="step %{x}<br>%{y:.4g}<extra></extra>",
        )  # fmt: skip
    drawn.update_yaxes(title="Variance of<br>the latents", row=1, col=1)
    drawn.update_yaxes(title="Change of the<br>clean estimate", rangemode="tozero", row=2, col=1)
    drawn.update_xaxes(title="Step of the full run", row=2, col=1)
    first, last = found.options["bypass"]
    drawn.add_vrect(x0=first, x1=last, fillcolor="#888888", opacity=0.15, line_width=0, row="all", col=1)
    drawn.add_annotation(x=(first + last) / 2, y=1, yref="y domain", yanchor="bottom", text="left out", showarrow=False)
    title = f"Steps {first} to {last - 1} make {redundant(found):.0%} of the clean estimate's change"
    return styled(drawn, title, **looks)


def descent_figure(found: Lesson, **looks: bool) -> go.Figure:
    """Energy against the iteration, from both starts and by both solvers."""
    drawn = go.Figure()
    marks = (("circle", "circle-open"), ("square", "square-open"))
    for (start, words), colour, symbols in zip(STARTS.items(), SERIES, marks, strict=False):
        for solver, dash, symbol in zip(SOLVERS, ("solid", "dot"), symbols, strict=True):
            own = found.descent[(found.descent["start"] == start) & (found.descent["solver"] == solver)]
            drawn.add_scatter(
                x=own["iteration"], y=own["total"], mode="lines+markers",
                name=f"{words}{'' if solver == '3mg' else ', damped update'}",
                line={"color": colour, "dash": dash, "width": 3}, marker={"size": 8, "symbol": symbol},
                hovertemplate="iteration %{x}<br>energy %{y:.5g}<extra></extra>",
            )  # fmt: skip
    drawn.update_xaxes(title="CRF iteration", dtick=1)
    drawn.update_yaxes(title="Energy", rangemode="tozero")
    drawn.update_layout(legend=BELOW)
    return styled(drawn, "Every iteration lowers the energy, wherever it starts", **looks)


def figures(found: Lesson, **looks: bool) -> dict[str, go.Figure]:
    """The five figures and the grid of minima, by name, in the order in which the page tells the method."""
    factors = [f"x {10.0**e:g}" for e in EXPONENTS]
    names = [
        f"{row.picture}<br>{row.unet_calls} calls, off by {row.distance:.3f}" for row in found.hand_over.itertuples()
    ]
    return {
        "steps": strip_figure(found.strip, found.shown, **looks),
        "redundancy": redundancy(found, **looks),
        "weights": image_grid(
            found.examples, list(TERMS.values()), factors,
            "The image of lowest energy, when one term counts less or more than the CRF learned", "", **looks,
        ),
        "descent": descent_figure(found, **looks),
        "iterates": image_grid(
            found.iterates[None], [""], _counted("iteration", SHOWN),
            "The same descent as images, from the noisy latents", "", **looks,
        ),
        "hand-over": image_grid(found.ends[None], [""], names, "Hand-over: before, after, and at the end", "", **looks),
    }  # fmt: skip


def results(found: Lesson) -> Results:
    """Tables and figures."""
    tables = {"steps": found.steps, "weights": found.weights, "descent": found.descent, "hand-over": found.hand_over}
    return Results("method", found.options, tables, figures(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.method", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for tables and figures")
    add("--prompt", default=PROMPT, help=f"(default: {PROMPT})")
    add("--seed", type=int, default=SEED, help=f"(default {SEED})")
    add("--bypass", type=int, nargs=2, default=BYPASS, metavar=("FIRST", "LAST"), help="steps left out (default 33 49)")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"of the full run, 8 to 200 (default {STEPS})")
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
    add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER", help="LatentCRF (default: shipped)")
    add_precision_argument(parser)
    options = parse(parser, "method", arguments)
    if not COLUMNS <= options.steps <= 200:
        parser.error(f"--steps {options.steps} is out of range: {COLUMNS} to 200.")
    if not options.prompt.strip():
        parser.error("--prompt was left empty.")
    try:
        precision = choose_precision(options.precision, "cpu")
        found = compute(
            load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval(), options.prompt, options.seed,
            bypass=tuple(options.bypass), steps=options.steps, guidance=options.guidance, precision=precision,
        )  # fmt: skip
        names = write_results(results(found), options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
