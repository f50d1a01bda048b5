"""What the page asks of torch, diffusers and analysis. `app.device` alone imports this module, as that takes seconds.

The functions that take `models` and `report` run on the device, one at a time (`DeviceWorker.stream`). The others draw
or tabulate what those found (`DeviceWorker.call`): a figure comes with the table that it was drawn from, or None where
it shows pictures alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis import convergence, diversity, frontier, method, variance
from analysis.export import Results, write_zip
from analysis.figures.grid import data_uri
from analysis.studies import walkthrough
from app.comparison import compare
from app.loaded_models import LoadedModels, load_models
from app.settings import Settings
from latentcrf.potentials import Potentials

__all__ = ["compare", "load_models"]  # the others are defined here
Figures = dict[str, tuple[go.Figure, pd.DataFrame | None]]
Report = Callable[[Any], None]


def _style(presentation: bool) -> dict[str, bool]:
    return {"presentation": bool(presentation), "on_page": True}


# ---------------------------------------------------------------------------------------- variance


def run_variance(
    models: LoadedModels, prompts: list[str], seeds: list[int], defaults: Settings, batch_size: int, report: Report
) -> None:
    """Report a table for each batch and method, the full run's first."""
    for table in variance.compute(
        models.pipeline,
        prompts,
        seeds,
        models.crf,
        defaults.bypass,
        steps=defaults.steps,
        guidance=defaults.guidance,
        batch_size=batch_size,
        precision=models.precision,
    ):
        report(table)


