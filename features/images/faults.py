"""Reasons why a file can't be used as an image."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal[
    "empty", "not-an-image", "truncated", "corrupt", "unsupported", "too-large", "unreadable", "vanished", "crashed"
]

UNREAD: tuple[Reason, ...] = ("vanished", "unreadable")  # on another machine, or later, the file may be read

MAX_PIXELS = 100_000_000  # the default of `--max-pixels`
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Fault:
    """The reason why bytes can't be used as an image, with one line of detail."""

    reason: Reason
    detail: str


NO_IMAGE = Fault("not-an-image", "neither its name nor its content is that of an image")  # for a file that a list names


def why_damaged(error: Exception) -> Fault:
    """Return the fault of an image whose decoder raised `error`."""
    said = " ".join(str(error).split()) or type(error).__name__
    return Fault("truncated" if "truncated" in said.lower() else "corrupt", said)


class UnreadableError(OSError):
    """Raised if a file can't be read. The attribute `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class Version(NamedTuple):
    """The size of a file, and a number, `mtime_ns`, that changes when the file changes.

    For a local file, `mtime_ns` is its modification time in ns. For a member of a tar, `mtime_ns` is the modification
    time of the tar. For an object, `mtime_ns` is a 60-bit hash of the object's ETag. If the server gives no ETag,
    another value is hashed, such as the modification time. If the server gives no value that changes with the object,
    `mtime_ns` is 0.
    """

    # A hash of 60 bits is less than any time in ns since 2007, so an object never seems to be written just now.

    bytes: int  # -1 if the server does not say
    mtime_ns: int
