"""The real app.py in a process of its own, and a Chromium to look at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 150_000  # milliseconds: a busy machine is slow, not broken

# What in sight says that something is missing: empty boxes, captions and links below nothing, broken images.
NOTHING = """() => {
    const find = (selector) => [...document.querySelectorAll(selector)].filter((each) => each.getClientRects().length);
    const rows = find('.diversity-row').length, numbers = find('.row-number').length;
    return [
        ...find('.tabitem .empty').map((each) => `empty: ${each.parentElement.id || each.parentElement.className}`),
        ...find('.figure').filter((each) => !each.querySelector('.js-plotly-plot .main-svg')).map(
            (each) => `below no figure: ${each.innerText}`
        ),
        ...find('.tabitem img').filter((each) => each.complete && !each.naturalWidth).map(
            (each) => `broken: ${each.alt} ${each.src}`
        ),
        ...['full', 'latentcrf'].filter(
            (each) => find(`#${each}-file:not(:disabled)`).length && !document.querySelector(`#${each} img`)
        ).map((each) => `no image: ${each}-file`),
        ...(rows === numbers ? [] : [`${rows} rows of images, ${numbers} sentences about them`]),
    ];
}"""


def chromium() -> str | None:
    """The system's Chromium or Chrome, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def served(*arguments: str, log: Path) -> Iterator[str]:
    """Run `python app.py` on a free port; yields its address once it answers.

    Raises:
        RuntimeError: the process ended or did not answer within two minutes; the message holds its output.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *arguments]
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=dict(os.environ))
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"app.py does not answer:\n{log.read_text()}") from None
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def slow_down(page: Page, latency: float) -> None:
    """Let each request of the page take so many milliseconds more."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": latency, "downloadThroughput": -1, "uploadThroughput": -1},
    )


def open_tab(page: Page, title: str) -> None:
    """Choose a tab and wait until its controls are there."""
    tab = page.get_by_role("tab", name=title, exact=True)
    tab.click()
    page.locator(f"#{tab.get_attribute('aria-controls')} button").first.wait_for()


def ask(page: Page, prompt: str) -> None:
    """Type a prompt and press Enter."""
    page.fill("#prompt textarea, #prompt input", prompt)
    page.press("#prompt textarea, #prompt input", "Enter")


def wait_until_done(page: Page) -> None:
    """Wait for the comparison's figures: the run is over and its images are there."""
    page.wait_for_function("document.querySelector('#compare-start').disabled", timeout=PATIENCE)
    page.wait_for_function("!document.querySelector('#compare-start').disabled", timeout=PATIENCE)
