"""Move the images of a folder to other classes or to the folder `.aside`, and back. No file is overwritten."""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from headstart.features.errors import DataError
from headstart.features.files import flush_to_disk
from headstart.features.outputs import unwritable
from headstart.pipeline.labels.log import Log, write_log


def require_inside(data: Path, name: str, where: str) -> None:
    """Raise a DataError if the path `name`, relative to the folder `data`, is not allowed for an image.

    The path must be normalised, and stay inside `data`. The path must not be a link, and must not lead through a link
    or a file. A file at the path need not exist. The error's message begins with the text `where`. This text names the
    place from which `name` was read, such as a row of a CSV file.
    """
    root = os.path.realpath(data)
    path = os.path.join(root, name)
    if (
        not _is_path(name)
        or not name
        or os.path.isabs(name)
        or os.path.normpath(name) != name
        or name.startswith(os.pardir + os.sep)
    ):
        raise DataError(f"{where}: {name!r} is not the path of a file in {data}")
    if os.path.realpath(path) != path:
        raise DataError(f"{where}: {name} is a link or lies in a linked folder; change its label by hand")
    above = nearest_existing(data, name)
    if not os.path.isdir(above):
        raise DataError(f"{where}: {above} is no folder, so {name} can't lie in it; move it elsewhere")


def nearest_existing(data: Path, name: str) -> str:
    """Return the nearest path above `name` that exists. `name` is relative to `data`. The result may be a file."""
    above = os.path.dirname(os.path.join(data, name))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    return above


def _is_path(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def move_all(data: Path, log: Log, path: Path) -> list[str]:
    """Make the moves of `log` that were not made yet, and return the old paths of the moved files.

    `path` is the log's file. A new folder is added to the log before the folder is made. All files are checked before
    the first move. If a move fails after the checks, the moves before it are not undone.

    Raises DataError in these cases:
    - The log has a path that is not allowed; see `require_inside`.
    - A file is neither at its source nor at its target.
    - Another file is at the target.
    - A link, folder or device is at a source or target.
    - A folder can't be written to, or a move fails.
    """
    pending = [(move.source, move.target) for move in log.moves]
    for source, target in (left := _left(data, pending, path)):
        _make_folder(data, os.path.dirname(target), log, path)
        _rename(data, source, target)
    _flush(data, left)
    return [source for source, _ in left]


def move_back(data: Path, log: Log, path: Path) -> int:
    """Undo the moves of `log` in reverse order. Then remove the folders that `log` lists, if they are empty.

    Returns the number of images that this call moves. An image that lies at its original path already is not moved, and
    does not count. Raises DataError in the same cases as `move_all`.
    """
    for folder in log.folders:
        require_inside(data, folder, str(path))
    pending = [(move.target, move.source) for move in reversed(log.moves)]
    for source, target in (left := _left(data, pending, path)):
        os.makedirs(os.path.dirname(os.path.join(data, target)), exist_ok=True)
        _rename(data, source, target)
    _flush(data, left)
    for folder in reversed(log.folders):
        with suppress(OSError):  # the folder holds other files
            os.rmdir(os.path.join(data, folder))
    return len(left)


def _left(data: Path, pairs: Iterable[tuple[str, str]], path: Path) -> list[tuple[str, str]]:
    """Return those `pairs` (source, target) whose file is still at the source. For errors, see `move_all`."""
    left = []
    for source, target in pairs:
        for name in (source, target):
            require_inside(data, name, str(path))
        at_source, at_target = (os.path.join(data, name) for name in (source, target))
        if os.path.lexists(at_source) and os.path.lexists(at_target) and not os.path.samefile(at_source, at_target):
            raise DataError(f"{at_target}: another file is there, so {at_source} can't be moved; move one elsewhere")
        for name in filter(os.path.lexists, (at_source, at_target)):
            if not stat.S_ISREG(os.lstat(name).st_mode):
                raise DataError(f"{path}: {name} is no regular file, and only these are moved")
        if os.path.lexists(at_source):
            left.append((source, target))
        elif not os.path.lexists(at_target):
            raise DataError(
                f"{at_source}: gone, and not at {at_target} either; put it back to one of these places, or remove "
                f"{path} to do without it"
            )
    require_writable(data, chain.from_iterable(left))
    return left


def require_writable(data: Path, names: Iterable[str]) -> None:
    """Check the nearest existing folder above each of `names`. Raise a DataError if a folder can't be written to.

    `names` are paths relative to `data`.
    """
    for folder in sorted({nearest_existing(data, name) for name in names}):
        if reason := unwritable(folder):
            raise DataError(f"{folder}: images can't be moved there or away ({reason}); make the folder writable")


def _make_folder(data: Path, name: str, log: Log, path: Path) -> None:
    parts = name.split(os.sep)
    for folder in (os.sep.join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if folder and not os.path.isdir(os.path.join(data, folder)):
            if folder not in log.folders:
                log.folders.append(folder)
                write_log(path, log)
            os.mkdir(os.path.join(data, folder))


def _rename(data: Path, source: str, target: str) -> None:
    """Rename a file. Raises DataError if another file is at `target`."""
    old, new = os.path.join(data, source), os.path.join(data, target)
    try:
        os.link(old, new)  # unlike `os.rename`, never overwrites a file
    except FileExistsError:
        if not os.path.samefile(old, new):
            raise DataError(
                f"{new}: another file came there meanwhile; move it elsewhere and repeat the command"
            ) from None
    except OSError as error:  # a disk without hard links, or a place that can't be written
        if os.path.lexists(new):
            raise DataError(f"{new}: another file came there meanwhile; repeat the command") from error
        try:
            os.rename(old, new)  # overwrites a file that another process writes at the same moment
        except OSError as failed:
            raise DataError(
                f"{old}: can't be moved to {new} ({failed.strerror}); repeat the command after that"
            ) from failed
        return
    os.unlink(old)


def _flush(data: Path, pairs: Sequence[tuple[str, str]]) -> None:
    for folder in {os.path.dirname(os.path.join(data, name)) for pair in pairs for name in pair}:
        flush_to_disk(Path(folder))
