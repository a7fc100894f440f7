"""Open pages in headless Chromium, where there is one."""

import shutil
import time
from itertools import product
from pathlib import Path

import pytest

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


def require_opens(page: Path, seconds: float = 10.0) -> None:
    """The page opens on a screen and on a phone, light and dark. It fits in, prints no error and asks for nothing else.

    The test is skipped if there is no Chromium.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("no Chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, scheme in product(WIDTHS, SCHEMES):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            tab, said, asked = context.new_page(), list[str](), list[str]()
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            start = time.monotonic()
            tab.goto(page.resolve().as_uri())
            took = time.monotonic() - start
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]
            assert took < seconds
            context.close()
        browser.close()
