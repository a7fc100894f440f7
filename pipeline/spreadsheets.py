"""Write texts to CSV files in such a way that no spreadsheet runs a text as a formula."""

import csv
import io
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # OWASP, "CSV Injection"; the quotes may be from `spreadsheet_safe`


def spreadsheet_safe(text: str) -> str:
    """Return `text`, with a `'` in front if a spreadsheet would take `text` for a formula.

    A number is returned unchanged. `original_text` removes the `'` again.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def original_text(text: str) -> str:
    """Return the argument for which `spreadsheet_safe` returned `text`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_line(cells: Iterable[Any]) -> str:
    """Return `cells` as a line of a CSV file, with an LF at its end.

    A text that a spreadsheet would take for a formula is written safely; see `spreadsheet_safe`. Cells with any kind of
    line end are quoted.
    """
    text = io.StringIO()
    csv.writer(text).writerow([spreadsheet_safe(cell) if isinstance(cell, str) else cell for cell in cells])
    # Python's writer quotes cells with any kind of line end only if it ends lines with CR LF.
    return text.getvalue().removesuffix("\r\n") + "\n"


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return text == text.strip()
    return False
