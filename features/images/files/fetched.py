"""Bytes of objects with a URL, kept on disk while a command runs.

A command reads an image twice: to know its digest, and to decode it. A disk costs less than a second request. A killed
command leaves the bytes where they are, and the same command finds them when it is repeated.
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
from headstart.features.terminal import console

FOLDER = ".fetched"  # in a store; hidden, so that it is never taken for data
MOST_BYTES = 32 << 30
_FREE_SHARE = 0.5  # of the disk's free bytes, at most this share is used
_DIGEST_BYTES = 32
_FORGOTTEN_SECONDS = 7 * 24 * 3600


@dataclass
class _Kept:
    """A folder of kept bytes. The folder is made when the first bytes are kept."""

    folder: Path
    left: int | None = None  # bytes that may still be kept; None as long as none were
    lock: Lock = field(default_factory=Lock)

    def file(self, url: str, version: Version) -> Path:
        key = hashlib.sha256(f"{version.bytes} {version.mtime_ns} {url}".encode(errors="surrogateescape")).hexdigest()
        return self.folder / key[:2] / key[2:]

    def has_room(self, size: int) -> bool:
        with self.lock:
            if self.left is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                held = sum(one.stat().st_size for one in self.folder.glob("*/*"))
                self.left = min(MOST_BYTES, int(_FREE_SHARE * shutil.disk_usage(self.folder).free)) - held
            if size > self.left:
                return False
            self.left -= size
            return True


_kept: _Kept | None = None


@contextmanager
def bytes_kept(store: Path | None, data: object) -> Iterator[None]:
    """Keep the bytes of all objects that are read within the context, and remove them at its end.

    After an error they stay, for the next command with this store and data. Without `store`, they lie in a temporary
    folder. Within another such context, this one does nothing.
    """
    global _kept  # noqa: PLW0603 threads of TensorFlow read, too
    if _kept:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        name = hashlib.sha256(os.path.realpath(str(data)).encode(errors="surrogateescape")).hexdigest()[:16]
        folder = (store / FOLDER if store else Path(scratch)) / name
        _kept = _Kept(folder)
        try:
            _remove_forgotten(folder.parent)
            yield
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()
        finally:
            _kept = None


def kept_folder() -> Path | None:
    """Return the folder in which bytes are kept now, as an absolute path."""
    return _kept.folder.absolute() if _kept else None


def read_kept(folder: Path | None) -> None:
    """From now on, `load` the bytes that another process keeps in `folder`. This process keeps none."""
    global _kept  # noqa: PLW0603 threads of TensorFlow read, too
    _kept = _Kept(folder, left=0) if folder else None


def load(url: str, version: Version) -> bytes | None:
    """Return the bytes of an object of this version, if they were kept whole."""
    if not _kept or not version.mtime_ns:
        return None
    try:
        content = _kept.file(url, version).read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def keep(url: str, version: Version, content: bytes) -> None:
    """Keep the bytes of an object, if its version is known and there is room. A failure to write is only printed."""
    kept = _kept
    if not kept or not version.mtime_ns:
        return
    try:
        if not kept.has_room(len(content)):
            return
        file = kept.file(url, version)
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f".{os.getpid()}-{get_ident()}-{file.name}")
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, file)  # not flushed: the digest tells a damaged file
    except OSError as error:
        with kept.lock:
            if kept.left != 0:
                console.print(f"{kept.folder}: bytes of remote images can't be kept, so they are read twice: {error}")
            kept.left = 0


def _remove_forgotten(folder: Path) -> None:
    """Remove what commands that were killed a week ago, and never repeated, left in `folder`."""
    for one in folder.glob("*"):
        with suppress(OSError):
            if time.time() - one.stat().st_mtime > _FORGOTTEN_SECONDS:
                shutil.rmtree(one, ignore_errors=True)
