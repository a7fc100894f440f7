"""Read a data folder by the rules of versions before 0.2.

The rules are for runs of these versions, and for `--layout v1`. They never change, so that commands still find the
examples of these runs.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.images.columns.paths import Paths
from headstart.pipeline.data.layouts import Reading
from headstart.pipeline.data.splits import SPLITS

REJECTS = "rejects.csv"
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def read_folder_v1(data: Path) -> tuple[Paths, Reading, Counter[str]]:
    """Return the files of a data folder, a `Reading` of these files, and the number of ignored files by kind.

    Folders called `train`, `val` and `test` are the splits, and the folders in them are the classes. Without split
    folders, the folders in `data` are the classes. Raises DataError if there are no class folders, or if a folder below
    them can't be read.
    """
    folders = class_folders(data)
    ignored = Counter({"outside classes": count_strays(data, [folder for _, folder in folders])})
    splits, labels = list[str](), list[str | None]()
    paths: list[str] = []
    for split, folder in folders:
        files, hidden = _walk(folder)
        paths += files
        splits += [split] * len(files)
        labels += [folder.name] * len(files)
        ignored["clutter"] += hidden
    lines, classes = [f"{data}: read as versions before 0.2 did"], [folder.name for _, folder in folders]
    return Paths.of(paths), Reading(splits, labels, lines, empty_classes=classes), +ignored


def class_folders(data: Path) -> list[tuple[str, Path]]:
    """List the class folders of a data folder as pairs (split, folder). Without split folders, the split is "".

    Raises DataError if `data` has no class folders.
    """
    parents = {name: data / name for name in SPLITS if (data / name).is_dir()} or {"": data}
    folders = [
        (split, folder)
        for split, parent in parents.items()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and not _is_clutter(folder.name)
    ]
    if not folders:
        parent = f"{data}" if "" in parents else f"{data}/train"
        raise DataError(f"{data}: no class folders; expected {parent}/<class>/*.jpg")
    return folders


def count_strays(data: Path, class_folders: Sequence[Path]) -> int:
    """Count the files of a data folder that lie outside its class folders. `rejects.csv` is not counted."""
    known = {*class_folders, data / REJECTS, *(data / split for split in SPLITS)}
    parents = {data, *(folder.parent for folder in class_folders)}
    strays = [entry for parent in parents for entry in parent.iterdir() if entry not in known]
    return sum(sum(not path.is_dir() for path in stray.rglob("*")) if stray.is_dir() else 1 for stray in strays)


def _is_clutter(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name.lower() in _CLUTTER


def _walk(folder: Path) -> tuple[list[str], int]:
    """Return the sorted paths of the files below `folder` that are not clutter, and the number of clutter files."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: can't be read: {error.strerror}; change its permissions") from error

    files: list[str] = []
    hidden = 0
    top, entered = os.path.realpath(folder), set[str]()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(parent)
        if here in entered or top.startswith(here.rstrip(os.sep) + os.sep):  # a link may lead up
            folders.clear()
            continue
        entered.add(here)
        folders.sort()
        in_clutter = any(map(_is_clutter, parent[len(str(folder)) :].split(os.sep)))
        visible = [] if in_clutter else [name for name in names if not _is_clutter(name)]
        hidden += len(names) - len(visible)
        files += [os.path.join(parent, name) for name in visible]
    return sorted(files), hidden
