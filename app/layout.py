"""The page: its tabs in order, its theme, its queue."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import gradio as gr

from app import api
from app.components.form import connect_form
from app.components.model_menu import ModelMenu, build_model_note, build_training_command
from app.device import DeviceWorker
from app.runs import AT_ONCE
from app.tabs import COMPARE, TabContext, compare, convergence, diversity, frontier, method, variance
from app.upkeep import Upkeep
from app.visitor_queue import MAX_WAITING, guard_queue

# The analysis tabs after the compare tab: id, title, what builds it.
TABS: tuple[tuple[str, str, Callable[[TabContext], None]], ...] = (
    ("variance", "Latent variance", variance.build),
    ("convergence", "CRF convergence", convergence.build),
    ("diversity", "Diversity", diversity.build),
    ("frontier", "Frontier", frontier.build),
    ("method", "Method", method.build),
)
STATIC = Path(__file__).with_name("static")
SCRIPTS = ("form.js", "figures.js", "talk.js")  # each is a function that is run once
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"  # shown at the page's foot
MAX_QUEUE = 2 * MAX_WAITING  # events of all kinds; computations alone are `MAX_WAITING`
# Larger type, and no controls (page.css); figures are drawn again by their own tabs.
PRESENT_JS = "(on) => { document.body.classList.toggle('presentation', on); }"
# Once it is open: before, the page is too short to scroll there.
SHOW_GLOSSARY_JS = """() => {
    setTimeout(() => document.querySelector('#glossary').scrollIntoView({ behavior: 'smooth' }), 400);
}"""
HEADER = """<header><h1>LatentCRF</h1><p>Fewer denoiser calls, nearly the same picture: a small CRF does part of a
latent diffusion model's work.</p></header>"""


def build_app(worker: DeviceWorker) -> gr.Blocks:
    """Build the page; launch it with `list_launch_arguments(page)`.

    Args:
        worker: what computes.

    Returns:
        The page.
    """
    with gr.Blocks(title="LatentCRF", analytics_enabled=False, fill_width=True) as app:
        with gr.Row(elem_id="top"):
            gr.HTML(HEADER, elem_id="header", padding=False)
            menu = ModelMenu(worker.catalog)
            glossary_button = gr.Button("Glossary", size="sm", scale=0, min_width=80, elem_id="open-glossary")
            presentation = gr.Checkbox(
                False, label="Presentation", container=False, min_width=140, elem_id="presentation"
            )
        presentation.change(None, presentation, None, js=PRESENT_JS, queue=False, api_visibility="private")
        build_model_note(menu)
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id=COMPARE, elem_id=f"{COMPARE}-tab"):
                form = compare.build(worker, menu)
            for name, title, build in TABS:
                with gr.Tab(title, id=name, elem_id=f"{name}-tab") as tab:
                    build(TabContext(worker, menu, tabs, tab, form, presentation))
        build_training_command(menu)
        menu.connect()
        connect_form(worker.catalog, form)
        with gr.Accordion("Glossary", open=False, elem_id="glossary") as glossary:
            gr.Markdown(GLOSSARY.read_text(encoding="utf-8").removeprefix("# Glossary\n"))
        opened = glossary_button.click(lambda: gr.update(open=True), None, glossary, **AT_ONCE)
        opened.then(None, None, None, js=SHOW_GLOSSARY_JS, queue=False, api_visibility="private")
        api.build(worker)
    return guard_queue(app.queue(max_size=MAX_QUEUE, api_open=False))


def write_head() -> str:
    """Write what the page's head holds besides gradio's: the scripts, which run before anybody can type.

    Returns:
        HTML.
    """
    return "".join(f"<script>({(STATIC / name).read_text(encoding='utf-8').strip()})();</script>" for name in SCRIPTS)


def list_launch_arguments(page: gr.Blocks, hosts: Collection[str] = ()) -> dict[str, Any]:
    """List what `launch` needs for this page: its theme, what is closed to visitors, and the server's own tasks.

    Args:
        page: as of `build_app`.
        hosts: names under which the page is asked for, as of `RequestGuard`; default any.

    Returns:
        Keyword arguments.
    """
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "SF Mono", "Consolas", "Liberation Mono", "monospace")
    theme = gr.themes.Base(primary_hue="slate", neutral_hue="slate", font=fonts, font_mono=mono).set(
        layout_gap="10px",
        button_primary_background_fill="*primary_800",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_200",
        button_primary_background_fill_hover_dark="*primary_100",
        button_primary_text_color_dark="*primary_900",
        slider_color="*primary_600",
        slider_color_dark="*primary_300",
    )
    return {
        "theme": theme,
        "css_paths": [STATIC / "page.css", STATIC / "talk.css"],
        "head": write_head(),
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "max_file_size": "20mb",
        "state_session_capacity": 500,
        "app_kwargs": Upkeep(page, hosts).list_app_arguments(),
    }
