"""What the page asks of torch, diffusers and analysis. `app.device` alone imports this module, as that takes seconds.

The functions that take `models` and `report` run on the device, one at a time (`DeviceWorker.stream`). The others draw
or tabulate what those found (`DeviceWorker.call`): a figure comes with the table that it was drawn from, or None where
it shows pictures alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import OutOfMemoryError, get_num_threads

from analysis import convergence as convergence_export
from analysis import diversity as diversity_export
from analysis import frontier as frontier_export
from analysis import method as method_export
from analysis import variance as variance_export
from analysis.export import Results, write_zip
from analysis.figures import convergence as convergence_figures
from analysis.figures import diversity as diversity_figures
from analysis.figures.variance import draw_quantity
from analysis.sampling import choose_batch_size, get_latent_shape
from analysis.studies import LATENTCRF, convergence, diversity, variance, walkthrough
from app.comparison import build_finisher, build_sampler, compare
from app.examples import read_example
from app.loaded_models import (
    LoadedModels,
    check_compile,
    find_damaged_results,
    load_models,
    save_memory,
    use_device,
)
from app.models_file import ModelsError
from app.settings import Settings
from latentcrf.precision import precision_name
from latentcrf.utils.files import replace_folder
from latentcrf.utils.manifest import write_manifest

# the others are defined here
__all__ = [
    "OutOfMemoryError", "check_compile", "compare", "find_damaged_results", "get_num_threads", "load_models",
    "read_example", "replace_folder", "save_memory", "use_device", "write_manifest",
]  # fmt: skip
Figures = dict[str, tuple[go.Figure, pd.DataFrame | None]]
Report = Callable[[Any], None]


def _choose_batch_size(models: LoadedModels, most: int = 16) -> int:
    return choose_batch_size(*get_latent_shape(models.pipeline)[1:], most)


def _style(presentation: bool) -> dict[str, bool]:
    return {"presentation": bool(presentation), "on_page": True}


# ---------------------------------------------------------------------------------------- variance


def run_variance(
    models: LoadedModels, prompts: list[str], seeds: list[int], settings: Settings, most: int, report: Report
) -> None:
    """Report the denoiser calls so far, and a table for each batch (of `most` runs or fewer) and method.

    The full run's table comes before the bypass'. A call on a batch counts once a run.
    """
    for table in variance.compute(
        models.pipeline,
        prompts,
        seeds,
        models.crf,
        settings.bypass,
        steps=settings.steps,
        guidance=settings.guidance,
        batch_size=_choose_batch_size(models, most),
        precision=choose_variance_precision(models),
        report=report,
    ):
        report(table)


def choose_variance_precision(models: LoadedModels) -> torch.dtype:
    """Choose float32 where the weights are: bfloat16's rounding is larger than what late steps change the estimate."""
    is_float32 = models.pipeline.unet.dtype == torch.float32
    return torch.float32 if is_float32 else models.precision


def name_variance_precision(models: LoadedModels) -> str:
    """Name `choose_variance_precision`, as command lines do."""
    return precision_name(choose_variance_precision(models))


