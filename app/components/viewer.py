"""The view of a comparison's two images: a divider to drag, or their difference; all share zoom and position.

`viewer.js` takes the images from the elements `full` and `latentcrf`, and does the rest in the browser.
"""

import gradio as gr

from app.components import html

FACTORS = (1, 4, 8, 16, 32)  # that multiply the difference
DEFAULT_FACTOR = 8
FULL_SCREEN_ICON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/></svg>'
)


def build_viewer() -> gr.HTML:
    """Build the view of the two images; page.css hides it until one of them is there.

    Returns:
        The component, which no handler changes.
    """
    factors = "".join(
        f'<option value="{factor}"{" selected" if factor == DEFAULT_FACTOR else ""}>× {factor}</option>'
        for factor in FACTORS
    )
    headings = (
        f'<div class="slid">{html.format_heading("Drag to compare", "full left, CRF right")}</div>'
        f'<div class="difference">{html.format_heading("Difference", "black where equal")}</div>'
    )
    return gr.HTML(
        f"""<div id="viewer" data-view="slide">{headings}
<div id="slider"><div class="half slid"><img alt="The full run's image, left of the divider"></div>
<div class="half over slid"><img alt="LatentCRF's image, right of the divider"></div><i class="divider slid"></i>
<input class="slid" type="range" min="0" max="100" value="50" aria-label="Divider between the two images">
<canvas class="difference" role="img" aria-label="Difference of the two images, amplified"></canvas></div>
<div class="view-tools" role="toolbar" aria-label="View of the images; arrow keys move what is zoomed">
<select data-role="view" aria-label="View"><option value="slide">Slide</option>
<option value="difference">Difference</option></select>
<select class="difference" data-role="factor" aria-label="Factor of the difference">{factors}</select>
<button type="button" data-act="out" aria-label="Zoom out" title="Zoom out: all images">−</button>
<button type="button" data-act="in" aria-label="Zoom in" title="Zoom in: all images">+</button>
<button type="button" data-act="one" title="One pixel of an image is one of the screen">1:1</button>
<button type="button" data-act="pixels" aria-pressed="false" title="Show pixels as squares">Pixels</button>
<button type="button" data-act="fill" aria-label="Full screen" title="Full screen">{FULL_SCREEN_ICON}</button>
</div></div>""",
        padding=False,
    )
