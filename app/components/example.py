"""Where an analysis tab shows its stored example: the sentence about it, and the events that bring it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr

from app.device import DeviceWorker
from app.runs import AT_ONCE
from app.tabs import TabContext

DRAW_LIVE = "<b>Draw</b> computes it live."


def build_example(name: str) -> gr.HTML:
    """Build the place of the sentence that says what the stored example is; a run empties it.

    Args:
        name: of the tab.

    Returns:
        The place.
    """
    return gr.HTML(elem_id=f"{name}-example", padding=False)


def find_outcome(worker: DeviceWorker, model: str, name: str) -> Any:
    """Find a tab's stored example.

    Args:
        worker: reads it.
        model: name of the model that the page shows.
        name: of the example.

    Returns:
        The tab's outcome; None for a model that the examples were not made with, and where there is no example.
    """
    return worker.call("read_example", name) if worker.catalog.get(model).is_embedded else None


def connect_example(context: TabContext, show: Callable[[str, bool], list[Any]], outputs: list[Any]) -> None:
    """Show the stored example when the tab is opened first, and when another model is chosen.

    Args:
        context: of the tab.
        show: gives values for `outputs`, from the model's name and whether the page is in presentation mode.
        outputs: the tab's outcome, then all that shows it.
    """
    model, presentation = context.menu.dropdown, context.presentation
    show_once = cache(show)  # for all visitors

    def show_copy(name: str, is_presented: bool) -> list[Any]:
        # gradio takes an update's value out of it
        return [dict(value) if isinstance(value, dict) else value for value in show_once(name, is_presented)]

    def show_first(outcome: Any, name: str, is_presented: bool) -> list[Any]:
        return [gr.skip()] * len(outputs) if outcome is not None else show_copy(name, is_presented)

    context.tab.select(show_first, [outputs[0], model, presentation], outputs, **AT_ONCE)
    model.change(show_copy, [model, presentation], outputs, **AT_ONCE)
