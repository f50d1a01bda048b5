"""The style of all figures: one colour and mark a method (Okabe and Ito's palette), type that a room can read."""

import plotly.graph_objects as go

from analysis.studies import EQUAL_CALLS, FEW_STEPS, FULL_RUN, LATENTCRF, ZERO_PARAMETER_BYPASS

# Colour, marker symbol and dash: colour alone does not distinguish methods for all readers.
METHODS = {
    FULL_RUN: ("#0072b2", "circle", "solid"),
    LATENTCRF: ("#d55e00", "star", "solid"),
    ZERO_PARAMETER_BYPASS: ("#8c8c8c", "x", "dot"),
    EQUAL_CALLS: ("#009e73", "square", "dash"),
    FEW_STEPS: ("#cc79a7", "triangle-down", "dashdot"),
}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")  # where nothing is a method
BELOW = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0}  # a legend under the axis' title
FONT_SIZE, PRESENTATION_FONT_SIZE = 15, 22
SUBPLOT_TITLE_SIZE = 16  # plotly's


def apply_style(
    figure: go.Figure, title: str, *, presentation: bool = False, on_page: bool = False, height: int = 560
) -> go.Figure:
    """Give a figure its title and the style that all figures share.

    Args:
        figure: is changed.
        title: above it.
        presentation: type large enough for the back of a room; default False.
        on_page: transparent, so that the page's light or dark background shows (the page recolours the text), and as
            wide as there is room; False (default): white and 1180 px wide, for files.
        height: in px, default 560; 1.15 times as much with `presentation`.

    Returns:
        The same figure.
    """
    size = PRESENTATION_FONT_SIZE if presentation else FONT_SIZE
    figure.update_layout(
        title={
            "text": title,
            "font": {"size": round(1.15 * size)},
            "x": 0.01,
            "xanchor": "left",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": size},
        },
        template="plotly_white",
        font={"size": size},
        height=round(1.15 * height) if presentation else height,
        margin={"l": 5 * size, "r": 2 * size, "t": 4 * size, "b": 4 * size},
        # not the mark's colour, on which white or black text may be hard to read
        hoverlabel={"bgcolor": "#1e293b", "bordercolor": "#94a3b8", "font": {"color": "#ffffff", "size": size}},
    )
    figure.for_each_annotation(  # the titles of subplots, for which plotly has a size of its own
        lambda note: note.update(font={"size": size}) if note.font.size == SUBPLOT_TITLE_SIZE else None
    )
    figure.update_xaxes(automargin=True, gridcolor="rgba(128, 140, 160, 0.3)", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor="rgba(128, 140, 160, 0.3)", zeroline=False)
    if on_page:
        clear = "rgba(0, 0, 0, 0)"
        figure.update_layout(paper_bgcolor=clear, plot_bgcolor=clear, autosize=True, modebar={"bgcolor": clear})
    else:
        figure.update_layout(width=1180)
    return figure


def tint(colour: str, opacity: float = 0.18) -> str:
    """Make a colour transparent, for bands.

    Args:
        colour: "#rrggbb".
        opacity: 0 to 1, default 0.18.

    Returns:
        "rgba(...)".
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
