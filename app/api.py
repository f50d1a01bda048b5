"""The page's endpoint for programs, with the page's own checks.

from gradio_client import Client
Client("http://127.0.0.1:7860").predict("red apple", 7, api_name="/compare")["speed_up"]
"""

import base64
import inspect
import logging
from typing import Any, get_type_hints

import gradio as gr

from app.device import DeviceWorker
from app.models_file import ModelsError
from app.png import write_png
from app.results import Comparison
from app.runs import SORRY
from app.settings import DECLARATIONS, NAMES, Settings, SettingsError

log = logging.getLogger(__name__)


def build(worker: DeviceWorker) -> None:
    """Add the endpoint `/compare`; call it within a `gr.Blocks`.

    Args:
        worker: what computes.
    """

    def endpoint(*values: Any) -> dict[str, Any]:
        return compare(worker, dict(zip(NAMES, values, strict=True)))

    describe_endpoint(endpoint, worker.catalog.default.defaults)
    gr.api(
        endpoint,
        api_name="compare",
        api_description=endpoint.__doc__,
        concurrency_id="device",
        concurrency_limit=1,
    )


def describe_endpoint(endpoint: Any, defaults: Settings) -> None:
    """Give a function of all settings its signature and its docstring, from their declarations.

    All but the prompt may be left out: the model's defaults stand for them.

    Args:
        endpoint: the function; gradio reads both from it.
        defaults: of the first model, which the docstring names.
    """
    hints = {name: hint for name, hint in get_type_hints(Settings).items() if name in NAMES}
    types = {name: hint if name == "prompt" else hint | None for name, hint in hints.items()}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if name == "prompt" else None,
            annotation=kind,
        )
        for name, kind in types.items()
    ]
    result = dict[str, Any]
    endpoint.__signature__ = inspect.Signature(parameters, return_annotation=result)
    endpoint.__annotations__ = {**types, "return": result}
    values = {name: "" if name == "prompt" else f"; default of the first model: {getattr(defaults, name)}"
              for name in NAMES}  # fmt: skip
    arguments = "\n".join(f"    {name}: {each.info}{values[name]}." for name, each in DECLARATIONS.items())
    endpoint.__doc__ = (
        "Draw a prompt by the full run and by LatentCRF, from the same noise.\n\n"
        f"Args:\n{arguments}\n\n"
        "Returns:\n"
        "    settings, made_by, lpips, speed_up, and for full and latentcrf each: denoiser_calls, network_evaluations, "
        "seconds of the sampler, is_blocked (by the model's safety checker), png in base64.\n"
    )


def compare(worker: DeviceWorker, values: dict[str, Any]) -> dict[str, Any]:
    """Run both methods from the same noise.

    Args:
        worker: what computes.
        values: settings by name.

    Returns:
        Settings, what made the images, LPIPS, speed-up, and each method's denoiser calls, network evaluations, sampler
        seconds, whether it is blocked, and PNG in base64.

    Raises:
        gr.Error: settings out of range, each with its name and accepted range; or another problem, as a sentence.
    """
    try:
        settings = worker.catalog.parse({name: value for name, value in values.items() if value is not None})
        *_, result = worker.stream("compare", settings, False, model=settings.model)
        assert isinstance(result, Comparison)
    except (SettingsError, ModelsError) as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception:
        log.exception("comparison failed")
        raise gr.Error(SORRY, print_exception=False) from None
    answer = {"settings": settings.as_dict(), "made_by": result.origin, "lpips": result.lpips}
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
