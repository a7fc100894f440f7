"""Check the place of a file that a command is asked to write, before the work."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from headstart.features.errors import OptionError


def require_place(flag: str, file: Path) -> None:
    """Raise an OptionError if no file can be written at `file`, the value of the option `flag`.

    The folder must exist, and a file that exists must be a regular file or a link to one.
    """
    if file.is_dir() or not file.parent.is_dir():
        why = "is a folder; name a file in it" if file.is_dir() else f"there is no folder {file.parent}"
        raise OptionError(f"{flag} {file}: {why}")
    if os.path.lexists(file) and not file.is_file():
        raise OptionError(f"{flag} {file}: is no regular file; name another")
    if reason := unwritable(file.parent):
        raise OptionError(f"{flag} {file}: no file can be written there ({reason})")


def unwritable(folder: str | Path) -> str:
    """Return the system's reason why no file can be made in `folder`, or an empty string if one can be made."""
    try:
        with TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)
