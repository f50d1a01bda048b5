"""The form of settings in a real Chromium, at once and over a slow network: links, typed numbers, dropped PNGs."""

import base64
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from app.layout import TABS  # noqa: E402
from app.models import read_catalog  # noqa: E402
from tests.browser.driving import PATIENCE, open_tab, slow_down  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROMPT = "#prompt textarea, #prompt input"
LINK = "prompt=red+apple&steps=3&bypass_start=1&bypass_end=2&iterations=1&finisher=false&guidance=1"
# Notes each sentence in red that is shown, however short.
NOTE_ERRORS = """window.errors = [];
new MutationObserver(() => document.querySelectorAll('.message.error').forEach(
    (each) => window.errors.push(each.innerText)
)).observe(document, { subtree: true, childList: true, characterData: true });"""
# Counts the changes of the start button that lock it: a run.
NOTE_RUNS = """window.runs = 0;
new MutationObserver(() => { window.runs += document.querySelector('#compare-start')?.disabled ? 1 : 0; }).observe(
    document, { subtree: true, childList: true, attributeFilter: ['disabled'] }
);"""
READ_NUMBERS = """(ids) => ids.map((id) => document.querySelector(`#${id} input[type=number]`).value)"""
BYPASS = ["steps", "bypass-start", "bypass-end"]
DROP = """(content) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], 'picture.png', { type: 'image/png' }));
    for (const name of ['dragover', 'drop']) {
        document.querySelector('header').dispatchEvent(
            new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true })
        );
    }
}"""


@pytest.mark.parametrize("latency", [0, 300])
def test_an_opened_link_draws_its_images_and_shows_no_error(browser: Browser, url: str, latency: int) -> None:
    pages = [browser.new_page() for _ in range(2)]
    for seed, page in enumerate(pages, start=1):
        page.set_default_timeout(PATIENCE)
        slow_down(page, latency)
        page.add_init_script(NOTE_ERRORS)
        page.goto(f"{url}?{LINK}&seed={seed}", wait_until="commit")
    for seed, page in enumerate(pages, start=1):
        drawn = page.locator(f"#latentcrf img[src*='-{seed}-latentcrf']")
        drawn.wait_for(state="attached")
        assert f"“red apple”, seed {seed}, 3 steps" in page.inner_text("#compare-status")
        assert page.evaluate("window.errors") == []
        page.close()


def test_a_link_to_a_stored_example_shows_it_at_once(page: Page, url: str) -> None:
    """With the sentence of an example, and no run; a link that differs in one setting draws."""
    emoji = read_catalog().models["emoji"]
    stored, own = ({**emoji.defaults.as_dict(), "prompt": emoji.prompts[1], **mode} for mode in emoji.modes.values())
    page.add_init_script(NOTE_RUNS)
    page.goto(f"{url}?{urlencode(stored)}")
    expect(page.locator("#example")).to_contain_text(f"Stored example: “{stored['prompt']}”, seed {stored['seed']}")
    page.locator(f"#latentcrf img[src*='{stored['prompt'].replace(' ', '-')}']").wait_for()
    expect(page.locator("#compare-status")).to_contain_text(f"“{stored['prompt']}”, seed {stored['seed']}")
    assert "Not drawn yet" not in page.inner_text("#strip") and page.locator("#compare-live").is_visible()
    page.wait_for_timeout(1000)
    assert page.input_value(PROMPT) == stored["prompt"] and page.evaluate("window.runs") == 0
    page.goto(f"{url}?{urlencode({**own, 'seed': 1, 'steps': 3, 'few_steps': 1})}")
    page.locator("#latentcrf img[src*='-1-latentcrf']").wait_for(state="attached")
    assert page.evaluate("window.runs") > 0 and not page.locator("#example").is_visible()


def test_a_link_keeps_what_was_typed_since_it_was_opened(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#compare-start")
    slow_down(page, 1500)
    page.goto(f"{url}?{LINK}", wait_until="commit")
    page.locator(PROMPT).wait_for()
    page.fill(PROMPT, "blue heart")
    expect(page.locator("#compare-status")).to_contain_text("Settings taken from the link")
    page.wait_for_timeout(500)
    assert page.input_value(PROMPT) == "blue heart" and page.locator("#compare-start").is_enabled()


def test_the_bypass_follows_the_last_number_of_steps(page: Page, url: str) -> None:
    page.goto(url)
    page.click("#settings > button")
    page.wait_for_selector("#steps input")
    slow_down(page, 200)
    for steps, begin, end in (("40", "26", "39"), ("100", "65", "98"), ("7", "5", "6"), ("50", "36", "43")):
        page.click("#steps input[type=number]")
        page.keyboard.press("Control+a")
        page.keyboard.type(steps, delay=60)
        assert page.evaluate(READ_NUMBERS, BYPASS) == [steps, begin, end]
        expect(page.locator("#strip")).to_contain_text(f"Full run: {steps} denoiser calls")
        page.wait_for_timeout(700)
        assert page.evaluate(READ_NUMBERS, BYPASS) == [steps, begin, end]
        page.click("header")
    # to the end of the run, and back
    page.fill("#bypass-end input[type=number]", "50")
    page.fill("#steps input[type=number]", "20")
    assert page.evaluate(READ_NUMBERS, BYPASS) == ["20", "14", "20"]


def test_each_number_stays_as_it_was_typed(page: Page, url: str) -> None:
    page.goto(url)
    page.click("#settings > button")
    page.wait_for_selector("#steps input")
    slow_down(page, 200)
    typed = 0
    for title in ("Compare", *[title for _, title, _ in TABS]):
        open_tab(page, title)
        page.wait_for_timeout(1000)
        for field in page.locator(".tabitem input[type=number]:visible").all():
            low, high, step = (float(field.get_attribute(name) or "nan") for name in ("min", "max", "step"))
            number = "1.5" if high < 20 and step < 1 else "12"  # of a slider, which has a range
            number = number if not high < float(number) and not low > float(number) else f"{high:g}"
            field.click()
            page.keyboard.press("Control+a")
            page.keyboard.type(number, delay=60)
            page.keyboard.press("Tab")
            page.wait_for_timeout(500)
            name = field.evaluate("(each) => each.closest('.block').id")
            assert float(field.input_value()) == float(number), f"{title}: {name}"
            typed += 1
    assert typed > 15, typed


def test_the_address_follows_the_settings_and_a_dropped_png_restores_them(page: Page, url: str) -> None:
    page.goto(f"{url}?{LINK}&seed=5")
    status = page.locator("#compare-status")
    expect(status).to_contain_text("“red apple”, seed 5", timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("#latentcrf-file")
    content = base64.b64encode(Path(download.value.path()).read_bytes()).decode()
    page.fill(PROMPT, "rocket & moon")
    page.wait_for_timeout(700)
    query = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    assert query["prompt"] == "rocket & moon" and query["seed"] == "5" and query["bypass_end"] == "2"

    page.goto(url)
    open_tab(page, "Diversity")
    page.evaluate(DROP, content)
    expect(page.locator("#loaded-png")).to_contain_text("Settings loaded from the PNG")
    assert page.input_value(PROMPT) == "red apple"
    assert page.evaluate(READ_NUMBERS, ["seed", *BYPASS]) == ["5", "3", "1", "2"]
