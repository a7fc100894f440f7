"""Text that a spreadsheet shows as it is."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_safe(text: str) -> str:
    """Return `text` with a leading `'` if a spreadsheet would run it as a formula. Other texts stay.

    A formula after leading `'` gets one more, so that different texts stay different.
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text