def summarize_variance(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Summarize the tables of `run_variance`: a row a method and step."""
    return variance.summarize(pd.concat(tables))


def propose_bypass(summary: pd.DataFrame, threshold: float) -> tuple[int, int] | None:
    """Propose the block of steps in each of which the clean estimate changes by `threshold` of the most, or less."""
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
    figure = draw_quantity(summary, quantity, bypass, axis, is_log, proposal=proposal, **_style(presentation))
    columns = ["method", "step", "timestep", "log_snr", "n", quantity, f"{quantity}_low", f"{quantity}_high"]
    return {"figure": (figure, summary[columns])}


def export_variance(summary: pd.DataFrame, options: dict[str, Any], bypass: tuple[int, int]) -> Results:
    """Collect the variance tab's export."""
    return variance_export.build_results(summary, options, bypass)


# ------------------------------------------------------------------------------------- convergence


def run_convergence(models: LoadedModels, settings: Settings, seeds: list[int], report: Report) -> None:
    """Report how far the work is, of `count_convergence_work`, and at last a `Convergence`.

    Raises:
        ModelsError: the model has no CRF.
    """
    if models.crf is None:
        raise ModelsError(f"{models.model_set.title} has no LatentCRF of its own: nothing converges.")
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


def count_convergence_work(bypass: tuple[int, int], seeds: int) -> int:
    """Count what `run_convergence` reports: denoiser calls, and rows of decoded images."""
    return convergence.count_work(bypass, seeds)


def draw_convergence(found: convergence.Convergence, start: str, presentation: bool) -> Figures:
    """Draw a `Convergence` from one start."""
    figures = convergence_figures.draw_figures(found, start, **_style(presentation))
    return {name: (figure, found.table if name == "curves" else None) for name, figure in figures.items()}


def export_convergence(found: convergence.Convergence, settings: Settings, model_options: dict[str, str]) -> Results:
    """Collect the convergence tab's export."""
    options = {"prompt": settings.prompt, "seeds": len(found.seeds), "seed": settings.seed, "steps": settings.steps}
    options |= {"guidance": settings.guidance, "precision": found.precision, "bypass": list(settings.bypass)}
    return convergence_export.build_results(found, options | model_options)


# --------------------------------------------------------------------------------------- diversity


def count_diversity_calls(methods: Sequence[str], seeds: int, settings: Settings) -> int:
    """Count the denoiser calls of all images together."""
    few_steps = settings.few_steps if LATENTCRF in methods else 0
    return diversity.count_denoiser_calls(methods, seeds, settings.steps, settings.bypass, few_steps)


def count_diversity_work(methods: Sequence[str], seeds: int, settings: Settings) -> int:
    """Count what `run_diversity` reports in all."""
    return diversity.count_work(count_diversity_calls(methods, seeds, settings), len(methods), seeds)


def run_diversity(
    models: LoadedModels, prompt: str, seeds: list[int], methods: list[str], settings: Settings, report: Report
) -> None:
    """Report the work done so far, of `count_diversity_work`, and a `MethodImages` a method."""
    diversity.compute(
        models.pipeline,
        build_sampler(models, settings) if LATENTCRF in methods and models.crf is not None else None,
        models.lpips,
        models.features,
        prompt,
        seeds,
        methods,
        steps=settings.steps,
        bypass=settings.bypass,
        guidance=settings.guidance,
        batch_size=_choose_batch_size(models),
        precision=models.precision,
        report=report,
    )


def tabulate_diversity(rows: list[diversity.MethodImages]) -> pd.DataFrame:
    """Tabulate the metrics of the methods, a row a method."""
    return diversity.tabulate(rows)


def draw_diversity(rows: list[diversity.MethodImages], seeds: list[int], presentation: bool) -> Figures:
    """Draw the metrics and the pairs of seeds."""
    tables = {"measures": diversity.tabulate(rows), "pairs": diversity.tabulate_pairs(rows, seeds)}
    figures = diversity_figures.draw_figures(rows, tables["measures"], seeds, **_style(presentation))
    return {name: (figures[name], table) for name, table in tables.items()}


def export_diversity(rows: list[diversity.MethodImages], seeds: list[int], options: dict[str, Any]) -> Results:
    """Collect the diversity tab's export."""
    return diversity_export.build_results(rows, seeds, options | {"methods": [row.method for row in rows]})


# ---------------------------------------------------------------------------------------- frontier


def export_frontier(table: pd.DataFrame, metric: str, all_methods: bool, folder: Path) -> Results:
    """Collect the frontier tab's export."""
    return frontier_export.build_results(table, metric, all_methods, folder)


# ------------------------------------------------------------------------------------------ method


def run_walkthrough(models: LoadedModels, settings: Settings, report: Report) -> None:
    """Report the number of denoiser calls so far after each, `walkthrough.DECODING`, and at last a `Walkthrough`."""
    report(
        walkthrough.compute(
            models.pipeline,
            models.crf,
            settings.prompt,
            settings.seed,
            bypass=settings.bypass,
            steps=settings.steps,
            guidance=settings.guidance,
            iterations=settings.iterations,
            finisher=build_finisher(models, settings),  # the tab shows both, with it and without
            precision=models.precision,
            report=report,
        )
    )


def export_walkthrough(found: walkthrough.Walkthrough, model_options: dict[str, str]) -> Results:
    """Collect the method tab's export."""
    return method_export.build_results(replace(found, options=found.options | model_options))


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
