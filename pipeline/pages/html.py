"""HTML from untrusted text, such as names of files and classes. The text never acts as HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from headstart.features.errors import OptionError
from headstart.features.files import write_atomically
from headstart.features.outputs import require_place
from headstart.pipeline.pages.style import STYLE

MARK = "<!doctype html><!-- a page of headstart -->"  # the first bytes of every page
# With this content security policy, the browser loads no other file and runs no script.
_SAFE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def printable(value: object) -> str:
    """Return `value` as text. Unprintable characters, such as marks that reverse text, become backslash escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def shortened(text: str, most: int = 28) -> str:
    """Return `text` with at most `most` characters. The middle of a longer text is left out."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def escaped(value: object) -> str:
    """Make `value` printable, as `printable` does, and escape the result for HTML."""
    return escape(printable(value))


def isolated(value: object) -> str:
    """Return the name `value` as HTML. Right-to-left text in the name does not reorder the text around the name."""
    return f"<bdi>{escaped(value)}</bdi>"


def items(lines: Sequence[str], kind: str) -> str:
    """Return an HTML list of `lines`, with the CSS class `kind`. Without lines, return an empty string."""
    return f"<ul class={kind}>{''.join(f'<li>{escaped(line)}' for line in lines)}</ul>" if lines else ""


def more(all: Sequence[object], shown: int, what: str = "") -> str:
    """Return a line with the number of elements that are left out. If none is left out, return an empty string.

    The argument `all` is the list of elements. The page shows elements from the start of the list, and the argument
    `shown` is their maximum number. The argument `what` is a word for the elements, and follows the number in the line.
    """
    left = len(all) - shown
    return f"<p class=more>and {left:,} more {what}</p>" if left > 0 else ""


def require_page(flag: str, file: Path, overwrite: bool = False, remedy: str = "give another name") -> None:
    """Raise an OptionError if no page can be written to `file`.

    Args:
        flag: the option whose value is `file`, for messages.
        overwrite: if true, an existing file may have any content. If false, an existing file must be a page of
            headstart.
        remedy: what the user can do if an existing file is no page of headstart. The message ends with this text.
    """
    require_place(flag, file)
    if file.is_symlink():
        raise OptionError(f"{flag} {file}: is a link; name the file itself")
    if file.exists() and not overwrite:
        try:
            with file.open("rb") as opened:
                is_page = opened.read(len(MARK)) == MARK.encode()
        except OSError as error:
            raise OptionError(f"{flag} {file}: can't be read ({error.strerror}); give another name") from error
        if not is_page:
            raise OptionError(f"{flag} {file}: exists and is no page of headstart; {remedy}")


def write_html(path: Path, title: str, body: Iterable[str]) -> None:
    """Write a page to `path`. `body` has the parts of the page as HTML. Empty parts are left out."""
    head = f"{MARK}<html lang=en><meta charset=utf-8><title>{escaped(title)}</title>"
    head += f'<meta http-equiv="Content-Security-Policy" content="{_SAFE}">'
    head += f"<meta name=viewport content='width=device-width, initial-scale=1'><style>{STYLE}</style>"
    write_atomically(path, "\n".join([f"{head}<main>", *filter(None, body), "</main>\n"]))
