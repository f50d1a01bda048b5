"""Screenshots of the page: python -m tests.browser.screenshots --out DIR

Each tab with its stored result, as a visitor sees it first (first-TAB-...), and in presentation (presentation-TAB-...);
then the compare tab after a comparison. Desktop (1440x900), projector (1280x720) and phone (390x844), each in light and
dark. A phone has no presentation.
"""

import argparse
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page

from app.layout import TABS
from app.tabs import COMPARE
from tests.browser.driving import PATIENCE, browsing, served, slow_down, wait_until_done

SIZES = {"desktop": (1440, 900), "projector": (1280, 720), "phone": (390, 844)}
TITLES = {COMPARE: "Compare", **{name: title for name, title, _ in TABS}}
SHOWN = {COMPARE: "#latentcrf img", "method": "#method-tab .sprite"}  # else a figure
SETTLED = 500  # ms after another size: figures are fitted every 250
LOADED = """() => [...document.querySelectorAll('img')].every(
    (image) => image.complete || !image.getClientRects().length || image.getBoundingClientRect().top > innerHeight
)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the PNGs to")
    parser.add_argument("--prompt", default="red apple", help="what to draw (default: red apple)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument(
        "--settings", default="", help="more settings, as in a link: steps=12&bypass_start=6&bypass_end=11"
    )
    parser.add_argument("--model", default=None, help="model that is shown, as for app.py")
    parser.add_argument("--url", default=None, help="a page that runs already; without it one is started")
    parser.add_argument("--latency", type=float, default=0, help="ms more for each request at first sight (default 0)")
    parser.add_argument("--first-only", action="store_true", help="only the stored results: nothing is run")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.url:
        take(options.url, options)
        return
    with served(*(["--model", options.model] if options.model else []), log=options.out / "app.log") as url:
        take(url, options)


def set_size(page: Page, size: str) -> None:
    """Give the page a size, at its top, and wait until it is laid out."""
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(SETTLED)
    page.wait_for_function(LOADED)


def write_schemes(page: Page, path: Path) -> None:
    """Write the screen in light and dark, to PATH-light.png and PATH-dark.png."""
    for scheme in ("dark", "light"):
        page.evaluate("(is_dark) => document.body.classList.toggle('dark', is_dark)", scheme == "dark")
        page.screenshot(path=f"{path}-{scheme}.png", animations="disabled")


def take_tabs(browser: Browser, url: str, path: Path, sizes: Collection[str], latency: float = 0) -> None:
    """Write each tab as it is before anything was run, to PATH-TAB-SIZE-SCHEME.png.

    Args:
        browser: takes them.
        url: of the page, with a query.
        path: what the names begin with.
        sizes: of `SIZES`; at the first each tab's name is in sight.
        latency: ms more for each request, default 0.
    """
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    slow_down(page, latency)
    set_size(page, next(iter(sizes)))
    page.goto(url)
    for name, title in TITLES.items():
        page.get_by_role("tab", name=title, exact=True).click()
        page.locator(SHOWN.get(name, f"#{name}-tab .js-plotly-plot .main-svg")).first.wait_for()
        for size in sizes:
            set_size(page, size)
            write_schemes(page, Path(f"{path}-{name}-{size}"))
        page.set_viewport_size(dict(zip(("width", "height"), SIZES[next(iter(sizes))], strict=True)))
    page.close()


def take(url: str, options: argparse.Namespace) -> None:
    """Write the tabs, then compare once and write the page in each size and colour scheme."""
    with browsing() as browser:
        take_tabs(browser, f"{url}?__theme=light", options.out / "first", SIZES, options.latency)
        presented = [size for size in SIZES if size != "phone"]
        take_tabs(browser, f"{url}?__theme=light&presentation=1", options.out / "presentation", presented)
        if options.first_only:
            return
        page = browser.new_page(viewport=dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
        page.goto(f"{url}?prompt={quote(options.prompt)}&seed={options.seed}&{options.settings}&__theme=light")
        page.wait_for_function(
            f"document.querySelector('#prompt textarea, #prompt input')?.value == {options.prompt!r}"
        )
        page.click("#compare-start")
        wait_until_done(page)
        for size in SIZES:
            set_size(page, size)
            write_schemes(page, options.out / size)
            if size != "projector":
                page.click("#settings button")
                page.wait_for_timeout(SETTLED)
                page.screenshot(path=options.out / f"{size}-whole.png", full_page=True, animations="disabled")
                page.click("#settings button")


if __name__ == "__main__":
    main()
