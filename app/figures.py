"""A figure: a listener on its marks, and links that save what is drawn as PNG, SVG, or its values as CSV (page.js)."""

import gradio as gr


def listening(name: str, event: str, handler: str) -> str:
    """JavaScript that puts `handler`, an arrow function of plotly's event, on the figure `name`; to be run at each of its
    changes, as gradio may draw it into a new element."""
    return f"""() => {{
    const hook = () => {{
        const plot = document.querySelector('#{name} .js-plotly-plot');
        if (!plot || !plot.on) return setTimeout(hook, 300);
        if (plot.hooked) return;
        plot.hooked = true;
        plot.on('{event}', {handler});
    }};
    setTimeout(hook, 300);
}}"""


def build_figure(name: str, *, table: bool = True) -> gr.Plot:
    """A place for a figure, its element's id `name`, and below it the links that download it.

    Args:
        table: whether the figure shows values; pictures alone have no CSV.
    """
    drawn = gr.Plot(show_label=False, container=False, elem_id=name)
    formats = ("png", "svg", "csv")[: 3 if table else 2]
    links = "".join(
        f'<button type="button" data-plot="{name}" data-format="{kind}">{kind.upper()}</button>' for kind in formats
    )
    gr.HTML(f'<p class="downloads controls">Download {links}</p>', padding=False)
    return drawn
