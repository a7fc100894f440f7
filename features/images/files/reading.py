"""Reading the bytes of image files: of local files, of objects, and of members of a tar."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from headstart.features.errors import DataError
from headstart.features.images.faults import MAX_FILE_BYTES, Fault, UnreadableError, Version
from headstart.features.images.files.members import OpenTars
from headstart.features.images.files.paths import is_local, is_url, member_at, name_of, shown
from headstart.features.images.files.urls import THREADS, read_url, version_of_url
from headstart.features.images.formats import PREFIX_BYTES, is_image

if TYPE_CHECKING:
    from headstart.features.images.scan import ImageFile

_MARK = b"\0"  # no path of a local file begins with it
UNREAD = b"\0"  # no image has this content
MOST_AHEAD_BYTES = 128 << 20  # the most that is read of a batch's files before the first file is decoded
_CHANGED = Fault("vanished", "changed since it was scanned")
_failures = deque[str](maxlen=1)
_ends = deque[DataError](maxlen=1)  # an error that ends all reading, such as lost credentials
_faults: dict[bytes, Fault] = {}  # by reference
_MOST_FAULTS = 100_000
T = TypeVar("T")


def version_of(path: str, tars: OpenTars | None = None) -> Version:
    """Return the version of a file. Raises OSError if the file is gone, or if its version can't be found out.

    Raises DataError if this machine lacks the credentials for a URL. For `tars`, see `content_elsewhere`.
    """
    if is_url(path):
        return version_of_url(path)
    if member := member_at(path):
        return (tars or OpenTars()).version_of(member)
    status = os.stat(path)
    return Version(status.st_size, status.st_mtime_ns)


def content_elsewhere(path: str, tars: OpenTars | None = None) -> tuple[bytes | Fault, Version]:
    """Return a pair: the content of a file that is not local, and the version of the file.

    If the file is too large, the content is a fault. If neither the name nor the first `PREFIX_BYTES` bytes show an
    image, the content is these bytes. In all other cases, the content is the whole file.

    `tars` keeps tars open for the next call. Raises OSError if the file can't be read. Raises DataError if this machine
    lacks the credentials for a URL.
    """
    member, tars = member_at(path), tars or OpenTars()
    version = tars.version_of(member) if member else version_of_url(path)
    if version.bytes > MAX_FILE_BYTES:
        return Fault("too-large", f"{version.bytes} bytes, over {MAX_FILE_BYTES}"), version
    if not is_image(name_of(path), b""):
        prefix = tars.read(member, PREFIX_BYTES) if member else read_url(path, version, PREFIX_BYTES)[0]
        if not is_image("", prefix):
            return prefix, version
    return (tars.read(member), version) if member else read_url(path, version)


def bytes_of(image: ImageFile) -> bytes:
    """Return the bytes of the file of an image.

    Raises OSError if the file can't be read. Raises UnreadableError if the file is not local, and its bytes do not have
    the digest of `image`. Raises DataError if this machine lacks the credentials for a URL.
    """
    if is_local(image.file):
        return Path(image.file).read_bytes()
    return _read_reference(OpenTars(), reference_of(image))


def reference_of(image: ImageFile) -> bytes:
    """Return bytes that tell `read_references` which file to read. For a local file, the bytes are the file's path."""
    path = os.fsencode(image.file)
    if is_local(image.file):
        return path
    return _MARK + f"{image.bytes} {image.mtime_ns} {image.page} {image.digest} ".encode() + path


def read_references(references: np.ndarray) -> np.ndarray:
    """Return the contents of N files, bytes [N]. `references`, bytes [N], names the files; see `reference_of`.

    If a file can't be read, its content is `UNREAD`. If a file is local, its content is b"", because TensorFlow reads
    local files. Files are read until their total size would exceed `MOST_AHEAD_BYTES`. All further contents are b"".
    The caller must read the further files with `read_alone`.

    If reading a file raises a DataError, this function keeps the error, and `require_access_kept` raises the error
    later. Only the last such error is kept.
    """
    sizes = [int(one[1:].split(b" ", 1)[0]) if one.startswith(_MARK) else 0 for one in references]
    within = np.cumsum(sizes) <= MOST_AHEAD_BYTES
    contents = np.full(len(references), b"", object)
    contents[within] = list(_threads().map(partial(_read_or_nothing, OpenTars()), references[within]))
    return contents


def read_alone(reference: bytes) -> bytes:
    """Return the content of one file that `read_references` did not read; `UNREAD` if the file can't be read."""
    return _read_or_nothing(OpenTars(), reference)


def why_unread() -> str:
    """Return the path of the last file that could not be read, and the reason, as one text.

    Only an OSError in `read_references` or `read_alone` is noted. Return "" if no such error has happened since the
    last `forget_unread`.
    """
    return _failures[-1] if _failures else ""


def forget_unread() -> None:
    """Forget the failure that `why_unread` returns, and the error that `require_access_kept` raises."""
    _failures.clear()
    _ends.clear()


def require_access_kept() -> None:
    """Raise the last DataError of `read_references`, such as lost credentials, and forget this error.

    If there was no such error, do nothing.
    """
    if _ends:
        raise _ends.pop()


def known_fault(image: ImageFile) -> Fault | None:
    """Return the reason why `read_references` or `read_alone` could not read the URL of `image`. Forget this reason.

    Return None if no reason was kept. Reasons are kept only for URLs, and for at most `_MOST_FAULTS` of them.
    """
    return _faults.pop(reference_of(image), None)


def read_in_threads(function: Callable[[ImageFile], T], images: Iterable[ImageFile]) -> Iterator[T]:
    """Yield the result of `function` for each of `images`, in order. Several threads run `function`."""
    return _threads().map(function, images)


def why_unreadable(error: OSError) -> Fault:
    """Return the fault of a file that could not be opened or read."""
    if isinstance(error, UnreadableError):
        return error.fault
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", "no such file, or a link to none")
    return Fault("unreadable", error.strerror or str(error))


def page_digest(digest: str, page: int) -> str:
    """Return the digest of a page: the file's `digest` for page 1.

    For any other page, return a SHA-256 of `digest` and `page`.
    """
    return digest if page == 1 else hashlib.sha256(f"{digest} page {page}".encode()).hexdigest()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "headstart-reading")


def _read_or_nothing(tars: OpenTars, reference: bytes) -> bytes:
    if not reference.startswith(_MARK):
        return b""
    try:
        content = _read_reference(tars, reference)
        _faults.pop(reference, None)
        return content
    except OSError as error:
        fault, path = why_unreadable(error), os.fsdecode(reference.split(b" ", 4)[4])
        _failures.append(f"{shown(path) if is_url(path) else path}: {fault.detail}")
        if is_url(path) and len(_faults) < _MOST_FAULTS:
            _faults[reference] = fault
        return UNREAD
    except DataError as error:
        _ends.append(error)
        return UNREAD


def _read_reference(tars: OpenTars, reference: bytes) -> bytes:
    size, mtime_ns, page, digest, path = reference.removeprefix(_MARK).split(b" ", 4)
    version, name = Version(int(size), int(mtime_ns)), os.fsdecode(path)
    member = member_at(name)
    content = tars.read(member) if member else read_url(name, version)[0]
    if page_digest(hashlib.sha256(content).hexdigest(), int(page)) != digest.decode():
        raise UnreadableError(_CHANGED)
    return content
