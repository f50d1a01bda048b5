"""The analysis tabs in a real Chromium: each is opened, run where it runs anything, and its pictures are seen."""

import csv
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Page, expect  # noqa: E402

from analysis.studies import FEW_STEPS, FULL_RUN, LATENTCRF  # noqa: E402
from app.layout import TABS  # noqa: E402
from tests.browser.driving import PATIENCE  # noqa: E402

# Titles and legends of the figures in sight that reach beyond their figure, which the browser cuts off.
CUT_TEXTS = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(
    (plot) => plot.clientWidth
).flatMap((plot) => {
    const all = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('.gtitle, .xtitle, .ytitle, .annotation-text, .legendtext')].filter((text) => {
        const own = text.getBoundingClientRect();
        return own.left < all.left - 1 || own.right > all.right + 1
            || own.top < all.top - 1 || own.bottom > all.bottom + 1;
    }).map((text) => text.textContent);
})"""
# Figures in sight that are not as wide as their place.
WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot')].filter((plot) => plot.clientWidth).map(
    (plot) => [plot.id, plot.clientWidth, plot.querySelector('.main-svg').clientWidth]
).filter(([_, place, own]) => Math.abs(place - own) > 2)"""
pytestmark = [pytest.mark.browser, pytest.mark.slow]


def saved(page: Page, figure: str, kind: str) -> bytes:
    """What the button below a figure downloads, once the figure is drawn."""
    page.locator(f"#{figure} .js-plotly-plot .main-svg").first.wait_for()
    with page.expect_download() as waiting:
        page.click(f"#{figure}-links :is(button, a):has-text('{kind.upper()}')")
    assert waiting.value.suggested_filename == f"latentcrf-{figure}.{kind}"
    return Path(waiting.value.path()).read_bytes()


def saved_rows(page: Page, figure: str) -> list[dict[str, str]]:
    """The CSV below a figure."""
    return list(csv.DictReader(saved(page, figure, "csv").decode().splitlines()))


