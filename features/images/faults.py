"""Reasons why a file can't be used as an image."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "empty", "not-an-image", "truncated", "corrupt", "unsupported", "too-large", "unreadable", "vanished", "crashed"
]

MAX_PIXELS = 100_000_000  # the default of `--max-pixels`


@dataclass(frozen=True)
class Fault:
    """The reason why bytes can't be used as an image, with one line of detail."""

    reason: Reason
    detail: str


NO_IMAGE = Fault("not-an-image", "neither its name nor its content is that of an image")  # of a file that a list names
