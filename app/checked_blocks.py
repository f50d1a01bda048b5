"""The page's handlers: what cannot be read of a request is kept apart from what goes wrong in our own code.

gradio logs a traceback and answers 500 in either case.
"""

import logging
import traceback
from typing import Any

import gradio as gr

from app.callback_stream import Cancelled
from app.models_file import ModelsError
from app.settings import SettingsError

OURS = ("app", "analysis", "latentcrf")  # packages
CHECKS = ("app.checked_blocks", "app.request_guard")  # modules through which every request goes
ROUTES = "fastapi.routing"  # the module that calls what answers a request
REFUSED = "latentcrf.refused"  # in the scope of a request that its sender can mend: `RequestGuard` answers 400
SORRY = "Something went wrong on the server and has been logged; please try again."
STOPPED = "Stopped: nobody waits for this run."
UNREADABLE_VALUES = "A value of this request is not of its field's type, or not among its field's choices."
log = logging.getLogger(__name__)


class UnreadableValuesError(Exception):
    """gradio cannot read the values of a request."""


class CheckedBlocks(gr.Blocks):
    """A page whose handlers fail with a sentence. Faults of ours are logged with their traceback, others in a line."""

    async def preprocess_data(self, block_fn: Any, inputs: Any, *rest: Any, **options: Any) -> list[Any]:
        """Read a request's values.

        Raises:
            UnreadableValuesError: they cannot be read.
        """
        try:
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                check_value(block, value)
            return await super().preprocess_data(block_fn, inputs, *rest, **options)
        except Exception as error:
            raise UnreadableValuesError from error

    async def call_function(self, *values: Any, **options: Any) -> Any:
        """Call a handler.

        Raises:
            UnreadableValuesError: what a request says of its event cannot be read.
            Exception: whatever the handler raises.
        """
        try:
            return await super().call_function(*values, **options)
        except Exception as error:
            if is_ours(error):
                raise
            raise UnreadableValuesError from error

    async def process_api(self, block_fn: Any, *values: Any, **options: Any) -> dict[str, Any]:
        """Answer a request.

        Raises:
            gr.Error: the values are wrong, or the handler fails.
        """
        name = getattr(block_fn, "name", block_fn)
        try:
            return await super().process_api(block_fn, *values, **options)
        except gr.Error:
            raise
        except (UnreadableValuesError, SettingsError, ModelsError, Cancelled) as error:
            log.warning("%s refused: %s", name, type(error.__cause__ or error).__name__)  # no prompts in the log
            scope = getattr(getattr(options.get("request"), "request", None), "scope", {})
            scope[REFUSED] = not isinstance(error, ModelsError)
            sentence = UNREADABLE_VALUES if isinstance(error, UnreadableValuesError) else str(error) or STOPPED
        except Exception:
            log.exception("%s failed", name)
            sentence = SORRY
        raise gr.Error(sentence, print_exception=False)


def check_value(block: Any, value: Any) -> None:
    """Check that a field of one value is given one.

    Args:
        block: the field.
        value: of the request.

    Raises:
        TypeError: it is a list or an object.
    """
    holds_one = isinstance(block, gr.Textbox | gr.Number | gr.Slider | gr.Checkbox | gr.Radio | gr.HTML)
    holds_one |= isinstance(block, gr.Dropdown) and not block.multiselect
    if holds_one and isinstance(value, list | dict):
        raise TypeError(f"{block} is given a {type(value).__name__}")


def is_ours(error: BaseException) -> bool:
    """Tell whether an error comes from our own code, below what every request goes through: checks and middleware.

    Args:
        error: that was raised.
    """
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    if ROUTES in modules:  # before them is middleware, which passes on what gradio raises
        modules = modules[len(modules) - modules[::-1].index(ROUTES) :]
    return any(name.partition(".")[0] in OURS and name not in CHECKS for name in modules)
