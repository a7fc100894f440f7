"""Check, before a command begins its work, that the command can write its output."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from headstart.features.errors import OptionError


def require_place(flag: str, file: Path) -> None:
    """Raise an OptionError if no file can be written at `file`, the value of the option `flag`.

    The folder around `file` must exist. If `file` exists, it must be a regular file, or a link to a regular file.
    """
    if file.is_dir() or not file.parent.is_dir():
        why = "is a folder; name a file in it" if file.is_dir() else f"there is no folder {file.parent}"
        raise OptionError(f"{flag} {file}: {why}")
    if os.path.lexists(file) and not file.is_file():
        raise OptionError(f"{flag} {file}: is no regular file; name another")
    if reason := unwritable(file.parent):
        raise OptionError(f"{flag} {file}: no file can be written there ({reason})")


def unwritable(folder: str | Path) -> str:
    """Return the system's reason why no file can be made in `folder`. Return an empty string if a file can be made."""
    try:
        with TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)
