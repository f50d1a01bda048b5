"""Whether everybody can read and operate the page: axe's rules, sizes in presentation, keys. In a real Chromium."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402

from app.layout import TABS  # noqa: E402
from tests.browser.driving import open_tab  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TITLES = ("Compare", *[title for _, title, _ in TABS])
LEAST, LEAST_IN_FIGURES = 20, 18  # px, in presentation at 1280x720
# Texts in sight that are smaller than that: what holds them, their size, the text. Formulas have small indices.
SMALL_TEXTS = """([least, leastInFigures]) => {
    const small = [], walker = document.createTreeWalker(document.querySelector('.contain'), NodeFilter.SHOW_TEXT);
    const check = (element, text) => {
        const { width, height } = element.getBoundingClientRect();
        const isSeen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
        if (!text.trim() || !isSeen || width < 2 || height < 2 || element.closest('.katex, .sr-only')) return;
        const size = parseFloat(getComputedStyle(element).fontSize);
        const wanted = element.closest('svg') ? leastInFigures : least;
        if (size < wanted) small.push(`${element.outerHTML.slice(0, 60)} ${size}: ${text}`);
    };
    while (walker.nextNode()) check(walker.currentNode.parentElement, walker.currentNode.data);
    document.querySelectorAll('textarea, input:is([type=text], [type=number])').forEach(
        (field) => check(field, field.value)
    );
    return small;
}"""

SCREEN = {"width": 1280, "height": 720}
# What each tab shows first: all of it is on the first screen of a presentation.
FIRST = {
    "compare": "#full, #latentcrf, #slider, #figures",
    "variance": "#variance-figure .main-svg",
    "convergence": "#convergence-images .main-svg",
    "diversity": ".diversity-row, .row-number",
    "frontier": "#frontier-figure .main-svg, #frontier-metric, #frontier-all",
    "method": "#method-steps, .talk-nav",
}
BOTTOMS = """(selector) => [...document.querySelectorAll(selector)].filter(
    (each) => each.getClientRects().length
).map((each) => each.getBoundingClientRect().bottom + window.scrollY)"""
HEIGHTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.clientHeight)"""
PLOT_SHARE = """() => {
    const { width, height } = document.querySelector('#frontier-figure .nsewdrag').getBoundingClientRect();
    return width * height / (window.innerWidth * window.innerHeight);
}"""


def find_serious(page: Page) -> list[str]:
    """Find what axe calls serious or critical: rule and element."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target']}"
        for rule in violations
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def test_axe_finds_nothing_serious_on_any_tab(page: Page, url: str) -> None:
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(url)
    page.click("#settings > button")
    for title in TITLES:
        open_tab(page, title)
        page.wait_for_timeout(1500)
        for is_dark in (False, True):
            page.evaluate("(is_dark) => document.body.classList.toggle('dark', is_dark)", is_dark)
            page.wait_for_timeout(300)  # colours fade
            assert find_serious(page) == [], f"{title}, {'dark' if is_dark else 'light'}"
    assert troubles == []  # the content security policy would report here


def test_a_presentation_is_read_from_the_back_of_the_room(page: Page, url: str) -> None:
    page.set_viewport_size(SCREEN)
    page.goto(url)
    page.click("#presentation input")
    for title, (name, first) in zip(TITLES, FIRST.items(), strict=True):
        page.get_by_role("tab", name=title, exact=True).click()  # a tab may have no button then
        page.wait_for_timeout(2500)
        assert page.evaluate(SMALL_TEXTS, [LEAST, LEAST_IN_FIGURES]) == [], title
        bottoms = page.evaluate(BOTTOMS, first)
        assert bottoms and max(bottoms) <= SCREEN["height"], (name, bottoms)
        assert max(page.evaluate(HEIGHTS), default=0) <= SCREEN["height"], name
        assert name != "frontier" or page.evaluate(PLOT_SHARE) >= 0.6
    assert "presentation=1" in page.url and f"tab={TABS[-1][0]}" in page.url
    assert not page.locator("footer").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_function("!document.body.classList.contains('presentation')")
    expect(page.locator("footer")).to_be_visible()
    page.wait_for_function("!location.search.includes('presentation')")


def test_an_address_opens_its_tab_in_presentation(page: Page, url: str) -> None:
    page.goto(f"{url}?tab=frontier&presentation=1")
    page.locator("#frontier-figure .main-svg").first.wait_for()
    page.wait_for_function("document.body.classList.contains('presentation')")
    page.wait_for_timeout(1500)
    for _, title, _ in TABS[:1] + TABS[3:4]:  # the figures that are drawn when the page is opened
        page.get_by_role("tab", name=title, exact=True).click()
        page.wait_for_timeout(1000)
        assert page.evaluate(SMALL_TEXTS, [LEAST, LEAST_IN_FIGURES]) == [], title


def test_each_control_shows_where_the_keyboard_is(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#compare-start")
    seen = set()
    for _ in range(60):  # from the prompt, where the focus is at first
        page.keyboard.press("Tab")
        name, outline, width = page.evaluate("""() => {
            const { activeElement: element } = document, { outlineStyle, outlineWidth } = getComputedStyle(element);
            return [element.id || element.outerHTML.slice(0, 80), outlineStyle, parseFloat(outlineWidth)];
        }""")
        if name.startswith("<body"):  # after the last control; it goes on at the top
            continue
        assert outline == "auto" or (outline != "none" and width >= 2), name  # auto: the browser's own
        seen.add(name)
    assert {"compare-start", "compare-tab-button"} <= seen  # arrow keys go on to the other tabs


def test_escape_cancels_a_run(page: Page, url: str) -> None:
    page.goto(f"{url}?steps=200&bypass_start=100&bypass_end=199")
    expect(page.locator("#compare-status")).to_contain_text("Settings taken")
    page.click("#compare-start")
    expect(page.locator("#compare-cancel")).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.locator("#compare-status")).to_contain_text("Stopped.")
