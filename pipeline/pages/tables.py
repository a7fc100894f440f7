"""Tables of a page, which can be read aloud: with a caption, and with the headers of columns and rows."""

from collections.abc import Iterable, Sequence


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return an HTML table of the CSS class `kind`. On a narrow page it scrolls by itself.

    `caption`, `columns` and the cells of `rows` are HTML. The first cell of a row is its header. A cell may begin with
    `<td`, to have attributes of its own.
    """
    head = "".join(f"<th scope=col>{column}</th>" for column in columns)
    body = "".join(f"<tr><th scope=row>{row[0]}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return (
        f"<div class=wide tabindex=0 role=region aria-label='table'><table class='{kind}'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(html: str) -> str:
    return html if html.startswith("<td") else f"<td>{html}</td>"
