"""The button that exports what a tab found."""

import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.device import DeviceWorker
from app.runs import AT_ONCE
from app.visitor_files import make_folder

WRITING = threading.BoundedSemaphore(2)  # exports at a time: each takes a second and some memory


def build_export(
    worker: DeviceWorker, name: str, outcome: gr.State, list_arguments: Callable[[Any], list[Any]]
) -> None:
    """Build a button that writes the tab's ZIP, and one that downloads it once it is there.

    Args:
        worker: calls the export.
        name: of the tab.
        outcome: holds what the tab found, or None.
        list_arguments: the export's name in `app.work` and its arguments, from the state's value.
    """
    write_button = gr.Button("Export as ZIP", size="sm", min_width=120, elem_id=f"{name}-export")
    file = gr.DownloadButton("Download the ZIP", size="sm", visible=False, min_width=120, elem_id=f"{name}-zip")

    def write(value: Any) -> Any:
        if value is None:
            return gr.update(visible=True, value=None, label="Nothing to export yet")
        with WRITING:
            path = worker.call("write_export", make_folder() / f"latentcrf-{name}.zip", *list_arguments(value))
        return gr.update(visible=True, value=str(path), label="Download the ZIP")

    write_button.click(write, outcome, file, **AT_ONCE)
