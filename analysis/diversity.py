"""Does a faster sampler lose diversity? One prompt, many seeds, the same noise for every method (paper, Fig. 2).

    python -m analysis.diversity --prompt "red apple" --seeds 16 --out results/diversity

Mean pairwise LPIPS (all n (n - 1) / 2 pairs) and Vendi score over the seeds of each method, with 95 % jackknife intervals
over the seeds, and their ratios to the full LDM's. Written to --out: diversity.csv, pairs.csv (each pair's LPIPS), the
image grid, the heat maps of the pairs and the measures as a figure.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from plotly.subplots import make_subplots
from torch import nn

from analysis.export import Results, parse, write_results
from analysis.gallery import embed
from analysis.generate import BYPASS, GUIDANCE, STEPS, counted, decode, encode, initial_noise, load_pipeline, scheduled
from analysis.grid import image_grid
from analysis.measures import lpips_matrix, to_images, to_pixels, vendi
from analysis.style import METHODS, styled
from latentcrf import LatentCRF, LatentCRFScheduler
from latentcrf.perceptual import MODELS, load_features, load_lpips
from latentcrf.precision import add_precision_argument, autocast, choose_precision, precision_name

FULL = "full LDM"
FEW_STEPS = 4
BOTH = {"pairwise_lpips": "Mean pairwise LPIPS", "vendi": "Vendi score"}


@dataclass(frozen=True)
class Row:
    """One method's images and measures.

    Attributes:
        images: uint8 (n, H, W, 3), one a seed. pairs: their LPIPS (n, n).
        vendi_without: Vendi score of all, then without the first, the second, ... image (1 + n,).
    """

    method: str
    unet_calls: int
    images: np.ndarray
    pairs: np.ndarray
    vendi_without: np.ndarray


def scheduler_of(method: str, own: Any, crf: LatentCRF) -> tuple[Any, int]:
    """The scheduler and the number of steps of a method of `analysis.style.METHODS`.

    Raises:
        ValueError: another method.
    """
    first, last = BYPASS
    if method == FULL:
        return own, STEPS
    if method in ("LatentCRF", "bypass without parameters"):
        return LatentCRFScheduler(own, crf if method == "LatentCRF" else None, bypass=BYPASS), STEPS
    steps = {"DDIM, equal calls": STEPS - (last - first), "few steps": FEW_STEPS}
    if method not in steps:
        raise ValueError(f"{method!r} is not compared; accepted are {', '.join(METHODS)}.")
    return DDIMScheduler.from_config(own.config), steps[method]


def cost(methods: Sequence[str], seeds: int) -> int:
    """U-Net calls of all images together."""
    bypassed = STEPS - (BYPASS[1] - BYPASS[0])
    calls = {FULL: STEPS, "few steps": FEW_STEPS}
    return seeds * sum(calls.get(method, bypassed) for method in methods)


def compute(
    pipeline: StableDiffusionPipeline,
    crf: LatentCRF,
    judges: tuple[nn.Module, nn.Module],
    prompt: str,
    seeds: Sequence[int],
    methods: Sequence[str],
    *,
    guidance: float = GUIDANCE,
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
    report: Callable[[Any], None] = lambda event: None,
) -> list[Row]:
    """A `Row` a method, in the order of `methods`, from the same noise.

    Args:
        judges: LPIPS and the feature network (`load_lpips`, `load_features`).
        report: called with the number of steps made so far (an int, all images of a batch at once), and each `Row`.
    """
    rows, done = [], 0
    for method in methods:
        scheduler, steps = scheduler_of(method, pipeline.scheduler, crf)
        images, calls = [], 0
        for begin in range(0, len(seeds), batch_size):
            part = seeds[begin : begin + batch_size]
            embeds = encode(pipeline, [prompt] * len(part))
            if isinstance(scheduler, LatentCRFScheduler):
                scheduler.prompt_embeds = embeds["prompt_embeds"]

            def told(_: Any, __: int, ___: Any, tensors: dict, count: int = len(part)) -> dict:
                nonlocal done
                done += count
                report(done)
                return {}

            with (
                scheduled(pipeline, scheduler),
                counted(pipeline.unet) as batches,
                autocast(pipeline.device, precision),
            ):
                latents = pipeline(
                    **embeds, latents=initial_noise(pipeline, part), num_inference_steps=steps,
                    guidance_scale=guidance, output_type="latent", callback_on_step_end=told,
                ).images  # fmt: skip
            images.append(to_pixels(decode(pipeline, latents.float())))
            calls = len(batches)
        rows.append(judge(method, calls, np.concatenate(images), *judges))
        report(rows[-1])
    return rows


def judge(method: str, unet_calls: int, images: np.ndarray, lpips: nn.Module, features: nn.Module) -> Row:
    """Measure the images (n, H, W, 3) of one method."""
    device = next(features.parameters()).device
    tensors = to_images(images).to(device)
    embedded = embed(features, tensors).cpu()
    keep = [np.delete(np.arange(len(images)), i) for i in range(len(images))]
    scores = [vendi(embedded), *(vendi(embedded[rest]) for rest in keep)]
    return Row(method, unet_calls, images, lpips_matrix(lpips, tensors).numpy(), np.array(scores))


def pairwise_without(pairs: np.ndarray) -> np.ndarray:
    """Mean pairwise distance of all (n, n), then without the first, the second, ... item: (1 + n,)."""
    n, total, own = len(pairs), pairs.sum(), pairs.sum(1)
    return np.concatenate([[total / (n * (n - 1))], (total - 2 * own) / ((n - 1) * (n - 2))])


def jackknife(values: np.ndarray) -> tuple[float, float, float]:
    """(estimate, low, high) from the estimate and its leave-one-out values (1 + n,): 95 %, normal.

    Pairs that share a seed are not independent; leaving seeds out, not pairs, respects that.
    """
    n = len(values) - 1
    error = np.sqrt((n - 1) / n * np.square(values[1:] - values[1:].mean()).sum())
    return float(values[0]), float(values[0] - 1.96 * error), float(values[0] + 1.96 * error)


def tabulate(rows: Sequence[Row]) -> pd.DataFrame:
    """A row a method: method, n, unet_calls, and for `pairwise_lpips` and `vendi` the value, _low, _high, and the ratio to
    the full LDM's with its interval (paired by seed)."""
    lines = []
    reference = next((row for row in rows if row.method == FULL), None)
    for row in rows:
        line: dict[str, Any] = {"method": row.method, "n": len(row.images), "unet_calls": row.unet_calls}
        for name in BOTH:
            own = _draws(row, name)
            line[name], line[f"{name}_low"], line[f"{name}_high"] = jackknife(own)
            if reference is not None:
                ratio = jackknife(own / _draws(reference, name))
                line[f"{name}_ratio"], line[f"{name}_ratio_low"], line[f"{name}_ratio_high"] = ratio
        lines.append(line)
    return pd.DataFrame(lines)


