"""The page in a Chromium, for all tests here."""

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements-dev.txt")

from playwright.sync_api import Browser, Page  # noqa: E402

from tests.app.driving import EMOJI  # noqa: E402
from tests.browser.driving import PATIENCE, browsing, chromium, served  # noqa: E402


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        reason = "no Chromium or Chrome found; on Debian: apt-get install -y chromium"
        # Where the whole is tested, a browser belongs to it.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    missing = [path for path in EMOJI.list_files() if not path.is_file()]
    if missing:
        pytest.skip(f"the trained models are not there yet: {missing[0]}")
    folder = tmp_path_factory.mktemp("app")
    with served("--model", "emoji", log=folder / "app.log") as url:
        yield url
    assert "Traceback" not in (folder / "app.log").read_text()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, at a desktop's size; whatever it asks of other hosts or reports as an error fails the test."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:", "blob:")) else troubles.append(request.url),
    )
    yield page
    page.close()
    assert troubles == []
