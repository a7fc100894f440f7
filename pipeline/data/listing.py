"""List the files below a folder, without the clutter that cameras, file managers and headstart itself leave there."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def is_clutter(name: str) -> bool:
    """Whether `name` belongs to a hidden file or folder, or to one that a file manager or archiver leaves behind."""
    return (name.startswith(".") and name != "..") or name.lower() in _CLUTTER


def files_below(folder: Path) -> list[Path]:
    """List all files below `folder` except clutter, sorted by path."""
    return [Path(path) for path in walk(folder)[0]]


def walk(folder: Path) -> tuple[list[str], int]:
    """List all files below `folder` except clutter, sorted by path, and count the clutter files.

    Links are followed. Each folder is entered only once, and a folder that contains `folder` is not entered. Raises
    OSError if a folder can't be read.
    """

    def fail(error: OSError) -> None:
        raise error

    files: list[str] = []
    hidden = 0
    top, entered = os.path.realpath(folder), set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(parent)
        if here in entered or top.startswith(here.rstrip(os.sep) + os.sep):
            folders.clear()
            continue
        entered.add(here)
        folders.sort()
        in_clutter = any(map(is_clutter, parent[len(str(folder)) :].split(os.sep)))
        visible = [] if in_clutter else [name for name in names if not is_clutter(name)]
        hidden += len(names) - len(visible)
        files += [os.path.join(parent, name) for name in visible]
    return sorted(files), hidden


@dataclass(frozen=True)
class Listing:
    """The files below a folder without clutter: paths relative to it, with slashes, sorted."""

    files: list[str]
    ignored: Counter[str]  # number of clutter files by kind
    unreadable: list[str]  # folders
    empty: list[str]  # folders without a file


def list_files(folder: Path) -> Listing:
    """List all files below `folder`. Stub until the archives branch is merged."""
    files, hidden = walk(folder)
    start = len(str(folder)) + 1
    empty = [
        os.path.join(parent, name)[start:]
        for parent, folders, _ in os.walk(folder)
        for name in folders
        if not any(names for _, _, names in os.walk(os.path.join(parent, name))) and not is_clutter(name)
    ]
    return Listing([path[start:] for path in files], Counter(hidden=hidden), [], empty)