def _draws(row: Row, name: str) -> np.ndarray:
    return pairwise_without(row.pairs) if name == "pairwise_lpips" else row.vendi_without


def pair_table(rows: Sequence[Row], seeds: Sequence[int]) -> pd.DataFrame:
    """Columns method, seed_a, seed_b, lpips: each pair once."""
    first, second = np.triu_indices(len(seeds), 1)
    order = np.asarray(seeds)
    parts = [
        pd.DataFrame(
            {"method": r.method, "seed_a": order[first], "seed_b": order[second], "lpips": r.pairs[first, second]}
        )
        for r in rows
    ]
    return pd.concat(parts, ignore_index=True)


def figures(rows: Sequence[Row], seeds: Sequence[int], **looks: bool) -> dict[str, go.Figure]:
    """The image grid, the pairs' heat maps and the measures, by name."""
    names = [row.method for row in rows]
    grid = image_grid(
        np.stack([row.images for row in rows]), names, [str(seed) for seed in seeds],
        "The same noise in each column (its seed above): do the rows stay as varied as the first?", "", **looks,
    )  # fmt: skip
    heat = make_subplots(rows=1, cols=len(rows), subplot_titles=names, horizontal_spacing=0.02, shared_yaxes=True)
    top = max(float(row.pairs.max()) for row in rows)
    labels = [f"seed {seed}" for seed in seeds]
    for column, row in enumerate(rows, 1):
        heat.add_heatmap(
            name=row.method, z=row.pairs, x=labels, y=labels, zmin=0, zmax=top, colorscale="Cividis", row=1, col=column,
            showscale=column == 1, colorbar={"title": {"text": "LPIPS"}},
            hovertemplate=f"{row.method}<br>%{{x}} and %{{y}}<br>LPIPS %{{z:.3f}}<extra></extra>",
        )  # fmt: skip
    styled(heat, "How different is each pair of seeds? (LPIPS; yellow: very)", height=420, **looks)
    heat.update_xaxes(showticklabels=False)
    heat.update_yaxes(showticklabels=False, autorange="reversed")
    heat.update_layout(margin={"t": 100}, meta={"aspect": 1 / len(rows)})
    return {"images": grid, "measures": measure_figure(tabulate(rows), **looks), "pairs": heat}


