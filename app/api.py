"""The page's endpoints for programs, with the page's own checks.

from gradio_client import Client
Client("http://127.0.0.1:7860").predict("red apple", 7, api_name="/compare")["speed_up"]
"""

import base64
import inspect
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from gradio.context import get_blocks_context
from PIL import Image

from app.device import DeviceWorker
from app.models import ModelSet
from app.png import write_png
from app.prompts import list_notes
from app.results import Comparison
from app.settings import DECLARATIONS, NAMES, Number, Settings, SettingsError, Switch
from app.tabs import convergence, diversity, frontier, variance
from app.visitor_queue import DEVICE

SEEDS = Number("Seeds", 1, 16, help="this one and those that follow it")
OF_AN_IMAGE = tuple(name for name in NAMES if name != "images")  # `/compare_seeds` has its own number of seeds


@dataclass(frozen=True)
class Parameter:
    """A parameter of an endpoint.

    Attributes:
        type: of its value.
        text: what it is, with its range.
        default: of the first model; None: it must be given.
        low: the lowest number; None: it has none.
        high: the highest number; None: it has none.
    """

    type: Any
    text: str
    default: Any = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """An endpoint.

    Attributes:
        name: in its address.
        summary: one sentence.
        returns: what it returns, in words.
        parameters: by name.
        answer: gives the answer, from the worker and the values that were given, by name; a problem that the caller
            can mend is a `SettingsError`. `CheckedBlocks` answers what it raises with a sentence.
        computes: whether it waits for the device.
    """

    name: str
    summary: str
    returns: str
    parameters: dict[str, Parameter]
    answer: Callable[[DeviceWorker, dict[str, Any]], dict[str, Any]]
    computes: bool = True


# ------------------------------------------------------------------------------------------- answers


