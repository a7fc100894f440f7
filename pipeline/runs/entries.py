"""The entries of a run that headstart writes to or deletes. A run may come from elsewhere: they must lie in the run."""

import os
from pathlib import Path

from headstart.features.errors import RunError
from headstart.pipeline.runs.files import REMEDY

FOLDERS = ("logs", "finetune.partial", "finetune.state")
_FILES = (".csv", ".json")


def require_own_entries(path: Path) -> None:
    """Raise a RunError if a folder in the run at `path` is a symlink, or if a table or JSON file is not regular.

    Through such a symlink, files elsewhere would be written or deleted. A symlink to a regular file may stay, because
    it is only read, and a new file takes its place.
    """
    for entry in path.iterdir():
        written = entry.suffix in _FILES and not entry.name.startswith(".")  # temporary files come and go
        if written and not entry.is_file():
            raise RunError(f"{entry}: is no regular file; {REMEDY}")
        if entry.name in FOLDERS:
            _require_own_folder(entry)


def _require_own_folder(folder: Path) -> None:
    """Raise a RunError if `folder` is no folder, or if it or a folder at any depth in it is a symlink."""
    if not folder.is_dir() and os.path.lexists(folder):
        raise RunError(f"{folder}: is no folder; remove it")
    inner = (Path(parent, name) for parent, names, _ in os.walk(folder) for name in names)
    for one in (folder, *inner):
        if one.is_symlink():
            raise RunError(
                f"{one}: is a symlink to another place, and headstart writes within the run alone; remove it"
            )
