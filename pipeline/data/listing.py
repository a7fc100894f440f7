"""List the files below a folder. Clutter, as defined in `clutter`, is left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headstart.features.errors import DataError
from headstart.features.images.columns.paths import Paths
from headstart.pipeline.data.clutter import clutter_kind, clutter_kinds
from headstart.pipeline.data.columns.coded import Coded


@dataclass(frozen=True)
class Listing:
    """The files below a folder. Paths are relative to the folder, with slashes, and sorted."""

    files: Paths  # without clutter; a link counts as its target
    ignored: Counter[str]  # number of clutter files by kind
    unreadable: list[str]  # folders that could not be read, except clutter folders
    empty: list[str]  # folders with nothing in them but clutter


def list_files(folder: Path, recursive: bool = True) -> Listing:
    """List all files below `folder`, at any depth. If `recursive` is false, list only the files in `folder` itself.

    Links to folders are followed. Each folder is entered only once, and a folder that contains `folder` is not entered.
    Raises OSError if `folder` itself can't be read.
    """
    paths, unreadable, empty = _all_below(folder, recursive)
    kinds = Coded[str | None].of(clutter_kinds(paths))
    files = paths[kinds.is_(None)]
    counts = np.bincount(kinds.codes, minlength=len(kinds.values)).tolist()
    ignored = {kind: count for kind, count in zip(kinds.values, counts, strict=True) if kind is not None}
    return Listing(files[files.in_order()], Counter(ignored), sorted(unreadable), sorted(empty))


def walk(folder: Path, recursive: bool = True) -> tuple[list[str], Counter[str]]:
    """Return two things: the paths of all files below `folder` except clutter, and the number of clutter files by kind.

    Paths are sorted, and begin with `folder`. For links and `recursive`, see `list_files`. Raises DataError if a folder
    below `folder` can't be read, and OSError if `folder` itself can't be read.
    """
    listing = list_files(folder, recursive)
    require_readable(folder, listing)
    return [os.path.join(folder, path) for path in listing.files], listing.ignored


def files_below(folder: Path, recursive: bool = True) -> list[Path]:
    """List all files below `folder` except clutter, sorted by path. For `recursive` and errors, see `walk`."""
    return [Path(path) for path in walk(folder, recursive)[0]]


def require_readable(folder: Path, listing: Listing) -> None:
    """Raise a DataError if folders below `folder` could not be read. `listing` is the listing of `folder`."""
    if listing.unreadable:
        first = ", ".join(listing.unreadable[:3]) + (", ..." if len(listing.unreadable) > 3 else "")
        raise DataError(
            f"{folder}: {len(listing.unreadable)} of its folders can't be read: {first}; change their permissions, or "
            "move them elsewhere"
        )


def some_file(folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Return whether `wanted` returns true for any file below `folder`. `wanted` takes a path relative to `folder`.

    Clutter folders are left out. The search ends at the first file for which `wanted` returns true. For links, see
    `list_files`.
    """
    visits = _visited(folder, clutter=False)
    return any(visit.files is not None and any(map(wanted, visit.files)) for visit in visits)


@dataclass(frozen=True)
class _Visit:
    """A folder that was entered. Paths are relative to the folder in which the walk began."""

    path: str
    files: list[str] | None  # None if the folder can't be read
    folders: list[str]
    in_clutter: bool


def _all_below(folder: Path, recursive: bool = True) -> tuple[Paths, list[str], list[str]]:
    """Return all files, the unreadable folders and the empty folders below `folder`, relative to it."""
    parts: list[Paths] = []
    empty: list[str] = []
    unreadable: list[str] = []
    for visit in _visited(folder, recursive):
        if visit.files is None and visit.in_clutter:
            parts.append(Paths.of([visit.path]))  # counts as one file
        elif visit.files is None:
            unreadable.append(visit.path)
        else:
            parts.append(Paths.of(visit.files))
            hollow = not visit.folders and all(clutter_kind(name.rpartition("/")[2]) for name in visit.files)
            if visit.path and not visit.in_clutter and hollow:
                empty.append(visit.path)
    return Paths.concatenated(parts), unreadable, empty


def _visited(folder: Path, recursive: bool = True, clutter: bool = True) -> Iterator[_Visit]:
    """Yield a visit of `folder` and of each folder below it, clutter folders last."""
    top, entered = os.path.realpath(folder), set[str]()
    pending, hidden = [""], list[str]()  # hidden ones come last, because a link in one may lead to data
    while pending or hidden:
        in_clutter = not pending
        path = (hidden if in_clutter else pending).pop()
        here = os.path.realpath(os.path.join(folder, path))
        if here in entered or (path and top.startswith(here.rstrip(os.sep) + os.sep)):  # a link may lead up
            continue
        entered.add(here)
        try:
            files, folders = _entries(os.path.join(folder, path), f"{path}/" if path else "")
        except OSError:
            if not path:
                raise
            yield _Visit(path, None, [], in_clutter)
            continue
        yield _Visit(path, files, folders, in_clutter)
        for child in sorted(folders, reverse=True) if recursive else ():
            if not in_clutter and clutter_kind(child.rpartition("/")[2]) is None:
                pending.append(child)
            elif clutter:
                hidden.append(child)


def _entries(folder: str, prefix: str) -> tuple[list[str], list[str]]:
    """Return two lists of names in `folder`: the files, and the folders. Each name gets the prefix `prefix`."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else files).append(prefix + entry.name)
    return files, folders


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
