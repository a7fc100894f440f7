"""The page on which a person drops photographs. It is one file, and sends requests only to this server."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from headstart.pipeline.pages.html import escaped, isolated
from headstart.pipeline.pages.style import STYLE
from headstart.pipeline.serve.guard import policy

_NAMED = 12  # classes that the page names


class Page:
    """The page, and its content security policy. The policy allows only the page's own scripts and styles.

    `title` names the model that answers.
    """

    def __init__(self, title: str, class_names: Sequence[str]) -> None:
        folder = files("headstart.pipeline.serve")
        html, css, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
        style = STYLE + css
        shown = html.replace("{{style}}", style).replace("{{script}}", script)
        named = ", ".join(map(isolated, class_names[:_NAMED])) + (", …" if len(class_names) > _NAMED else "")
        about = f"{escaped(title[:1].upper() + title[1:])} knows {len(class_names)} classes: {named}."
        self.html = shown.replace("{{about}}", about)
        self.policy = policy(_source(script), _source(style))


def _source(text: str) -> str:
    """Return an entry for a content security policy. It allows only the script or style with the content `text`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
