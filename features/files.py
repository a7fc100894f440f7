"""Writing files so that a reader, or a kill, never meets half of one."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success flush it to disk and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: Keras and h5py choose the format by it.
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        message = f"No space left on device: {size >> 20} MiB are needed, {free >> 20} MiB are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` in one step."""
    with written_atomically(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON in one step."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
