"""The analysis tabs in a real Chromium: each is opened, run where it runs anything, and its pictures are seen."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Page, expect  # noqa: E402

from app.ui import TABS  # noqa: E402
from tests.browser.driving import PATIENCE  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("name", [name for name, _, _ in TABS])
def test_a_tab_runs_and_shows_its_figures(page: Page, url: str, name: str) -> None:
    page.goto(url)
    title = next(title for known, title, _ in TABS if known == name)
    page.get_by_role("tab", name=title, exact=True).click()
    tab = page.locator(f"#{name}-tab")
    tab.wait_for(state="visible")
    start, cancel = page.locator(f"#{name}-start"), page.locator(f"#{name}-cancel")
    if start.count():
        start.click()
        expect(cancel).to_be_enabled(timeout=PATIENCE)
        expect(start).to_be_enabled(timeout=PATIENCE)
    assert tab.locator(".message.error").count() == 0
    tab.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(1500)
    for width in (1440, 1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_presentation_hides_controls_and_comes_back(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#compare")
    page.click("#presentation input")
    page.wait_for_function("document.body.classList.contains('presentation')")
    assert not page.locator("#settings").is_visible()
    page.click("#presentation input")
    page.wait_for_function("!document.body.classList.contains('presentation')")
    assert page.locator("#settings").is_visible()
