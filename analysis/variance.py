"""Latent variance over the steps of a run (paper, Fig. A.1): where little happens, a bypass costs little.

    python -m analysis.variance --data data/emoji --out results/variance --prompts 1000

The full LDM and LatentCRF from the same noise: at each step the variance of the latents over all their dimensions, that
of the clean estimate x0_hat, and the root mean square change of the latents, a step of the full run. Written to --out:
settings.json, variance.csv (mean, 5th and 95th percentile over the runs), runs.csv (a row a run and step) and a figure
of each quantity as HTML and PNG. With --summary-only settings.json and variance.csv, about a hundred rows: what ships.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from analysis import prompts as prompt_lists
from analysis.export import Results, parse, write_results
from analysis.generate import BYPASS, GUIDANCE, STEPS, encode, initial_noise, load_pipeline, scheduled
from analysis.style import BELOW, METHODS, styled, tint
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.emoji.dataset import DatasetError, load
from latentcrf.files import replacing
from latentcrf.levels import clean_between, coefficients, level
from latentcrf.perceptual import MODELS
from latentcrf.precision import add_precision_argument, autocast, choose_precision, precision_name

# Quantity -> (title, axis).
QUANTITIES = {
    "variance": ("Variance of the latents", "Variance over all dimensions"),
    "estimate_variance": ("Variance of the clean estimate", "Variance of x0_hat over all dimensions"),
    "change": ("Change of the latents a step", "Root mean square change a step of the full run"),
}
AXES = {"step": "Step of the full run", "timestep": "Timestep (999 is noise)", "log_snr": "log-SNR"}
PROPOSED = "#009e73"


def spread(latents: Tensor) -> np.ndarray:
    """Variance of each item (B,) over all its dimensions."""
    return latents.float().flatten(1).var(dim=1, correction=0).cpu().numpy()


def run_table(latents: list[Tensor], scheduler: Any, name: str, first_run: int) -> pd.DataFrame:
    """One row a run and kept step of a finished run.

    Args:
        latents: before the first step, then after each: kept steps + 1 tensors (B, C, H, W).
        scheduler: set to this run.
        first_run: the number of the first run of the batch.

    Returns:
        Columns method, run, step (of the full run, counted from 0; the last row is the result), timestep, log_snr (of
        the latents), variance, estimate_variance and change (of the step that begins there; none at the end).
    """
    kept = [int(t) for t in scheduler.timesteps]
    inner = scheduler.scheduler if isinstance(scheduler, LatentCRFScheduler) else scheduler
    grid = [int(t) for t in inner.timesteps]
    steps = [*(grid.index(timestep) for timestep in kept), len(grid)]
    rows, runs = [], range(first_run, first_run + len(latents[0]))
    for index, here in enumerate(latents):
        at_end = index == len(kept)
        step = steps[index]
        own = coefficients(inner, step)
        abar, scale = level(*own)
        row: dict[str, Any] = {
            "method": name,
            "run": runs,
            "step": step,
            "timestep": 0 if at_end else kept[index],
            "log_snr": np.nan if at_end or abar <= 0 else float(np.log(abar / (1 - abar))),
            "variance": spread(here / scale),
        }
        if not at_end:
            following = latents[index + 1]
            jump = scheduler.last_hand_over if isinstance(scheduler, LatentCRFScheduler) else None
            after = coefficients(inner, steps[index + 1])
            if jump is not None and torch.equal(following, jump.latents):
                estimate = jump.observation.denoised
            else:
                estimate = clean_between(here.float(), following.float(), own, after)
            difference = following / level(*after)[1] - here / scale
            row["estimate_variance"] = spread(estimate)
            distance = difference.float().square().flatten(1).mean(1).sqrt().cpu().numpy()
            row["change"] = distance / (steps[index + 1] - step)  # the CRF's jump is many steps long
        rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


def compute(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    crf: LatentCRF | None,
    bypass: tuple[int, int] = BYPASS,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
) -> Iterator[pd.DataFrame]:
    """Tables as of `run_table`, one a batch and method, as they finish. With crf = None: the bypass without parameters.

    Raises:
        ValueError: not one seed a prompt, or a bypass that does not fit the steps.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"one seed a prompt: got {len(prompts)} prompts and {len(seeds)} seeds.")
    ours = "bypass without parameters" if crf is None else "LatentCRF"
    methods = {"full LDM": pipeline.scheduler, ours: LatentCRFScheduler(pipeline.scheduler, crf, bypass=bypass)}
    for begin in range(0, len(prompts), batch_size):
        part = slice(begin, begin + batch_size)
        embeds, noise = encode(pipeline, prompts[part]), initial_noise(pipeline, seeds[part])
        for name, scheduler in methods.items():
            path = [noise]

            def keep(_: Any, step: int, timestep: int, tensors: dict[str, Tensor], kept: list = path) -> dict:
                kept.append(tensors["latents"].clone())
                return {}

            if isinstance(scheduler, LatentCRFScheduler):
                scheduler.prompt_embeds = embeds["prompt_embeds"]
            with scheduled(pipeline, scheduler), autocast(pipeline.device, precision):
                pipeline(
                    **embeds, latents=noise, num_inference_steps=steps, guidance_scale=guidance,
                    output_type="latent", callback_on_step_end=keep,
                )  # fmt: skip
            path[0] = noise * float(scheduler.init_noise_sigma)
            yield run_table(path, scheduler, name, begin)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, 5th and 95th percentile over the runs: columns method, step, timestep, log_snr, n, QUANTITY, _low, _high."""
    rows = []
    for (method, step), group in runs.groupby(["method", "step"], sort=True):
        row = {"method": method, "step": step, "n": len(group)}
        row |= {name: group[name].iloc[0] for name in ("timestep", "log_snr")}
        for name in QUANTITIES:
            values = group[name].dropna()
            row[name] = values.mean() if len(values) else np.nan
            row[f"{name}_low"], row[f"{name}_high"] = (
                np.quantile(values, [0.05, 0.95]) if len(values) else (np.nan, np.nan)
            )
        rows.append(row)
    return pd.DataFrame(rows)


def propose_bypass(summary: pd.DataFrame, threshold: float) -> tuple[int, int] | None:
    """The longest block of steps (first, last) in each of which the full run's mean variance changes by at most `threshold`.

    `threshold` is in shares of the variance's whole range over the run. The block begins once the variance is half-way to
    where it gets: while the latents are mostly noise their variance stands still too, but nothing is decided yet.
    None where no step is below the threshold.
    """
    full = summary[summary["method"] == "full LDM"].sort_values("step")
    variance = full["variance"].to_numpy()
    moved = np.abs(variance - variance[0])
    quiet = np.abs(np.diff(variance)) <= threshold * max(np.ptp(variance), 1e-12)
    quiet[: max(1, int(np.argmax(moved >= moved.max() / 2)))] = (
        False  # one U-Net call comes before a bypass in any case
    )
    best, begin = (0, 0), None
    for index, is_quiet in enumerate([*quiet, False]):
        if is_quiet and begin is None:
            begin = index
        elif not is_quiet and begin is not None:
            best = max(best, (begin, index), key=lambda block: block[1] - block[0])
            begin = None
    return best if best[1] > best[0] else None


def figure(
    summary: pd.DataFrame,
    quantity: str = "variance",
    bypass: tuple[int, int] = BYPASS,
    x: str = "step",
    log_y: bool = False,
    proposal: tuple[int, int] | None = None,
    **looks: bool,
) -> go.Figure:
    """Mean with its band, each method; the bypassed steps shaded, the CRF's jump drawn dashed.

    Args:
        proposal: steps to mark as proposed for a bypass (`propose_bypass`).
        looks: presentation and on_page, as of `styled`.

    Raises:
        ValueError: a quantity or x-axis that is not one of `QUANTITIES`, `AXES`.
    """
    for given, accepted in ((quantity, QUANTITIES), (x, AXES)):
        if given not in accepted:
            raise ValueError(f"{given!r} is not drawn; accepted are {', '.join(accepted)}.")
    title, axis = QUANTITIES[quantity]
    drawn = go.Figure()
    for method in (name for name in METHODS if name in set(summary["method"])):
        colour, symbol, _ = METHODS[method]
        own = summary[summary["method"] == method].sort_values("step").dropna(subset=[quantity, x])
        drawn.add_scatter(
            x=[*own[x], *own[x][::-1]], y=[*own[f"{quantity}_high"], *own[f"{quantity}_low"][::-1]],
            fill="toself", fillcolor=tint(colour), line={"width": 0}, name=f"{method}, 5th to 95th percentile",
            hoverinfo="skip", legendgroup=method, showlegend=False,
        )  # fmt: skip
        before, after = own[own["step"] < bypass[0]], own[own["step"] >= bypass[1]]
        parts = [own] if method == "full LDM" else [before, after]
        for index, part in enumerate(parts):
            drawn.add_scatter(
                x=part[x], y=part[quantity], mode="lines+markers", name=method, legendgroup=method,
                showlegend=index == 0, line={"color": colour, "width": 3}, marker={"size": 7, "symbol": symbol},
                hovertemplate=f"{method}<br>{AXES[x]} %{{x}}<br>%{{y:.4g}}<extra></extra>",
            )  # fmt: skip
        if method != "full LDM" and len(before) and len(after):
            ends = pd.concat([before.tail(1), after.head(1)])
            drawn.add_scatter(
                x=ends[x], y=ends[quantity], mode="lines",
                name="the CRF's jump" if method == "LatentCRF" else "the jump",
                line={"color": colour, "width": 3, "dash": "dash"}, hoverinfo="skip",
            )  # fmt: skip
    full = summary[summary["method"] == "full LDM"].sort_values("step").dropna(subset=[x])
    blocks = [(bypass, "#888888", "bypassed", "top left")]
    if proposal is not None:
        blocks.append((proposal, PROPOSED, "proposed", "bottom left"))
    for block, colour, text, position in blocks:
        begin, end = (full[full["step"] <= step][x].iloc[-1] for step in block)
        drawn.add_vrect(
            x0=begin, x1=end, fillcolor=colour, opacity=0.15, line_width=0,
            annotation_text=text, annotation_position=position,
        )  # fmt: skip
    drawn.update_xaxes(title=AXES[x], autorange="reversed" if x == "timestep" else True)
    # full numbers on a log axis too, where Plotly would write 2, 5, ... between the powers of ten
    drawn.update_yaxes(title=axis, type="log" if log_y else "linear", tickformat=".2~g" if log_y else None)
    drawn.update_layout(legend=BELOW)
    runs = int(summary["n"].max())
    return styled(drawn, f"{title}: mean and 5th to 95th percentile of {runs:,} runs", **looks)


def results(
    summary: pd.DataFrame, options: dict[str, Any], bypass: tuple[int, int] = BYPASS, with_figures: bool = True
) -> Results:
    """The summary and a figure of each quantity; `options` as of the command line."""
    figures = {name: figure(summary, name, bypass) for name in QUANTITIES} if with_figures else {}
    return Results("variance", options, {"variance": summary}, figures)


def number_or_parti(text: str) -> int | str:
    """--prompts as a number of runs, 1 or more, or "parti"."""
    if text.strip().lower() == "parti":
        return "parti"
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"--prompts {text} is out of range: 1 or more, or parti.")
    return int(text)


def choose_prompts(options: argparse.Namespace) -> list[str]:
    """The prompts that the command line asks for, one a run.

    Raises:
        PromptsError, DatasetError, OSError: they cannot be had.
    """
    if options.prompts == "parti":
        return prompt_lists.parti()
    listed = options.text or prompt_lists.core_subjects(load(options.data)[0])["subject"].tolist()
    return [listed[index % len(listed)] for index in range(options.prompts)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.variance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/emoji"), metavar="DIR", help="data set (default data/emoji)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for tables and figures")
    add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
    add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER",
        help="LatentCRF (default: shipped); none: the bypass without parameters")  # fmt: skip
    add("--prompts", type=number_or_parti, default=1000, metavar="N",
        help="runs, one a prompt, in turn (default 1000); parti: all Parti prompts, fetched, for Stable Diffusion")  # fmt: skip
    add("--text", action="extend", nargs="+", metavar="PROMPT", help="the prompts (default: the data set's subjects)")
    add("--seed", type=int, default=0, help="of the first run (default 0)")
    add("--bypass", type=int, nargs=2, default=BYPASS, metavar=("FIRST", "LAST"), help="of 50 steps (default 33 49)")
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default 16)")
    add_precision_argument(parser)
    add("--summary-only", action="store_true", help="write settings.json and variance.csv only")
    options = parse(parser, "variance", arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size {options.batch_size} is out of range: 1 or more.")
    if options.prompts == "parti" and options.text:
        parser.error("--prompts parti and --text name two sets of prompts; give one.")
    try:
        precision = choose_precision(options.precision, "cpu")
        prompts = choose_prompts(options)
        seeds = [options.seed + index for index in range(len(prompts))]
        bar = tqdm(total=2 * -(-len(prompts) // options.batch_size), desc="variance", unit="batch")
        parts = []
        crf = None if str(options.crf) == "none" else LatentCRF.from_pretrained(options.crf).eval()
        for part in compute(
            load_pipeline(options.model), prompts, seeds, crf, tuple(options.bypass),
            guidance=options.guidance, batch_size=options.batch_size, precision=precision,
        ):  # fmt: skip
            parts.append(part)
            bar.update()
        bar.close()
        runs = pd.concat(parts, ignore_index=True)
        named = {"prompts": options.prompts, "text": options.text, "seed": options.seed, "bypass": list(options.bypass),
                 "guidance": options.guidance, "batch_size": options.batch_size, "precision": precision_name(precision)}  # fmt: skip
        if crf is None:
            named["crf"] = "none"
        made = results(summarize(runs), named, tuple(options.bypass), with_figures=not options.summary_only)
        names = write_results(made, options.out)
        if not options.summary_only:
            with replacing(options.out / "runs.csv") as temporary:
                runs.assign(precision=named["precision"]).to_csv(temporary, index=False, float_format="%.6g")
            names.append("runs.csv")
    except (DatasetError, prompt_lists.PromptsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written in {options.out}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
