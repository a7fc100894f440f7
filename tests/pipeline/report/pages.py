"""Read a page as a browser does: its elements, its text, and what it would load or run."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

_PLAIN = "html meta title style main section nav h1 h2 h3 p ul ol li a b i small bdi span div br figure figcaption img"
_TABLES = "table caption thead tbody tr th td details summary"
_DRAWN = "svg defs g path use rect text tspan clippath circle line"
ALLOWED = set(f"{_PLAIN} {_TABLES} {_DRAWN}".split())


class Page(HTMLParser):
    """The elements of a page, each with its attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def require_safe(self) -> None:
        """Nothing is loaded and nothing runs: no foreign element, no handler, no address but `data:` and `#`."""
        assert {tag for tag, _ in self.elements} <= ALLOWED
        for tag, attributes in self.elements:
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "xlink:href"):
                    assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
        assert "default-src 'none'" in self.source
        assert not re.search(r"@import|url\((?!#)", self.source)

    def require_accessible(self) -> None:
        """Headings in order, texts for pictures and charts, headers of tables, and no name given twice."""
        levels = [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
        assert all(attributes.get("alt") for attributes in self.of("img"))
        assert all(one.get("aria-label") or one.get("aria-hidden") for one in self.of("svg"))
        assert all(attributes.get("scope") for attributes in self.of("th"))
        assert len(self.of("caption")) == len(self.of("table"))
        names = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(set(names)) == len(names)
