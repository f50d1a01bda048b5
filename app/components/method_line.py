"""The line of an analysis tab that names LatentCRF's setting, which the compare tab's form holds for all tabs."""

import gradio as gr

from app.components import html
from app.runs import AT_ONCE
from app.tabs import COMPARE, TabContext


def build_method_line(context: TabContext, name: str) -> None:
    """Build the line, with a button that opens the compare tab's settings. It follows the form.

    A run reads the setting from `context.form.method`: `app.settings.name_method` names the values, `Settings.parse`
    checks them.

    Args:
        context: of the tab.
        name: of the tab: the line's id is `NAME-method-line`, the button's `NAME-change-method`.
    """
    model_set = context.worker.catalog.default
    with gr.Row(elem_classes="method-line"):
        text = html.format_method(model_set, model_set.defaults)
        context.form.lines.append(gr.HTML(text, padding=False, elem_id=f"{name}-method-line"))
        change = gr.Button("Change on Compare", size="sm", scale=0, min_width=140, elem_id=f"{name}-change-method")
    change.click(
        lambda: (gr.Tabs(selected=COMPARE), gr.Accordion(open=True)),
        None,
        [context.tabs, context.form.accordion],
        **AT_ONCE,
    )
