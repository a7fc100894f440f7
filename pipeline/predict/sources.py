"""The files to classify: named files, files in named folders, and files of a list.

The files are inspected in groups.
"""

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from headstart.features.errors import DataError, OptionError
from headstart.features.images.faults import NO_IMAGE
from headstart.features.images.files.paths import is_url, shown
from headstart.features.images.files.urls import THREADS, require_access, why_unknown
from headstart.features.images.pixels import Pages
from headstart.features.images.scan import ImageFile, Reject, inspect_image
from headstart.features.paths import require_no_url
from headstart.pipeline.data.listing import files_below

_FIRST_PIECE, _LARGEST_PIECE = 256, 4096  # files; a small first piece brings the first predictions soon
_LONGEST_PATH = 1 << 20  # bytes

Piece = list[ImageFile | Reject]


@dataclass(frozen=True)
class Sources:
    """The files to classify, in order."""

    files: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)  # files that must be images; files found in a folder need not be


def find_files(
    paths: Sequence[Path], listed: Path | None = None, recursive: bool = True, distinct: bool = False
) -> Sources:
    """List the files that are named in `paths` or in the file `listed`. A named folder stands for the files in it.

    With `recursive`, a folder also stands for the files in its subfolders. With `distinct`, a file that is found
    several times occurs once in the result. If `listed` is `-`, standard input is read. A path in the file `listed`
    need not exist; a missing file is rejected later.

    Raises:
        DataError: one of `paths` does not exist, no file is found, or `listed` has a URL of an unknown kind.
        OptionError: nothing is named, one of `paths` is a URL, or `listed` is not a file.

    For errors about the format of `listed`, see `_paths_in`. For errors about the URLs in it, see `require_access`.
    """
    found = Sources()
    for path in paths:
        require_no_url("PATH", path, "images with URLs are named in a list: --from LIST")
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        _add(found, str(path), recursive)
    if listed:
        for name in _read_list(listed):
            _add(found, name, recursive)
    if not (paths or listed):
        raise OptionError("PATH: name images or folders, or a list of them with --from")
    if not found.files:
        where = ", ".join(map(str, [*paths, *([f"--from {listed}"] if listed else [])]))
        below = "" if recursive else " itself; --recursive reads the folders in it, too"
        raise DataError(f"{where}: no file in it{below}; name images, or a folder with images")
    require_access(found.files)
    return Sources(list(dict.fromkeys(found.files)), found.named) if distinct else found


def _add(found: Sources, path: str, recursive: bool) -> None:
    if is_url(path) and (why := why_unknown(path)):
        raise DataError(f"{shown(path)}: {why}")
    if os.path.isdir(path):
        found.files.extend(map(str, files_below(Path(path), recursive)))
    else:
        found.files.append(path)
        found.named.add(path)


def _read_list(listed: Path) -> Iterator[str]:
    if str(listed) == "-":
        yield from _paths_in(sys.stdin.buffer, "standard input")
        return
    try:
        file = listed.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise OptionError(f"--from {listed}: {error.strerror}; name a file with one path a line, or -") from error
    with file:
        yield from _paths_in(file, str(listed))


def _paths_in(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the paths in the list `file`.

    Raises DataError if the list is in UTF-16, if its separator changes from newline to NUL, or if a path is too long.
    """
    end, rest = b"", b""
    while block := file.read(1 << 16):
        if not end:
            if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"--from {name}: is in UTF-16; save it in UTF-8")
            block = block.removeprefix(codecs.BOM_UTF8)
            end = b"\0" if b"\0" in block else b"\n"
        elif end == b"\n" and b"\0" in block:
            raise DataError(f"--from {name}: a line holds a NUL; end each path with its line, or each with a NUL")
        *whole, rest = (rest + block).split(end)
        yield from (_name(path, end) for path in whole if _name(path, end))
        if len(rest) > _LONGEST_PATH:
            raise DataError(f"--from {name}: a line of more than {_LONGEST_PATH} bytes is no path")
    if last := _name(rest, end):
        yield last


def _name(entry: bytes, end: bytes) -> str:
    """Return the path in `entry`, or "" if `entry` is a blank line.

    `entry` is one entry of a list. The separator of the list is `end`.
    """
    if end == b"\0":
        return os.fsdecode(entry)
    return os.fsdecode(entry.rstrip(b"\r")) if entry.strip() else ""


def inspected(
    sources: Sources, max_pixels: int, pages: Pages, is_done: Callable[[str], bool] = lambda path: False
) -> Iterator[tuple[int, int, Piece]]:
    """Inspect the files, a group of files at a time. While the caller uses a group, the next group is inspected.

    Yields three values for each group:

    - the number of images and rejects that are left out, because `is_done` returns True for their paths
    - the number of non-image files that were found in folders
    - a list of all other images and rejects, in the order of the files

    If a file in `sources.named` is no image, it becomes a reject.
    """
    with ThreadPoolExecutor(THREADS if any(map(is_url, sources.files)) else None) as pool:
        look = partial(_inspect, sources, max_pixels, pages, is_done)
        pieces = _pieces(sources.files)
        try:
            ahead = pool.map(look, next(pieces, []))
            while seen := list(ahead):
                ahead = pool.map(look, next(pieces, []))
                every = [one for found in seen for one in found]
                piece = [one for one in every if one is not None]
                yield len(every) - len(piece), seen.count([]), piece
        finally:
            pool.shutdown(cancel_futures=True)


def _pieces(files: Sequence[str]) -> Iterator[Sequence[str]]:
    start, size = 0, _FIRST_PIECE
    while start < len(files):
        yield files[start : start + size]
        start, size = start + size, min(8 * size, _LARGEST_PIECE)


def _inspect(
    sources: Sources, max_pixels: int, pages: Pages, is_done: Callable[[str], bool], file: str
) -> list[ImageFile | Reject | None]:
    """Return the images and rejects of a file, with None for those that are done."""
    if pages == "first" and is_done(file):
        return [None]
    found = inspect_image(file, max_pixels, pages)
    if not found and file in sources.named:
        gone = not is_url(file) and not os.path.lexists(file)
        found = [Reject(file, "vanished", "no such file") if gone else Reject(file, NO_IMAGE.reason, NO_IMAGE.detail)]
    return [None if is_done(one.path) else one for one in found]
