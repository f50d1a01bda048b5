"""The page: its tabs in order, its theme, its queue."""

import os
from collections.abc import Callable, Collection
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import api
from app.checked_blocks import CheckedBlocks
from app.components.form import connect_form
from app.components.model_menu import ModelMenu, build_model_note, build_training_command
from app.device import DeviceWorker
from app.page_config import keep_sessions_small
from app.runs import AT_ONCE
from app.social import DESCRIPTION, TITLE
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
SCRIPTS = ("form.js", "page.js", "viewer.js", "figures.js", "talk.js")  # each is a function that is run once
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"  # shown at the page's foot
MAX_QUEUE = 2 * MAX_WAITING  # events of all kinds; computations alone are `MAX_WAITING`
# Larger type, and no controls (page.css); figures are drawn again by their own tabs.
PRESENT_JS = "(on) => window.latentcrf.present(on)"
# Once it is open: before, the page is too short to scroll there.
SHOW_GLOSSARY_JS = """() => {
    setTimeout(() => document.querySelector('#glossary').scrollIntoView({ behavior: 'smooth' }), 400);
}"""
PAPER = "https://arxiv.org/abs/2412.18596"


def build_app(worker: DeviceWorker) -> gr.Blocks:
    """Build the page; launch it with `list_launch_arguments(page)`.

    Args:
        worker: what computes.

    Returns:
        The page.
    """
    with CheckedBlocks(title=TITLE, analytics_enabled=False, fill_width=True) as app:
        with gr.Row(elem_id="top"):
            gr.HTML(write_header(), elem_id="header", padding=False)
            menu = ModelMenu(worker.catalog)
            glossary_button = gr.Button("Glossary", size="sm", scale=0, min_width=80, elem_id="open-glossary")
            presentation = gr.Checkbox(
                False, label="Presentation", container=False, min_width=140, elem_id="presentation"
            )
        presentation.change(None, presentation, None, js=PRESENT_JS, queue=False, api_visibility="private")
        build_model_note(menu)
        with gr.Tabs() as tabs:
            opened = app.load(read_view, None, [tabs, presentation], **AT_ONCE)
            with gr.Tab("Compare", id=COMPARE, elem_id=f"{COMPARE}-tab") as compare_tab:
                form = compare.build(worker, menu)
            follow_tab(compare_tab)
            for name, title, build in TABS:
                with gr.Tab(title, id=name, elem_id=f"{name}-tab") as tab:
                    build(TabContext(worker, menu, tabs, tab, form, presentation, opened))
                follow_tab(tab)
        build_training_command(menu)
        menu.connect()
        connect_form(worker.catalog, form)
        with gr.Accordion("Glossary", open=False, elem_id="glossary") as glossary:
            gr.Markdown(GLOSSARY.read_text(encoding="utf-8").removeprefix("# Glossary\n"))
        shown = glossary_button.click(lambda: gr.update(open=True), None, glossary, **AT_ONCE)
        shown.then(None, None, None, js=SHOW_GLOSSARY_JS, queue=False, api_visibility="private")
        api.build(worker)
    return keep_sessions_small(guard_queue(app.queue(max_size=MAX_QUEUE, api_open=False)))


def write_header() -> str:
    """Write the page's title with links to the paper and, on a Space, to the code and its documentation.

    Returns:
        HTML.
    """
    links = {"Paper": PAPER}
    if space := os.environ.get("SPACE_ID"):
        code = f"https://huggingface.co/spaces/{escape(space)}"
        links |= {"Code": f"{code}/tree/main", "Docs": f"{code}/tree/main/docs"}
    anchors = " ".join(f'<a href="{link}" target="_blank" rel="noopener">{name}</a>' for name, link in links.items())
    return f"<header><h1>LatentCRF</h1><p>{DESCRIPTION}</p><nav>{anchors}</nav></header>"


def follow_tab(tab: gr.Tab) -> None:
    """Let the page's address follow a tab when it is chosen.

    Args:
        tab: the tab.
    """
    tab.select(None, None, None, js=f"() => window.latentcrf.chooseTab('{tab.id}')", **AT_ONCE)


def read_view(request: gr.Request) -> list[Any]:
    """Read tab and presentation from the page's address: `?tab=frontier&presentation=1`.

    Args:
        request: of the page.

    Returns:
        Values for the row of tabs and the switch of the presentation mode; what the address does not name stays.
    """
    tab, is_presented = (request.query_params.get(name) for name in ("tab", "presentation"))
    return [
        gr.Tabs(selected=tab) if tab in {COMPARE, *(name for name, _, _ in TABS)} else gr.skip(),
        True if is_presented == "1" else gr.skip(),
    ]


def write_head() -> str:
    """Write what the page's head holds besides gradio's: the scripts, which run before anybody can type.

    Returns:
        HTML.
    """
    files = (STATIC / name for name in SCRIPTS)
    scripts = "".join(f"<script>({file.read_text(encoding='utf-8').strip()})();</script>" for file in files)
    return f'<meta name="description" content="{DESCRIPTION}">{scripts}'


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
        # of empty boxes: enough contrast to be seen
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        # of help texts and slider ends: enough contrast to be read
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
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
        "favicon_path": STATIC / "favicon.png",
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
