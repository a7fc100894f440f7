"""Why a file can't be used as an image."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["empty", "not-an-image", "truncated", "corrupt", "unsupported", "too-large", "unreadable", "vanished"]

MAX_PIXELS = 100_000_000  # unless `--max-pixels` says otherwise; more is too large


@dataclass(frozen=True)
class Fault:
    """Why bytes can't be used as an image."""

    reason: Reason
    detail: str
