"""Why a file can't be used as an image."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["empty", "not-an-image", "truncated", "corrupt", "unsupported", "too-large", "unreadable", "vanished"]

MAX_PIXELS = 100_000_000  # the default of `--max-pixels`; an image with more is too large


@dataclass(frozen=True)
class Fault:
    """Why bytes can't be used as an image: the kind of fault, and one line for a person."""

    reason: Reason
    detail: str
