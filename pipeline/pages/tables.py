"""Accessible tables of a page: a screen reader finds a caption, and headers of columns and rows."""

from collections.abc import Iterable, Sequence


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return an HTML table with the CSS class `kind`. If the page is narrow, the table scrolls.

    `caption`, `columns` and the cells of `rows` are HTML. The first cell of a row is the row's header. Any other cell
    may be a whole `<td>` element, for example with attributes.
    """
    head = "".join(f"<th scope=col>{column}</th>" for column in columns)
    body = "".join(f"<tr><th scope=row>{row[0]}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return (
        f"<div class=wide tabindex=0 role=region aria-label='table'><table class='{kind}'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(html: str) -> str:
    return html if html.startswith("<td") else f"<td>{html}</td>"