@pytest.mark.parametrize("name", [name for name, _, _ in TABS])
def test_a_tab_runs_and_shows_its_figures(page: Page, url: str, name: str) -> None:
    page.goto(url)
    title = next(title for known, title, _ in TABS if known == name)
    page.get_by_role("tab", name=title, exact=True).click()
    tab = page.locator(f"#{name}-tab")
    tab.wait_for(state="visible")
    if name == "variance":  # the shipped table, drawn while the models load
        tab.locator(".js-plotly-plot").first.wait_for()
    start, cancel = page.locator(f"#{name}-start"), page.locator(f"#{name}-cancel")
    if start.count():
        start.click()
        expect(cancel).to_be_enabled(timeout=PATIENCE)
        expect(start).to_be_enabled(timeout=PATIENCE)
    assert tab.locator(".message.error").count() == 0
    if name == "convergence":
        residuals = [row for row in saved_rows(page, "convergence-curves") if row["residual"]]
        assert residuals and all(float(row["iteration"]) >= 1 for row in residuals)
    tab.locator(".sprite" if name == "method" else ".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(1500)
    for width in (1440, 1280, 390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_TEXTS) == []
        assert page.evaluate(WIDTHS) == []


def test_a_cell_of_the_heat_map_shows_its_two_images(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Diversity", exact=True).click()
    page.fill("#diversity-seeds input", "4")
    page.click("#diversity-start")
    expect(page.locator("#diversity-cancel")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator("#diversity-start")).to_be_enabled(timeout=PATIENCE)
    under = page.locator("#diversity-tab .reading", has_text="of the full run's")
    expect(under).to_have_count(2)  # LatentCRF and DDIM-4
    page.wait_for_timeout(1500)
    measured = saved_rows(page, "diversity-measures")
    methods = [FULL_RUN, LATENTCRF, FEW_STEPS]
    assert [row["method"] for row in measured] == methods
    for row in measured:
        for name in ("pairwise_lpips", "vendi"):
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
    pairs = saved_rows(page, "diversity-pairs")
    assert len(pairs) == 3 * 4 * 3 / 2 and {row["method"] for row in pairs} == set(methods)
    cell = page.locator("#diversity-pairs .js-plotly-plot .nsewdrag").first
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 0.1 * box["height"], steps=5)
    pair = page.locator("#diversity-pair .pair")
    expect(pair.locator("p")).to_contain_text("seed 0 and seed 3: LPIPS 0.")
    first, second = (image.get_attribute("src") for image in pair.locator("img").all())
    assert first and second and first != second


def test_a_figure_is_downloaded_as_it_is_drawn(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Latent variance", exact=True).click()
    page.locator("#variance-figure .js-plotly-plot .main-svg").first.wait_for()
    got = {kind: saved(page, "variance-figure", kind) for kind in ("svg", "png", "csv")}
    assert got["svg"].startswith(b"<svg") and FULL_RUN.encode() in got["svg"]
    assert got["png"].startswith(b"\x89PNG")
    head, *rows = got["csv"].decode().splitlines()
    assert head.startswith("method,step") and sum(row.startswith(f"{FULL_RUN},") for row in rows) >= 50


def test_a_click_on_a_mark_of_the_frontier_shows_its_images(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Frontier", exact=True).click()
    page.locator("#frontier-images img").wait_for()
    words = page.locator("#frontier-words")
    before = words.inner_text()
    page.wait_for_timeout(1500)
    find = """name => {
        const data = document.querySelector("#frontier-figure .js-plotly-plot").data;
        const trace = data.findIndex(each => (each.customdata || []).some(point => point[1] === name));
        return [trace, data[trace].customdata.findIndex(point => point[1] === name)];
    }"""
    trace, point = page.evaluate(find, "UniPC-6")  # a mark that no other covers
    mark = page.locator("#frontier-figure .scatterlayer .trace").nth(trace).locator(".points path").nth(point)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_timeout(300)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    rows = {row["Method"]: row for row in saved_rows(page, "frontier-figure")}
    assert rows["DDIM-50"]["Family"] == "Few-step solvers" and " to " in rows["UniPC-12 cut-off 1/3"]["95 % interval"]
    expect(words).not_to_have_text(before)
    expect(words).to_contain_text("UniPC-6: the first images of its prompts")


def test_two_visitors_take_turns_and_both_get_their_figures(page: Page, url: str) -> None:
    visitors = [page, page.context.browser.new_page()]
    for visitor, seed in zip(visitors, ("0", "1"), strict=True):
        visitor.goto(url)
        visitor.get_by_role("tab", name="CRF convergence", exact=True).click()
        visitor.fill("#convergence-seeds input", "1")
        visitor.fill("#convergence-seed input", seed)
        visitor.click("#convergence-start")
    for visitor in visitors:
        expect(visitor.locator("#convergence-images .js-plotly-plot").first).to_be_visible(timeout=PATIENCE)
        expect(visitor.locator("#convergence-start")).to_be_enabled(timeout=PATIENCE)
        assert visitor.locator(".message.error").count() == 0
    visitors[1].close()


# Sprites of the section in sight, as what they show.
SPRITES = """() => [...document.querySelectorAll('#method-talk .sprite')].filter(
    (sprite) => sprite.getClientRects().length
).map((sprite) => sprite.style.backgroundPosition)"""
# What of the section in sight lies below the screen.
BELOW = """() => {
    const section = [...document.querySelectorAll('.talk-section')].find((each) => each.getClientRects().length);
    return Math.max(0, section.getBoundingClientRect().bottom + window.scrollY - window.innerHeight);
}"""


def test_the_talk_is_led_by_keys_and_sliders(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Method", exact=True).click()  # shows its stored example
    page.locator("#method-steps .sprite").first.wait_for()
    counter = page.locator(".talk-nav .counter")
    steps = page.locator("#method-steps input[type=range]")

    before = page.evaluate(SPRITES)
    steps.fill("40")
    expect(page.locator("#method-steps .scrubber output")).to_have_text("40 of 49")
    after = page.evaluate(SPRITES)
    assert len(after) == 2 and all(old != new for old, new in zip(before, after, strict=True))
    assert page.locator("#method-steps .full i.done").count() == 41
    assert page.locator("#method-steps .latentcrf i.done").count() == 33  # and the bypass
    assert page.locator("#method-steps .crf.done").count() == 1
    steps.press("ArrowRight")  # moves the slider, not the talk
    expect(page.locator("#method-steps .scrubber output")).to_have_text("41 of 49")
    expect(counter).to_have_text("1 / 8")

    page.locator("#method-steps h2").click()
    page.keyboard.press("ArrowRight")
    expect(counter).to_have_text("2 / 8")
    expect(page.locator("#method-redundancy .scrubber output")).to_have_text("41 of 49")  # one run, one step
    page.locator("#method-redundancy .column").nth(5).click()
    expect(page.locator("#method-redundancy .said")).to_contain_text("Step 5 changes the estimate by")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    expect(counter).to_have_text("4 / 8")
    assert not page.locator("#method-redundancy").is_visible()

    energies = page.locator("#method-weights .energies output")
    learned, picture = energies.all_inner_texts(), page.evaluate(SPRITES)
    sliders = page.locator("#method-weights input[type=range]")
    sliders.nth(0).fill("0")
    expect(page.locator("#method-weights .scrubber output").nth(0)).to_have_text("× 0.01")
    assert page.evaluate(SPRITES) != picture and energies.all_inner_texts() != learned
    expect(page.locator("#method-weights .said")).to_contain_text("contrast −")
    sliders.nth(1).fill("0")
    sliders.nth(2).fill("0")  # all three alike: the learned minimum again
    assert page.evaluate(SPRITES) == picture and energies.all_inner_texts() == learned
    page.click("#method-weights [data-reset]")
    assert [each.input_value() for each in sliders.all()] == ["2", "2", "2"]
    answer = page.locator("#method-weights details p, #method-weights details").last
    page.click("#method-weights summary")
    expect(answer).to_contain_text("ratios of the weights alone")

    page.fill("#method-prompt input, #method-prompt textarea", "a b")  # keys that a field needs are left to it
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(counter).to_have_text("4 / 8")
    page.click(".talk-nav [data-move='-1']")
    expect(counter).to_have_text("3 / 8")
    page.click(".talk-nav [data-section='0']")
    expect(page.locator(".talk-nav [data-move='-1']")).to_be_disabled()

    page.set_viewport_size({"width": 1280, "height": 720})
    page.click("#presentation input")
    page.wait_for_function("document.querySelector('.presentation') !== null")
    for number in range(1, 9):
        expect(counter).to_have_text(f"{number} / 8")
        assert page.evaluate(BELOW) == 0, number
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.keyboard.press("PageDown")


def test_presentation_hides_controls_and_comes_back(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("#compare-start")
    page.click("#presentation input")
    page.wait_for_function("document.body.classList.contains('presentation')")
    assert not page.locator("#settings").is_visible()
    page.click("#presentation input")
    page.wait_for_function("!document.body.classList.contains('presentation')")
    assert page.locator("#settings").is_visible()
