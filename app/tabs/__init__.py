"""One module a tab: `build` lays it out and connects it; its handlers are module-level functions of plain values."""

from dataclasses import dataclass

import gradio as gr
from gradio.events import Dependency

from app.components.form import Form
from app.components.model_menu import ModelMenu
from app.device import DeviceWorker


@dataclass(frozen=True)
class TabContext:
    """What an analysis tab is built into.

    Attributes:
        worker: what computes.
        menu: of the models.
        tabs: the row of tabs, to switch them.
        tab: the tab itself.
        form: the compare tab's, to fill it.
        presentation: the switch of the presentation mode.
        opened: the event that the page was opened and `presentation` is as its address says.
    """

    worker: DeviceWorker
    menu: ModelMenu
    tabs: gr.Tabs
    tab: gr.Tab
    form: Form
    presentation: gr.Checkbox
    opened: Dependency


COMPARE = "compare"  # the compare tab's id