def measure_figure(table: pd.DataFrame, **looks: bool) -> go.Figure:
    """Both measures of each method with 95 % intervals."""
    drawn = make_subplots(
        rows=1, cols=2, subplot_titles=list(BOTH.values()), horizontal_spacing=0.08, shared_yaxes=True
    )
    for column, name in enumerate(BOTH, 1):
        for _, row in table.iterrows():
            colour, symbol, _ = METHODS[row["method"]]
            ratio = f"<br>{row[f'{name}_ratio']:.2f} of the full LDM's" if f"{name}_ratio" in row else ""
            value = row[name]
            drawn.add_scatter(
                x=[value], y=[row["method"]], mode="markers", row=1, col=column, showlegend=False, name=row["method"],
                marker={"color": colour, "symbol": symbol, "size": 14},
                error_x={"type": "data", "symmetric": False, "array": [row[f"{name}_high"] - value],
                         "arrayminus": [value - row[f"{name}_low"]], "thickness": 2},
                hovertemplate=f"{row['method']}, {row['unet_calls']} U-Net calls<br>%{{x:.3f}}{ratio}<extra></extra>",
            )  # fmt: skip
    count = int(table["n"].max())
    drawn.update_xaxes(title="further right is more diverse", rangemode="tozero", nticks=5, tickangle=0)
    drawn.update_yaxes(autorange="reversed")
    styled(drawn, f"Diversity over {count} seeds, with 95 % intervals", height=380, **looks)
    return drawn.update_layout(margin={"t": 100})


def results(rows: Sequence[Row], seeds: Sequence[int], options: dict[str, Any]) -> Results:
    """Tables, figures and each method's images; `options` as of the command line."""
    images = {f"{row.method.replace(', ', '-').replace(' ', '-')}-{seed}": image
              for row in rows for seed, image in zip(seeds, row.images, strict=True)}  # fmt: skip
    tables = {"diversity": tabulate(rows), "pairs": pair_table(rows, seeds)}
    return Results("diversity", options, tables, figures(rows, seeds), images)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.diversity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for tables, figures and images")
    add("--prompt", default="red apple", help="(default: red apple)")
    add("--seeds", type=int, default=16, metavar="N", help="number of seeds, 4 to 64 (default 16)")
    add("--seed", type=int, default=0, help="the first (default 0)")
    add(
        "--methods",
        action="extend",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"of {', '.join(METHODS)} (default: all)",
    )
    add("--guidance", type=float, default=GUIDANCE, help=f"guidance scale (default {GUIDANCE:g})")
    add("--model", type=Path, default=MODELS / "emoji-ldm", metavar="FOLDER", help="pipeline (default: shipped)")
    add("--crf", type=Path, default=MODELS / "emoji-latentcrf", metavar="FOLDER", help="LatentCRF (default: shipped)")
    add_precision_argument(parser)
    options = parse(parser, "diversity", arguments)
    if not 4 <= options.seeds <= 64:
        parser.error(f"--seeds {options.seeds} is out of range: 4 to 64.")
    seeds = [options.seed + i for i in range(options.seeds)]
    methods = list(dict.fromkeys([FULL, *(options.methods or METHODS)]))
    try:
        precision = choose_precision(options.precision, "cpu")
        rows = compute(
            load_pipeline(options.model), LatentCRF.from_pretrained(options.crf).eval(), (load_lpips(), load_features()),
            options.prompt, seeds, methods, guidance=options.guidance, precision=precision,
        )  # fmt: skip
        named = {name: getattr(options, name) for name in ("prompt", "seeds", "seed", "guidance")}
        named |= {"precision": precision_name(precision), "methods": methods}
        names = write_results(results(rows, seeds, named), options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tabulate(rows).to_string(index=False, float_format="%.3f"))
    print(f"written: {options.out}, {len(names)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
