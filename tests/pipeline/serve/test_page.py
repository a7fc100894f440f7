"""The page in headless Chromium, where there is one."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from headstart.tests.browser import tabs
from headstart.tests.pipeline.serve.processes import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def test_photographs_are_labelled_on_the_page(trained_run: Path, drawn: Path, tmp_path: Path) -> None:
    photographs = [str(drawn / "cat" / "cat.0.jpg"), str(drawn / "dog" / "dog.1.jpg")]
    with tabs() as opened, served(trained_run, tmp_path, "--abstain=1") as server:
        from playwright.sync_api import expect

        for tab in opened:
            page = tab.page
            page.goto(server.url)
            page.set_input_files("#choose", photographs)
            expect(page.locator(".card")).to_have_count(2)
            expect(page.locator(".waits")).to_have_count(0, timeout=30_000)
            assert set(page.locator(".card h2").all_inner_texts()) <= {"cat", "dog"}
            assert page.locator(".card .n").first.inner_text().endswith("%")
            assert "unsure" in page.locator(".flags").first.inner_text()
            assert page.locator(".near img").count() == 8
            loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
            for _ in range(100):  # the page's policy forbids what `wait_for_function` evaluates
                if page.evaluate(loaded):
                    break
                page.wait_for_timeout(100)
            assert page.evaluate(loaded)
            assert ".jpg: " in page.locator("[aria-live=polite]").inner_text()
            paste(page, photographs[0])
            expect(page.locator(".card:not(.waits)")).to_have_count(3, timeout=30_000)
            page.keyboard.press("Tab")
            page.get_by_role("button", name="Remove all").press("Enter")
            expect(page.locator(".card")).to_have_count(0)
            assert page.evaluate("document.activeElement.id") == "choose"
            tab.require_sound()
            assert [url for url in tab.asked if not url.startswith((server.url, f"blob:{server.url}"))] == []
        page.route("**/labels", lambda route: route.abort())  # the server is away
        page.reload()
        page.set_input_files("#choose", photographs * 4)
        expect(page.locator(".failed")).to_have_count(8)
        page.unroute("**/labels")  # and there again
        page.set_input_files("#choose", photographs)
        expect(page.locator(".card:not(.waits):not(.failed)")).to_have_count(2, timeout=30_000)
        assert not [text for text in tab.said if "ERR_FAILED" not in text]


def paste(page: "Page", file: str) -> None:
    """Paste a photograph, as from the clipboard."""
    numbers = list(Path(file).read_bytes())
    page.evaluate(
        """(numbers) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(numbers)], "pasted.jpg", { type: "image/jpeg" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        numbers,
    )
