"""One run taken apart, for the page that teaches the method: its steps, its energies, its descent, its hand-over.

    python -m analysis.method --out results/method

The full LDM and LatentCRF from the same noise. Written to --out: settings.json, steps.csv (variance and change at each
step of the full run), weights.csv (the energy's terms at the minimum, for other weights of each), descent.csv (energy
against iteration), hand-over.csv, the two figures of them as HTML and PNG, and the pictures.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from diffusers import StableDiffusionPipeline
from plotly.subplots import make_subplots
from torch import Tensor

from analysis.export import Results, parse, write_results
from analysis.generate import GUIDANCE, counted, decode, encode, initial_noise, load_pipeline, scheduled
from analysis.grid import image_grid
from analysis.measures import to_pixels
from analysis.quality import BYPASS, STEPS
from analysis.style import BELOW, SERIES, styled
from analysis.variance import run_table
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.levels import clean_between, coefficients
from latentcrf.perceptual import MODELS
from latentcrf.potentials import Experts, Pairwise, Potentials
from latentcrf.solver import SOLVERS

PROMPT, SEED = "red apple", 0
COLUMNS = 8  # steps of which the strip shows a picture
SOLVED = 5  # iterations behind every picture of a minimum
ITERATIONS = 10  # of the descent
SHOWN = (0, 1, 2, 3, 5, 10)  # those that are shown as pictures
TERMS = {"unary": "unary", "pairwise": "pairwise", "higher_order": "higher-order"}
EXPONENTS = (-2, -1, 0, 1, 2)  # a term's weight is multiplied by ten to the power of these
STARTS = {"x": "from the noisy latents x", "u": "from the CRF's own start u"}
ENDS = ("before the CRF", "after the CRF", "LatentCRF's image", "the full LDM's image")


@dataclass(frozen=True)
class Lesson:
    """What `compute` found. Pictures are uint8 (..., H, W, 3).

    Attributes:
        steps: of the full run: columns as of `variance.run_table`, and estimate_change, the root mean square change of
            x0_hat from this step to the next.
        shown: the steps of which `strip` has pictures.
        strip: two rows: the noisy latents x, decoded as they are, and the clean estimates x0_hat.
        potentials: the energy at the hand-over.
        weights: columns term, factor, unary, pairwise, higher_order, total: as of `minimum`.
        examples: their pictures, a row a term, a column a factor.
        descent: columns start, solver, iteration, unary, pairwise, higher_order, total.
        iterates: the iterations `SHOWN` of 3mg from the noisy latents.
        hand_over: columns picture, unet_calls and distance, the root mean square difference to the full LDM's latents.
        ends: the pictures `ENDS`.
        options: of the command line, which make it again.
    """

    steps: pd.DataFrame
    shown: list[int]
    strip: np.ndarray
    potentials: Potentials
    weights: pd.DataFrame
    examples: np.ndarray
    descent: pd.DataFrame
    iterates: np.ndarray
    hand_over: pd.DataFrame
    ends: np.ndarray
    options: dict[str, Any]


def weighted(p: Potentials, term: str, factor: float) -> Potentials:
    """`p` with one of its `TERMS` multiplied by `factor`: lambda, the similarities s_ij, or the reliabilities alpha.

    Raises:
        ValueError: another term, or a factor that is not a finite number above 0.
    """
    if term not in TERMS:
        raise ValueError(f"there is no term {term!r}; accepted are {', '.join(TERMS)}.")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor is {factor}; accepted are finite numbers above 0.")
    if term == "unary":
        return replace(p, weight=p.weight * factor)
    if term == "pairwise" and p.pairwise is not None:  # s_ij = <phi_i, phi_j>: each feature gives the root
        return replace(p, pairwise=Pairwise(p.pairwise.features * factor**0.5, p.pairwise.mixing))
    if term == "higher_order" and p.experts is not None:
        return replace(p, experts=replace(p.experts, reliability=p.experts.reliability * factor))
    return p


@torch.inference_mode()
def minimum(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, term: str, factor: float
) -> tuple[np.ndarray, dict[str, float]]:
    """The picture (H, W, 3) of lowest energy with one term's weight multiplied by `factor`, and what it costs.

    The costs, unary, pairwise, higher_order and total, are measured with the weights of `p` as they were: their total is
    lowest for factor 1, whichever term is turned.

    Args:
        p: the potentials of one image.

    Raises:
        ValueError: as of `weighted`.
    """
    p = moved(p, pipeline.device)
    *_, y = crf.solve(weighted(p, term, factor), SOLVED)
    return picture(pipeline, y), {name: float(energy) for name, energy in crf.energy(y, p).items()}


def moved(p: Potentials, device: str | torch.device) -> Potentials:
    """The potentials on another device."""
    pairs, experts = p.pairwise, p.experts
    return Potentials(
        p.u.to(device),
        p.weight.to(device),
        pairs and Pairwise(pairs.features.to(device), pairs.mixing.to(device)),
        experts and Experts(experts.filters.to(device), experts.reliability.to(device), experts.response.to(device)),
    )


def picture(pipeline: StableDiffusionPipeline, latents: Tensor) -> np.ndarray:
    """The latents (1, C, h, w) of one image, decoded: uint8 (H, W, 3)."""
    return to_pixels(decode(pipeline, latents.float(), bf16=False))[0]


def shown_steps(steps: int) -> list[int]:
    """The steps of which the strip shows a picture, of a run of `steps`: first, last, and evenly between."""
    return sorted({round(i * (steps - 1) / (COLUMNS - 1)) for i in range(COLUMNS)})


@torch.inference_mode()
def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    prompt: str = PROMPT,
    seed: int = SEED,
    *,
    bypass: tuple[int, int] = BYPASS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    bf16: bool = True,
    report: Callable[[Any], None] = lambda event: None,
) -> Lesson:
    """Run the full LDM and LatentCRF from the same noise, and look at everything on the way.

    `report` is called with the number of U-Net calls made so far, after each (of steps + the calls of LatentCRF), and
    with the strip as far as it is drawn, uint8 (2, n, H, W, 3), after each of its columns.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    embeds, noise = encode(pipeline, [prompt]), initial_noise(pipeline, [seed])
    full, ours = pipeline.scheduler, LatentCRFScheduler(pipeline.scheduler, crf, bypass, SOLVED)
    ours.prompt_embeds = embeds["prompt_embeds"]
    shown = shown_steps(steps)
    path, estimates, columns, calls = [noise * float(full.init_noise_sigma)], [], [], 0

    def watch_full(_: Any, step: int, __: Any, tensors: dict[str, Tensor]) -> dict:
        here, after = coefficients(full, step), coefficients(full, step + 1)
        path.append(tensors["latents"].clone())
        estimates.append(clean_between(path[-2].float(), path[-1].float(), here, after))
        report_call()
        if step in shown:
            columns.append([picture(pipeline, path[-2]), picture(pipeline, estimates[-1])])
            report(np.array(columns).swapaxes(0, 1))
        return {}

    def report_call(*_: Any) -> dict:
        nonlocal calls
        calls += 1
        report(calls)
        return {}

    def run(scheduler: Any, watch: Callable[..., dict]) -> tuple[Tensor, int]:
        low = torch.autocast(pipeline.device.type, torch.bfloat16, enabled=bf16)
        with scheduled(pipeline, scheduler), counted(pipeline.unet) as made, low:
            latents = pipeline(
                **embeds, latents=noise, num_inference_steps=steps, guidance_scale=guidance,
                output_type="latent", callback_on_step_end=watch,
            ).images  # fmt: skip
        return latents, len(made)

    final, full_calls = run(full, watch_full)
    table = run_table(path, full, "full LDM", 0)
    changes = [float((b - a).square().mean().sqrt()) for a, b in zip(estimates, estimates[1:], strict=False)]
    table["estimate_change"] = [*changes, np.nan, np.nan]
    our_final, our_calls = run(ours, report_call)

    jump = ours.last_hand_over
    assert jump is not None
    with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=bf16):  # as in the run
        p = crf.potentials(jump.observation)
    found = {(term, e): minimum(pipeline, crf, p, term, 10.0**e) for term in TERMS for e in EXPONENTS}
    descent, iterates = _descend(pipeline, crf, p, jump.observation.latents)
    before, after = jump.observation.denoised, jump.y
    ends = dict(zip(ENDS, (before, after, our_final, final), strict=True))
    counts = [ours.bypass[0], ours.bypass[0], our_calls, full_calls]
    distances = [float((latents.float() - final.float()).square().mean().sqrt()) for latents in ends.values()]
    return Lesson(
        steps=table,
        shown=shown,
        strip=np.array(columns).swapaxes(0, 1),
        potentials=moved(p, "cpu"),
        weights=pd.DataFrame([{"term": term, "factor": 10.0**e} | found[term, e][1] for term, e in found]),
        examples=np.array([[found[term, e][0] for e in EXPONENTS] for term in TERMS]),
        descent=descent,
        iterates=iterates,
        hand_over=pd.DataFrame({"picture": ENDS, "unet_calls": counts, "distance": distances}),
        ends=np.array([picture(pipeline, latents) for latents in ends.values()]),
        options={"prompt": prompt, "seed": seed, "bypass": list(bypass), "steps": steps, "guidance": guidance,
                 "fp32": not bf16},
    )  # fmt: skip


