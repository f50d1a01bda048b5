"""Screenshots of the page: python -m tests.browser.screenshots --out DIR

All tabs at first sight (first-TAB-...), then the compare tab after a comparison. Desktop (1440x900), projector
(1280x720) and phone (390x844), each in light and dark, and the whole page on a desktop.
"""

import argparse
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser

from app.layout import TABS
from app.tabs import COMPARE
from tests.browser.driving import PATIENCE, browsing, served, slow_down, wait_until_done

SIZES = {"desktop": (1440, 900), "projector": (1280, 720), "phone": (390, 844)}


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
    parser.add_argument("--first-only", action="store_true", help="only the first sight of each tab: nothing is run")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.url:
        take(options.url, options)
        return
    with served(*(["--model", options.model] if options.model else []), log=options.out / "app.log") as url:
        take(url, options)


def take_first_sights(browser: Browser, url: str, out: Path, latency: float) -> None:
    """Write each tab as it is before anything was run."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    slow_down(page, latency)
    page.goto(f"{url}?__theme=light")
    for name, title in {COMPARE: "Compare", **{name: title for name, title, _ in TABS}}.items():
        page.get_by_role("tab", name=title, exact=True).click()
        shown = {COMPARE: "#latentcrf img", "method": "#method-tab .sprite"}
        page.locator(shown.get(name, f"#{name}-tab .js-plotly-plot .main-svg")).first.wait_for()
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for scheme in ("light", "dark"):
                page.evaluate(f"document.body.classList.toggle('dark', {'true' if scheme == 'dark' else 'false'})")
                page.wait_for_timeout(1500)
                page.screenshot(path=out / f"first-{name}-{size}-{scheme}.png")
        page.screenshot(path=out / f"first-{name}-whole.png", full_page=True)
        page.set_viewport_size(dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
    page.close()


def take(url: str, options: argparse.Namespace) -> None:
    """Compare once and write the page in each size and colour scheme."""
    with browsing() as browser:
        take_first_sights(browser, url, options.out, options.latency)
        if options.first_only:
            return
        page = browser.new_page(viewport=dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
        page.goto(f"{url}?prompt={quote(options.prompt)}&seed={options.seed}&{options.settings}&__theme=light")
        page.wait_for_function(
            f"document.querySelector('#prompt textarea, #prompt input')?.value == {options.prompt!r}"
        )
        page.click("#compare-start")
        wait_until_done(page)
        for size, (width, height) in SIZES.items():
            page.evaluate("window.scrollTo(0, 0)")
            page.set_viewport_size({"width": width, "height": height})
            for scheme in ("light", "dark"):
                page.evaluate(f"document.body.classList.toggle('dark', {'true' if scheme == 'dark' else 'false'})")
                page.wait_for_timeout(1000)
                page.screenshot(path=options.out / f"{size}-{scheme}.png")
            page.evaluate("document.body.classList.remove('dark')")
            if size != "projector":
                page.click("#settings button")
                page.wait_for_timeout(1000)
                page.screenshot(path=options.out / f"{size}-whole.png", full_page=True)
                page.click("#settings button")


if __name__ == "__main__":
    main()
