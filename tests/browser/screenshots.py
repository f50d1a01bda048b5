"""Screenshots of the page after a comparison: python -m tests.browser.screenshots --out DIR

Desktop (1440x900), projector (1280x720) and phone (390x844), each in light and dark, and the whole page on a desktop.
"""

import argparse
from pathlib import Path
from urllib.parse import quote

from tests.browser.driving import browsing, served, wait_until_done

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
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.url:
        take(options.url, options)
        return
    with served(*(["--model", options.model] if options.model else []), log=options.out / "app.log") as url:
        take(url, options)


def take(url: str, options: argparse.Namespace) -> None:
    """Compare once and write the page in each size and colour scheme."""
    with browsing() as browser:
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