def _descend(
    pipeline: StableDiffusionPipeline, crf: LatentCRF, p: Potentials, noisy: Tensor
) -> tuple[pd.DataFrame, np.ndarray]:
    """`Lesson.descent` and `Lesson.iterates`."""
    rows, pictures = [], []
    for start, first in {"x": noisy, "u": None}.items():
        for solver in SOLVERS:
            for iteration, y in enumerate(crf.solve(p, ITERATIONS, solver, start=first)):
                row = {"start": start, "solver": solver, "iteration": iteration}
                rows.append(row | {name: float(energy) for name, energy in crf.energy(y, p).items()})
                if (start, solver) == ("x", "3mg") and iteration in SHOWN:
                    pictures.append(picture(pipeline, y))
    return pd.DataFrame(rows), np.array(pictures)


# ------------------------------------------------------------------------------------------------------------- figures


def redundant(found: Lesson) -> float:
    """The share of the clean estimate's whole change over the run that the bypassed steps make."""
    first, last = found.options["bypass"]
    changes = found.steps["estimate_change"].to_numpy()
    return float(np.nansum(changes[first:last]) / np.nansum(changes))


def learned(found: Lesson, term: str) -> tuple[np.ndarray, dict[str, float]]:
    """As `minimum` for factor 1, from what was found already."""
    row = found.weights[(found.weights["term"] == term) & (found.weights["factor"] == 1)].iloc[0]
    picture = found.examples[list(TERMS).index(term), EXPONENTS.index(0)]
    return picture, {name: float(row[name]) for name in (*TERMS, "total")}


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
    for (start, words), colour in zip(STARTS.items(), SERIES, strict=False):
        for solver, dash, symbol in zip(SOLVERS, ("solid", "dot"), ("circle", "x"), strict=True):
            own = found.descent[(found.descent["start"] == start) & (found.descent["solver"] == solver)]
            drawn.add_scatter(
                x=own["iteration"], y=own["total"], mode="lines+markers",
                name=f"{words}{'' if solver == '3mg' else ', plain damped update'}",
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
    add("--fp32", action="store_true", help="float32 networks instead of bfloat16")
    options = parse(parser, "method", arguments)
    if not COLUMNS <= options.steps <= 200:
        parser.error(f"--steps {options.steps} is out of range: {COLUMNS} to 200.")
    if not options.prompt.strip():
        parser.error("--prompt was left empty.")
    try:
        found = compute(
            load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval(), options.prompt, options.seed,
            bypass=tuple(options.bypass), steps=options.steps, guidance=options.guidance, bf16=not options.fp32,
        )  # fmt: skip
        names = write_results(results(found), options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
