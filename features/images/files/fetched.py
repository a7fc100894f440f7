"""Bytes of objects with a URL, kept on disk while a command runs.

A command reads an image twice: first for its digest, then to decode it. With the bytes on disk, one request is enough.
If a command is killed, the bytes stay on disk, and the same command finds them when it is repeated.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, get_ident

from headstart.features.images.faults import Version
from headstart.features.processes import has_ended, this_process
from headstart.features.terminal import console

FOLDER = ".fetched"  # in a store; hidden, so that it is never taken for data
MOST_BYTES = 32 << 30
MOST_TEMPORARY_BYTES = 4 << 30  # in the system's folder for temporary files, which may lie in memory
_FREE_SHARE = 0.5  # of the disk's free bytes, at most this share is used
_DIGEST_BYTES = 32
_FORGOTTEN_SECONDS = 7 * 24 * 3600
_TOLD_SECONDS = 600  # how often a command marks the folder as in use
_USER, _SCRATCH = ".used-by-", "headstart-"  # each before the identity of a process


@dataclass
class _Kept:
    """The folder that keeps the bytes of objects. It is made when the first bytes are kept."""

    name: str
    parent: Path | None  # None for a temporary folder
    folder: Path | None = None  # None as long as no bytes were kept
    left: int = 0  # bytes that may still be kept
    told: float = 0.0  # when other processes were last told that this one uses the folder
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.parent and (self.parent / self.name).is_dir():  # a killed command left it
            self.open()

    def open(self) -> Path:
        """Return the folder of kept bytes.

        The first call makes the folder if it is missing, and marks the folder as used by this process. Later calls do
        the same, but at most every ten minutes.
        """
        with self.lock:
            is_new = self.folder is None
            self.folder = self.folder or self._made()
            if time.monotonic() - self.told > _TOLD_SECONDS or not self.told:
                self.told = time.monotonic()
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / f"{_USER}{this_process()}").write_bytes(b"")
                os.utime(self.folder)
            if is_new:
                held = _bytes_in(self.folder)
                most = MOST_BYTES if self.parent else MOST_TEMPORARY_BYTES
                free = shutil.disk_usage(self.folder).free
                self.left = min(most, int(_FREE_SHARE * (free + held))) - held
            return self.folder

    def _made(self) -> Path:
        if self.parent is None:
            _remove_left_over()
            return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{this_process()}-"))
        folder = self.parent / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def take(self, size: int) -> bool:
        """Reserve room on disk for `size` bytes. Return whether there was enough room."""
        with self.lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    def give_back(self, size: int) -> None:
        with self.lock:
            self.left += size

    def leave(self, remove: bool) -> None:
        """Stop using the folder. Remove it if it is temporary, or if `remove` is true and no other process uses it."""
        if self.folder is None:
            return
        with suppress(OSError):
            (self.folder / f"{_USER}{this_process()}").unlink()
        if self.parent is None or (remove and not _is_used(self.folder)):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.parent:
            with suppress(OSError):
                self.parent.rmdir()


_kept: _Kept | None = None
_of_another: Path | None = None  # a folder in which another process keeps bytes


@contextmanager
def bytes_kept(store: Path | None, data: object) -> Iterator[None]:
    """While the context is open, keep on disk the bytes of all objects that are read.

    If `store` is None, a temporary folder holds the bytes, and is removed when the context ends.

    If `store` is a path, a folder inside `store` holds the bytes. If the context ends with an error, the bytes stay for
    the next command with the same `store` and `data`. If the context ends without an error, the folder is removed,
    unless another process uses it.

    A context inside another context of this kind does nothing.
    """
    global _kept  # noqa: PLW0603 threads of TensorFlow read, too
    if _kept:
        yield
        return
    name = hashlib.sha256(os.path.realpath(str(data)).encode(errors="surrogateescape")).hexdigest()[:16]
    if store:
        _remove_forgotten(store / FOLDER)
    _kept = kept = _Kept(name, store / FOLDER if store else None)
    done = False
    try:
        yield
        done = True
    finally:
        _kept = None
        kept.leave(remove=done)


def kept_folder() -> Path | None:
    """Return the absolute path of the folder in which `bytes_kept` keeps bytes.

    Return None if no bytes were kept yet, or if no context of `bytes_kept` is open.
    """
    return _kept.folder.absolute() if _kept and _kept.folder else None


def read_kept(folder: Path | None) -> None:
    """Make `load` read, from now on, the bytes that another process keeps in `folder`.

    If `folder` is None, `load` stops reading these bytes. This process never writes into `folder`.
    """
    global _of_another  # noqa: PLW0603 threads of TensorFlow read, too
    _of_another = folder


def load(url: str, version: Version) -> bytes | None:
    """Return the kept bytes of an object. Return None if the bytes of `version` were not kept, or are damaged."""
    kept = _kept if _kept and _kept.folder else None
    if not version.mtime_ns or not (kept or _of_another):
        return None
    try:
        folder = kept.open() if kept else _of_another
        content = _file(folder, url).read_bytes() if folder else b""
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return content if _digest(version, content) == digest else None


def keep(url: str, version: Version, content: bytes) -> None:
    """Keep the bytes of an object, if its version is known and there is room. A failure to write is only printed."""
    kept = _kept
    if not kept or not version.mtime_ns:
        return
    try:
        file = _file(kept.open(), url)
        if not kept.take(len(content)):
            return
        partial = file.with_name(f".{os.getpid()}-{get_ident()}-{file.name}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)  # another process may have removed the folder
            partial.write_bytes(_digest(version, content) + content)
            os.replace(partial, file)  # not flushed: the digest tells a damaged file
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        with kept.lock:
            if kept.left != 0:
                where = kept.folder or kept.parent or tempfile.gettempdir()
                console.print(f"{where}: bytes of remote images can't be kept, so they are read twice: {error}")
            kept.left = 0


def drop(url: str) -> None:
    """Remove the kept bytes of an object. If its bytes were not kept, do nothing."""
    kept = _kept
    if not kept or not kept.folder:
        return
    file = _file(kept.folder, url)
    with suppress(OSError):
        size = file.stat().st_size - _DIGEST_BYTES
        file.unlink()
        kept.give_back(size)


def _file(folder: Path, url: str) -> Path:
    key = hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()
    return folder / key[:2] / key[2:]


def _bytes_in(folder: Path) -> int:
    """Return the total size of the objects that are kept in `folder`, in bytes.

    No error is raised if another process removes objects meanwhile.
    """
    size = 0
    for one in folder.glob("*/*"):
        with suppress(OSError):
            size += 0 if one.name.startswith(".") else one.stat().st_size
    return size


def _digest(version: Version, content: bytes) -> bytes:
    found = hashlib.sha256(f"{version.bytes} {version.mtime_ns} ".encode())
    found.update(content)
    return found.digest()


def _is_used(folder: Path) -> bool:
    for one in folder.glob(f"{_USER}*"):
        with suppress(OSError):
            ended = has_ended(one.name.removeprefix(_USER))
            # A process of another host counts for half an hour after its last mark.
            if ended is False or (ended is None and time.time() - one.stat().st_mtime < 3 * _TOLD_SECONDS):
                return True
    return False


def _remove_forgotten(folder: Path) -> None:
    """Remove the folders in `folder` that no command has used for a week. Killed commands left them."""
    for one in folder.glob("*"):
        with suppress(OSError):
            if time.time() - one.stat().st_mtime > _FORGOTTEN_SECONDS:
                shutil.rmtree(one, ignore_errors=True)


def _remove_left_over() -> None:
    """Remove the temporary folders of processes that were killed."""
    for one in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        if has_ended(one.name.removeprefix(_SCRATCH).rpartition("-")[0]):
            shutil.rmtree(one, ignore_errors=True)
