"""The page on which a person drops photographs. It is one file, and asks only this server."""

import base64
import hashlib
from importlib.resources import files

from headstart.pipeline.pages.html import escaped
from headstart.pipeline.pages.style import STYLE
from headstart.pipeline.serve.guard import policy


class Page:
    """The page, and the policy that lets it run its own script and nothing else. `title` says which model answers."""

    def __init__(self, title: str) -> None:
        folder = files("headstart.pipeline.serve")
        html, css, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
        style = STYLE + css
        shown = html.replace("{{style}}", style).replace("{{script}}", script)
        self.html = shown.replace("{{title}}", escaped(title))
        self.policy = policy(_source(script), _source(style))


def _source(text: str) -> str:
    """Return the source, for a content security policy, that stands for a script or style with this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
