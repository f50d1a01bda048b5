"""A figure's place on a page: the figure, and links that save it as PNG or SVG (figures.js), its table as CSV."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True)
class FigurePlace:
    """Where a figure is drawn.

    Attributes:
        plot: the figure.
        links: the links below it.
        note: how to read it, below the links; None: there is none.
    """

    plot: gr.Plot
    links: gr.HTML
    note: gr.HTML | None

    @property
    def outputs(self) -> list[Any]:
        """Both, as outputs of a handler; `show_figures` gives their values."""
        return [self.plot, self.links]


def build_figure(name: str, note: str | None = None) -> FigurePlace:
    """Build an empty place for a figure. It is not seen while it is empty (page.css).

    Args:
        name: id of the plot's element.
        note: HTML: how to read the figure; None: there is no note.

    Returns:
        The place.
    """
    with gr.Column(elem_classes="figure"):
        plot = gr.Plot(show_label=False, container=False, elem_id=name)
        links = gr.HTML(elem_id=f"{name}-links", padding=False)
        return FigurePlace(plot, links, None if note is None else gr.HTML(note, padding=False))


def show_figures(
    prefix: str, names: Sequence[str], figures: Mapping[str, tuple[go.Figure, pd.DataFrame | None]]
) -> list[Any]:
    """Give values for `FigurePlace.outputs` of several figures.

    Args:
        prefix: of the elements' ids: that of a figure is `PREFIX-NAME`.
        names: of the figures, in the order of the outputs.
        figures: each with its table; None where it shows pictures alone.

    Returns:
        Two values a figure.
    """
    values: list[Any] = []
    for name in names:
        figure, table = figures[name]
        values += [figure, link_downloads(f"{prefix}-{name}", table)]
    return values


def link_downloads(name: str, table: pd.DataFrame | None = None) -> str:
    """Write the links below a figure.

    Args:
        name: id of the plot's element.
        table: what the figure was drawn from; it is inside the link. None: there is no CSV.

    Returns:
        HTML.
    """
    links = "".join(
        f'<button type="button" data-plot="{name}" data-format="{kind}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    if table is not None:
        content = base64.b64encode(table.to_csv(index=False, float_format="%.6g").encode()).decode()
        links += f'<a download="latentcrf-{name}.csv" href="data:text/csv;base64,{content}">CSV</a>'
    return f'<p class="downloads controls">Download {links}</p>'


def attach_listener_js(name: str, event: str, handler: str) -> str:
    """Write JavaScript that attaches a listener to a figure.

    Args:
        name: id of the plot's element.
        event: of plotly, "plotly_click".
        handler: an arrow function of that event.

    Returns:
        A function to be run at each change of the figure, as gradio may draw it into a new element.
    """
    return f"""() => {{
    const attach = () => {{
        const plot = document.querySelector('#{name} .js-plotly-plot');
        if (!plot || !plot.on) return setTimeout(attach, 300);
        if (plot.dataset.listens) return;
        plot.dataset.listens = 'yes';
        plot.on('{event}', {handler});
    }};
    setTimeout(attach, 300);
}}"""