def answer_compare(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run both methods from the same noise.

    Args:
        worker: what computes.
        values: settings by name.

    Returns:
        Settings, what made the images, LPIPS, speed-up, and each method's denoiser calls, network evaluations, sampler
        seconds, whether it is blocked, and PNG in base64; notes on the prompt.
    """
    return _compare(worker, worker.catalog.parse(values), worker.catalog.read_prompt(values).notes)


def _compare(worker: DeviceWorker, settings: Settings, notes: tuple[str, ...]) -> dict[str, Any]:
    *_, result = worker.stream("compare", settings, False, None, model=settings.model)
    assert isinstance(result, Comparison)
    answer = {"settings": settings.as_dict(), "notes": list(notes), "made_by": result.origin, "lpips": result.lpips}
    for one in (result.full, result.latentcrf):
        png = write_png(one.image, settings, {"image": one.method, **result.origin})
        answer[one.method] = {
            "denoiser_calls": one.denoiser_calls,
            "network_evaluations": one.network_evaluations,
            "seconds": one.seconds,
            "is_blocked": one.is_blocked,
            "png": base64.b64encode(png).decode(),
        }
    return {**answer, "speed_up": result.speed_up}


def answer_compare_seeds(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run both methods for several seeds.

    Args:
        worker: what computes.
        values: settings by name, and `seeds`.

    Returns:
        "runs": as of `answer_compare`, one a seed.
    """
    first = worker.catalog.parse(values)
    count = int(SEEDS.check(values.get("seeds", 4)))
    worker.check_work(count * sum(first.denoiser_calls.values()))
    every = [replace(first, seed=int(DECLARATIONS["seed"].check(first.seed + i))) for i in range(count)]
    notes = worker.catalog.read_prompt(values).notes
    return {"runs": [_compare(worker, settings, notes) for settings in every]}


def answer_variance(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the latents' variance over the steps, and propose a bypass.

    Args:
        worker: what computes.
        values: by the names of the parameters.

    Returns:
        rows, proposed_bypass (null: there is none), runs, notes on the prompts.
    """
    model_set = worker.catalog.get(values.get("model"))
    first, text = list_variance(model_set), values.get("prompts")
    lines = "\n".join(model_set.variance_prompts) if text is None else text
    if not isinstance(lines, str):
        raise SettingsError("Prompts must be text, one prompt a line.")
    prompts, seeds = variance.parse(lines, *(values.get(name, first[name].default) for name in ("runs", "seed")))
    read = {prompt: model_set.read_prompt(prompt) for prompt in prompts}
    prompts = [read[prompt].text for prompt in prompts]
    threshold = variance.THRESHOLD.check(values.get("threshold", first["threshold"].default))
    defaults = model_set.defaults
    worker.check_work(len(prompts) * sum(replace(defaults, few_steps=0).denoiser_calls.values()))
    reports = worker.stream("run_variance", prompts, seeds, defaults, variance.BATCH, model=model_set.name)
    tables = [report for report in reports if isinstance(report, pd.DataFrame)]
    summary = worker.call("summarize_variance", tables)
    return {
        "rows": list_records(summary),
        "proposed_bypass": worker.call("propose_bypass", summary, threshold / 100),
        "runs": [{"prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)],
        "notes": list_notes(read),
    }


def answer_convergence(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Follow the CRF's iterations.

    Args:
        worker: what computes.
        values: by the names of the parameters.

    Returns:
        settings, seeds, rows, notes on the prompt.
    """
    model_set = worker.catalog.get(values.get("model"))
    values = {"prompt": model_set.defaults.prompt, **values}
    settings = worker.catalog.parse(values)
    count = int(convergence.COUNT.check(values.get("seeds", 4)))
    worker.check_work(count * settings.bypass_start)
    if model_set.crf is None:
        raise SettingsError(f"{model_set.title} has no LatentCRF of its own: nothing converges.")
    seeds = [settings.seed + i for i in range(count)]
    *_, found = worker.stream("run_convergence", settings, seeds, model=model_set.name)
    notes = worker.catalog.read_prompt(values).notes
    return {"settings": settings.as_dict(), "notes": list(notes), "seeds": seeds, "rows": list_records(found.table)}


def answer_diversity(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Draw many seeds of one prompt by several methods.

    Args:
        worker: what computes.
        values: by the names of the parameters.

    Returns:
        rows (metrics of each method), seeds, images (PNG in base64 by method, one a seed), notes on the prompt.
    """
    model_set = worker.catalog.get(values.get("model"))
    prompt, first, count, others, *_ = diversity.list_first_values(model_set)
    methods = values.get("methods", others)
    if not isinstance(methods, list) or not all(isinstance(name, str) for name in methods):
        raise SettingsError(f"Methods must be a list among {', '.join(diversity.list_others(model_set))}.")
    typed = values.get("prompt", prompt)
    prompt, seeds, methods = diversity.parse(
        model_set, typed, values.get("seed", first), values.get("seeds", count), methods
    )
    defaults = model_set.defaults
    worker.check_work(worker.call("count_diversity_calls", methods, len(seeds), defaults))
    reports = worker.stream("run_diversity", prompt, seeds, methods, defaults, model=model_set.name)
    rows = [report for report in reports if not isinstance(report, int)]
    return {
        "rows": list_records(worker.call("tabulate_diversity", rows)),
        "seeds": seeds,
        "images": {row.method: [encode_png(image) for image in row.images] for row in rows},
        "notes": list(model_set.read_prompt(typed).notes),
    }


def answer_frontier(worker: DeviceWorker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the benchmark's table.

    Args:
        worker: not used: the table comes with the project.
        values: by the names of the parameters.

    Returns:
        rows.
    """
    all_methods = Switch("All methods", "").check(values.get("all_methods", False))
    quality = values.get("quality", next(iter(frontier.METRICS)))
    if not isinstance(quality, str) or quality not in frontier.METRICS:
        raise SettingsError(f"Quality must be one of: {'; '.join(frontier.METRICS)}.")
    table, problem = frontier.read_shipped()
    if table is None:
        raise SettingsError(problem)
    try:
        return {"rows": list_records(frontier.list_rows(table, frontier.METRICS[quality].column, all_methods))}
    except ValueError as error:
        raise SettingsError(str(error).capitalize()) from None


def list_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List a table's rows; what is not a number is null.

    Args:
        table: with named columns.
    """
    return json.loads(table.to_json(orient="records"))


def encode_png(image: np.ndarray) -> str:
    """Encode an image, uint8 (H, W, 3), as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


# ----------------------------------------------------------------------------------------- endpoints


def list_settings(model_set: ModelSet, names: tuple[str, ...]) -> dict[str, Parameter]:
    """List settings as parameters, from their declarations.

    Args:
        model_set: the first model, whose defaults they have.
        names: of the settings.
    """
    parameters = {}
    for name in names:
        default = getattr(model_set.defaults, name)
        parameters[name] = _describe(DECLARATIONS[name], type(default), default)
    return parameters


def _describe(declaration: Any, kind: Any, default: Any) -> Parameter:
    is_number = isinstance(declaration, Number)
    low, high = (declaration.low, declaration.high) if is_number else (None, None)
    return Parameter(kind, declaration.info, default, low, high)


def list_variance(model_set: ModelSet) -> dict[str, Parameter]:
    """List the parameters of `/variance`.

    Args:
        model_set: the first model.
    """
    return {
        "prompts": Parameter(str, "prompts, one a line, used in turn", "those of the page"),
        "runs": _describe(variance.RUNS, int, 16),
        "seed": _describe(variance.SEED, int, 0),
        "threshold": _describe(variance.THRESHOLD, int, 8),
        **list_settings(model_set, ("model",)),
    }


def list_endpoints(worker: DeviceWorker) -> list[Endpoint]:
    """List the endpoints.

    Args:
        worker: whose first model gives the defaults.
    """
    first = worker.catalog.default
    settings = list_settings(first, OF_AN_IMAGE)
    settings["prompt"] = replace(settings["prompt"], default=None)
    seeds = ("prompt", "seed")
    prompt, seed, count, methods, *_ = diversity.list_first_values(first)
    others = ", ".join(diversity.list_others(first))
    one = (
        "settings, notes on the prompt, made_by, lpips, speed_up, and for full and latentcrf each: denoiser_calls, "
        "network_evaluations, seconds of the sampler, is_blocked (by the model's safety checker), png in base64"
    )
    return [
        Endpoint(
            "compare", "Draw a prompt by the full run and by LatentCRF, from the same noise.", one, settings,
            answer_compare,
        ),
        Endpoint(
            "compare_seeds", "Compare for several seeds, one after the other.", f"runs: a list; each has {one}",
            {**settings, "seeds": _describe(SEEDS, int, 4)}, answer_compare_seeds,
        ),
        Endpoint(
            "variance", "Measure the latents' variance over the steps, and propose a bypass.",
            "rows (one a method and step), proposed_bypass ([first, last] or null), runs (prompt and seed of each), "
            "notes on the prompts",
            list_variance(first), answer_variance,
        ),
        Endpoint(
            "convergence", "Follow energy and residual over the CRF's iterations.",
            "settings, notes on the prompt, seeds, rows (one a seed, start, solver and iteration)",
            {
                **list_settings(first, (*seeds, "steps", "guidance", "bypass_start", "bypass_end")),
                "seeds": _describe(convergence.COUNT, int, 4), **list_settings(first, ("model",)),
            },
            answer_convergence,
        ),
        Endpoint(
            "diversity", "Draw many seeds of one prompt by several methods, from the same noise.",
            "rows (metrics of each method), seeds, images (by method: PNG in base64, one a seed), notes on the prompt",
            {
                **list_settings(first, ("prompt",)), "seed": _describe(diversity.SEED, int, seed),
                "seeds": _describe(diversity.COUNT, int, count),
                "methods": Parameter(list[str], f"beside the full run: {others}", ", ".join(methods)),
                **list_settings(first, ("model",)),
            },
            answer_diversity,
        ),
        Endpoint(
            "frontier", "Read the benchmark's table: quality against time.", "rows (one a method)",
            {
                "quality": Parameter(str, f"one of: {'; '.join(frontier.METRICS)}", next(iter(frontier.METRICS))),
                "all_methods": Parameter(bool, "also those that nobody would choose", False),
            },
            answer_frontier, computes=False,
        ),
    ]  # fmt: skip


def build(worker: DeviceWorker) -> None:
    """Add the endpoints; call it within a `gr.Blocks`.

    Args:
        worker: what computes.
    """
    for endpoint in list_endpoints(worker):
        waits: dict[str, Any] = {"concurrency_id": DEVICE, "concurrency_limit": 1} if endpoint.computes else {}
        function = write_function(worker, endpoint)
        gr.api(function, api_name=endpoint.name, api_description=function.__doc__, **waits)
        blocks = get_blocks_context()
        assert blocks is not None
        inputs = blocks.fns[max(blocks.fns)].inputs
        for block, parameter in zip(inputs, endpoint.parameters.values(), strict=True):
            describe_input(block, parameter)


def write_function(worker: DeviceWorker, endpoint: Endpoint) -> Callable[..., dict[str, Any]]:
    """Write an endpoint's function, with signature and docstring: gradio reads both.

    All parameters but those without a default may be left out: null is the model's default.

    Args:
        worker: what computes.
        endpoint: the endpoint.
    """

    def function(*values: Any) -> dict[str, Any]:
        given = {name: value for name, value in zip(endpoint.parameters, values, strict=True) if value is not None}
        return endpoint.answer(worker, given)

    parameters, arguments = [], []
    for name, each in endpoint.parameters.items():
        needed = each.default is None
        kind = each.type if needed else each.type | None
        default = inspect.Parameter.empty if needed else None
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        )
        arguments.append(f"    {name}: {describe_parameter(each)}.")
    result = dict[str, Any]
    function.__name__ = endpoint.name
    function.__signature__ = inspect.Signature(parameters, return_annotation=result)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": result}
    most = (
        f" A request may take {worker.most_calls:,} denoiser calls, each image's counted." if endpoint.computes else ""
    )
    lines = [f"{endpoint.summary}{most}", "", "Args:", *arguments, "", "Returns:", f"    {endpoint.returns}."]
    function.__doc__ = "\n".join(lines)
    return function


def describe_parameter(parameter: Parameter) -> str:
    """Describe a parameter: what it is, its range and its default.

    Args:
        parameter: of an endpoint.
    """
    return parameter.text + ("" if parameter.default is None else f"; default: {parameter.default}")


def describe_input(block: Any, parameter: Parameter) -> None:
    """Describe an input for `Client.view_api` and openapi.json, which gradio gives its type alone.

    Args:
        block: the input, of the class `Api`.
        parameter: what it is.
    """
    text = describe_parameter(parameter)
    block._api_info = {**block._api_info, "description": text, "additional_description": text}
    if parameter.low is not None:
        block._api_info |= {"minimum": parameter.low, "maximum": parameter.high}
    if parameter.default is not None and not isinstance(parameter.type, type(list[str])):
        block._api_info |= {"default": parameter.default}
