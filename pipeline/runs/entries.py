"""Check those files and folders in a run that headstart may write or delete.

A run that comes from elsewhere may hold symlinks. Through them, headstart could change files outside the run.
"""

import os
from pathlib import Path

from headstart.features.errors import RunError
from headstart.pipeline.runs.files import REMEDY

FOLDERS = ("logs", "finetune.partial", "finetune.state")
_FILES = (".csv", ".json")


def require_own_entries(path: Path) -> None:
    """Raise a RunError if headstart could write or delete files outside the run at `path`.

    These entries of the run are checked:

    - A folder that headstart writes, such as `logs`, must not be a symlink. None of the folders in it, at any depth,
      may be a symlink.
    - A CSV or JSON file must be a regular file, or a symlink to a regular file. When headstart writes the file, the
      symlink is replaced, and its target stays unchanged.
    """
    for entry in path.iterdir():
        written = entry.suffix in _FILES and not entry.name.startswith(".")  # temporary files come and go
        if written and not entry.is_file():
            raise RunError(f"{entry}: is no regular file; {REMEDY}")
        if entry.name in FOLDERS:
            _require_own_folder(entry)


def _require_own_folder(folder: Path) -> None:
    """Raise a RunError if `folder` exists and is not a folder.

    Also raise a RunError if `folder`, or a folder at any depth in `folder`, is a symlink.
    """
    if not folder.is_dir() and os.path.lexists(folder):
        raise RunError(f"{folder}: is no folder; remove it")
    inner = (Path(parent, name) for parent, names, _ in os.walk(folder) for name in names)
    for one in (folder, *inner):
        if one.is_symlink():
            raise RunError(
                f"{one}: is a symlink to another place, and headstart writes within the run alone; remove it"
            )
