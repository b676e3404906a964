"""A real Chromium for the tests of pages: what it says and asks for is kept; axe-core checks accessibility."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

#: Where screenshots go to; the tests need none of them.
SCREENSHOTS = Path(os.environ.get("XTTS_GATEKEEPER_SCREENSHOTS") or Path(__file__).parent.parent / "screenshots")

_BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
#: The page must make no connection of its own; neither should the browser.
_QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@dataclass
class Watched:
    """Everything a page said and asked for."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, page):
        """Listen to a page; returns it."""
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        return page

    def elsewhere(self, origin):
        """What was asked for that is neither of `origin` (a URL's beginning) nor held by the page itself."""
        own = (origin, "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]


@contextmanager
def open_chromium():
    """A headless browser of playwright's; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for path in _BROWSERS if Path(path).exists()), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    args = [*_QUIET, "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=args)
        try:
            yield browser
        finally:
            browser.close()


def axe_serious(page):
    """The serious and critical violations that axe-core finds in the page as it is: rule, what, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        (one["id"], one["help"], [node["target"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def screenshot(page, name):
    """Keep a picture of the whole page for a person to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