def summarize_variance(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Summarize the tables of `run_variance`: a row a method and step."""
    return variance.summarize(pd.concat(tables))


def propose_bypass(summary: pd.DataFrame, threshold: float) -> tuple[int, int] | None:
    """Propose the block of steps in each of which the variance changes by `threshold` of its range at most."""
    return variance.propose_bypass(summary, threshold)


def draw_variance(
    summary: pd.DataFrame,
    quantity: str,
    bypass: tuple[int, int],
    axis: str,
    is_log: bool,
    proposal: tuple[int, int] | None,
    presentation: bool,
) -> Figures:
    """Draw a quantity of the summary."""
    drawn = variance.figure(summary, quantity, bypass, axis, is_log, proposal=proposal, **_style(presentation))
    columns = ["method", "step", "timestep", "log_snr", "n", quantity, f"{quantity}_low", f"{quantity}_high"]
    return {"figure": (drawn, summary[columns])}


def export_variance(summary: pd.DataFrame, options: dict[str, Any], bypass: tuple[int, int]) -> Results:
    """Collect the variance tab's export."""
    return variance.results(summary, options, bypass)


# ------------------------------------------------------------------------------------- convergence


def run_convergence(models: LoadedModels, settings: Settings, seeds: list[int], report: Report) -> None:
    """Report the number of denoiser calls so far after each, and at last a `Convergence`."""
    report(
        convergence.compute(
            models.pipeline,
            models.crf,
            settings.prompt,
            seeds,
            bypass=settings.bypass,
            steps=settings.steps,
            guidance=settings.guidance,
            precision=models.precision,
            report=report,
        )
    )


def draw_convergence(found: convergence.Convergence, presentation: bool) -> Figures:
    """Draw a `Convergence`."""
    drawn = convergence.figures(found, **_style(presentation))
    return {name: (figure, found.table if name == "curves" else None) for name, figure in drawn.items()}


def export_convergence(found: convergence.Convergence, settings: Settings) -> Results:
    """Collect the convergence tab's export."""
    options = {"prompt": settings.prompt, "seeds": len(found.seeds), "seed": settings.seed, "steps": settings.steps}
    options |= {"guidance": settings.guidance, "precision": found.precision, "bypass": list(settings.bypass)}
    return convergence.results(found, options)


# --------------------------------------------------------------------------------------- diversity


def count_diversity_calls(methods: Sequence[str], seeds: int) -> int:
    """Count the denoiser calls of all images together."""
    return diversity.cost(methods, seeds)


def run_diversity(
    models: LoadedModels, prompt: str, seeds: list[int], methods: list[str], guidance: float, report: Report
) -> None:
    """Report the number of denoiser calls so far after each, and a `Row` a method."""
    diversity.compute(
        models.pipeline,
        models.crf,
        (models.lpips, models.features),
        prompt,
        seeds,
        methods,
        guidance=guidance,
        precision=models.precision,
        report=report,
    )


def tabulate_diversity(rows: list[diversity.Row]) -> pd.DataFrame:
    """Tabulate the metrics of the methods, a row a method."""
    return diversity.tabulate(rows)


def draw_diversity(rows: list[diversity.Row], seeds: list[int], presentation: bool) -> Figures:
    """Draw the metrics and the pairs of seeds."""
    drawn = diversity.figures(rows, seeds, **_style(presentation))
    tables = {"measures": diversity.tabulate(rows), "pairs": diversity.pair_table(rows, seeds)}
    return {name: (drawn[name], table) for name, table in tables.items()}


def export_diversity(rows: list[diversity.Row], seeds: list[int], options: dict[str, Any]) -> Results:
    """Collect the diversity tab's export."""
    return diversity.results(rows, seeds, options | {"methods": [row.method for row in rows]})


# ---------------------------------------------------------------------------------------- frontier


def read_frontier_table(path: Path) -> pd.DataFrame:
    """Read a benchmark.csv.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a table of the benchmark.
    """
    return frontier.read_table(path)


def list_frontier_choices(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """List the metrics and the families of methods that the table holds."""
    return frontier.measures_of(table), frontier.families_of(table)


def draw_frontier(table: pd.DataFrame, metric: str, families: Sequence[str], presentation: bool) -> Figures:
    """Draw quality against time; the table is the figure's rows by time.

    Raises:
        ValueError: there is nothing to show.
    """
    drawn = frontier.figure(table, metric, families, **_style(presentation))
    return {"figure": (drawn, frontier.shown(table, metric, families))}


def draw_empty_frontier(metric: str, presentation: bool) -> Figures:
    """Draw the axes alone."""
    return {"figure": (frontier.empty(metric, **_style(presentation)), None)}


def find_frontier_samples(folder: Path, name: str) -> np.ndarray | None:
    """Find the row of sample images of a method, uint8 (H, W, 3); None where there is none."""
    return frontier.samples(folder, [name]).get(name)


def export_frontier(table: pd.DataFrame, metric: str, families: Sequence[str], folder: Path) -> Results:
    """Collect the frontier tab's export."""
    return frontier.results(table, metric, families, folder)


# ------------------------------------------------------------------------------------------ method


def run_walkthrough(models: LoadedModels, settings: Settings, report: Report) -> None:
    """Report the denoiser calls so far, the strip of pictures as it grows, and at last a `Walkthrough`."""
    report(
        walkthrough.compute(
            models.pipeline,
            models.crf,
            settings.prompt,
            settings.seed,
            bypass=settings.bypass,
            steps=settings.steps,
            guidance=settings.guidance,
            precision=models.precision,
            report=report,
        )
    )


def solve_weighted(models: LoadedModels, potentials: Potentials, term: str, factor: float, report: Report) -> None:
    """Report the image of lowest energy where `term` counts `factor` times, and its energy by term."""
    report(walkthrough.minimum(models.pipeline, models.crf, potentials, term, factor))


def find_learned_minimum(found: walkthrough.Walkthrough, term: str) -> tuple[np.ndarray, dict[str, float]]:
    """Find the image of lowest energy with the learned weights, and its energy by term."""
    return walkthrough.learned(found, term)


def draw_walkthrough(found: walkthrough.Walkthrough, presentation: bool) -> Figures:
    """Draw a `Walkthrough`."""
    tables = {"redundancy": found.steps, "descent": found.descent}
    drawn = method.figures(found, **_style(presentation))
    return {name: (figure, tables.get(name)) for name, figure in drawn.items()}


def draw_strip(pictures: np.ndarray, steps: int, presentation: bool) -> go.Figure:
    """Draw the walkthrough's first figure as far as its pictures (2, n, H, W, 3) go."""
    return method.strip_figure(pictures, walkthrough.shown_steps(steps), **_style(presentation))


def encode_image(pixels: np.ndarray) -> str:
    """Encode uint8 pixels (H, W, 3) as the address of a PNG that holds them."""
    return data_uri(pixels)


def export_walkthrough(found: walkthrough.Walkthrough) -> Results:
    """Collect the method tab's export."""
    return method.results(found)


# ------------------------------------------------------------------------------------------ export


def write_export(path: Path, name: str, *arguments: Any) -> Path:
    """Write a tab's export as a ZIP.

    Args:
        path: of the ZIP.
        name: of one of the `export_...` functions here.
        arguments: of that function.

    Returns:
        `path`.
    """
    exports = {
        export.__name__: export
        for export in (export_variance, export_convergence, export_diversity, export_frontier, export_walkthrough)
    }
    return write_zip(exports[name](*arguments), path)
