"""Screenshots of the page after a comparison: python -m tests.browser.screenshots --out DIR

Desktop (1440x900), projector (1280x720) and phone (390x844), each in light and dark, and the whole page on a desktop.
"""

import argparse
from pathlib import Path

from tests.browser.driving import ask, browsing, served, wait_until_done

SIZES = {"desktop": (1440, 900), "projector": (1280, 720), "phone": (390, 844)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the PNGs to")
    parser.add_argument("--prompt", default="red apple", help="what to draw (default: red apple)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--models", default=None, help="folder of the models, as for app.py")
    parser.add_argument("--url", default=None, help="a page that runs already; without it one is started")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.url:
        take(options.url, options)
        return
    with served(*(["--models", options.models] if options.models else []), log=options.out / "app.log") as url:
        take(url, options)


def take(url: str, options: argparse.Namespace) -> None:
    """Compare once in each size and colour scheme and write the pictures."""
    with browsing() as browser:
        for size, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.goto(f"{url}?prompt=x&seed={options.seed}&__theme={scheme}")
                page.wait_for_selector("#compare")
                page.wait_for_timeout(1500)
                ask(page, options.prompt)
                wait_until_done(page)
                page.wait_for_timeout(1500)
                page.screenshot(path=options.out / f"{size}-{scheme}.png")
                if scheme == "light":
                    page.click("#settings button")
                    page.wait_for_timeout(700)
                    page.screenshot(path=options.out / f"{size}-whole.png", full_page=True)
            page.close()


if __name__ == "__main__":
    main()
