"""Writing files so that a reader, or a kill, never meets half of one."""

import errno
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.filesize import decimal

_PARTIAL = re.compile(r"\.(?P<process>.+-\d+-\d+)\.partial\..+", re.DOTALL)
_PROCESS = re.compile(r"(?P<host>.+)-(?P<pid>\d+)-(?P<started>\d+)", re.DOTALL)
_PARTIAL_NAME_LENGTH = 32
_FOREIGN_SECONDS = 24 * 3600
_PID_NAMESPACE = Path("/proc/self/ns/pid")
# A file that was written to less than this before it was read may change again within the same tick of its clock.
SETTLED_NS = 2_000_000_000


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success flush it to disk and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)
    except OSError as error:
        if error.filename == str(partial):  # a name that says nothing to a person
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_once(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill with files; on success flush them to disk and rename it to `path`.

    Where another process was first, its folder stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(path.parent)
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            flush_to_disk(file)
        try:
            os.rename(partial, path)
        except OSError:
            if not path.is_dir():
                raise
        flush_to_disk(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder in `parent` for this process alone, and remove it; those that killed processes left go first."""
    remove_left_over(parent)
    folder = _partial(parent / "scratch")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _partial(path: Path) -> Path:
    """A name beside `path` that tells which process writes there."""
    # The suffix stays last: Keras and h5py choose the format by it. What was a long name must not become too long.
    end = path.name[-_PARTIAL_NAME_LENGTH:]
    return path.with_name(f".{_process_name()}.partial.{end}")


def remove_left_over(folder: Path) -> list[Path]:
    """Remove from `folder` what processes that have ended left half written; what was removed."""
    removed = []
    for path in folder.glob(".*.partial.*"):
        name = _PARTIAL.fullmatch(path.name)
        if name and _process_ended(name["process"], _age(path)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _process_name() -> str:
    """A name of this process that no other has, here or on another host."""
    return f"{_host()}-{os.getpid()}-{_started(os.getpid())}"


def _process_ended(name: str, idle: float) -> bool:
    """Whether the process of that `_process_name` has ended, as far as can be told.

    One of another host counts as ended if it did nothing for a day, and so does one whose number is now that of a
    process that started at another time: the clock may have been set.

    Args:
        idle: seconds since it last did something.
    """
    parts = _PROCESS.fullmatch(name)
    if parts is None:
        return False
    pid, here = int(parts["pid"]), parts["host"] == _host()
    if here and not psutil.pid_exists(pid):
        return True
    alive = here and _started(pid) == int(parts["started"])
    return not alive and idle > _FOREIGN_SECONDS


def _host() -> str:
    """The name of this host; that of the container too, where process numbers mean something of their own."""
    name = socket.gethostname()
    return f"{name}+{_PID_NAMESPACE.stat().st_ino}" if _PID_NAMESPACE.exists() else name


def _started(pid: int) -> int | None:
    """When a process of this host started, in ms since 1970."""
    try:
        return int(1000 * psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def flush_to_disk(path: Path) -> None:
    """Return once the bytes of the file, or the entries of the folder, `path` are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_space(folder: Path, size: int) -> None:
    """Make sure that `size` bytes fit where `folder` lies, before a library that crashes on a full disk finds out.

    Raises:
        OSError: they don't.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        message = f"No space left on device: {decimal(size)} are needed, {decimal(free)} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` in one step; text as UTF-8, but names of files as the bytes that they are."""
    with written_atomically(path) as partial:
        partial.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON in one step."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
