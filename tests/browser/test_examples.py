"""What a visitor sees before any run, in a real Chromium, at once and over a slow network."""

import re
import time

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Page  # noqa: E402

from app.examples import COMMAND, read_about  # noqa: E402
from app.layout import TABS  # noqa: E402
from app.models import read_catalog  # noqa: E402
from tests.browser.driving import NOTHING, slow_down  # noqa: E402

pytestmark = pytest.mark.browser
PROMPTS = read_catalog().models["emoji"].prompts
SECONDS = 1.5  # from the click on a chip to its pictures
LOADED = """(name) => ['#full', '#latentcrf'].every((place) => {
    const image = document.querySelector(`${place} img`);
    return image && image.complete && image.naturalWidth && image.src.includes(name);
})"""


@pytest.fixture(params=[0, 300], ids=["at once", "300 ms"])
def slow_page(request: pytest.FixtureRequest, page: Page) -> Page:
    """The page behind a network that takes so many milliseconds for each request."""
    slow_down(page, request.param)
    return page


def test_each_tab_shows_its_example_before_any_run(slow_page: Page, url: str) -> None:
    page, about = slow_page, read_about()
    page.goto(url)
    page.wait_for_function(LOADED, arg=PROMPTS[0].replace(" ", "-"))
    assert page.locator("#slider img").count() == 2 and page.evaluate(NOTHING) == []
    words = page.inner_text("#example")
    assert COMMAND in words and about["date"] in words and PROMPTS[0] in words
    assert page.locator("#full-file").is_enabled()
    for name, title, _ in TABS:
        page.get_by_role("tab", name=title, exact=True).click()
        tab = page.locator(f"#{name}-tab")
        tab.locator(".sprite" if name == "method" else ".js-plotly-plot .main-svg").first.wait_for()
        page.wait_for_timeout(2000)
        assert page.evaluate(NOTHING) == [], name
        assert tab.locator(".message.error").count() == 0
        words = tab.inner_text()
        assert "python -m " in words and re.search(r"\b20\d\d-\d\d-\d\d\b", words), name
        start = page.locator(f"#{name}-start")
        assert start.count() == 0 or start.is_enabled()


def test_a_chip_shows_its_result_without_a_run(slow_page: Page, url: str) -> None:
    page = slow_page
    page.goto(url)
    page.wait_for_function(LOADED, arg=PROMPTS[0].replace(" ", "-"))
    page.evaluate("""() => {
        window.runs = 0;
        new MutationObserver(() => { window.runs += document.querySelector('#compare-start').disabled; }).observe(
            document.querySelector('#compare-start'), { attributes: true });
    }""")
    took = {}
    for prompt in PROMPTS[1:]:
        began = time.monotonic()
        page.click(f"#examples button:has-text('{prompt}')")
        page.wait_for_function(LOADED, arg=prompt.replace(" ", "-"))
        took[prompt] = time.monotonic() - began
        page.wait_for_function(f"document.querySelector('#example').innerText.includes('{prompt}')")
        assert page.input_value("#prompt textarea, #prompt input") == prompt
        assert f"“{prompt}”, seed 0" in page.inner_text("#compare-status")
    page.click("#modes label:has-text('Fast')")
    page.wait_for_function("document.querySelector('#figures').innerText.includes('denoiser calls: 50 and 12')")
    assert page.inner_text("#strip").count("12 of a faster solver") == 1
    assert page.evaluate("window.runs") == 0
    assert max(took.values()) < SECONDS, took
