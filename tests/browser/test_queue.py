"""What visitors see who wait: their place and the time, and where the queue is full, when there is room again."""

import json
import secrets
import urllib.request

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from tests.browser.driving import PATIENCE  # noqa: E402
from tests.browser.test_compare import QUICK, visit  # noqa: E402

pytestmark = pytest.mark.browser
LONG = "steps=200&bypass_start=150&bypass_end=199&seed=1&images=4"


def post(url: str, path: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=20).close()


def start(page: Page, url: str, query: str = QUICK) -> None:
    visit(page, url, query)
    expect(page.locator("#compare-start")).to_be_enabled(timeout=PATIENCE)
    page.locator("#compare-start").click()


def test_a_visitor_who_waits_sees_the_place_and_when_there_is_room_again(browser: Browser, url: str) -> None:
    first, second, third = (browser.new_context().new_page() for _ in range(3))
    start(first, url, LONG)
    expect(first.locator("#compare-status")).to_contain_text("running", timeout=PATIENCE)
    start(second, url)
    expect(second.locator("#compare-status")).to_contain_text("1 before you, about", timeout=20_000)
    expect(second.locator("#compare-start")).to_be_disabled()

    endpoint = "gradio_api/call/compare_seeds"
    for _ in range(39):  # nobody listens to them: they are dropped after 15 seconds
        body = {"data": ["red apple", *[None] * 11], "session_hash": secrets.token_hex(5)}
        post(url, endpoint, body)
    start(third, url)
    expect(third.locator("#compare-status")).to_contain_text("runs of your address wait already", timeout=20_000)
    expect(third.locator("#compare-status")).to_contain_text("before you, about")
    expect(third.locator("#compare-start")).to_be_enabled()
    expect(third.locator("#compare-status")).to_contain_text("There is room in the queue again", timeout=30_000)

    first.locator("#compare-cancel").click()
    expect(second.locator("#compare-status")).to_contain_text("seed 3", timeout=PATIENCE)
    expect(second.locator("#compare-start")).to_be_enabled()
    for page in (first, second, third):
        page.context.close()


def test_cancelling_a_waiting_run_leaves_the_queue(browser: Browser, url: str) -> None:
    first, second = (browser.new_context().new_page() for _ in range(2))
    start(first, url, LONG)
    expect(first.locator("#compare-status")).to_contain_text("running", timeout=PATIENCE)
    for _ in range(2):  # the second takes the place of the first
        start(second, url)
        expect(second.locator("#compare-status")).to_contain_text("before you", timeout=20_000)
        second.locator("#compare-cancel").click()
        expect(second.locator("#compare-status")).to_contain_text("Stopped")
        health = json.loads(urllib.request.urlopen(f"{url}health", timeout=20).read())
        assert health["waiting"] == 0
    expect(second.locator("#full img")).to_be_visible()
    first.locator("#compare-cancel").click()
    for page in (first, second):
        page.context.close()


def test_two_tabs_of_one_browser_keep_their_own_runs(browser: Browser, url: str) -> None:
    """One waits for the other; each shows its own seed, and cancels its own run alone."""
    context = browser.new_context()
    first, second = context.new_page(), context.new_page()
    start(first, url, LONG)
    expect(first.locator("#compare-status")).to_contain_text("running", timeout=PATIENCE)
    start(second, url)
    expect(second.locator("#compare-status")).to_contain_text("1 before you", timeout=20_000)
    first.locator("#compare-cancel").click()
    expect(first.locator("#compare-status")).to_contain_text("Stopped")
    expect(second.locator("#compare-status")).to_contain_text("seed 3, 12 steps", timeout=PATIENCE)
    expect(first.locator("#compare-status")).to_contain_text("Stopped")
    context.close()
