"""Open pages in headless Chromium, where there is one."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ColorScheme, Page

_WIDTHS = (1280, 390)
_SCHEMES: "tuple[ColorScheme, ...]" = ("light", "dark")


@dataclass
class Tab:
    """An empty tab. `said` collects its messages and errors, and `asked` the URLs that it requests."""

    page: "Page"
    width: int
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def require_sound(self) -> None:
        """The page fits in, and printed no error."""
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width
        assert self.said == []


@contextmanager
def tabs() -> Iterator[Iterator[Tab]]:
    """Yield tabs of a screen and of a phone, light and dark. The test is skipped if there is no Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("no Chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield (_tab(browser, width, scheme) for width, scheme in product(_WIDTHS, _SCHEMES))
        browser.close()


def _tab(browser: "Browser", width: int, scheme: "ColorScheme") -> Tab:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = Tab(context.new_page(), width)
    tab.page.on("console", lambda message: tab.said.append(message.text))
    tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.page.on("request", lambda request: tab.asked.append(request.url))
    return tab


def require_opens(page: Path, seconds: float = 10.0) -> None:
    """The page opens on a screen and on a phone, light and dark. It fits in, prints no error and asks for nothing else.

    The test is skipped if there is no Chromium.
    """
    with tabs() as opened:
        for tab in opened:
            start = time.monotonic()
            tab.page.goto(page.resolve().as_uri())
            took = time.monotonic() - start
            tab.require_sound()
            assert [url for url in tab.asked if not url.startswith("data:")] == [page.resolve().as_uri()]
            assert took < seconds
