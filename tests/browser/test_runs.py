"""What each tab shows while it runs, after a failure and after a cancelled run; and clicks over a slow network."""

import base64
import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from app.layout import TABS  # noqa: E402
from tests.browser.driving import NOTHING, PATIENCE, ask, open_tab, served, slow_down, wait_until_done  # noqa: E402
from tests.browser.test_compare import PROMPT, visit  # noqa: E402
from tests.browser.test_form import DROP  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# The tabs that run, with a field of each that refuses -1.
RUNNING = {
    "compare": "seed", "variance": "variance-runs", "convergence": "convergence-seeds", "diversity": "diversity-seeds",
    "method": "method-seed",
}  # fmt: skip
TITLES = {"compare": "Compare", **{name: title for name, title, _ in TABS}}
SHOWN = {"compare": "#latentcrf img", "method": "#method-tab .sprite"}  # of the others a figure


def wait_for_example(page: Page, name: str) -> None:
    """Open a tab and wait until it shows its example."""
    open_tab(page, TITLES[name])
    page.locator(SHOWN.get(name, f"#{name}-tab .js-plotly-plot .main-svg")).first.wait_for()
    page.wait_for_timeout(1000)


def test_no_tab_shows_a_place_for_nothing_whatever_becomes_of_a_run(page: Page, url: str) -> None:
    page.goto(url)
    page.click("#settings > button")
    for name, field in RUNNING.items():
        wait_for_example(page, name)
        assert page.evaluate(NOTHING) == [], name
        page.click(f"#{name}-start")
        expect(page.locator(f"#{name}-cancel")).to_be_enabled(timeout=PATIENCE)
        for _ in range(3):
            page.wait_for_timeout(400)
            assert page.evaluate(NOTHING) == [], f"{name}, while it runs"
        assert page.locator(f"#{name}-cancel").is_enabled(), f"{name}: the run is over"
        page.click(f"#{name}-cancel")
        expect(page.locator(f"#{name}-status")).to_have_text("Stopped.", timeout=PATIENCE)
        page.wait_for_timeout(500)
        assert page.evaluate(NOTHING) == [], f"{name}, cancelled"
        page.fill(f"#{field} input", "-1")
        page.click(f"#{name}-start")
        expect(page.locator(f"#{name}-status [role=alert]")).to_contain_text("it was -1", timeout=PATIENCE)
        assert page.evaluate(NOTHING) == [] and page.locator(f"#{name}-start").is_enabled(), f"{name}, failed"
        page.fill(f"#{field} input", "1")


def test_a_run_whose_images_cannot_be_kept_leaves_what_was_shown(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run twice, by two visitors: files lie where the second's images would go."""
    folder = tmp_path / "images"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    made: set[Path] = set()
    with served("--model", "emoji", log=tmp_path / "app.log") as url:
        for is_broken in (False, True):
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.set_default_timeout(PATIENCE)
            visit(page, url)
            before = set(folder.iterdir())
            for each in made:
                shutil.rmtree(each)
                each.write_text("")
            page.click("#compare-start")
            expected = "try again" if is_broken else "“red apple”, seed 3"
            expect(page.locator("#compare-status")).to_contain_text(expected, timeout=PATIENCE)
            expect(page.locator("#compare-start")).to_be_enabled(timeout=PATIENCE)
            page.wait_for_timeout(1000)
            assert page.evaluate(NOTHING) == []
            assert page.locator("#example").is_visible() == is_broken
            assert ("Full run: 50 denoiser calls" in page.inner_text("#strip")) == is_broken  # the example's
            made = set(folder.iterdir()) - before
            page.context.close()


def read_seed(page: Page) -> str:
    """The seed in the form, once the settings are open."""
    return page.input_value("#seed input")


def test_clicks_over_a_slow_network_are_followed_and_the_last_one_wins(page: Page, url: str) -> None:
    visit(page, url)
    page.click("#settings > button")
    slow_down(page, 300)
    status, shown = page.locator("#compare-status"), page.locator("#latentcrf img")
    for seed in ("3", "4"):
        page.fill("#seed input", seed)
        ask(page, "red apple")
        wait_until_done(page)
        page.locator(f"#latentcrf img[src*='red-apple-{seed}-latentcrf']").wait_for()
    with page.expect_download() as download:
        page.click("#latentcrf-file")
    content = base64.b64encode(Path(download.value.path()).read_bytes()).decode()
    expect(page.locator("#history img")).to_have_count(2)

    history = page.locator("#history button:has(img)")
    history.first.click()
    history.last.click()
    page.locator("#latentcrf img[src*='red-apple-3-latentcrf']").wait_for()
    page.wait_for_timeout(1200)
    assert read_seed(page) == "3" and "seed 3" in status.inner_text() and "-3-" in str(shown.get_attribute("src"))
    assert "Not drawn yet" not in page.inner_text("#strip")

    for chip in ("pizza", "rocket"):
        page.click(f"#examples button:has-text('{chip}')")
    page.wait_for_timeout(2500)
    assert page.input_value(PROMPT) == "rocket" and "“rocket”" in status.inner_text()
    assert "rocket" in str(shown.get_attribute("src")) and "rocket" in page.inner_text("#example")
    page.click("#modes label:has-text('Fast')")
    expect(page.locator("#figures")).to_contain_text("denoiser calls: 50 and 12")
    expect(page.locator("#few-steps input")).to_have_value("12")
    page.wait_for_timeout(1000)
    assert page.locator("#modes input:checked").get_attribute("value") == "fast"
    page.click("#modes label:has-text('Paper')")
    page.click("#modes label:has-text('Fast')")
    page.click("#modes label:has-text('Paper')")
    expect(page.locator("#figures")).to_contain_text("denoiser calls: 50 and 34")
    expect(page.locator("#few-steps input")).to_have_value("0")
    page.wait_for_timeout(1500)
    assert page.locator("#modes input:checked").get_attribute("value") == "paper"

    page.evaluate(DROP, content)
    expect(page.locator("#loaded-png")).to_contain_text("Settings loaded from the PNG")
    page.wait_for_timeout(700)
    assert page.input_value(PROMPT) == "red apple" and read_seed(page) == "4"
    assert page.input_value("#steps input") == "12" and "Not drawn yet" in page.inner_text("#strip")

    wait_for_example(page, "diversity")
    page.locator("#diversity-row-0 button:has(img)").nth(5).click()
    page.locator("#compare-start").wait_for()
    page.wait_for_timeout(1000)
    assert read_seed(page) == "5" and page.input_value(PROMPT) != "" and "tab=" not in page.url

    before = shown.get_attribute("src")
    page.fill("#steps input", "200")
    page.click("#compare-start")
    expect(page.locator("#compare-cancel")).to_be_enabled()
    expect(status).to_contain_text("is running", timeout=PATIENCE)
    page.click("#compare-cancel")
    expect(status).to_have_text("Stopped.")
    page.wait_for_timeout(2000)
    assert status.inner_text() == "Stopped." and shown.get_attribute("src") == before
    assert page.locator("#compare-start").is_enabled() and page.evaluate(NOTHING) == []
