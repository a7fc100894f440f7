"""Atomic writes of files and folders: a reader never sees half-written content, even if the writer was killed."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart.features.errors import DataError
from headstart.features.locks import folder_locked
from headstart.features.processes import PROCESS, has_ended, this_process
from rich.filesize import decimal

_PARTIAL = re.compile(rf"\.(?P<process>{PROCESS})\.partial\..+", re.DOTALL)
_PARTIAL_NAME_LENGTH = 32
_REPLACED = "replaced"  # subfolder that keeps an old folder until the new one is in its place
_FOREIGN_SECONDS = 24 * 3600  # if this host can't tell, a process has ended after this time without a write
_CANNOT_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR)
# The system gives one of these where nothing can be written: a read-only disk, or another user's folder.
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# A file that was written less than this time ago may be written again without a change of its modification time.
SETTLED_NS = 2_000_000_000


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. On success, flush the temporary file, and rename it to `path`.

    The temporary file lies in the folder of `path`. This folder is created if it is missing. On an error, the
    temporary file is removed.
    """
    with _written_beside(path) as partial:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`.

    At the end, remove the file at the temporary path, unless the caller renamed this file.
    """
    with _told_of(path, *path.parents):
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with _told_of(path, partial):
            yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_atomically(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill. On success, flush it to disk and rename it to `path`. On an error, remove it.

    If `replace` is true, an old folder at `path` is replaced. If the process is killed meanwhile, `remove_left_over`
    puts the old folder back. Raises FileExistsError if `path` is a folder that is not empty, and `replace` is false.
    """
    with scratch_folder(path.parent, path.name) as scratch:
        new, replaced = scratch / "new", scratch / _REPLACED
        new.mkdir()
        yield new
        for file in (new, *new.rglob("*")):
            flush_to_disk(file)
        if replace and os.path.lexists(path):
            replaced.mkdir()
            path.rename(replaced / path.name)
        try:
            new.rename(path)
        except OSError as error:
            if path.is_dir():
                raise FileExistsError(errno.EEXIST, "another process was first", str(path)) from error
            raise
        flush_to_disk(path.parent)
        if replaced.exists():  # a half-removed folder must never be put back
            replaced.rename(scratch / "old")


@contextmanager
def scratch_folder(parent: Path, name: str = "scratch") -> Iterator[Path]:
    """Yield a new folder in `parent`, and remove it at the end.

    If a process has several scratch folders in `parent` at the same time, each needs a different `name`.
    """
    remove_left_over(parent)
    folder = _partial(parent / name)
    with _told_of(parent / name, folder, *folder.parents):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _remove(folder)


def require_creatable(path: Path) -> None:
    """Raise an OSError that names `path` if nothing can be made there. Folders above `path` may be missing, too."""
    whole = path.absolute()
    above = next((folder for folder in whole.parents if os.path.lexists(folder)), whole)
    try:
        with scratch_folder(above, whole.name or "root"):
            pass
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def _told_of(path: Path, *made: Path) -> Iterator[None]:
    """Change an OSError that names a path in `made`. The error then names `path`, the path that the user asked for."""
    try:
        yield
    except OSError as error:
        if str(error.filename) not in map(str, made):
            raise
        is_above = str(error.filename) in map(str, path.parents)
        if error.errno == errno.EEXIST and is_above:
            raise NotADirectoryError(errno.ENOTDIR, f"{error.filename} is no folder", str(path)) from error
        vanished = not is_above and not path.parent.is_dir()
        if error.errno == errno.ENOENT and error.filename2 is None and not vanished:  # and no failed renaming
            raise PermissionError(errno.EPERM, "Nothing can be made there", str(path)) from error  # as in /proc
        error.filename = str(path)  # the temporary name would tell the user nothing
        raise


def _partial(path: Path) -> Path:
    """Return a temporary path beside `path`. Its name identifies this process as the writer."""
    # The suffix stays last: Keras and h5py choose the format by it. A long name is cut to fit the file system's limit.
    return path.with_name(f".{this_process()}.partial.{path.name[-_PARTIAL_NAME_LENGTH:]}")


def remove_left_over(folder: Path) -> list[Path]:
    """Remove half-written files and folders of ended processes from `folder`. Return the removed paths.

    A file or folder that can't be removed, for example on a read-only disk, stays. If a process ended while it replaced
    a folder, the old folder is put back.
    """
    names = os.listdir(folder) if folder.is_dir() else []  # `glob` takes longer, which a large store would feel
    removed = [folder / name for name in names if name.startswith(".") and _writer_ended(folder / name)]
    for path in removed:
        try:
            _remove(path)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
    return [path for path in removed if not os.path.lexists(path)]


def _remove(partial: Path) -> None:
    if not partial.is_dir():
        partial.unlink(missing_ok=True)
        return
    for replaced in (partial / _REPLACED).glob("*"):  # the old folder goes back to its place
        place = partial.parent / replaced.name
        if not place.exists():
            with suppress(FileNotFoundError):  # another process put it back first
                replaced.rename(place)
    shutil.rmtree(partial, ignore_errors=True)


def _writer_ended(partial: Path) -> bool:
    """Return whether `partial` is a temporary path of a process that has ended."""
    name = _PARTIAL.fullmatch(partial.name)
    if name is None:
        return False
    ended = has_ended(name["process"])
    if ended is not None:
        return ended
    with suppress(FileNotFoundError):  # another process removed it
        written = max(path.lstat().st_mtime for path in (partial, *partial.rglob("*")))
        return time.time() - written > _FOREIGN_SECONDS
    return False


def flush_to_disk(path: Path) -> None:
    """Wait until the file or folder at `path` is on disk: a file's bytes, or a folder's list of entries.

    Some file systems can't flush folders. Examples are Windows shares, and folders that a virtual machine shares with
    its host. On such a file system, this function does nothing for a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH or not path.is_dir():
            raise


def require_space(folder: Path, size: int) -> None:
    """Raise an OSError if the disk of `folder` has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free  # some libraries crash on a full disk
    if free < size:
        message = f"No space left on device: {decimal(size)} are needed, {decimal(free)} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` atomically. Text becomes UTF-8. A surrogate escape becomes the byte it stands for."""
    with written_atomically(path) as partial:
        partial.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def write_first(path: Path, text: str) -> bool:
    """Write `text` to `path` atomically, unless `path` exists. Return whether this call wrote the file.

    If several processes call this function at the same time, exactly one of them writes the file.
    """
    with _written_beside(path) as partial:
        partial.write_bytes(text.encode(errors="surrogateescape"))
        flush_to_disk(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links; any other error occurs again below
            with folder_locked(path.parent):
                if os.path.lexists(path):
                    return False
                os.replace(partial, path)
        flush_to_disk(path.parent)
    return True


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. A `path` that is not a regular file raises a DataError."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DataError(f"{path}: is no regular file")
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise opening a pipe would wait for a writer


def json_text(value: Any) -> str:
    """Return `value` as indented JSON with a final newline, the format of all JSON files that people may read.

    NaN and infinity, which are not JSON, raise a ValueError.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, most: int = 64 << 20) -> Any:
    """Return the content of a JSON file of at most `most` bytes.

    A missing or unreadable file raises an OSError. A larger file, invalid JSON, or a `path` that is not a regular file
    raises a ValueError. A pipe is not opened, because reading it might never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        raise ValueError(f"{path}: no file of at most {most} bytes")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_atomically(path, json_text(value))
