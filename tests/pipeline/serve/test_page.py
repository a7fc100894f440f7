"""The page in headless Chromium, where there is one."""

import shutil
from itertools import product
from pathlib import Path

import pytest
from headstart.tests.browser import SCHEMES, WIDTHS
from headstart.tests.pipeline.serve.processes import served

pytestmark = pytest.mark.slow


def test_photographs_are_labelled_on_the_page(trained_run: Path, drawn: Path, tmp_path: Path) -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("no Chromium on the path")
    from playwright.sync_api import expect, sync_playwright

    photographs = [str(drawn / "cat" / "cat.0.jpg"), str(drawn / "dog" / "dog.1.jpg")]
    with served(trained_run, tmp_path, "--abstain=1") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, scheme in product(WIDTHS, SCHEMES):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            tab, said, asked = context.new_page(), list[str](), list[str]()
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(server.url)
            tab.set_input_files("#choose", photographs)
            expect(tab.locator(".card")).to_have_count(2)
            expect(tab.locator(".waits")).to_have_count(0, timeout=30_000)
            assert set(tab.locator(".card h2").all_inner_texts()) <= {"cat", "dog"}
            assert tab.locator(".card .n").first.inner_text().endswith("%")
            assert "unsure" in tab.locator(".flags").first.inner_text()
            assert tab.locator(".near img").count() == 8
            assert all(tab.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)"))
            assert ".jpg: " in tab.locator("[aria-live=polite]").inner_text()
            paste(tab, photographs[0])
            expect(tab.locator(".card:not(.waits)")).to_have_count(3, timeout=30_000)
            tab.keyboard.press("Tab")
            tab.get_by_role("button", name="Remove all").press("Enter")
            expect(tab.locator(".card")).to_have_count(0)
            assert tab.evaluate("document.activeElement.id") == "choose"
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert said == []
            assert [url for url in asked if not url.startswith((server.url, f"blob:{server.url}"))] == []
            context.close()
        browser.close()


def paste(tab, file: str) -> None:
    """Paste a photograph, as from the clipboard."""
    numbers = list(Path(file).read_bytes())
    tab.evaluate(
        """(numbers) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(numbers)], "pasted.jpg", { type: "image/jpeg" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        numbers,
    )
