"""A tab's handler under the page's own driver, and the page's worker with a tiny pipeline."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from app import api
from app.device import DeviceWorker
from app.loaded_models import LoadedModels
from app.models import read_catalog
from app.runs import Handler, Run, RunCounter, drive
from latentcrf import LatentCRF

CATALOG = read_catalog()
EMOJI = CATALOG.models["emoji"]


def run_tab(
    handler: Handler,
    worker: Any,
    arguments: Sequence[Any],
    num_outputs: int,
    counter: RunCounter | None = None,
    model: str = "emoji",
) -> Iterator[list[Any]]:
    """Yield what the page is given: status, start, cancel, then the tab's outputs."""
    run = Run(worker, 1, counter or RunCounter(last=1), model)
    yield from drive(handler, run, arguments, lambda: ["restored"] * num_outputs, num_outputs)


def build_tiny_worker(pipeline: StableDiffusionPipeline, crf: LatentCRF) -> DeviceWorker:
    """The page's worker with models of random weights in the place of the loaded ones."""
    worker = DeviceWorker()
    nothing = nn.Identity()
    models = LoadedModels(EMOJI, pipeline, crf, crf, nothing, nothing, torch.float32, torch.zeros(5, 3))
    worker._loaded["emoji"] = models
    return worker


def ask_api(worker: Any, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Answer as the API's endpoint does; None stands for a parameter that was left out."""
    endpoint = next(each for each in api.list_endpoints(worker) if each.name == name)
    return endpoint.answer(worker, {key: value for key, value in values.items() if value is not None})
