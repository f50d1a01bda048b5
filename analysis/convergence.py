"""How the CRF converges (paper, Fig. A.2): images, energy and residual after each iteration, and where in the image it acts.

    python -m analysis.convergence --prompt "red apple" --seeds 4 --out results/convergence

The LDM runs once up to the hand-over, the solver once from there: it yields its iterates. Written to --out:
convergence.csv (a row a seed, solver and iteration), the energy and residual curves, the images before the CRF (the
LDM's own estimate) and after 0 (its target u) to 10 iterations, their difference to the last iterate, and maps of the energy.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
from analysis.generate import BYPASS, GUIDANCE, STEPS, decode, encode, initial_noise, load_pipeline, scheduled
from analysis.grid import data_uri, image_grid
from analysis.measures import to_pixels
from analysis.style import BELOW, SERIES, styled
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.perceptual import MODELS
from latentcrf.potentials import Potentials, degree, messages, respond
from latentcrf.precision import add_precision_argument, autocast, choose_precision, precision_name
from latentcrf.solver import SOLVERS

ITERATIONS = 10
SHOWN = (0, 1, 2, 3, 4, 5, 10)
AMPLIFIED = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))  # times, in the difference images
SETTLED = 0.99  # of the descent
TERMS = {"total": "total", "unary": "unary", "pairwise": "pairwise", "higher_order": "higher-order"}


@dataclass(frozen=True)
class Convergence:
    """What `compute` found, for n seeds.

    Attributes:
        table: columns seed, solver, iteration, unary, pairwise, higher_order, total, residual.
        images: uint8 (1 + len(SHOWN), n, H, W, 3), decoded: before the CRF, its start (the unary term's target u), then after
            1, 2, ... iterations.
        differences: float32 (len(SHOWN), n, H, W, 3), of all but the last to the last, of the images before they are
            rounded, in grey levels (0 to 255).
        maps: each term's energy, and the total, of each site before the CRF and after the last iteration, (2, n, h, w).
        precision: name of the type in which the networks computed.
    """

    prompt: str
    seeds: list[int]
    table: pd.DataFrame
    images: np.ndarray
    differences: np.ndarray
    maps: dict[str, np.ndarray]
    precision: str


def energy_maps(y: Tensor, p: Potentials) -> dict[str, Tensor]:
    """The energy of each site (B, h, w) for latents y (B, C, h, w), by term and `total`; summed over the sites each is
    that of `crf.energy`.

    A pair's energy is shared evenly by its two sites, an expert's belongs to the centre of its clique:

        e_i = lambda_i ||y_i - u_i||^2 / 2 + sum_j s_ij ||z_i - z_j||^2 / 4 + sum_k alpha_ki rho(r_ki),    z = W y
        sum_j s_ij ||z_i - z_j||^2 = d_i ||z_i||^2 - 2 z_i . sum_j s_ij z_j + sum_j s_ij ||z_j||^2
    """
    unary = (p.weight * (y - p.u).square()).sum(1) / 2
    maps = {"unary": unary, "pairwise": torch.zeros_like(unary), "higher_order": torch.zeros_like(unary)}
    if p.pairwise is not None:
        phi = p.pairwise.features
        z = torch.einsum("mc,bchw->bmhw", p.pairwise.mixing, y)
        z = z - z.mean(dim=(2, 3), keepdim=True)  # only differences count; centred, the sums hardly cancel
        norm = z.square().sum(1, keepdim=True)
        pairs = degree(phi) * norm - 2 * (z * messages(z, phi)).sum(1, keepdim=True) + messages(norm, phi)
        maps["pairwise"] = pairs[:, 0] / 4
    if p.experts is not None:
        r = respond(y, p.experts.filters) - p.experts.response
        maps["higher_order"] = (p.experts.reliability * torch.log1p(r.square() / 2)).sum(1)
    return maps | {"total": maps["unary"] + maps["pairwise"] + maps["higher_order"]}


@torch.inference_mode()
def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    prompt: str,
    seeds: list[int],
    *,
    bypass: tuple[int, int] = BYPASS,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    precision: torch.dtype = torch.float32,
    report: Callable[[int], None] = lambda done: None,
) -> Convergence:
    """Run the LDM once for all `seeds`, then both solvers from what it hands over.

    `report` is called with the number of U-Net calls made so far, after each.

    Raises:
        ValueError: a bypass that does not fit the steps.
    """
    scheduler = LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass, num_iterations=0)
    embeds = encode(pipeline, [prompt] * len(seeds))
    scheduler.prompt_embeds = embeds["prompt_embeds"]

    def told(pipe: Any, step: int, _: Any, tensors: dict[str, Tensor]) -> dict:
        report(step + 1)
        pipe._interrupt = scheduler.last_hand_over is not None  # what comes after the CRF is not looked at here
        return {}

    with scheduled(pipeline, scheduler), autocast(pipeline.device, precision):
        pipeline(
            **embeds, latents=initial_noise(pipeline, seeds), num_inference_steps=steps, guidance_scale=guidance,
            output_type="latent", callback_on_step_end=told,
        )  # fmt: skip
    assert scheduler.last_hand_over is not None
    observation = scheduler.last_hand_over.observation
    potentials = crf.potentials(observation)
    rows, kept = [], {}
    for solver in SOLVERS:
        before = None
        for iteration, y in enumerate(crf.solve(potentials, ITERATIONS, solver)):
            row = {"seed": seeds, "solver": solver, "iteration": iteration}
            row |= {name: term.cpu().numpy() for name, term in crf.energy(y, potentials).items()}
            if before is not None:
                change = (y - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
                row["residual"] = change.cpu().numpy()
            rows.append(pd.DataFrame(row))
            before = y
            if solver == "3mg":
                kept[iteration] = y
    pictures = [observation.denoised, *(kept[i] for i in SHOWN)]
    decoded = torch.stack([decode(pipeline, latents.float()) for latents in pictures])
    images = np.stack([to_pixels(each) for each in decoded])
    differences = 127.5 * (decoded[:-1] - decoded[-1]).abs().permute(0, 1, 3, 4, 2).numpy()
    ends = (observation.denoised.float(), kept[ITERATIONS])
    found = [energy_maps(y, potentials) for y in ends]
    maps = {name: torch.stack([sites[name] for sites in found]).cpu().numpy() for name in TERMS}
    return Convergence(
        prompt, seeds, pd.concat(rows, ignore_index=True), images, differences, maps, precision_name(precision)
    )


def curves(table: pd.DataFrame, **looks: bool) -> go.Figure:
    """Energy by term, and residual on a logarithmic axis, against the iteration: mean over the seeds, and thin lines
    of single seeds."""
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    mean = table.groupby(["solver", "iteration"]).mean(numeric_only=True).reset_index()
    quantities = [(name, title, 1, colour) for (name, title), colour in zip(TERMS.items(), SERIES, strict=False)]
    for name, title, row, colour in [*quantities, ("residual", "residual", 2, SERIES[-1])]:
        for seed, own in table[table["solver"] == "3mg"].groupby("seed"):
            drawn.add_scatter(
                x=own["iteration"], y=own[name], mode="lines", row=row, col=1, name=f"{title}, seed {seed}",
                line={"color": colour, "width": 1}, opacity=0.4, showlegend=False,
            )  # fmt: skip
    for solver, dash in zip(SOLVERS, ("solid", "dot"), strict=True):
        own = mean[mean["solver"] == solver]
        symbols = ("circle", "square", "triangle-up", "x")
        for (name, title), colour, symbol in zip(TERMS.items(), SERIES, symbols, strict=False):
            if solver != "3mg" and name != "total":
                continue
            drawn.add_scatter(
                x=own["iteration"], y=own[name], mode="lines+markers", row=1, col=1,
                name=title if solver == "3mg" else f"{title}, damped update",
                line={"color": colour, "dash": dash, "width": 3}, marker={"size": 8, "symbol": symbol},
            )  # fmt: skip
        drawn.add_scatter(
            x=own["iteration"], y=own["residual"], mode="lines+markers", row=2, col=1,
            name="residual" if solver == "3mg" else "residual, damped update",
            line={"color": SERIES[-1], "dash": dash, "width": 3}, marker={"size": 7, "symbol": "diamond"},
        )  # fmt: skip
    drawn.update_xaxes(title="CRF iteration", dtick=1, row=2, col=1)
    drawn.update_yaxes(title="Energy", row=1, col=1)
    drawn.update_yaxes(title="Residual", type="log", exponentformat="power", row=2, col=1)
    count = table["seed"].nunique()
    made = settled(table)
    title = (
        "Energy and residual" if made is None else f"{SETTLED:.0%} of the energy's descent is made by iteration {made}"
    )
    drawn.update_layout(legend=BELOW)
    return styled(drawn, f"{title} (mean of {count} seed{'s' if count > 1 else ''})", height=640, **looks)


def settled(table: pd.DataFrame) -> int | None:
    """The first iteration by which a share `SETTLED` of the solver's whole energy descent is made, in the mean over the
    seeds; None where the energy does not fall."""
    total = table[table["solver"] == "3mg"].groupby("iteration")["total"].mean()
    fall = total.loc[0] - total.loc[ITERATIONS]
    if not fall > 0:
        return None
    return int((total.loc[0] - total >= SETTLED * fall).idxmax())


def amplification(difference: np.ndarray) -> int:
    """The largest of `AMPLIFIED` that leaves the difference images (in grey levels) within 255 nearly everywhere."""
    brightest = np.quantile(difference, 0.99)
    return max((times for times in AMPLIFIED if times * brightest <= 255), default=AMPLIFIED[0])


def figures(found: Convergence, **looks: bool) -> dict[str, go.Figure]:
    """The curves, the images, their difference to the last iterate, and the energy maps, by name."""
    rows = ["before", "0: target u", *(f"{i}" for i in SHOWN[1:])]
    columns = [f"seed {seed}" for seed in found.seeds]
    amplified = [amplification(difference) for difference in found.differences]
    differences = np.stack([times * each for times, each in zip(amplified, found.differences, strict=True)])
    total = found.maps["total"]
    low, high = float(total.min()), float(total.max())
    scale = total.shape[-1] / found.images.shape[-2]  # sites a pixel
    grey = found.images.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)  # so that all colour is the map's
    heat = make_subplots(rows=2, cols=len(found.seeds), row_titles=["before", f"after {ITERATIONS}"], column_titles=columns,
                         horizontal_spacing=0.01, vertical_spacing=0.03)  # fmt: skip
    for row, maps in enumerate(total):
        for column, sites in enumerate(maps):
            heat.add_image(  # the image, in grey, under its map: their corners meet
                source=data_uri(grey[(0, -1)[row], column]), dx=scale, dy=scale, x0=(scale - 1) / 2, y0=(scale - 1) / 2,
                hoverinfo="skip", row=row + 1, col=column + 1,
            )  # fmt: skip
            heat.add_heatmap(
                z=sites, zmin=low, zmax=high, colorscale="Cividis", opacity=0.7, row=row + 1, col=column + 1,
                showscale=row + column == 0, colorbar={"title": {"text": "energy"}},
                customdata=np.stack([found.maps[name][row, column] for name in list(TERMS)[1:]], axis=-1),
                hovertemplate="site %{x}, %{y}<br>energy %{z:.3g}: unary %{customdata[0]:.2g}, pairwise "
                "%{customdata[1]:.2g}, higher-order %{customdata[2]:.2g}<extra></extra>",
            )  # fmt: skip
    styled(heat, "Energy of each site of the latents: where the CRF sees something to mend", **looks)
    heat.update_layout(margin={"t": 100}, meta={"aspect": len(total) / len(found.seeds)})
    heat.update_xaxes(visible=False, constrain="domain")
    heat.update_yaxes(visible=False, autorange="reversed", constrain="domain")
    return {
        "curves": curves(found.table, **looks),
        "images": image_grid(found.images, rows, columns, "Image after each CRF iteration", "CRF iteration", **looks),
        "difference": image_grid(
            255 - differences.clip(0, 255).astype(np.uint8),
            [f"{row}<br>x {times:,}" for row, times in zip(rows, amplified, strict=False)], columns,
            f"How far from iteration {ITERATIONS}: the difference, amplified as each row says; white: none",
            "CRF iteration", **looks,
        ),
        "energy-maps": heat,
    }  # fmt: skip


def results(found: Convergence, options: dict[str, Any]) -> Results:
    """Table and figures; `options` as of the command line."""
    return Results("convergence", options, {"convergence": found.table}, figures(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.convergence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for tables and figures")
    add("--prompt", default="red apple", help="(default: red apple)")
    add("--seeds", type=int, default=4, metavar="N", help="number of seeds, 1 to 6 (default 4)")
    add("--seed", type=int, default=0, help="the first (default 0)")
    add("--bypass", type=int, nargs=2, default=BYPASS, metavar=("FIRST", "LAST"), help="steps left out (default 33 49)")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"of the full run, 2 to 200 (default {STEPS})")
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
    add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER", help="LatentCRF (default: shipped)")
    add_precision_argument(parser)
    options = parse(parser, "convergence", arguments)
    if not 1 <= options.seeds <= 6:
        parser.error(f"--seeds {options.seeds} is out of range: 1 to 6.")
    if not 2 <= options.steps <= 200:
        parser.error(f"--steps {options.steps} is out of range: 2 to 200.")
    if not options.prompt.strip():
        parser.error("--prompt was left empty.")
    try:
        precision = choose_precision(options.precision, "cpu")
        found = compute(
            load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval(), options.prompt,
            [options.seed + i for i in range(options.seeds)], bypass=tuple(options.bypass), steps=options.steps,
            guidance=options.guidance, precision=precision,
        )  # fmt: skip
        named = {name: getattr(options, name) for name in ("prompt", "seeds", "seed", "steps", "guidance")}
        named |= {"precision": precision_name(precision), "bypass": list(options.bypass)}
        names = write_results(results(found, named), options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.out}/{', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
