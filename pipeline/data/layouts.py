"""Find classes, splits and clutter in a folder or archive by the names of its files and folders."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from headstart.features.errors import DataError
from headstart.features.images.formats import IMAGE_SUFFIXES
from headstart.pipeline.data.listing import is_clutter_folder
from headstart.pipeline.data.splits import SPLITS

REJECTS = "rejects.csv"
_NUMBERED = re.compile(r"(?P<label>[^.]+)\.\d+\.\w+$")  # Kaggle's names: cat.0.jpg
_COMPETITION_FOLDERS = frozenset({"train", "test", "test1"})
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test"})


def classes_of(paths: Sequence[PurePosixPath]) -> list[str | None]:
    """Return the class of each file of a `prepare` source, or None for a file without a class.

    `paths` are all files of the source, relative to it. If there are class folders, they decide. Otherwise names such
    as `cat.0.jpg` do. Folders above the class folders are skipped: split folders, and a folder around all images. For
    data folders, use `class_folders` instead.
    """
    folders_of_images = [path.parts[:-1] for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    levels = zip(*folders_of_images, strict=False)  # ends with the shortest path
    depth = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    inside = [path.parts[depth:] for path in paths]
    folders = {parts[0] for parts in inside if len(parts) > 1}
    training = [parts[1:] for parts in inside if parts[:1] == ("train",) and len(parts) > 1]
    numbered = all(len(parts) == 1 and _NUMBERED.match(parts[0]) for parts in training)
    if "train" in folders <= _COMPETITION_FOLDERS and numbered:
        inside = [parts[1:] if parts[:1] == ("train",) else () for parts in inside]  # test1/ has no labels
    elif folders and {folder.lower() for folder in folders} <= _SPLIT_FOLDERS:
        inside = [parts[1:] for parts in inside]
    if any(len(parts) > 1 for parts in inside):
        return [parts[0] if len(parts) > 1 else None for parts in inside]
    matches = [_NUMBERED.match("".join(parts)) for parts in inside]  # each has one part or none
    return [match["label"] if match else None for match in matches]


def class_folders(data: Path) -> list[tuple[str, Path]]:
    """List the class folders of a data folder as (split, folder). Without split folders the split is "".

    Raises DataError if `data` is not a folder, or has no class folders.
    """
    require_folder(data)
    parents = {name: data / name for name in SPLITS if (data / name).is_dir()} or {"": data}
    folders = [
        (split, folder)
        for split, parent in parents.items()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and not is_clutter_folder(folder)
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
    """Count the files of a data folder that lie outside its class folders, except `rejects.csv`."""
    known = {*class_folders, data / REJECTS, *(data / split for split in SPLITS)}
    parents = {data, *(folder.parent for folder in class_folders)}
    strays = [entry for parent in parents for entry in parent.iterdir() if entry not in known]
    return sum(sum(not path.is_dir() for path in stray.rglob("*")) if stray.is_dir() else 1 for stray in strays)
