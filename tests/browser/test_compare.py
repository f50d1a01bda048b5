"""The compare tab in a real Chromium, on the real app.py with the shipped models."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from tests.app.tiny_models import save_stable_diffusion  # noqa: E402
from tests.browser.driving import PATIENCE, ask, served, wait_until_done  # noqa: E402

pytestmark = pytest.mark.browser
PROMPT = "#prompt textarea, #prompt input"
QUICK = "seed=3&steps=12&bypass_start=6&bypass_end=11&iterations=3"  # a run of a second or two


def visit(page: Page, url: str, query: str = QUICK) -> None:
    """Open the page with settings in its address, but no prompt, and wait until they are in the form."""
    page.goto(f"{url}?{query}")
    page.wait_for_function("document.querySelector('#compare-status')?.innerText.startsWith('Settings taken')")


def shown(page: Page, where: str) -> np.ndarray:
    """The pixels of the image shown in `where`."""
    source = page.locator(f"{where} img").first.get_attribute("src")
    assert source
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


def test_a_prompt_and_enter_bring_both_images_and_their_figures(page: Page, url: str) -> None:
    visit(page, url)
    ask(page, "red apple")
    wait_until_done(page)
    for where in ("#full", "#latentcrf", "#before", "#after"):
        assert shown(page, where).shape == (128, 128, 3), where
        assert page.locator(f"{where} img").first.get_attribute("alt")
    assert page.locator("#slider img").count() == 2
    outputs = page.locator("#figures output").all_inner_texts()
    assert outputs[:3] == ["1.71×", "24", "14"]  # the ratio of network evaluations
    full, latentcrf = (float(text.removesuffix(" s")) for text in outputs[3:5])
    assert full > 0 and latentcrf > 0 and 0 < float(outputs[5]) < 1
    assert "red apple" in page.inner_text("#compare-status") and "seed 3" in page.inner_text("#compare-status")
    assert page.locator("#strip i.done").count() == 12 + 7


DRAWN = "document.querySelector('#figures .cards').dataset.drawn"


def move(page: Page, slider: str, value: int) -> None:
    """Move a slider, as dragging does."""
    page.locator(f"#{slider} input[type=range]").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def test_a_moved_slider_and_another_mode_draw_again_at_the_same_seed(page: Page, url: str) -> None:
    """What is shown belongs to what is said; the full run stays, bit for bit, and the last value wins."""
    visit(page, url, f"{QUICK}&finisher=false&few_steps=0&guidance_cutoff=0")
    page.click("#settings button")
    page.check("#random-seed input")
    ask(page, "red apple")
    wait_until_done(page)
    assert page.locator("#modes input:checked").get_attribute("value") == "custom"
    seed, full, latentcrf = page.input_value("#seed input"), shown(page, "#full"), shown(page, "#latentcrf")
    for value in (3, 4, 8):  # the last one counts
        move(page, "bypass-start", value)
    page.wait_for_function(f"{DRAWN}.startsWith('[12, 3.0, 3, 8, 11')")
    page.wait_for_function("!document.querySelector('#compare-start').disabled")
    assert np.array_equal(shown(page, "#full"), full) and not np.array_equal(shown(page, "#latentcrf"), latentcrf)
    assert page.input_value("#seed input") == seed and f"seed {seed}," in page.inner_text("#compare-status")
    assert "LatentCRF: 8, " in page.inner_text("#strip") and page.locator("#strip i.done").count() == 12 + 9
    page.click("#finisher input")
    page.wait_for_function(f"{DRAWN}.startsWith('[12, 3.0, 3, 8, 11, true')")
    page.click("#modes label:has-text('Fast')")  # it has the full run's own steps
    page.wait_for_function(f"{DRAWN}.startsWith('[50, 3.0, 5, ')")
    page.wait_for_function("!document.querySelector('#compare-start').disabled")
    assert page.locator("#figures output").all_inner_texts()[1:3] == ["100", "20"]
    assert "UniPC, 5 iterations, finisher" in page.inner_text("#compare-status")
    assert "benchmark" in page.inner_text("#figures") and page.input_value("#seed input") == seed
    assert "Not drawn yet" not in page.inner_text("#strip")


def test_the_history_restores_pictures_and_settings(page: Page, url: str) -> None:
    visit(page, url)
    ask(page, "red apple")
    wait_until_done(page)
    first, figures = shown(page, "#latentcrf"), page.inner_text("#figures")
    page.click("#settings button")
    move(page, "images", 2)
    page.press(PROMPT, "Enter")
    wait_until_done(page)
    expect(page.locator("#compare-status")).to_contain_text("seeds 3 to 4", timeout=PATIENCE)
    expect(page.locator("#pairs img")).to_have_count(4, timeout=PATIENCE)
    page.locator("#pairs button:has(img)").nth(3).click()
    page.wait_for_function("document.querySelector('#latentcrf img').src.includes('-4-latentcrf')")
    assert not np.array_equal(shown(page, "#latentcrf"), first)
    assert page.locator("#history img").count() == 2
    page.locator("#history button:has(img)").last.click()
    page.wait_for_function("document.querySelector('#latentcrf img').src.includes('-3-latentcrf')")
    page.wait_for_function("!document.querySelector('#pairs img')")
    assert np.array_equal(shown(page, "#latentcrf"), first) and page.inner_text("#figures") == figures
    assert page.input_value("#images input[type=number]") == "1" and "seed 3" in page.inner_text("#compare-status")


PLACES = """() => ['#full img', '#latentcrf img', '#slider .over img'].map((each) => {
    const { a, e } = new DOMMatrix(getComputedStyle(document.querySelector(each)).transform);
    return { zoom: a, x: e / document.querySelector(each).clientWidth };
})"""  # zoom, and place in widths of the image


def test_all_images_are_zoomed_and_moved_together(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_function("document.querySelector('#slider .over img')?.naturalWidth")
    assert page.evaluate(PLACES) == [{"zoom": 1, "x": 0}] * 3
    page.click("[data-act=in]")
    page.click("[data-act=in]")
    box = page.locator("#full").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] / 4, y, steps=4)
    page.mouse.up()
    for place in page.evaluate(PLACES):
        assert (place["zoom"], place["x"]) == (2.25, pytest.approx(-0.625 + 0.25, abs=0.01))
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Control")
    zoom = 2.25 * np.exp(-100 / 200)
    page.wait_for_function("getComputedStyle(document.querySelector('#stage')).getPropertyValue('--zoom') < 2")
    assert [each["zoom"] for each in page.evaluate(PLACES)] == pytest.approx([zoom] * 3, abs=1e-3)
    page.click("[data-act=one]")
    width = page.evaluate("document.querySelector('#slider').clientWidth")
    assert [each["zoom"] for each in page.evaluate(PLACES)] == pytest.approx([128 / width] * 3, abs=1e-3)


def test_the_divider_has_keys_and_the_difference_a_factor(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_function("document.querySelector('#slider .over img')?.naturalWidth")
    divider = page.locator("#slider input")
    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert divider.input_value() == "60"
    assert page.evaluate("getComputedStyle(document.querySelector('#slider .over')).clipPath").endswith("60%)")
    page.select_option("[data-role=view]", "difference")
    full, latentcrf = (shown(page, where).astype(int) for where in ("#full", "#latentcrf"))
    for factor in (8, 32):
        page.select_option("[data-role=factor]", str(factor))
        drawn = page.evaluate("""() => [...document.querySelector('#slider canvas').getContext('2d').getImageData(
            0, 0, 128, 128).data]""")
        expected = np.minimum(factor * np.abs(full - latentcrf), 255)
        assert np.array_equal(np.reshape(drawn, (128, 128, 4))[..., :3], expected) and expected.max() > 0
    page.click("[data-act=fill]")
    page.wait_for_function("document.querySelector('#slider').clientHeight > 0.8 * innerHeight")
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#slider').clientHeight < 0.6 * innerHeight")


def test_a_stored_example_is_drawn_live_at_a_click(page: Page, url: str) -> None:
    visit(page, url)
    page.click("#examples button:has-text('pizza')")
    page.wait_for_function("document.querySelector('#example').innerText.includes('pizza')")
    stored = shown(page, "#latentcrf").astype(float)
    page.click("#compare-live")
    wait_until_done(page)
    assert page.input_value(PROMPT) == "pizza" and "“pizza”, seed 0" in page.inner_text("#compare-status")
    assert not page.locator("#example").is_visible()
    assert np.abs(shown(page, "#latentcrf") - stored).mean() < 4  # another machine may round otherwise


def test_cancel_stops_and_the_previous_images_stay(page: Page, url: str) -> None:
    visit(page, url)
    ask(page, "red apple")
    wait_until_done(page)
    before, source = shown(page, "#full"), page.locator("#full img").first.get_attribute("src")
    page.click("#settings button")
    page.fill("#steps input[type=number]", "200")
    page.press("#steps input[type=number]", "Tab")
    page.wait_for_function("document.querySelectorAll('#strip i').length > 300")  # the bypass has moved too
    page.click("#compare-start")
    page.wait_for_function(f"document.querySelector('#full img').src != '{source}'")  # a preview is shown
    page.click("#compare-cancel")
    page.wait_for_function("document.querySelector('#compare-status').innerText.startsWith('Stopped')")
    page.wait_for_function("!document.querySelector('#compare-start').disabled")
    page.wait_for_timeout(2000)  # a step that was under way would be seen by now
    assert np.array_equal(shown(page, "#full"), before)
    assert page.inner_text("#compare-status").startswith("Stopped")
    page.fill("#steps input[type=number]", "12")
    page.press("#steps input[type=number]", "Tab")
    page.wait_for_function("document.querySelectorAll('#strip i').length < 30")
    ask(page, "blue heart")  # and the device is free again
    wait_until_done(page)
    assert "blue heart" in page.inner_text("#compare-status")


def test_a_downloaded_png_loads_back_to_the_same_pixels(page: Page, url: str, tmp_path: Path) -> None:
    visit(page, url)
    ask(page, "rocket")
    wait_until_done(page)
    first = shown(page, "#latentcrf")
    with page.expect_download() as download:
        page.click("#latentcrf-file")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "rocket-3-latentcrf.png"
    assert np.array_equal(np.asarray(Image.open(path)), first)

    page.goto(url)
    page.wait_for_selector("#compare-start")
    page.click("#settings button")
    with page.expect_file_chooser() as chooser:
        page.click("#load-png")
    chooser.value.set_files(path)
    page.wait_for_function(f"document.querySelector('{PROMPT}').value == 'rocket'")
    page.click("#compare-start")
    wait_until_done(page)
    assert np.array_equal(shown(page, "#latentcrf"), first)


def test_wrong_values_are_met_with_a_sentence_that_names_the_field(page: Page, url: str) -> None:
    visit(page, url)
    page.click("#settings button")
    page.fill("#seed input", "-1")
    ask(page, "red apple")
    page.wait_for_selector("#compare-status [role=alert]")
    assert re.search(
        r"Seed must be a whole number from 0 to 4,294,967,295; it was -1\.", page.inner_text("#compare-status")
    )
    page.fill("#seed input", "3")
    page.fill("#steps input", "10000")
    ask(page, "red apple")
    page.wait_for_function(
        "document.querySelector('#compare-status').innerText"
        ".includes('Steps must be a whole number from 2 to 200; it was 10,000')"
    )
    page.fill("#steps input", "12")
    ask(page, " ")
    page.wait_for_function("document.querySelector('#compare-status').innerText.includes('Prompt must be')")


def test_a_prompt_with_markup_is_shown_as_text(page: Page, url: str) -> None:
    visit(page, url)
    evil = "<img src=x onerror=document.title='taken'> ${7*7}"
    ask(page, evil)
    wait_until_done(page)
    assert evil in page.inner_text("#compare-status")
    assert page.locator("#compare-status img").count() == 0 and page.title() == "LatentCRF"


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720), (390, 844)])
def test_nothing_is_wider_than_the_window_and_the_images_are_in_sight(
    page: Page, url: str, width: int, height: int, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    visit(page, url)
    ask(page, "red apple")
    wait_until_done(page)
    for scheme in ("light", "dark"):
        page.evaluate(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("window.scrollTo(0, 0)")
    box = page.locator("#latentcrf").bounding_box()
    assert box and box["y"] + box["height"] <= height
    if width > 1000:
        figures = page.locator("#lpips").bounding_box()
        assert figures and figures["y"] + figures["height"] <= height


def test_the_menu_brings_another_models_settings_and_examples(browser: Browser, tmp_path: Path) -> None:
    """A page of its own: the shared one offers one model."""
    folder = save_stable_diffusion(tmp_path / "tiny-sd")
    with served("--model", str(folder), log=tmp_path / "app.log") as own_url:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE)
        visit(page, own_url)
        assert "VAE round trip" in page.inner_text("#model-note") and "PNDMScheduler" in page.inner_text("#model-note")
        page.click("button:has-text('Train a LatentCRF')")
        page.wait_for_function("document.querySelector('#training-command')?.innerText.includes('latentcrf.training')")
        ask(page, "red apple")
        wait_until_done(page)
        assert shown(page, "#full").shape == (64, 64, 3) and "tiny-sd: " in page.inner_text("#compare-status")
        page.click("#model input")
        page.click("[role=option]:has-text('Emoji')")
        page.locator("#model-note").wait_for(state="hidden")
        page.wait_for_selector("#examples button:has-text('sunflower')")
        assert page.input_value(PROMPT) == "red apple"
        assert shown(page, "#full").shape == (128, 128, 3)  # the stored example, not the other model's image
        page.wait_for_function("document.querySelectorAll('#strip i').length > 50")
        visit(page, own_url, f"{QUICK}&model=emoji")
        page.wait_for_function("document.querySelector('#model input').value.startsWith('Emoji')")
        visit_refused = page.goto(f"{own_url}?prompt=x&model=sdxl")
        assert visit_refused is not None
        page.wait_for_selector("#compare-status [role=alert]")
        assert "Model must be one that this page offers" in page.inner_text("#compare-status")
        page.close()
    assert "Traceback" not in (tmp_path / "app.log").read_text()
