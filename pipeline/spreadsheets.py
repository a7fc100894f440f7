"""Keep spreadsheets from running the names in a CSV file as formulas."""

import re
from contextlib import suppress

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # OWASP, "CSV Injection"; quotes come first where this module added some


def spreadsheet_safe(text: str) -> str:
    """Return `text` with a `'` before it if a spreadsheet would take it for a formula. A number stays as it is.

    `original_text` returns the text again.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def original_text(text: str) -> str:
    """Return the text of which `spreadsheet_safe` made `text`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return text == text.strip()
    return False
