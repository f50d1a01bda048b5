"""The page's endpoint for programs, with the page's own checks.

from gradio_client import Client
Client("http://127.0.0.1:7860").predict("red apple", 7, api_name="/compare")["speed_up"]
"""

import base64
import logging
from typing import Any

import gradio as gr

from app.png import write_png
from app.results import Comparison
from app.services import ModelsError, Services
from app.settings import NAMES, Settings, SettingsError

SORRY = "Something went wrong on the server and has been logged; please try again."
log = logging.getLogger(__name__)


def build(services: Services) -> None:
    """Add the endpoint `/compare`; call it within a `gr.Blocks`."""

    def endpoint(
        prompt: str,
        seed: int = 0,
        steps: int = 50,
        guidance: float = 3.0,
        iterations: int = 5,
        bypass_start: int = 33,
        bypass_end: int = 49,
        finisher: float = 1.0,
        few_steps: int = 0,
    ) -> dict[str, Any]:
        values = (prompt, seed, steps, guidance, iterations, bypass_start, bypass_end, finisher, few_steps)
        return compare(services, dict(zip(NAMES, values, strict=True)))

    gr.api(
        endpoint,
        api_name="compare",
        api_description=compare.__doc__,
        concurrency_id="device",
        concurrency_limit=1,
    )


def compare(services: Services, values: dict[str, Any]) -> dict[str, Any]:
    """Both methods from the same noise: settings, U-Net calls, sampler seconds, speed-up, LPIPS, PNGs in base64.

    Raises:
        gr.Error: settings out of range, each with its name and accepted range.
    """
    try:
        settings = Settings.parse(values)
        *_, result = services.compare(settings, previews=False)
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
            "seconds": one.seconds,
            "png": base64.b64encode(png).decode(),
        }
    return {**answer, "speed_up": result.speed_up}
