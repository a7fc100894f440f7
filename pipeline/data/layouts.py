"""How a folder or an archive is read: which names are classes, which are splits, and which files are clutter."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from headstart.features.errors import DataError
from headstart.features.images.formats import IMAGE_SUFFIXES
from headstart.pipeline.data.splits import SPLITS

REJECTS = "rejects.csv"
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_NUMBERED = re.compile(r"(?P<label>[^.]+)\.\d+\.\w+$")  # Kaggle's names: cat.0.jpg
_COMPETITION_FOLDERS = frozenset({"train", "test", "test1"})
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test"})


def classes_of(paths: Sequence[PurePosixPath]) -> list[str | None]:
    """Tell the class of each file of a source from the paths of all, relative to the source; None for no class.

    Class folders win over names such as `cat.0.jpg`. Folders that all images share are skipped, and so are split
    folders.
    """
    depth = _common_depth([path.parts for path in paths if path.suffix.lower() in IMAGE_SUFFIXES])
    inside = [path.parts[depth:] for path in paths]
    folders = {parts[0] for parts in inside if len(parts) > 1}
    training = [parts[1:] for parts in inside if parts[:1] == ("train",) and len(parts) > 1]
    numbered = all(len(parts) == 1 and _NUMBERED.match(parts[0]) for parts in training)
    if "train" in folders <= _COMPETITION_FOLDERS and numbered:
        inside = [parts[1:] if parts[:1] == ("train",) else () for parts in inside]  # test1/ has no labels
    elif folders and {folder.lower() for folder in folders} <= _SPLIT_FOLDERS:
        inside = [parts[1:] for parts in inside]
    by_folder = any(len(parts) > 1 for parts in inside)
    return [_class_of(parts, by_folder) for parts in inside]


def _common_depth(files: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all files share."""
    levels = list(zip(*(parts[:-1] for parts in files), strict=False))  # ends with the shortest path
    return next((depth for depth, level in enumerate(levels) if len(set(level)) > 1), len(levels))


def _class_of(parts: tuple[str, ...], by_folder: bool) -> str | None:
    if by_folder:
        return parts[0] if len(parts) > 1 else None
    match = _NUMBERED.match(parts[0]) if parts else None
    return match["label"] if match else None


def class_folders(data: Path) -> list[tuple[str, Path]]:
    """List (split, folder) of each class folder of a data folder; the split is empty where there are no split folders.

    Raises:
        DataError: `data` is no folder, or has no class folders.
    """
    require_folder(data)
    parents = {name: data / name for name in SPLITS if (data / name).is_dir()} or {"": data}
    folders = [
        (split, folder)
        for split, parent in parents.items()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and not is_clutter(folder.name)
    ]
    if not folders:
        parent = f"{data}" if "" in parents else f"{data}/train"
        raise DataError(f"{data}: no class folders; expected {parent}/<class>/*.jpg")
    return folders


def require_folder(data: Path) -> None:
    """Raise a DataError unless `data` is a folder."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder" if not data.exists() else f"{data}: not a folder")


def count_strays(data: Path, class_folders: Sequence[Path]) -> int:
    """Count the files of a data folder that lie outside its class folders."""
    known = {*class_folders, data / REJECTS, *(data / split for split in SPLITS)}
    parents = {data, *(folder.parent for folder in class_folders)}
    strays = [entry for parent in parents for entry in parent.iterdir() if entry not in known]
    return sum(sum(not path.is_dir() for path in stray.rglob("*")) if stray.is_dir() else 1 for stray in strays)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is a dotfile, or is left behind by file and archive managers."""
    return (name.startswith(".") and name != "..") or name.lower() in _CLUTTER


def files_below(folder: Path) -> list[Path]:
    """List every file below `folder` except clutter, sorted."""
    return [Path(path) for path in walk(folder)[0]]


def walk(folder: Path) -> tuple[list[str], int]:
    """List the files below `folder` except clutter, sorted, and count the files left out.

    Links are followed. No folder is entered twice, and no folder is entered that holds `folder` itself.

    Raises:
        OSError: a folder can't be read.
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
